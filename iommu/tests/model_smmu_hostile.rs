//! The driver on a model SMMU that is slow, broken, gone, out of memory or flooded with events.

mod rig;

use iommu::hal::Mmio;
use iommu::id::{CacheTag, DeviceId};
use iommu::model::memory::Order;
use iommu::model::smmu::{Completion, Config, Denied, Pace};
use iommu::physical::{
    Invalidated, Invalidation, IommuError, PhysicalIommu, StageTwo, StreamConfig,
};
use iommu::smmuv3::StartError;
use rig::{RAM, Rig, map, parts, span, stage_two, start, translation};

const PAGE: u64 = 4096;
/// GERROR (§6.3.19).
const CMDQ_ERR: u32 = 1;
const EVENTQ_ABT_ERR: u32 = 1 << 2;
const SFM_ERR: u32 = 1 << 8;

#[test]
fn every_image_of_an_entry_is_the_old_one_the_new_one_or_abort() {
    let mut rig = Rig::new(Config::default());
    let (mut one, mut two) = (rig.table(39), rig.table(44));
    map(&mut one, 0x1000, RAM, PAGE);
    map(&mut two, 0x1000, RAM + PAGE, PAGE);
    for round in 0..20 {
        let device = 8 + round % 3;
        let (table, tag) = if round % 2 == 0 { (&one, 3) } else { (&two, 4) };
        rig.attach(device, table, tag);
        rig.smmu.dma_write(device, 0x1000, &[1]).unwrap();
    }
    // Each attach changes at least word 0; a first one all of words 0 to 3 as well.
    assert!(rig.smmu.counters().images > 100);
}

#[test]
fn without_snooping_every_store_is_cleaned() {
    // The second SMMU says of itself that it snoops; firmware knows better.
    for (order, cohacc) in [
        (Order::Late, None),
        (Order::Random(0x5eed), None),
        (Order::Late, Some(true)),
    ] {
        let mut rig = Rig::described(
            Config {
                coherent: false,
                cohacc,
                ..Config::default()
            },
            cohacc.is_none(),
        );
        assert!(!rig.driver.caps().coherent);
        rig.memory.set_order(order);
        let mut table = rig.table(39);
        map(&mut table, 0x20_0000, RAM, 0x20_0000);
        map(&mut table, 0x1000, RAM, PAGE);
        rig.attach(0x108, &table, 3);
        rig.smmu.dma_write(0x108, 0x1000, &[1]).unwrap();
        rig.smmu.dma_write(0x108, 0x20_1000, &[1]).unwrap();
        // A cut block, a cut table, and a fault that is read.
        rig.unmap(&mut table, 0x20_1000, PAGE, 3);
        rig.unmap(&mut table, 0x1000, PAGE, 3);
        rig.smmu.dma_write(0x108, 0x20_2000, &[1]).unwrap();
        for at in [0x1000, 0x20_1000] {
            assert_eq!(rig.smmu.dma_write(0x108, at, &[1]), Err(translation(true)));
        }
        let (faults, lost) = rig.drain();
        assert_eq!((faults.len(), lost), (2, false), "{faults:?}");
        assert_eq!(faults[0].iova.map(|iova| iova.0), Some(0x1000));
        assert_eq!(faults[1].iova.map(|iova| iova.0), Some(0x20_1000));
        rig.abort(0x108);
        assert_eq!(
            rig.smmu.dma_write(0x108, 0x20_2000, &[1]),
            Err(Denied::StreamAbort)
        );
    }
}

#[test]
fn an_event_queue_that_wraps_is_read_right_without_snooping() {
    let mut rig = Rig::new(Config {
        coherent: false,
        event_queue_log2: 3,
        ..Config::default()
    });
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    for round in 0..50u64 {
        for back in 0..round % 8 {
            let at = round << 20 | back << 12;
            assert!(rig.smmu.dma_read(8, at, 1).is_err());
        }
        let (faults, lost) = rig.drain();
        assert!(!lost);
        let seen: Vec<_> = faults.iter().filter_map(|fault| fault.iova).collect();
        let sent: Vec<_> = (0..round % 8)
            .map(|back| iommu::addr::Iova(round << 20 | back << 12))
            .collect();
        assert_eq!(seen, sent);
    }
}

