//! Stage 1: the host's own, and a guest's on a stage 2.

use iommu::addr::{Hpa, Iova};
use iommu::fault::{FaultReason, Stage};
use iommu::id::{CacheTag, DeviceId};
use iommu::physical::{Granule, Invalidation, StageOneConfig, StreamConfig};
use iommu::smmuv3::{ContextDescriptor, ContextTable, StageOneTable, event};
use iommu::table::Attributes;

use super::{Bench, PAGE, Set, Table, span, stage_two};

const TAG: CacheTag = CacheTag(7);
const ASID: u16 = 5;

/// Pages of the test's memory: a context descriptor, three levels of two page tables, and what they lead to.
const CONTEXT: u64 = 0;
const TABLES: [u64; 2] = [1, 4];
const TARGET: u64 = 16;

/// A page of stage 1: not global, AF, inner shareable, read and write for all, attribute 0.
const LEAF: u64 = 0xf43;
/// AP[2].
const READ_ONLY: u64 = 1 << 7;

/// Where the guest has its memory.
const GUEST: u64 = 0x4000_0000;

/// Stores a table of three levels at page `first`, where addresses count from `base`: page 1 leads to `target`.
fn tables<B: Bench>(set: &Set<B>, base: u64, first: u64, target: u64) {
    let page = |number: u64| B::RAM + number * PAGE;
    for level in 0..2 {
        let next = base + (first + level + 1) * PAGE;
        set.bench.store(page(first + level), next | 3);
    }
    leaf(set, first, 1, (base + target * PAGE) | LEAF);
}

/// Stores the last level's entry of page `number`.
fn leaf<B: Bench>(set: &Set<B>, first: u64, number: u64, descriptor: u64) {
    let at = B::RAM + (first + 2) * PAGE + number * 8;
    set.bench.store(at, descriptor);
}

fn descriptor<B: Bench>(set: &Set<B>, root: u64, asid: u16) -> ContextDescriptor {
    let table = StageOneTable {
        asid,
        root: Hpa(root),
        input_bits: 39,
        granule: Granule::Size4K,
        attributes: 0xff,
    };
    ContextDescriptor::new(&table, &set.driver.features()).expect("fits")
}

pub fn a_table_of_the_hosts_own_translates<B: Bench>() {
    let mut set = Set::<B>::new();
    tables(&set, B::RAM, TABLES[0], TARGET);
    let features = set.driver.features();
    let mut contexts = ContextTable::new(&*set.bench.platform(), 0, &features).expect("memory");
    let config = StreamConfig::StageOne {
        tag: TAG,
        stage_one: contexts.stage_one(),
    };
    set.attach(B::WRITER, config);
    set.refused(0x1000, FaultReason::BadContext, Stage::None);
    let words = descriptor(&set, B::RAM + TABLES[0] * PAGE, ASID);
    set.driver
        .set_context(DeviceId(B::WRITER), &mut contexts, 0, &words)
        .expect("set");
    set.arrives(0x1008, TARGET * PAGE + 8);
    set.refused(0x2000, FaultReason::Translation, Stage::One);
    set.refused(1 << 39, FaultReason::Translation, Stage::One);
    set.refused(u64::MAX << 39, FaultReason::Translation, Stage::One);
    leaf(
        &set,
        TABLES[0],
        3,
        (B::RAM + TARGET * PAGE) | LEAF | READ_ONLY,
    );
    set.refused(0x3000, FaultReason::Permission, Stage::One);
    set.attach(B::WRITER, StreamConfig::Abort);
}

pub fn a_context_changes_and_is_seen_to<B: Bench>() {
    let mut set = Set::<B>::new();
    tables(&set, B::RAM, TABLES[0], TARGET);
    tables(&set, B::RAM, TABLES[1], TARGET + 1);
    let features = set.driver.features();
    let mut contexts = ContextTable::new(&*set.bench.platform(), 0, &features).expect("memory");
    let config = StreamConfig::StageOne {
        tag: TAG,
        stage_one: contexts.stage_one(),
    };
    set.attach(B::WRITER, config);
    for (table, asid) in [(0, 1), (1, 2), (0, 1), (1, 1), (0, 2)] {
        let words = descriptor(&set, B::RAM + TABLES[table] * PAGE, asid);
        set.driver
            .set_context(DeviceId(B::WRITER), &mut contexts, 0, &words)
            .expect("set");
        set.invalidate(Invalidation::StageOne(TAG));
        set.arrives(0x1000, (TARGET + table as u64) * PAGE);
    }
    set.driver
        .set_context(
            DeviceId(B::WRITER),
            &mut contexts,
            0,
            &ContextDescriptor::invalid(),
        )
        .expect("set");
    set.refused(0x1000, FaultReason::BadContext, Stage::None);
    set.attach(B::WRITER, StreamConfig::Abort);
}

/// A guest: its memory behind a stage 2, with a context descriptor and a page table in it.
fn guest<B: Bench>() -> (Set<B>, Table<B>) {
    let mut set = Set::<B>::new();
    let mut table = set.table();
    set.map(&mut table, GUEST, 0, 64 * PAGE, Attributes::DMA);
    tables(&set, GUEST, TABLES[0], TARGET);
    let words = descriptor(&set, GUEST + TABLES[0] * PAGE, ASID);
    for (index, word) in (0..).zip(words.0) {
        set.bench.store(B::RAM + CONTEXT * PAGE + index * 8, word);
    }
    set.attach(B::WRITER, nested(&table));
    (set, table)
}

