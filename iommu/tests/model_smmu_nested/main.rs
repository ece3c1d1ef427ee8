//! The driver on the model: a guest's stage 1 on the host's stage 2, and a stage 1 of the host's own.
//! Tables and descriptors of the guest are words of the documents, written here by hand.

mod ats;
#[path = "../rig/mod.rs"]
mod rig;

use iommu::addr::Iova;
use iommu::hal::Platform;
use iommu::id::{CacheTag, DeviceId};
use iommu::model::smmu::{Config, Denied, Initiator};
use iommu::physical::{
    Granule, Invalidated, Invalidation, PhysicalIommu, StageOneConfig, StageTwo, StreamConfig,
};
use iommu::table::Attributes;
use rig::{RAM, Rig, Table, map, span, translation};

const PAGE: u64 = 4096;
/// Where the guest has its context table, and its tables.
const CONTEXTS: u64 = 0x10_0000;
const TABLES: u64 = 0x20_0000;

/// A guest: its memory is RAM, from IPA 0 on, in stage 2 pages of 4 KiB.
struct Guest {
    rig: Rig,
    table: Table,
    next: u64,
}

/// A page: AF, AP[1], nG (DDI 0487, D8.3.2).
const PAGE_RW: u64 = 3 | 1 << 10 | 1 << 6 | 1 << 11;
const READ_ONLY: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 11;

impl Guest {
    fn new(config: Config) -> Self {
        let rig = Rig::new(config);
        let mut table = rig.table(39);
        for page in (0..0x40_0000).step_by(PAGE as usize) {
            map(&mut table, page, RAM + page, PAGE);
        }
        Self {
            rig,
            table,
            next: TABLES,
        }
    }

    fn store(&self, ipa: u64, value: u64) {
        self.rig.memory.store(RAM + ipa, value);
        self.rig.memory.write_barrier();
    }

    fn new_table(&mut self) -> u64 {
        self.next += PAGE;
        self.next
    }

    /// Maps one page of a 39-bit space whose level 1 table is at `root`.
    fn map_page(&mut self, root: u64, va: u64, descriptor: u64) {
        let mut table = root;
        for shift in [30, 21] {
            let entry = table + (va >> shift & 511) * 8;
            let mut next = self.rig.memory.load(RAM + entry) & 0x0000_ffff_ffff_f000;
            if next == 0 {
                next = self.new_table();
                self.store(entry, next | 3);
            }
            table = next;
        }
        self.store(table + (va >> 12 & 511) * 8, descriptor);
    }

    /// A context: T0SZ 25, 4 KiB, EPD1, V, IPS 44 bits, AA64, R, A, ASET.
    fn context(&self, substream: u64, asid: u64, root: u64) {
        let at = CONTEXTS + substream * 64;
        self.store(at + 8, root);
        let first = 25 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 7 << 45 | asid << 48;
        self.store(at, first);
    }

    fn nested(&self, log2: u8) -> StageOneConfig {
        StageOneConfig {
            contexts: CONTEXTS,
            contexts_log2: log2,
            default_context: if log2 == 0 { 0 } else { 2 },
            ..StageOneConfig::default()
        }
    }

    fn attach(&mut self, device: u32, tag: u16, stage_one: StageOneConfig) {
        let stage_two = StageTwo {
            tag: CacheTag(tag),
            root: self.table.root(),
            input_bits: 39,
            ats: false,
        };
        let config = StreamConfig::Nested {
            stage_two,
            stage_one,
        };
        self.rig
            .driver
            .attach(DeviceId(device), config)
            .expect("attached");
    }

    fn forget(&mut self, what: Invalidation) {
        self.rig.driver.invalidate(&[what]).expect("forgotten");
    }

    fn at(&self, from: impl Into<Initiator>, va: u64) -> Result<u64, Denied> {
        self.rig.smmu.translate(from, va, false)
    }
}

/// A guest with one page at 0x40_0000_0000 - 4 KiB in address space 5, and another as global.
fn guest() -> (Guest, u64) {
    let mut guest = Guest::new(Config::default());
    let root = guest.new_table();
    guest.map_page(root, VA, 0x5000 | PAGE_RW);
    guest.map_page(root, VA + PAGE, 0x6000 | PAGE_RW & !GLOBAL);
    guest.context(0, 5, root);
    let stage_one = guest.nested(0);
    guest.attach(8, 3, stage_one);
    (guest, root)
}

const VA: u64 = 0x3f_fff0_0000;

fn fault(number: u8, stage_two: bool) -> Denied {
    Denied::Fault { number, stage_two }
}

