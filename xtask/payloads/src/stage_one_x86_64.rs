//! What a source of the guest's own VT-d unit goes through: one second stage of three levels, which is the guest's first.

use crate::runtime::words;
use crate::tree::Tree;
use crate::vtd::{DOMAIN, FREE, PAGE, Vtd, iotlb};
use core::sync::atomic::{AtomicU64, Ordering};

pub use crate::vtd::records;

/// One table a level, the last one first.
const TABLES: u64 = FREE;
const LEVELS: u64 = 3;
/// Reads and writes (9.8).
const RW: u64 = 3;
/// A page above the last level.
const LARGE: u64 = 1 << 7;
/// Legacy context entry (9.3): present; 39 bits.
const PRESENT: u64 = 1;
const WIDTH: u64 = 1;
/// log2 of the pages of a queue that is enough for all but floods.
const LOG2_PAGES: u32 = 0;

/// The tables of one source.
#[derive(Clone, Copy, Debug)]
pub struct StageOne {
    source: u32,
}

impl StageOne {
    /// Starts the guest's unit anew: the DMA of `source` goes through empty tables. `None` where it does not do as it is told.
    pub fn start(tree: &Tree<'_>, source: u32) -> Option<(Vtd, Self)> {
        let mut vtd = Vtd::find(tree)?;
        let followed = vtd.stop();
        let stage = Self::empty(&vtd, source);
        (followed && vtd.start(LOG2_PAGES)).then_some((vtd, stage))
    }

    /// Empty tables, in the entry of `source`, of which the unit has to be told.
    pub fn empty(vtd: &Vtd, source: u32) -> Self {
        let all = words(TABLES, (LEVELS * PAGE) as usize / 8);
        all.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let stage = Self { source };
        stage.enter(vtd);
        stage
    }

    /// Makes the source's entry lead here.
    pub fn enter(&self, vtd: &Vtd) {
        let entry = vtd.entry(self.source);
        entry[1].store(DOMAIN << 8 | WIDTH, Ordering::Relaxed);
        let root = self.table(LEVELS - 1);
        entry[0].store(root | PRESENT, Ordering::Release);
    }

    fn table(&self, height: u64) -> u64 {
        TABLES + height * PAGE
    }

    fn entry(&self, height: u64, iova: u64) -> &'static AtomicU64 {
        let index = iova >> (12 + 9 * height) & 511;
        &words(self.table(height), 512)[index as usize]
    }

    /// Has entries above `height` lead to the one table there.
    fn lead(&self, height: u64, iova: u64) {
        for above in height + 1..LEVELS {
            self.entry(above, iova)
                .store(self.table(above - 1) | RW, Ordering::Relaxed);
        }
    }

    /// Maps the page at `iova` to `page`, for reads and writes; the unit has to be told. There is one table a level: pages that
    /// share none of the upper indices cannot be mapped at once.
    pub fn map(&self, iova: u64, page: u64) {
        self.lead(0, iova);
        self.entry(0, iova).store(page | RW, Ordering::Release);
    }

    /// The same, and has the unit look, as it keeps what was not there too (11.4.2, CM). Whether it did in time.
    pub fn map_at_once(&self, vtd: &mut Vtd, iova: u64, page: u64) -> bool {
        self.map(iova, page);
        vtd.run(&[iotlb(iova, 0)])
    }

    /// The same with 2 MiB by one entry.
    pub fn map_block(&self, iova: u64, block: u64) {
        self.lead(1, iova);
        self.entry(1, iova)
            .store(block | LARGE | RW, Ordering::Release);
    }

    /// What the last level of pages around `iova` is, a table at `at` says, whatever is there.
    pub fn map_table(&self, iova: u64, at: u64) {
        self.entry(1, iova).store(at | RW, Ordering::Relaxed);
    }

    /// The 2 MiB at `iova` are what the last level of pages has, as whatever else it is for.
    pub fn alias(&self, iova: u64) {
        self.map_table(iova, self.table(0));
    }

    /// The 2 MiB at `iova` are not there; the unit has to be told.
    pub fn clear_block(&self, iova: u64) {
        self.entry(1, iova).store(0, Ordering::Release);
    }

    /// The page at `iova` is not there; the unit has to be told.
    pub fn clear(&self, iova: u64) {
        self.entry(0, iova).store(0, Ordering::Release);
    }

    /// Takes the page at `iova` away, and has the unit forget it. Whether it did in time.
    pub fn unmap(&self, vtd: &mut Vtd, iova: u64) -> bool {
        self.clear(iova);
        vtd.run(&[iotlb(iova, 0)])
    }
}
