//! Random images: a stream table, context descriptors and page tables of both stages, in the words that an SMMU reads,
//! and two transactions that go through them. Most of an image is as software would have it; how often something is not,
//! is itself random.

mod dice;
mod entries;
mod tables;

use std::collections::BTreeMap;

pub use dice::Dice;
use tables::Tables;

use crate::devices::{READING, WRITING};
use crate::machine::RAM;

/// Queues, at places of their own.
pub const COMMANDS: u64 = RAM;
pub const EVENTS: u64 = RAM + 0x10_0000;
/// Stream tables, or their first levels: 4 MiB, naturally aligned.
const STREAMS: u64 = RAM + 0x40_0000;
/// What tables and context descriptors are in.
const POOL: u64 = RAM + 0x400_0000;
const POOL_END: u64 = RAM + 0x2000_0000;
/// What devices reach when all is well, to the end of RAM.
pub const DATA: u64 = RAM + 0x2000_0000;
/// An address where there is nothing.
const HOLE: u64 = 0x20_0000_0000;

/// Which kind of stream table. QEMU cannot go back from two levels to one before a reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Linear,
    TwoLevel,
}

/// One transaction of 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    pub stream: u32,
    pub iova: u64,
    pub write: bool,
}

/// One image.
pub struct Image {
    pub seed: u64,
    pub format: Format,
    /// STRTAB_BASE and STRTAB_BASE_CFG.
    pub base: u64,
    pub config: u32,
    /// Every word that is not 0.
    pub words: BTreeMap<u64, u64>,
    /// The entry that both streams have.
    pub entry: [u64; 8],
    /// Its context descriptor, if it has one.
    pub context: Option<[u64; 8]>,
    pub accesses: [Access; 2],
    /// Whether everything is invalidated between the two.
    pub cold: bool,
}

impl Image {
    pub fn random(seed: u64, format: Format) -> Self {
        let mut dice = Dice::new(seed);
        // How often, in a thousand, a field or descriptor is not what software would write.
        let odd = dice.pick(&[0, 2, 5, 10, 30, 60]);
        let start = POOL + dice.below(64) * 0x10_0000;
        let mut tables = Tables::new(&mut dice, odd, start);
        let drawn = entries::draw(&mut tables);
        let streams = [tables.dice.pick(&WRITING), tables.dice.pick(&READING)];
        let (base, config) = match format {
            Format::Linear => linear(&mut tables, &streams, &drawn.entry),
            Format::TwoLevel => two_level(&mut tables, &streams, &drawn.entry),
        };
        let Tables { dice, words, .. } = tables;
        let mut accesses = [true, false].map(|write| Access {
            stream: streams[usize::from(!write)],
            iova: drawn.iova,
            write,
        });
        if dice.chance(500) {
            accesses.swap(0, 1);
        }
        Self {
            seed,
            format,
            base,
            config,
            words,
            entry: drawn.entry,
            context: drawn.context,
            accesses,
            cold: dice.chance(700),
        }
    }
}

fn put(tables: &mut Tables<'_>, at: u64, words: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        tables.words.insert(at + index as u64 * 8, *word);
    }
}

/// LOG2SIZE: most often all of IDR1.SIDSIZE.
fn size(tables: &mut Tables<'_>) -> u32 {
    if tables.odd() {
        tables.dice.below(20) as u32
    } else {
        16
    }
}

fn linear(tables: &mut Tables<'_>, streams: &[u32], entry: &[u64; 8]) -> (u64, u32) {
    let log2 = size(tables);
    for stream in streams {
        put(tables, STREAMS + u64::from(*stream) * 64, entry);
    }
    let mut base = STREAMS;
    if tables.odd() {
        // Bits below the size of the table are taken for zeros (§6.3.24).
        base |= tables.dice.below(64 << log2.min(16)) & !0x3f;
    }
    (base, log2)
}

fn two_level(tables: &mut Tables<'_>, streams: &[u32], entry: &[u64; 8]) -> (u64, u32) {
    let log2 = size(tables);
    let split = tables.dice.pick(&[6, 8, 10]);
    let mut second = BTreeMap::new();
    for stream in streams {
        let index = stream >> split;
        let table = *second.entry(index).or_insert_with(|| {
            let table = tables.allocate(64 << split);
            let mut span = u64::from(split) + 1;
            let mut pointer = table;
            if tables.odd() {
                span = tables.dice.below(32);
            }
            if tables.odd() {
                pointer = tables
                    .dice
                    .pick(&[HOLE, table | 0x40, table | 0x400, 0x1 << 45 | table]);
            }
            tables
                .words
                .insert(STREAMS + u64::from(index) * 8, pointer | span);
            table
        });
        put(
            tables,
            table + u64::from(stream & ((1 << split) - 1)) * 64,
            entry,
        );
    }
    let mut base = STREAMS;
    if tables.odd() {
        base |= tables.dice.below(8 << log2.min(16).saturating_sub(split)) & !0x3f;
    }
    (base, 1 << 16 | split << 6 | log2)
}