#[test]
fn both_stages_translate_and_each_fault_is_of_its_stage() {
    let (mut guest, root) = guest();
    assert_eq!(guest.at(8, VA + 0x123), Ok(RAM + 0x5123));
    assert_eq!(guest.at(8, VA - PAGE), Err(translation(false)));
    guest.map_page(root, VA + 2 * PAGE, 0x7fff_f000 | PAGE_RW);
    assert_eq!(
        guest.at(8, VA + 2 * PAGE),
        Err(translation(true)),
        "outside the guest"
    );
    guest.map_page(root, VA + 3 * PAGE, 0x8000 | PAGE_RW | READ_ONLY);
    assert_eq!(
        guest.rig.smmu.translate(8, VA + 3 * PAGE, true),
        Err(fault(0x13, false))
    );
    // A table outside of the guest.
    guest.store(root, 0x7fff_0000 | 3);
    assert_eq!(guest.at(8, 0x1000), Err(translation(true)));
    let (faults, lost) = guest.rig.drain();
    assert!(!lost);
    let stages: Vec<_> = faults.iter().map(|fault| fault.stage).collect();
    use iommu::fault::Stage::{One, Two};
    assert_eq!(stages, [One, Two, One, Two]);
    assert_eq!(faults[1].ipa.map(|ipa| ipa.0), Some(0x7fff_f000));
    assert_eq!(faults[3].ipa.map(|ipa| ipa.0), Some(0x7fff_0000));
    assert_eq!(faults[3].iova, Some(Iova(0x1000)));
}

#[test]
fn a_context_outside_of_the_guest_is_a_stage_2_fault() {
    let (mut guest, _) = guest();
    let stage_one = StageOneConfig {
        contexts: 0x7000_0000,
        ..StageOneConfig::default()
    };
    guest.attach(8, 3, stage_one);
    assert_eq!(guest.at(8, VA), Err(translation(true)));
    let (faults, _) = guest.rig.drain();
    assert_eq!(faults[0].raw[1] >> 40 & 3, 0, "CLASS = CD");
    assert_eq!(faults[0].ipa.map(|ipa| ipa.0), Some(0x7000_0000));
}

#[test]
fn a_stage_2_range_takes_what_both_stages_made_of_it() {
    // With the stream as it was, closed, and through stage 2 alone in the meantime.
    for meanwhile in 0..3 {
        let (mut guest, _) = guest();
        assert!(guest.at(8, VA).is_ok());
        let alone = rig::stage_two(&guest.table, 3);
        match meanwhile {
            1 => guest.rig.abort(8),
            2 => guest.rig.driver.attach(DeviceId(8), alone).unwrap(),
            _ => {}
        }
        let cut = guest.table.unmap(span(0x5000, PAGE));
        guest.forget(cut.invalidation(CacheTag(3)));
        guest.table.release(cut, Invalidated::complete());
        let stage_one = guest.nested(0);
        guest.attach(8, 3, stage_one);
        assert_eq!(guest.at(8, VA), Err(translation(true)), "{meanwhile}");
        assert!(guest.at(8, VA + PAGE).is_ok());
    }
}

#[test]
fn a_stage_1_change_is_seen_after_the_invalidation_that_names_it_and_no_other() {
    let tag = CacheTag(3);
    let range = |asid, at, granule, level| Invalidation::StageOneRange {
        tag,
        asid,
        range: span(at, 2 * PAGE),
        granule,
        level,
        leaf: true,
    };
    let one = |tag, asid, at| Invalidation::StageOneAddress {
        tag,
        asid,
        address: Iova(at),
        leaf: true,
    };
    let four = Granule::Size4K;
    let not = [
        one(CacheTag(4), Some(5), VA),
        one(tag, Some(6), VA),
        one(tag, Some(5), VA + PAGE),
        range(Some(6), VA, four, 0),
        range(Some(5), VA + PAGE, four, 0),
        Invalidation::AddressSpace { tag, asid: 6 },
        Invalidation::Tag(CacheTag(4)),
        Invalidation::StageOne(CacheTag(4)),
        Invalidation::Contexts(DeviceId(8)),
        Invalidation::Device(DeviceId(8)),
        Invalidation::StageTwoRange {
            tag: CacheTag(4),
            range: span(0, 1 << 39),
            leaf: false,
        },
    ];
    let does = [
        one(tag, Some(5), VA + 0xfff),
        one(tag, None, VA),
        range(Some(5), VA, four, 0),
        range(None, VA - PAGE, four, 3),
        Invalidation::AddressSpace { tag, asid: 5 },
        Invalidation::StageOne(tag),
        Invalidation::Tag(tag),
    ];
    for what in does {
        let (mut guest, root) = guest();
        assert_eq!(guest.at(8, VA), Ok(RAM + 0x5000));
        guest.map_page(root, VA, 0x9000 | PAGE_RW);
        for other in not {
            guest.forget(other);
            assert_eq!(guest.at(8, VA), Ok(RAM + 0x5000), "{other:?}");
        }
        guest.forget(what);
        assert_eq!(guest.at(8, VA), Ok(RAM + 0x9000), "{what:?}");
    }
}

