//! `aarch64-paging`: VMSAv8-64 stage 2, three levels.

use std::hint::black_box;

use aarch64_paging::descriptor::Stage2Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{Constraints, MemoryRegion, Stage2};

use super::{PAGE, Peer};

const FLAGS: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Stage2Attributes::MEMATTR_NORMAL_INNER_WB)
    .union(Stage2Attributes::S2AP_ACCESS_RW)
    .union(Stage2Attributes::SH_INNER)
    .union(Stage2Attributes::ACCESS_FLAG);

pub struct Table(IdMap<Stage2>);

impl Table {
    pub fn new() -> Self {
        Self(IdMap::new(1, Stage2))
    }
}

fn region(base: u64, leaves: u64) -> MemoryRegion {
    MemoryRegion::new(base as usize, (base + leaves * PAGE) as usize)
}

impl Peer for Table {
    #[inline(always)]
    fn map(&mut self, base: u64, leaves: u64) {
        let range = region(base, leaves);
        self.0
            .map_range(black_box(&range), black_box(FLAGS))
            .expect("free");
    }

    #[inline(always)]
    fn unmap(&mut self, base: u64, leaves: u64) {
        let range = region(base, leaves);
        let (none, constraints) = (Stage2Attributes::empty(), Constraints::empty());
        self.0
            .map_range_with_constraints(black_box(&range), none, constraints)
            .expect("mapped");
    }

    #[inline(always)]
    fn clean_up(&mut self, _base: u64, _leaves: u64) {
        self.0.compact_subtables();
    }
}