#[test]
fn the_nth_allocation_fails_and_the_start_is_undone() {
    for all in [false, true] {
        let mut failures = 0;
        for nth in 0..20 {
            let (memory, smmu) = parts(Config::default());
            memory.fail_allocation(nth, all);
            match start(&memory, &smmu) {
                Ok(driver) => drop(driver),
                Err(error) => {
                    assert_eq!(error, StartError::OutOfMemory);
                    failures += 1;
                }
            }
            assert_eq!(memory.live(), (0, 0));
            assert_eq!(smmu.dma_read(8, RAM, 1), Err(Denied::GlobalAbort));
        }
        assert_eq!(failures, 3, "two queues and a stream table");
    }
}

#[test]
fn the_nth_allocation_fails_in_attach_and_map_and_nothing_has_changed() {
    for nth in 0..8 {
        let mut rig = Rig::new(Config::default());
        let mut table = rig.table(39);
        map(&mut table, 0x1000, RAM, PAGE);
        rig.attach(8, &table, 3);
        let live = rig.memory.live();
        rig.memory.fail_allocation(nth, true);
        // Another bus needs a level 2 table.
        let attached = rig.driver.attach(DeviceId(0x200), stage_two(&table, 3));
        let mapped = table.map(
            span(0x40_0000_0000, 3 * PAGE),
            iommu::addr::Hpa(RAM),
            iommu::table::Attributes::DMA,
        );
        rig.memory.heal();
        let opened = rig.smmu.dma_read(0x200, 0x1000, 1).is_ok();
        assert_eq!(attached.is_ok(), opened);
        assert_eq!(nth > 0, opened);
        let reached = rig.smmu.dma_read(8, 0x40_0000_0000, 1).is_ok();
        assert_eq!(mapped.is_ok(), reached);
        if attached.is_err() && mapped.is_err() {
            assert!(rig.memory.live().0 <= live.0 + 4, "spare tables at most");
        }
        // What worked before works still.
        assert!(rig.smmu.dma_read(8, 0x1000, 1).is_ok());
        // And now it succeeds.
        rig.attach(0x200, &table, 3);
        if mapped.is_err() {
            map(&mut table, 0x40_0000_0000, RAM, 3 * PAGE);
            rig.driver
                .invalidate(&[Invalidation::Tag(CacheTag(3))])
                .unwrap();
        }
        assert!(rig.smmu.dma_read(0x200, 0x40_0000_2000, 1).is_ok());
    }
}

#[test]
fn unmap_needs_no_memory() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x4000_0000, RAM, 0x4000_0000);
    rig.attach(8, &table, 3);
    rig.smmu.translate(8, 0x4000_0000, true).unwrap();
    rig.memory.fail_allocation(0, true);
    rig.unmap(&mut table, 0x4000_5000, PAGE, 3);
    assert_eq!(
        rig.smmu.translate(8, 0x4000_5000, true),
        Err(translation(true))
    );
    assert_eq!(rig.smmu.translate(8, 0x4000_6000, true), Ok(RAM + 0x6000));
    assert_eq!(
        rig.smmu.translate(8, 0x7fff_f000, true),
        Ok(RAM + 0x3fff_f000)
    );
}

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
fn a_device_that_is_gone_is_said_to_be_gone_without_waiting() {
    let mut rig = Rig::new(Config::default());
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    rig.smmu.gone(true);
    let before = rig.driver.counters().register_reads;
    let tag = Invalidation::Tag(CacheTag(3));
    assert_eq!(rig.driver.invalidate(&[tag]), Err(IommuError::Gone));
    assert_eq!(
        rig.driver.attach(DeviceId(9), StreamConfig::Abort),
        Err(IommuError::Gone)
    );
    assert_eq!(rig.driver.serve_errors(), Err(IommuError::Gone));
    assert!(rig.drain().0.is_empty());
    assert!(rig.driver.counters().register_reads - before < 40);
    let live = rig.memory.live();
    let Rig { driver, memory, .. } = rig;
    drop(driver);
    assert_eq!(
        memory.live(),
        live,
        "it may still read its tables: they are lost"
    );
}