#[test]
fn a_global_entry_outlives_its_address_space_but_not_its_address() {
    let (mut guest, root) = guest();
    let va = VA + PAGE;
    assert_eq!(guest.at(8, va), Ok(RAM + 0x6000));
    guest.map_page(root, va, 0x9000 | PAGE_RW);
    let tag = CacheTag(3);
    guest.forget(Invalidation::AddressSpace { tag, asid: 5 });
    assert_eq!(guest.at(8, va), Ok(RAM + 0x6000));
    guest.forget(Invalidation::StageOneAddress {
        tag,
        asid: Some(77),
        address: Iova(va),
        leaf: true,
    });
    assert_eq!(guest.at(8, va), Ok(RAM + 0x9000));
}

#[test]
fn two_slices_with_the_same_asid_do_not_meet() {
    let (mut guest, _) = guest();
    let other = guest.new_table();
    guest.map_page(other, VA, 0xa000 | PAGE_RW);
    assert_eq!(guest.at(8, VA), Ok(RAM + 0x5000));
    // The context of the other slice: same ASID, its own table.
    guest.context(1, 5, other);
    let stage_one = StageOneConfig {
        contexts: CONTEXTS + 64,
        ..StageOneConfig::default()
    };
    guest.attach(9, 4, stage_one);
    assert_eq!(guest.at(9, VA), Ok(RAM + 0xa000));
    assert_eq!(guest.at(8, VA), Ok(RAM + 0x5000));
}

#[test]
fn a_context_is_used_until_it_is_invalidated() {
    let (mut guest, _) = guest();
    assert!(guest.at(8, VA).is_ok());
    let other = guest.new_table();
    guest.map_page(other, VA, 0xa000 | PAGE_RW);
    guest.context(0, 6, other);
    assert_eq!(guest.at(8, VA), Ok(RAM + 0x5000));
    guest.forget(Invalidation::Context {
        device: DeviceId(9),
        pasid: 0,
        leaf: true,
    });
    assert_eq!(guest.at(8, VA), Ok(RAM + 0x5000), "another stream's");
    guest.forget(Invalidation::Context {
        device: DeviceId(8),
        pasid: 0,
        leaf: true,
    });
    assert_eq!(guest.at(8, VA), Ok(RAM + 0xa000));
}

#[test]
fn substreams_have_their_own_contexts_and_end_where_the_table_does() {
    let mut guest = Guest::new(Config::full());
    let (zero, three) = (guest.new_table(), guest.new_table());
    guest.map_page(zero, VA, 0x5000 | PAGE_RW);
    guest.map_page(three, VA, 0x6000 | PAGE_RW);
    guest.context(0, 5, zero);
    guest.context(3, 6, three);
    let stage_one = guest.nested(2);
    guest.attach(8, 3, stage_one);
    let from = Initiator::from(8);
    assert_eq!(guest.at(from, VA), Ok(RAM + 0x5000));
    assert_eq!(guest.at(from.with_substream(3), VA), Ok(RAM + 0x6000));
    assert_eq!(
        guest.at(from.with_substream(1), VA),
        Err(fault(0x0a, false))
    );
    assert_eq!(
        guest.at(from.with_substream(4), VA),
        Err(fault(0x08, false))
    );
    assert_eq!(
        guest.at(from.with_substream(0), VA),
        Err(fault(0x06, false))
    );
    let (faults, _) = guest.rig.drain();
    let pasids: Vec<_> = faults.iter().map(|fault| fault.pasid).collect();
    assert_eq!(pasids, [Some(1), Some(4), Some(0)]);
}

#[test]
fn from_stage_2_to_nested_and_back_no_transaction_goes_astray() {
    let (mut guest, _) = guest();
    for round in 0..10 {
        assert_eq!(guest.at(8, VA), Ok(RAM + 0x5000), "round {round}");
        let table = rig::stage_two(&guest.table, 3);
        guest.rig.driver.attach(DeviceId(8), table).unwrap();
        assert_eq!(guest.at(8, 0x5000), Ok(RAM + 0x5000));
        assert!(guest.at(8, VA).is_err());
        let stage_one = guest.nested(0);
        guest.attach(8, 3, stage_one);
    }
}

#[test]
fn permissions_of_stage_2_bind_the_guest() {
    let (mut guest, _) = guest();
    let read_only = Attributes {
        write: false,
        ..Attributes::DMA
    };
    let change = guest.table.protect(span(0x5000, PAGE), read_only).unwrap();
    guest.forget(change.invalidation(CacheTag(3)));
    guest.forget(Invalidation::StageOne(CacheTag(3)));
    guest.table.release(change, Invalidated::complete());
    for _ in 0..2 {
        assert!(guest.at(8, VA).is_ok());
        let write = guest.rig.smmu.translate(8, VA, true);
        assert_eq!(write, Err(fault(0x13, true)), "cold and warm");
    }
    let (faults, _) = guest.rig.drain();
    assert!(
        faults
            .iter()
            .all(|fault| fault.ipa.map(|ipa| ipa.0) == Some(0x5000))
    );
}
