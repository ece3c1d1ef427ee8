//! Random images: a root table, context tables, in scalable mode a PASID directory and table, and a second stage, in the words that a unit reads, and two requests that go
//! through them. Most of an image is as software would have it; how often something is not, is itself random.

use std::collections::BTreeMap;

use crate::devices::{READING, WRITING};
use crate::dice::Dice;

/// The root table.
const ROOT: u64 = 0x0100_0000;
/// What tables are in.
const POOL: u64 = 0x0200_0000;
/// What devices reach when all is well, to the end of RAM.
pub const DATA: u64 = 0x2000_0000;
pub const RAM_BYTES: u64 = 0x4000_0000;
/// An address where there is nothing.
const HOLE: u64 = 0x20_0000_0000;
/// Where interrupts are.
pub const INTERRUPTS: std::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// One request of 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    pub source: u32,
    pub iova: u64,
    pub write: bool,
}

/// One image.
#[derive(Debug)]
pub struct Image {
    pub seed: u64,
    pub scalable: bool,
    /// RTADDR.
    pub root: u64,
    /// Every word that is not 0.
    pub words: BTreeMap<u64, u64>,
    pub accesses: [Access; 2],
    /// Whether everything is invalidated between the two.
    pub cold: bool,
}

/// What is being drawn.
struct Draft {
    dice: Dice,
    /// How often in a thousand a field is not what software would write.
    odd: u64,
    words: BTreeMap<u64, u64>,
    next: u64,
}

impl Draft {
    fn odd(&mut self) -> bool {
        let odd = self.odd;
        self.dice.chance(odd)
    }

    fn page(&mut self) -> u64 {
        self.next += 0x1000;
        self.next - 0x1000
    }

    /// `word` or one with something wrong in it: a hole, an address past what there is, or a bit of `others`.
    fn pointer(&mut self, word: u64, others: &[u32]) -> u64 {
        if !self.odd() {
            return word;
        }
        match self.dice.below(4) {
            0 => HOLE | word & 0xfff,
            1 => word | 1 << self.dice.pick(&[48, 49, 50, 51]),
            2 => word & !1,
            _ => word | 1 << self.dice.pick(others),
        }
    }
}

impl Image {
    pub fn random(seed: u64, scalable: bool) -> Self {
        let mut dice = Dice::new(seed);
        let odd = dice.pick(&[0, 10, 30, 60, 150]);
        let mut draft = Draft {
            dice,
            odd,
            words: BTreeMap::new(),
            next: POOL,
        };
        let wide = draft.dice.chance(600);
        let levels = if wide { 4 } else { 3 };
        let bits = 12 + 9 * levels;
        let mut iova = draft.dice.any() & ((1 << bits) - 1) & !3;
        if draft.odd() {
            iova = draft.dice.any() & !3 & ((1 << draft.dice.pick(&[40, 49, 57, 64 - 1])) - 1);
        }
        let pass_through = draft.dice.chance(60);
        if pass_through && draft.dice.chance(800) {
            iova = (DATA + draft.dice.below(RAM_BYTES - DATA)) & !3;
        }
        if INTERRUPTS.contains(&iova) {
            iova ^= 1 << 24;
        }
        let root = second_stage(&mut draft, levels, iova);
        let words = match scalable {
            true => scalable_context(&mut draft, root, levels, pass_through).to_vec(),
            false => context(&mut draft, root, levels, pass_through).to_vec(),
        };
        root_table(&mut draft, &words, scalable);
        let write = draft.dice.chance(500);
        let source = |draft: &mut Draft, write| match write {
            true => draft.dice.pick(&WRITING),
            false => draft.dice.pick(&READING),
        };
        let first = Access {
            source: source(&mut draft, write),
            iova,
            write,
        };
        let again = draft.dice.chance(500);
        let write = if again { write } else { draft.dice.chance(500) };
        let near = draft
            .dice
            .pick(&[0, 0, 4, 0x1000, 0x1f_f000, 0x20_0000, 1 << 30]);
        let mut second = Access {
            source: source(&mut draft, write),
            iova: iova ^ near,
            write,
        };
        if again {
            second.source = first.source;
        }
        if INTERRUPTS.contains(&second.iova) {
            second.iova = iova;
        }
        let cold = draft.dice.chance(500);
        Self {
            seed,
            scalable,
            root: ROOT | u64::from(scalable) << 10,
            words: draft.words,
            accesses: [first, second],
            cold,
        }
    }
}

/// R and W as an entry has them.
fn rights(draft: &mut Draft, leaf: bool) -> u64 {
    if draft.odd() || leaf && draft.dice.chance(150) {
        draft.dice.below(4)
    } else {
        3
    }
}

