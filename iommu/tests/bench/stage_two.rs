//! Streams that are refused, and streams behind a stage 2.

use iommu::addr::Gpa;
use iommu::fault::{FaultReason, Stage};
use iommu::id::IommuIndex;
use iommu::physical::{PhysicalIommu, StreamConfig};
use iommu::smmuv3::Smmu;
use iommu::table::Attributes;

use super::{Bench, PAGE, Set, stage_two};

const READ_ONLY: Attributes = Attributes {
    write: false,
    ..Attributes::DMA
};

const BLOCK: u64 = 2 << 20;

pub fn every_stream_is_refused_and_recorded_from_the_start<B: Bench>() {
    let mut set = Set::<B>::new();
    let caps = set.driver.caps();
    assert!(caps.nested && caps.coherent && caps.range_invalidation);
    assert_eq!(
        (caps.output_bits, caps.device_id_bits, caps.cache_tag_bits),
        (44, 16, 16)
    );
    set.refused(B::RAM, FaultReason::BadDeviceEntry, Stage::None);
    assert_eq!(set.bench.read(B::RAM), 0);
    let (faults, _) = set.drain();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].device.0, B::READER);
}

pub fn a_device_reaches_what_stage_2_maps_and_nothing_else<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table();
    // Two pages the wrong way round, and a block.
    set.map(&mut table, 0x1000, 0x2000, PAGE, Attributes::DMA);
    set.map(&mut table, 0x2000, 0x1000, PAGE, Attributes::DMA);
    set.map(&mut table, 0x20_0000, BLOCK, BLOCK, Attributes::DMA);
    let config = StreamConfig::StageTwo(stage_two(&table, 7));
    set.attach(B::WRITER, config);
    set.attach(B::READER, config);
    set.arrives(0x1010, 0x2010);
    set.arrives(0x2ffc, 0x1ffc);
    set.arrives(0x20_0000, BLOCK);
    set.arrives(0x3f_fffc, 2 * BLOCK - 4);
    set.bench.store(B::RAM + 0x2f00, 0x1111_2222_3333_4444);
    assert_eq!(set.bench.read(0x1f00), 0x3333_4444);
    assert_eq!(set.bench.read(0x1f04), 0x1111_2222);
    for beside in [0, 0x3000, 0x40_0000, 1 << 38] {
        set.refused(beside, FaultReason::Translation, Stage::Two);
    }
    // An input that the table has no room for.
    set.refused(1 << 39, FaultReason::Translation, Stage::Two);
    assert_eq!(set.bench.read(0x3000), 0);
    let (faults, _) = set.drain();
    assert!(!faults[0].write);
    assert_eq!(faults[0].ipa, Some(Gpa(0x3000)));
}

pub fn what_is_read_only_is_read_and_not_written<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table();
    set.map(&mut table, 0x1000, 0x1000, PAGE, READ_ONLY);
    let config = StreamConfig::StageTwo(stage_two(&table, 7));
    set.attach(B::WRITER, config);
    set.attach(B::READER, config);
    set.bench.store(B::RAM + 0x1000, 0x5555_6666);
    set.refused(0x1000, FaultReason::Permission, Stage::Two);
    assert_eq!(set.bench.read(0x1000), 0x5555_6666);
    assert_eq!(set.bench.load(B::RAM + 0x1000), 0x5555_6666);
}

pub fn what_is_unmapped_is_gone_once_it_is_invalidated<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table();
    set.map(&mut table, 0, 0, 64 * PAGE, Attributes::DMA);
    set.map(&mut table, 0x20_0000, BLOCK, BLOCK, Attributes::DMA);
    set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&table, 7)));
    // One page, a run of pages, a block, and all that is left with its tables: each was cached.
    for (at, len) in [
        (0x3000, PAGE),
        (0x8000, 17 * PAGE),
        (0x20_0000, BLOCK),
        (0, BLOCK),
    ] {
        set.arrives(at, at);
        set.arrives(at + len.min(64 * PAGE) - 4, at + len.min(64 * PAGE) - 4);
        set.unmap(&mut table, at, len, 7);
        set.refused(at, FaultReason::Translation, Stage::Two);
        set.refused(
            at + len.min(64 * PAGE) - 4,
            FaultReason::Translation,
            Stage::Two,
        );
        if len == PAGE {
            set.arrives(0x4000, 0x4000);
            set.map(&mut table, at, at, len, Attributes::DMA);
        }
    }
}

pub fn a_stream_that_is_closed_is_closed_without_a_word<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table();
    set.map(&mut table, 0, 0, PAGE, Attributes::DMA);
    for _ in 0..2 {
        set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&table, 7)));
        set.arrives(0x10, 0x10);
        set.attach(B::WRITER, StreamConfig::Abort);
        assert!(!set.bench.write(0x10));
        assert!(set.drain().0.is_empty());
    }
}

pub fn a_stream_moves_to_another_table_and_tag<B: Bench>() {
    let mut set = Set::<B>::new();
    let (mut first, mut second) = (set.table(), set.table());
    set.map(&mut first, 0x1000, 0x1000, PAGE, Attributes::DMA);
    set.map(&mut second, 0x1000, 0x2000, PAGE, Attributes::DMA);
    set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&first, 7)));
    set.arrives(0x1000, 0x1000);
    set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&second, 8)));
    set.arrives(0x1000, 0x2000);
    set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&first, 7)));
    set.arrives(0x1000, 0x1000);
}

pub fn two_streams_keep_to_their_own_tables<B: Bench>() {
    let mut set = Set::<B>::new();
    let (mut first, mut second) = (set.table(), set.table());
    set.map(&mut first, 0x1000, 0x1000, PAGE, Attributes::DMA);
    set.map(&mut second, 0x1000, 0x2000, PAGE, Attributes::DMA);
    set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&first, 7)));
    set.attach(B::READER, StreamConfig::StageTwo(stage_two(&second, 8)));
    set.bench.store(B::RAM + 0x2000, 0x7777_8888);
    set.arrives(0x1000, 0x1000);
    assert_eq!(set.bench.read(0x1000), 0x7777_8888);
    // What one forgets, the other keeps.
    set.unmap(&mut first, 0x1000, PAGE, 7);
    set.refused(0x1000, FaultReason::Translation, Stage::Two);
    assert_eq!(set.bench.read(0x1000), 0x7777_8888);
}

pub fn a_driver_that_is_dropped_leaves_everything_closed<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table();
    set.map(&mut table, 0, 0, PAGE, Attributes::DMA);
    set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&table, 7)));
    set.arrives(0, 0);
    let Set { bench, driver } = set;
    drop(driver);
    assert!(!bench.write(0));
    assert!(!bench.write(B::RAM));
}

pub fn an_smmu_is_taken_over_by_a_second_driver<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table();
    set.map(&mut table, 0, 0, PAGE, Attributes::DMA);
    set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&table, 7)));
    set.arrives(0, 0);
    let Set { bench, driver } = set;
    drop(driver);
    let driver = Smmu::start(IommuIndex(0), bench.registers(), bench.platform());
    let mut set = Set {
        driver: driver.expect("it starts again"),
        bench,
    };
    // What the first one let in is refused, whatever was cached.
    set.refused(0, FaultReason::BadDeviceEntry, Stage::None);
    set.attach(B::WRITER, StreamConfig::StageTwo(stage_two(&table, 7)));
    set.arrives(0, 0);
}