#[test]
fn a_start_that_is_not_acknowledged_ends_in_a_timeout() {
    let (memory, smmu) = parts(Config::default());
    smmu.deaf(true);
    let error = start(&memory, &smmu).err();
    assert_eq!(error, Some(StartError::Hardware(IommuError::Timeout)));
    assert_eq!(memory.live().0, 0, "GBPA comes before memory");
}

#[test]
fn each_global_error_is_acknowledged_and_told() {
    let mut rig = Rig::new(Config::default());
    for bit in [2, 3, 4, 5, 6, 7, 8] {
        rig.smmu.raise_global_error(1 << bit);
        let errors = rig.driver.serve_errors().unwrap();
        assert_eq!(errors.raw, 1 << bit);
        assert_eq!(errors.records_lost, 1 << bit == EVENTQ_ABT_ERR);
        assert_eq!(errors.stopped, 1 << bit == SFM_ERR);
        assert!(!errors.command);
        assert_eq!(rig.driver.serve_errors().unwrap().raw, 0);
    }
    rig.smmu.raise_global_error(EVENTQ_ABT_ERR | SFM_ERR);
    assert_eq!(
        rig.driver.serve_errors().unwrap().raw,
        EVENTQ_ABT_ERR | SFM_ERR
    );
    assert!(rig.drain().1, "lost records are told with the faults too");
    assert!(!rig.drain().1, "once");
    let _ = CMDQ_ERR;
}

#[test]
fn no_event_of_a_storm_is_lost_without_a_word() {
    let mut rig = Rig::new(Config::default());
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    let mut delivered = 0u64;
    let mut notices = 0u64;
    let mut next = 0u64;
    for burst in 0..100u64 {
        let before = rig.smmu.counters().events_lost;
        let count = 500 + burst * 10;
        for _ in 0..count {
            assert!(rig.smmu.dma_read(8, next << 12, 1).is_err());
            next += 1;
        }
        let (faults, lost) = rig.drain();
        delivered += faults.len() as u64;
        notices += u64::from(lost);
        let dropped = rig.smmu.counters().events_lost - before;
        assert_eq!(lost, dropped > 0, "burst {burst}");
        // What is kept is the oldest, in order and without a gap.
        let first = next - count;
        for (index, fault) in faults.iter().enumerate() {
            let at = fault.iova.map(|iova| iova.0 >> 12);
            assert_eq!(at, Some(first + index as u64));
        }
    }
    let counters = rig.smmu.counters();
    assert!(next > 99_000);
    assert_eq!(counters.events, next);
    assert_eq!(delivered, counters.events_written);
    assert_eq!(delivered + counters.events_lost, next);
    assert!(notices > 40);
    assert_eq!(rig.driver.counters().events, delivered);
    assert_eq!(rig.driver.counters().losses, notices);
}

#[test]
fn events_that_come_while_the_queue_is_drained_are_not_lost() {
    let mut rig = Rig::new(Config {
        event_queue_log2: 4,
        ..Config::default()
    });
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    let mut seen = 0;
    for round in 0..200u64 {
        assert!(rig.smmu.dma_read(8, round << 12, 1).is_err());
        assert!(rig.smmu.dma_read(8, round << 12, 1).is_err());
        let mut one = [iommu::smmuv3::event::decode(
            iommu::id::IommuIndex(0),
            [0; 4],
        )];
        seen += rig.driver.drain_faults(&mut one).count;
        if round % 8 == 7 {
            let (rest, lost) = rig.drain();
            assert!(!lost);
            seen += rest.len();
        }
    }
    assert_eq!(seen, 400);
}

#[test]
fn power_that_was_lost_is_noticed() {
    let mut rig = Rig::new(Config::default());
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    rig.smmu.power_cycle();
    // Nothing can be complete on an SMMU that is off.
    let tag = Invalidation::Tag(CacheTag(3));
    assert!(rig.driver.invalidate(&[tag]).is_err());
}

