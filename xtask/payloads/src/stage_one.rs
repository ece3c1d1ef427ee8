//! What a stream of the guest's own SMMU goes through: one context, and a first stage of any granule.

use crate::runtime::words;
pub use crate::smmu::records;
use crate::smmu::{ASID, FREE, PART, Smmu, tlbi};
use crate::tree::Tree;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bits of an input address: T0SZ is 64 less that.
pub const INPUT_BITS: u32 = 39;
const CONTEXT: u64 = FREE;
/// One table a level, the last one first.
const TABLES: u64 = CONTEXT + PART;
const LEVELS: u64 = 3;
/// log2 of the commands of a queue that is enough for all but floods.
const LOG2_COMMANDS: u32 = 8;

/// The size of first-stage pages and tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granule {
    /// 4 KiB.
    Four,
    /// 16 KiB.
    Sixteen,
    /// 64 KiB.
    SixtyFour,
}

impl Granule {
    /// log2 of it in bytes.
    pub fn shift(self) -> u32 {
        match self {
            Self::Four => 12,
            Self::Sixteen => 14,
            Self::SixtyFour => 16,
        }
    }

    /// CD.TG0 (IHI 0070, 5.4); IDR5's bit.
    fn code(self) -> (u64, u32) {
        match self {
            Self::Four => (0, 1 << 4),
            Self::Sixteen => (2, 1 << 5),
            Self::SixtyFour => (1, 1 << 6),
        }
    }

    /// log2 of the entries of a whole table.
    fn bits(self) -> u32 {
        self.shift() - 3
    }

    /// Whether the guest's SMMU, if it has one, has it.
    pub fn is_offered(self, tree: &Tree<'_>) -> bool {
        Smmu::find(tree).is_some_and(|smmu| smmu.has_granule(self.code().1))
    }
}

/// The first stage of one stream.
#[derive(Clone, Copy, Debug)]
pub struct StageOne {
    stream: u32,
    granule: Granule,
}

impl StageOne {
    /// Starts the guest's SMMU anew: the DMA of `stream` goes through an empty first stage. `None` where it does not do as it is
    /// told.
    pub fn start(tree: &Tree<'_>, stream: u32) -> Option<(Smmu, Self)> {
        Self::start_with(tree, stream, Granule::Four)
    }

    /// The same with pages and tables of `granule`.
    pub fn start_with(tree: &Tree<'_>, stream: u32, granule: Granule) -> Option<(Smmu, Self)> {
        let mut smmu = Smmu::find(tree)?;
        let followed = smmu.stop();
        let stage = Self::empty(&smmu, stream, granule);
        let good = followed && smmu.start(LOG2_COMMANDS) && smmu.refresh();
        good.then_some((smmu, stage))
    }

    /// An empty one, in the entry of `stream`, of which the SMMU has to be told.
    pub fn empty(smmu: &Smmu, stream: u32, granule: Granule) -> Self {
        let all = words(CONTEXT, (1 + LEVELS) as usize * PART as usize / 8);
        all.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let stage = Self { stream, granule };
        let context = words(CONTEXT, 8);
        let attributes = 3 << 12 | 1 << 10 | 1 << 8;
        // V, AA64, R, A; no second half; outputs of 40 bits (5.4).
        let valid = 1 << 31 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 30 | 2 << 32;
        let size = granule.code().0 << 6 | u64::from(64 - INPUT_BITS);
        context[1].store(stage.table(stage.first_level()), Ordering::Relaxed);
        context[3].store(0xff, Ordering::Relaxed);
        context[0].store(ASID << 48 | valid | attributes | size, Ordering::Relaxed);
        stage.enter(smmu);
        stage
    }

    /// Makes the stream's entry lead here (5.2): stage 1 with one context, cached and inner shareable.
    pub fn enter(&self, smmu: &Smmu) {
        let entry = smmu.entry(self.stream);
        entry[1].store(1 << 44 | 3 << 6 | 1 << 4 | 1 << 2, Ordering::Relaxed);
        entry[0].store(CONTEXT | 0b101 << 1 | 1, Ordering::Release);
    }

    /// The lowest level at which one table is enough.
    fn first_level(&self) -> u32 {
        let reach = |level| self.index_shift(level) + self.granule.bits();
        (0..3)
            .rev()
            .find(|level| reach(*level) >= INPUT_BITS)
            .unwrap_or(0)
    }

    /// log2 of what an entry of `level` stands for.
    fn index_shift(&self, level: u32) -> u32 {
        self.granule.shift() + self.granule.bits() * (3 - level)
    }

    fn table(&self, level: u32) -> u64 {
        TABLES + u64::from(3 - level) * PART
    }

    fn entry(&self, level: u32, iova: u64) -> &'static AtomicU64 {
        let index = iova >> self.index_shift(level) & ((1 << self.granule.bits()) - 1);
        &words(self.table(level), PART as usize / 8)[index as usize]
    }

    /// Maps the page at `iova` to `page`, for reads and writes. There is one table a level: pages that share none of the
    /// upper indices cannot be mapped at once.
    pub fn map(&self, iova: u64, page: u64) {
        for level in self.first_level()..3 {
            self.entry(level, iova)
                .store(self.table(level + 1) | 3, Ordering::Relaxed);
        }
        // Access flag, inner shareable, for unprivileged accesses too (DDI 0487, D8.3).
        let leaf = page | 1 << 10 | 3 << 8 | 1 << 6 | 3;
        self.entry(3, iova).store(leaf, Ordering::Release);
    }

    /// The same, in force when this returns: what was not there is in no cache. Whether it is.
    pub fn map_at_once(&self, _: &mut Smmu, iova: u64, page: u64) -> bool {
        self.map(iova, page);
        true
    }

    /// What the last level of pages around `iova` is, a table at `at` says, whatever is there.
    pub fn map_table(&self, iova: u64, at: u64) {
        self.entry(2, iova).store(at | 3, Ordering::Relaxed);
    }

    /// Takes the page at `iova` away, and has the SMMU forget it. Whether it did in time.
    pub fn unmap(&self, smmu: &mut Smmu, iova: u64) -> bool {
        self.entry(3, iova).store(0, Ordering::Relaxed);
        smmu.run(&[tlbi(iova)])
    }
}