/// The tables on the way of `iova`, from `levels` down; where they start.
fn second_stage(draft: &mut Draft, levels: u32, iova: u64) -> u64 {
    let root = draft.page();
    let mut table = root;
    let last = draft.dice.pick(&[0, 0, 0, 1, 1, 2]);
    for height in (0..levels).rev() {
        let shift = 12 + 9 * height;
        let at = table + (iova >> shift & 0x1ff) * 8;
        // Ignored, and bits that are somebody's.
        let ignored = match draft.dice.below(4) {
            0 => draft.dice.any() & 0x3ff0_0000_0000_0178,
            _ => 0,
        };
        if height == last || height < 3 && height > 0 && draft.odd() {
            let size = 1u64 << shift;
            let mut output = DATA + draft.dice.below((RAM_BYTES - DATA) / 0x1000) * 0x1000;
            output &= !(size - 1);
            if output < DATA {
                output = DATA;
            }
            if draft.dice.chance(40) {
                output = INTERRUPTS.start & !(size - 1);
            }
            let mut entry = output | rights(draft, true) | ignored;
            if height > 0 {
                entry |= 1 << 7;
            }
            if draft.odd() {
                entry |= 1 << draft.dice.pick(&[7, 11, 12, 13, 20, 29, 48, 51, 62, 63]);
            }
            draft.words.insert(at, entry);
            return root;
        }
        let next = draft.page();
        let entry = next | rights(draft, false) | ignored;
        let entry = draft.pointer(entry, &[7, 8, 11, 62, 63]);
        draft.words.insert(at, entry);
        table = next;
    }
    root
}

fn context(draft: &mut Draft, root: u64, levels: u32, pass_through: bool) -> [u64; 2] {
    let mut first = root | 1;
    if pass_through {
        first |= 2 << 2;
    }
    first = draft.pointer(first, &[1, 2, 3, 4, 7, 11]);
    if draft.dice.chance(50) {
        first |= 2;
    }
    let mut width = u64::from(levels) - 2;
    if draft.odd() {
        width = draft.dice.below(8);
    }
    let mut second = width | draft.dice.below(0x1_0000) << 8;
    // Ignored.
    second |= draft.dice.bits(3, 4);
    if draft.odd() {
        second |= 1 << draft.dice.pick(&[7, 24, 32, 63]);
    }
    [first, second]
}

/// A context entry of scalable mode, and what it leads to.
fn scalable_context(draft: &mut Draft, root: u64, levels: u32, pass_through: bool) -> [u64; 4] {
    let mut width = u64::from(levels) - 2;
    if draft.odd() {
        width = draft.dice.below(8);
    }
    let mut kind = if pass_through { 4 } else { 2 };
    if draft.odd() {
        kind = draft.dice.below(8);
    }
    let first = root | 1 | width << 2 | kind << 6;
    let mut first = draft.pointer(first, &[1, 5, 9, 10, 11]);
    if draft.dice.chance(50) {
        first |= 2;
    }
    let mut second = draft.dice.below(0x1_0000) | draft.dice.bits(24, 32);
    if draft.odd() {
        second |= 1 << draft.dice.pick(&[16, 22, 23]);
    }
    // RID_PASID is reserved (ECAP.RPS is 0), and QEMU does not look.
    let unchecked = if draft.dice.chance(30) {
        draft.dice.bits(0, 20)
    } else {
        0
    };
    let (directory, table) = (draft.page(), draft.page());
    draft.words.insert(table, first);
    draft.words.insert(table + 8, second);
    let mut entry = draft.pointer(table | 1, &[1, 2, 11]);
    if draft.dice.chance(30) {
        entry |= 2;
    }
    draft.words.insert(directory, entry);
    let size = draft.dice.below(2) << 9;
    let mut context = draft.pointer(directory | 1 | size, &[1, 2, 3, 4, 5, 8]);
    if draft.dice.chance(30) {
        context |= 2;
    }
    let mut words = [context, unchecked, 0, 0];
    if draft.odd() {
        words[draft.dice.pick(&[1, 1, 2, 3])] |= 1 << draft.dice.pick(&[20, 21, 40, 63]);
    }
    words
}

/// A context table for each bus, or half of one in scalable mode, with the entry for every device there.
fn root_table(draft: &mut Draft, words: &[u64], scalable: bool) {
    let shift = if scalable { 7 } else { 8 };
    let mut tables = BTreeMap::new();
    for source in WRITING.iter().chain(&READING) {
        let index = u64::from(source >> shift);
        let table = match tables.get(&index) {
            Some(table) => *table,
            None => {
                let table = draft.page();
                tables.insert(index, table);
                let entry = draft.pointer(table | 1, &[1, 5, 11]);
                let at = ROOT + (index << (shift - 4));
                draft.words.insert(at, entry);
                if !scalable && draft.odd() && draft.dice.chance(300) {
                    draft.words.insert(at + 8, 1);
                }
                table
            }
        };
        let within = u64::from(source & ((1 << shift) - 1));
        let at = table + within * words.len() as u64 * 8;
        for (at, word) in (at..).step_by(8).zip(words) {
            draft.words.insert(at, *word);
        }
    }
    draft.words.retain(|_, word| *word != 0);
}
