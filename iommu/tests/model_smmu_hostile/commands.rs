//! Commands that are refused, and queues that are slow or hang.

use super::PAGE;
use crate::rig::{RAM, Rig, map, span, stage_two, translation};
use iommu::hal::Mmio;
use iommu::id::{CacheTag, DeviceId};
use iommu::model::smmu::{Completion, Config, Pace};
use iommu::physical::{
    Invalidated, Invalidation, IommuError, PhysicalIommu, StageTwo, StreamConfig,
};

#[test]
fn each_command_error_is_got_over_and_what_is_not_complete_is_told() {
    // A CMD_SYNC that was refused, or a command that could not be read once, is repeated: the batch is complete.
    for (opcode, code, complete) in [
        (0x2a, 1, false),
        (0x46, 1, true),
        (0x2a, 2, true),
        // Of an ATC invalidation that is not in this batch.
        (0x46, 3, true),
    ] {
        let mut rig = Rig::new(Config::default());
        let mut table = rig.table(39);
        map(&mut table, 0x1000, RAM, PAGE);
        rig.attach(8, &table, 3);
        rig.smmu.dma_read(8, 0x1000, 1).unwrap();
        let cut = table.unmap(span(0x1000, PAGE));
        let stale = cut.invalidation(CacheTag(3));
        rig.smmu.refuse(opcode, code);
        let done = rig.driver.invalidate(&[stale]);
        let expected = if complete {
            Ok(())
        } else {
            Err(IommuError::Command(code))
        };
        assert_eq!(done, expected, "opcode {opcode:#x}, CERROR {code}");
        let gone = rig.smmu.dma_read(8, 0x1000, 1).is_err();
        assert!(gone || done.is_err(), "complete, and still there");
        assert_eq!(
            rig.driver.invalidate(&[stale]),
            Ok(()),
            "the next one works"
        );
        assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
        table.release(cut, Invalidated::complete());
    }
}

#[test]
fn an_atc_invalidation_that_timed_out_is_told_and_the_rest_is_complete() {
    let mut rig = Rig::new(Config {
        ats: true,
        ..Config::default()
    });
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    let StreamConfig::StageTwo(two) = stage_two(&table, 3) else {
        unreachable!("it is one");
    };
    let config = StreamConfig::StageTwo(StageTwo { ats: true, ..two });
    rig.driver.attach(DeviceId(8), config).unwrap();
    rig.smmu.ats_translate(8, 0x1000, true).unwrap();
    let cut = table.unmap(span(0x1000, PAGE));
    let device = Invalidation::DeviceTlb {
        device: DeviceId(8),
        pasid: None,
        range: None,
    };
    let batch = [cut.invalidation(CacheTag(3)), device];
    // Once, and it is asked again; for good, and it is named.
    rig.smmu.time_out_atc();
    assert_eq!(rig.driver.submit(&batch), Ok(()));
    rig.smmu.mute(8, true);
    let told = rig.driver.submit(&batch).unwrap_err();
    assert_eq!(told.error, IommuError::DeviceTlb(DeviceId(8)));
    assert!(told.complete < 2, "the device's is not");
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    rig.smmu.mute(8, false);
    assert_eq!(rig.driver.invalidate(&batch), Ok(()));
    table.release(cut, Invalidated::complete());
}

#[test]
fn a_queue_whose_memory_is_gone_is_an_error_in_bounded_time_and_a_passing_one_is_got_over() {
    let mut rig = Rig::new(Config::default());
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    let tag = Invalidation::Tag(CacheTag(3));
    rig.smmu.abort_fetches(1);
    let once = rig.driver.invalidate(&[tag]);
    assert!(
        matches!(once, Ok(()) | Err(IommuError::Command(2))),
        "{once:?}"
    );
    assert_eq!(rig.driver.invalidate(&[tag]), Ok(()));
    assert_eq!(rig.smmu.read32(0x60), rig.smmu.read32(0x64));
    rig.smmu.abort_fetches(u32::MAX);
    let before = rig.driver.counters().register_reads;
    assert_eq!(rig.driver.invalidate(&[tag]), Err(IommuError::Command(2)));
    assert!(rig.driver.counters().register_reads - before < 5_000);
}

#[test]
fn a_queue_that_hangs_ends_in_a_timeout_and_an_attach_ends_closed() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    rig.smmu.hang(true);
    assert_eq!(
        rig.driver.attach(DeviceId(8), stage_two(&table, 3)),
        Err(IommuError::Timeout)
    );
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    rig.smmu.hang(false);
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    rig.attach(8, &table, 3);
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_ok());
}

#[test]
fn after_a_timeout_no_invalidation_is_taken_for_a_later_one() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    rig.attach(8, &table, 3);
    rig.smmu.dma_read(8, 0x1000, 1).unwrap();
    let cut = table.unmap(span(0x1000, PAGE));
    let stale = cut.invalidation(CacheTag(3));
    rig.smmu.set_pace(Pace::Steps);
    for _ in 0..3 {
        assert_eq!(rig.driver.invalidate(&[stale]), Err(IommuError::Timeout));
    }
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_ok(), "still there");
    // The first two of the old batches come through; the new batch is not complete by that.
    for _ in 0..4 {
        assert!(rig.smmu.step());
    }
    assert_eq!(rig.driver.invalidate(&[stale]), Err(IommuError::Timeout));
    rig.smmu.set_pace(Pace::Reads(3));
    assert_eq!(rig.driver.invalidate(&[stale]), Ok(()));
    assert_eq!(rig.smmu.dma_read(8, 0x1000, 1), Err(translation(true)));
    table.release(cut, Invalidated::complete());
}

#[test]
fn slow_hardware_is_waited_for_however_the_batch_fits_the_queue() {
    for log2 in [1, 2, 8] {
        for each in [1, 3, 7] {
            let mut rig = Rig::new(Config {
                pace: Pace::Reads(each),
                command_queue_log2: log2,
                range_invalidation: false,
                update_reads: 5,
                ..Config::default()
            });
            let mut table = rig.table(39);
            map(&mut table, 0, RAM, 40 * PAGE);
            rig.attach(8, &table, 3);
            for page in 0..40 {
                rig.smmu.dma_read(8, page * PAGE, 1).unwrap();
            }
            rig.unmap(&mut table, 0, 40 * PAGE, 3);
            for page in 0..40 {
                assert!(rig.smmu.dma_read(8, page * PAGE, 1).is_err());
            }
        }
    }
}

#[test]
fn completion_at_once_is_as_good() {
    let mut rig = Rig::new(Config {
        completion: Completion::AtOnce,
        speculate: false,
        cache_invalid: false,
        ..Config::default()
    });
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    rig.attach(8, &table, 3);
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_ok());
    rig.unmap(&mut table, 0x1000, PAGE, 3);
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
}