fn nested<P: iommu::hal::Platform>(table: &iommu::table::StageTwoTable<P>) -> StreamConfig {
    StreamConfig::Nested {
        stage_two: stage_two(table, TAG.0),
        stage_one: StageOneConfig {
            contexts: GUEST + CONTEXT * PAGE,
            inner: 1,
            outer: 1,
            shareability: 3,
            ..StageOneConfig::default()
        },
    }
}

pub fn both_stages_translate_and_each_fault_is_of_its_stage<B: Bench>() {
    let (mut set, mut table) = guest::<B>();
    set.arrives(0x1008, TARGET * PAGE + 8);
    set.refused(0x2000, FaultReason::Translation, Stage::One);
    // To what is not the guest's.
    leaf(&set, TABLES[0], 3, (GUEST + 64 * PAGE) | LEAF);
    set.refused(0x3000, FaultReason::Translation, Stage::Two);
    leaf(
        &set,
        TABLES[0],
        4,
        (GUEST + TARGET * PAGE) | LEAF | READ_ONLY,
    );
    set.refused(0x4000, FaultReason::Permission, Stage::One);
    // Without AF: nobody would set it, so that the driver's contexts have no Access flag faults.
    leaf(
        &set,
        TABLES[0],
        5,
        (GUEST + TARGET * PAGE) | LEAF & !(1 << 10),
    );
    set.arrives(0x5000, TARGET * PAGE);
    // Tables that are not the guest's.
    set.unmap(&mut table, GUEST + (TABLES[0] + 1) * PAGE, PAGE, TAG.0);
    set.refused(0x6000, FaultReason::Translation, Stage::Two);
    // A context that is not.
    set.unmap(&mut table, GUEST + CONTEXT * PAGE, PAGE, TAG.0);
    set.attach(B::WRITER, nested(&table));
    set.refused(0x1000, FaultReason::Translation, Stage::Two);
    set.attach(B::WRITER, StreamConfig::Abort);
}

pub fn each_invalidation_of_a_stage_1_takes_its_entry<B: Bench>() {
    let ways = [
        Invalidation::StageOne(TAG),
        Invalidation::AddressSpace {
            tag: TAG,
            asid: ASID,
        },
        Invalidation::StageOneAddress {
            tag: TAG,
            asid: Some(ASID),
            address: Iova(0x1000),
            leaf: true,
        },
        Invalidation::StageOneAddress {
            tag: TAG,
            asid: None,
            address: Iova(0x1000),
            leaf: true,
        },
        Invalidation::StageOneRange {
            tag: TAG,
            asid: Some(ASID),
            range: span(0, 33 * PAGE),
            granule: Granule::Size4K,
            level: 3,
            leaf: true,
        },
        Invalidation::Tag(TAG),
    ];
    let (mut set, _table) = guest::<B>();
    let mut target = TARGET;
    for way in ways {
        set.arrives(0x1000, target * PAGE);
        leaf(&set, TABLES[0], 1, (GUEST + (target + 1) * PAGE) | LEAF);
        // Both SMMUs keep what they cached as long as they may.
        set.arrives(0x1000, target * PAGE);
        set.invalidate(way);
        target += 1;
        set.arrives(0x1000, target * PAGE);
    }
    set.attach(B::WRITER, StreamConfig::Abort);
}

pub fn what_stage_2_unmaps_is_gone_from_both_stages<B: Bench>() {
    let (mut set, mut table) = guest::<B>();
    set.arrives(0x1000, TARGET * PAGE);
    set.unmap(&mut table, GUEST + TARGET * PAGE, PAGE, TAG.0);
    set.refused(0x1000, FaultReason::Translation, Stage::Two);
    set.attach(B::WRITER, StreamConfig::Abort);
}

/// Where no machine of a test has anything.
const ABSENT: u64 = 0x20_0000_0000;

pub fn what_could_not_be_read_is_told_with_its_address<B: Bench>() {
    let (mut set, mut table) = guest::<B>();
    set.unmap(&mut table, GUEST + CONTEXT * PAGE, PAGE, TAG.0);
    table
        .map(
            span(GUEST + CONTEXT * PAGE, PAGE),
            Hpa(ABSENT),
            Attributes::DMA,
        )
        .expect("mapped");
    set.attach(B::WRITER, nested(&table));
    assert!(!set.bench.write(0x1000));
    // A descriptor of stage 1 that is not there either.
    let (mut other, mut second) = guest::<B>();
    other.unmap(&mut second, GUEST + (TABLES[0] + 1) * PAGE, PAGE, TAG.0);
    second
        .map(
            span(GUEST + (TABLES[0] + 1) * PAGE, PAGE),
            Hpa(ABSENT),
            Attributes::DMA,
        )
        .expect("mapped");
    assert!(!other.bench.write(0x1000));
    for set in [&mut set, &mut other] {
        let (faults, _) = set.drain();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].reason, FaultReason::FetchAbort);
        assert_eq!(event::fetch_address(faults[0].raw), Some(Hpa(ABSENT)));
        set.attach(B::WRITER, StreamConfig::Abort);
    }
}