#[test]
fn an_smmu_that_lost_its_state_refuses_and_has_it_again() {
    for coherent in [true, false] {
        let mut rig = Rig::new(Config {
            coherent,
            ..Config::default()
        });
        let mut table = rig.table(39);
        map(&mut table, 0x1000, RAM, PAGE);
        rig.attach(8, &table, 3);
        rig.driver
            .attach(DeviceId(0x200), StreamConfig::Abort)
            .unwrap();
        assert_eq!(rig.driver.check(), Ok(false));
        // Records and commands that it had, at any place of its queues.
        for at in 0..5 {
            assert!(rig.smmu.dma_read(8, 0x2000, 1).is_err());
            rig.smmu.power_cycle();
            rig.smmu.plant_bypass(9);
            assert!(rig.smmu.dma_read(9, RAM, 1).is_ok(), "as out of reset");
            assert_eq!(rig.driver.check(), Ok(true), "{at}");
            assert_eq!(rig.driver.check(), Ok(false));
            assert!(rig.smmu.dma_write(8, 0x1000, &[1]).is_ok());
            assert!(rig.smmu.dma_write(9, RAM, &[1]).is_err());
            assert_eq!(
                rig.smmu.dma_write(0x200, RAM, &[1]),
                Err(Denied::StreamAbort)
            );
            let (faults, lost) = rig.drain();
            assert!(lost, "records of before may be gone");
            assert_eq!(faults.len(), 1, "of stream 9");
        }
        // What it is told from now on, it does.
        rig.unmap(&mut table, 0x1000, PAGE, 3);
        assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    }
}

#[test]
fn a_stream_is_closed_on_an_smmu_that_lost_its_state() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    rig.attach(8, &table, 3);
    rig.attach(9, &table, 3);
    rig.smmu.power_cycle();
    rig.driver
        .attach(DeviceId(8), StreamConfig::Refuse)
        .unwrap();
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    assert!(rig.smmu.dma_read(9, 0x1000, 1).is_ok());
    assert_eq!(rig.driver.check(), Ok(false));
}

#[test]
fn an_smmu_that_comes_back_broken_refuses_for_good_and_holds_nobody_up() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    rig.attach(8, &table, 3);
    rig.smmu.power_cycle();
    rig.smmu.hang(true);
    assert_eq!(rig.driver.check(), Err(IommuError::Stopped));
    assert_eq!(rig.smmu.dma_read(8, 0x1000, 1), Err(Denied::GlobalAbort));
    let tag = Invalidation::Tag(CacheTag(3));
    assert_eq!(rig.driver.invalidate(&[tag]), Err(IommuError::Stopped));
    assert_eq!(rig.driver.attach(DeviceId(8), StreamConfig::Refuse), Ok(()));
    rig.smmu.gone(true);
    assert_eq!(rig.driver.check(), Err(IommuError::Gone));
    // Power once more: it refuses again, and this time goes on.
    rig.smmu.gone(false);
    rig.smmu.power_cycle();
    rig.smmu.hang(false);
    assert_eq!(rig.driver.check(), Ok(true));
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    rig.attach(8, &table, 3);
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_ok());
    rig.smmu.power_cycle();
    rig.smmu.deaf(true);
    assert_eq!(
        rig.driver.check(),
        Err(IommuError::Timeout),
        "not even that"
    );
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

#[test]
fn a_walker_that_does_not_snoop_never_finds_what_memory_held_before_a_table() {
    let mut rig = Rig::new(Config {
        coherent: false,
        ..Config::default()
    });
    for bits in [39, 44] {
        let mut table = rig.table(bits);
        map(&mut table, 0x40_0000_0000 - PAGE, RAM, PAGE);
        rig.attach(8, &table, 3);
        // The other end of each table on the way, and a place past a cache line.
        for at in [
            0,
            0x3f_c000_0000,
            0x3f_ffe0_0000,
            0x3f_ffff_0000,
            0x20_0000_0000,
        ] {
            assert_eq!(
                rig.smmu.translate(8, at, false),
                Err(translation(true)),
                "{at:#x} in {bits} bits"
            );
        }
        rig.abort(8);
        rig.driver
            .invalidate(&[Invalidation::Tag(CacheTag(3))])
            .unwrap();
        table.retire(Invalidated::complete());
    }
}
