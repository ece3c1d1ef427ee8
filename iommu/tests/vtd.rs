//! The VT-d driver on the crate's model: from the first access to the last, and when the hardware fails.

use std::sync::Arc;

use iommu::addr::{Hpa, Iova, Span};
use iommu::fault::{Fault, FaultReason};
use iommu::hal::{Mmio, Platform};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::model::memory::{Memory, Order};
use iommu::model::vtd::{Config, Delivered, Denied, Refused, VtdModel};
use iommu::physical::{
    Drained, Invalidated, Invalidation, IommuError, PhysicalIommu, StageTwo, StreamConfig,
};
use iommu::table::{PageTable, SecondStage, SecondStageAttributes, Shape};
use iommu::vtd::interrupt_remap::{
    Destinations, INTERRUPTS, Message, Route, Source, io_apic_entry,
};
use iommu::vtd::{Setup, StartError, Vtd, deny_all, deny_interrupts, event};

type Driver = Vtd<Memory, VtdModel>;
type Table = PageTable<Memory, SecondStage>;

const RAM: u64 = 0x2000_0000;
const ZEROS: u64 = 0x1000_0000;
const DEVICE: u16 = 0x310;
const TAG: CacheTag = CacheTag(5);

fn setup(interrupts: Option<Destinations>) -> Setup {
    Setup {
        address_bits: 46,
        interrupts,
        scalable: None,
    }
}

/// Memory with 16 MiB of the test's own and a page of zeros, and a unit out of reset.
fn parts(config: Config) -> (Memory, VtdModel) {
    let memory = if config.coherent {
        Memory::coherent()
    } else {
        Memory::non_coherent()
    };
    memory.add_ram(RAM, 0x100_0000);
    memory.add_ram(ZEROS, 0x1000);
    let vtd = VtdModel::new(config, &memory);
    (memory, vtd)
}

fn start(memory: &Memory, vtd: &VtdModel, setup: Setup) -> Result<Driver, StartError> {
    Vtd::start(IommuIndex(0), vtd.clone(), Arc::new(memory.clone()), setup)
}

struct Rig {
    driver: Driver,
    memory: Memory,
    vtd: VtdModel,
}

impl Rig {
    fn new(config: Config) -> Self {
        Self::with(config, None)
    }

    fn with(config: Config, interrupts: Option<Destinations>) -> Self {
        let (memory, vtd) = parts(config);
        let driver = start(&memory, &vtd, setup(interrupts)).expect("it starts");
        Self {
            driver,
            memory,
            vtd,
        }
    }

    fn table(&self) -> Table {
        let shape = Shape {
            coherent: self.driver.features().coherent,
            largest: self.driver.features().largest,
            ..Shape::new(39)
        };
        PageTable::with_shape(Arc::new(self.memory.clone()), shape).expect("memory is there")
    }

    /// A table with one page at 0, and [`DEVICE`] on it.
    fn open(&mut self) -> Table {
        let mut table = self.table();
        map(&mut table, 0, RAM, 0x1000);
        self.driver
            .attach(DeviceId(DEVICE.into()), stage_two(&table))
            .expect("attached");
        table
    }

    fn drain(&mut self) -> (Vec<Fault>, bool) {
        let (mut all, mut any) = (Vec::new(), false);
        loop {
            let mut faults = [event::decode(IommuIndex(0), [0; 2]); 3];
            let Drained { count, lost, more } = self.driver.drain_faults(&mut faults);
            all.extend_from_slice(&faults[..count]);
            any |= lost;
            if !more {
                return (all, any);
            }
        }
    }
}

fn map(table: &mut Table, at: u64, to: u64, len: u64) {
    table
        .map(span(at, len), Hpa(to), SecondStageAttributes::DMA)
        .expect("mapped");
}

fn span(at: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(at), len).expect("no wrap")
}

fn stage_two(table: &Table) -> StreamConfig {
    StreamConfig::StageTwo(StageTwo {
        tag: TAG,
        root: table.root(),
        input_bits: table.input_bits(),
        ats: false,
    })
}

const EVERYTHING: Denied = Denied::Fault(1);

#[test]
fn all_dma_is_denied_in_few_accesses_and_before_any_allocation() {
    let (memory, vtd) = parts(Config::default());
    deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    // VER, CAP, ECAP; GSTS twice and RTADDR; its write, SRTP and three looks; two invalidations with theirs; TE.
    assert!(vtd.accesses() <= 32, "{}", vtd.accesses());
    assert_eq!(memory.allocations(), 0);
    for source in [0, DEVICE, 0xffff] {
        for address in [0, RAM, 0xffff_ffff_f000] {
            assert_eq!(vtd.translate(source, address, true), Err(EVERYTHING));
        }
    }
    assert_eq!(vtd.counters().bypassed, 0);
    // Once more, by whoever comes next.
    deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    assert_eq!(vtd.translate(DEVICE, RAM, false), Err(EVERYTHING));
}

#[test]
fn protected_memory_is_closed_before_the_root_table_is() {
    let (memory, vtd) = parts(Config {
        protected_memory: true,
        ..Config::default()
    });
    // Whatever the unit is told after it: DMA is tried at each look at the clock.
    let tried = || {
        let seen = vtd.translate(DEVICE, RAM, true);
        let high = vtd.translate(DEVICE, 1 << 40, true);
        (seen, high, memory.now_ns())
    };
    let passed = std::cell::Cell::new(0);
    deny_all(&vtd, Hpa(ZEROS), || {
        let (seen, high, now) = tried();
        passed.set(passed.get() + u32::from(seen.is_ok()) + u32::from(high.is_ok()));
        now
    })
    .unwrap();
    // The first look comes with the first wait, when the ranges are in force.
    assert_eq!(passed.get(), 0);
    let driver = start(&memory, &vtd, setup(None)).unwrap();
    assert_eq!(vtd.read32(0x64) >> 31, 0, "not protected any more");
    drop(driver);
}

#[test]
fn a_unit_that_firmware_left_on_is_closed_without_a_gap() {
    let mut rig = Rig::new(Config::default());
    let _table = rig.open();
    assert!(rig.vtd.dma_write(DEVICE, 0, &[1; 8]).is_ok());
    // The queue is on, and everything is cached. Somebody else takes over.
    let (vtd, memory) = (rig.vtd.clone(), rig.memory.clone());
    core::mem::forget(rig.driver);
    deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    assert_eq!(vtd.translate(DEVICE, 0, true), Err(EVERYTHING));
    assert_eq!(vtd.counters().bypassed, 0);
}

#[test]
fn a_unit_that_never_obeys_is_an_error_in_time() {
    let (memory, vtd) = parts(Config::default());
    vtd.deafen(true);
    let before = memory.now_ns();
    let result = deny_all(&vtd, Hpa(ZEROS), || memory.now_ns());
    assert_eq!(result, Err(StartError::Hardware(IommuError::Timeout)));
    assert!(memory.now_ns() - before < 1_100_000_000);
    vtd.vanish(true);
    let result = deny_all(&vtd, Hpa(ZEROS), || memory.now_ns());
    assert_eq!(result, Err(StartError::NotThere(u32::MAX)));
}

#[test]
fn hardware_that_cannot_do_the_job_is_refused_and_refuses() {
    let base = Config::default();
    let with = |config: Config, setup: Setup| {
        let (memory, vtd) = parts(config);
        let error = start(&memory, &vtd, setup).err();
        assert_eq!(vtd.translate(DEVICE, RAM, true), Err(EVERYTHING));
        error.expect("refused")
    };
    let plain = setup(None);
    let caching_mode = with(
        Config {
            caching_mode: true,
            ..base
        },
        plain,
    );
    assert!(matches!(caching_mode, StartError::NeedsToldOfMaps(_)));
    let buffers = with(
        Config {
            write_buffers: true,
            ..base
        },
        plain,
    );
    assert!(matches!(buffers, StartError::NeedsToldOfMaps(_)));
    let widths = with(Config { widths: 1, ..base }, plain);
    assert!(matches!(widths, StartError::NoSecondStage(_)));
    let remapping = setup(Some(Destinations::Wide));
    for config in [
        Config {
            interrupt_remapping: false,
            ..base
        },
        Config {
            wide_destinations: false,
            ..base
        },
        Config {
            queue: false,
            ..base
        },
    ] {
        let error = with(config, remapping);
        assert!(
            matches!(error, StartError::NoInterruptRemapping(_)),
            "{error}"
        );
    }
}

#[test]
fn a_start_without_memory_leaves_everything_closed() {
    for nth in 0..4 {
        let (memory, vtd) = parts(Config::default());
        deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
        memory.fail_allocation(nth, false);
        let started = start(&memory, &vtd, setup(Some(Destinations::Narrow)));
        assert_eq!(started.is_ok(), nth == 3, "{nth}");
        if let Err(error) = started {
            assert_eq!(error, StartError::OutOfMemory);
        }
        assert_eq!(vtd.translate(DEVICE, RAM, true), Err(EVERYTHING));
    }
}

#[test]
fn no_memory_that_was_given_back_is_reached_over_a_life() {
    for (coherent, scalable) in [(true, false), (true, true), (false, false), (false, true)] {
        for seed in 1..4 {
            let mut rig = Rig::with(
                Config {
                    coherent,
                    scalable,
                    says_nesting: scalable,
                    ..Config::default()
                },
                Some(Destinations::Wide),
            );
            rig.memory.set_order(Order::Random(seed));
            let mut table = rig.table();
            map(&mut table, 0, RAM, 0x40_0000);
            rig.driver
                .attach(DeviceId(DEVICE.into()), stage_two(&table))
                .unwrap();
            for page in 0..64 {
                let at = page * 0x1_0000;
                rig.vtd.dma_write(DEVICE, at, &page.to_le_bytes()).unwrap();
                let cut = table.unmap(span(at, 0x1000));
                let stale = cut.invalidation(TAG);
                rig.driver.invalidate(&[stale]).unwrap();
                table.release(cut, Invalidated::complete());
                let refused = if scalable { 0x79 } else { 5 };
                let denied = rig.vtd.translate(DEVICE, at, true);
                assert_eq!(denied, Err(Denied::Fault(refused)));
                // It was on its way when it was unmapped, and has arrived.
                assert_eq!(rig.memory.device_read(RAM + at, true), Ok(page));
                rig.drain();
            }
            rig.driver
                .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
                .unwrap();
            rig.driver.invalidate(&[Invalidation::Tag(TAG)]).unwrap();
            table.retire(Invalidated::complete());
            let Rig {
                driver,
                memory,
                vtd,
            } = rig;
            drop(driver);
            let refused = if scalable { 0x39 } else { 1 };
            let denied = vtd.translate(DEVICE, 0, true);
            assert_eq!(denied, Err(Denied::Fault(refused)));
            // The root table and the interrupt table.
            assert_eq!(memory.live(), (2, 4096 + 16384));
        }
    }
}

#[test]
fn a_unit_that_snoops_costs_no_clean() {
    let mut rig = Rig::new(Config::default());
    let _table = rig.open();
    assert_eq!(rig.memory.cleaned(), 0);
}

#[test]
fn without_a_queue_registers_do_it() {
    let mut rig = Rig::new(Config {
        queue: false,
        ..Config::default()
    });
    let mut table = rig.open();
    rig.vtd.dma_write(DEVICE, 0, &[1; 4]).unwrap();
    assert_eq!(rig.vtd.cached(), 1);
    let cut = table.unmap(span(0, 0x1000));
    let stale = cut.invalidation(TAG);
    rig.driver.invalidate(&[stale]).unwrap();
    table.release(cut, Invalidated::complete());
    assert_eq!(rig.vtd.cached(), 0);
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(5)));
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
        .unwrap();
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(2)));
    assert_eq!(rig.driver.counters().descriptors, 0);
}

#[test]
fn an_attach_and_an_unmap_cost_this_much() {
    let mut rig = Rig::new(Config::default());
    // The bus has its context table from here on.
    rig.driver
        .attach(DeviceId(0x300), StreamConfig::Refuse)
        .unwrap();
    let before = rig.driver.counters();
    let mut table = rig.open();
    let opened = rig.driver.counters();
    assert_eq!(opened.descriptors, before.descriptors, "nothing was cached");
    assert_eq!(opened.register_writes, before.register_writes);
    let cut = table.unmap(span(0, 0x1000));
    let stale = cut.invalidation(TAG);
    rig.driver.invalidate(&[stale]).unwrap();
    table.release(cut, Invalidated::complete());
    let unmapped = rig.driver.counters();
    assert_eq!(unmapped.descriptors - opened.descriptors, 1);
    assert_eq!(unmapped.waits - opened.waits, 1);
    assert_eq!(
        unmapped.register_writes - opened.register_writes,
        1,
        "the tail"
    );
    assert_eq!(unmapped.register_reads, opened.register_reads);
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
        .unwrap();
    let closed = rig.driver.counters();
    assert_eq!(closed.descriptors - unmapped.descriptors, 2);
    assert_eq!(closed.waits - unmapped.waits, 1);
    assert_eq!(closed.table_bytes, 2 * 4096);
}

#[test]
fn a_unit_that_nests_is_in_scalable_mode_from_the_denial_on() {
    let config = Config {
        scalable: true,
        says_nesting: true,
        ..Config::default()
    };
    let (memory, vtd) = parts(config);
    deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    let closed = Err(Denied::Fault(0x39));
    assert_eq!(vtd.translate(DEVICE, RAM, true), closed);
    let mut rig = Rig {
        driver: start(&memory, &vtd, setup(None)).unwrap(),
        memory,
        vtd,
    };
    assert!(rig.driver.features().nested);
    rig.driver
        .attach(DeviceId(0x300), StreamConfig::Refuse)
        .unwrap();
    let before = rig.driver.counters();
    let table = rig.open();
    let opened = rig.driver.counters();
    assert_eq!(opened.descriptors, before.descriptors, "nothing was cached");
    assert_eq!(opened.table_bytes, 2 * 4096 + 8192);
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Ok(RAM));
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
        .unwrap();
    let shut = rig.driver.counters();
    assert_eq!(shut.descriptors - opened.descriptors, 3);
    assert_eq!(shut.waits - opened.waits, 1);
    // A record with and one without.
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(0x41)));
    let (faults, _) = rig.drain();
    assert_eq!(faults[0].reason, FaultReason::BadDeviceEntry);
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Abort)
        .unwrap();
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(0x41)));
    assert!(rig.drain().0.is_empty());
    // Devices of the other half of the bus have a table of their own.
    rig.driver
        .attach(DeviceId(0x3f8), stage_two(&table))
        .unwrap();
    assert_eq!(rig.vtd.translate(0x3f8, 0, true), Ok(RAM));
    assert_eq!(rig.vtd.counters().bypassed, 0);
}

#[test]
fn scalable_mode_is_refused_where_it_is_not() {
    let (memory, vtd) = parts(Config::default());
    let setup = Setup {
        scalable: Some(true),
        ..setup(None)
    };
    let error = start(&memory, &vtd, setup).err();
    assert!(
        matches!(error, Some(StartError::NoScalableMode(_))),
        "{error:?}"
    );
}

/// 7.1.3, by Linux's words for them (`dma_remap_sm_fault_reasons`).
#[test]
fn reasons_of_scalable_mode_are_decoded() {
    use FaultReason as R;
    use iommu::fault::Stage;
    let cases = [
        (0x38, R::FetchAbort, Stage::None),
        (0x39, R::BadDeviceEntry, Stage::None),
        (0x40, R::FetchAbort, Stage::None),
        (0x42, R::BadDeviceEntry, Stage::None),
        (0x51, R::BadContext, Stage::None),
        (0x5b, R::BadContext, Stage::None),
        (0x70, R::FetchAbort, Stage::One),
        (0x71, R::Translation, Stage::One),
        (0x78, R::FetchAbort, Stage::Two),
        (0x79, R::Translation, Stage::Two),
        (0x80, R::AddressSize, Stage::One),
        (0x81, R::Permission, Stage::One),
        (0x84, R::AddressSize, Stage::Two),
        (0x85, R::Permission, Stage::One),
        (0x86, R::Permission, Stage::One),
        (0x87, R::Other(0x87), Stage::None),
    ];
    for (number, reason, stage) in cases {
        // A read with PASID 0x12345 of 3:02.0.
        let second = 1 << 63 | 1 << 62 | 0x1_2345 << 40 | number << 32 | 1 << 31 | 0x310;
        let fault = event::decode(IommuIndex(2), [0x7000, second]);
        assert_eq!((fault.reason, fault.stage), (reason, stage), "{number:#x}");
        assert_eq!(fault.pasid, Some(0x1_2345));
        assert_eq!((fault.device, fault.write), (DeviceId(0x310), false));
    }
}

#[test]
fn what_does_not_fit_the_unit_closes_the_source() {
    let mut rig = Rig::new(Config {
        domains: 2,
        ..Config::default()
    });
    let table = rig.open();
    let good = StageTwo {
        tag: TAG,
        root: table.root(),
        input_bits: 39,
        ats: false,
    };
    let bad = [
        StageTwo {
            tag: CacheTag(0),
            ..good
        },
        StageTwo {
            tag: CacheTag(256),
            ..good
        },
        StageTwo {
            root: Hpa(1 << 46),
            ..good
        },
        StageTwo {
            root: Hpa(RAM + 8),
            ..good
        },
        StageTwo {
            input_bits: 49,
            ..good
        },
        StageTwo {
            input_bits: 57,
            ..good
        },
        StageTwo { ats: true, ..good },
    ];
    for config in bad {
        rig.driver
            .attach(DeviceId(DEVICE.into()), StreamConfig::StageTwo(good))
            .unwrap();
        assert!(rig.vtd.translate(DEVICE, 0, false).is_ok());
        let config = StreamConfig::StageTwo(config);
        let result = rig.driver.attach(DeviceId(DEVICE.into()), config);
        assert_eq!(result, Err(IommuError::Unsupported), "{config:?}");
        assert_eq!(rig.vtd.translate(DEVICE, 0, false), Err(Denied::Fault(2)));
        rig.drain();
    }
    let nobody = DeviceId(0x1_0000);
    let result = rig.driver.attach(nobody, StreamConfig::Refuse);
    assert_eq!(result, Err(IommuError::NoSuchDevice(nobody)));
    // What there is no command for is said before anything is sent.
    let sent = rig.driver.counters().descriptors;
    let batch = [Invalidation::Tag(TAG), Invalidation::StageOne(TAG)];
    assert_eq!(rig.driver.invalidate(&batch), Err(IommuError::Unsupported));
    assert_eq!(rig.driver.counters().descriptors, sent);
}

#[test]
fn a_queue_that_does_not_move_is_a_timeout_and_closes_what_it_was_to_close() {
    let mut rig = Rig::new(Config::default());
    let table = rig.open();
    rig.vtd.dma_write(DEVICE, 0, &[1; 4]).unwrap();
    rig.vtd.hang(true);
    let before = rig.memory.now_ns();
    let tag = Invalidation::Tag(TAG);
    assert_eq!(rig.driver.invalidate(&[tag]), Err(IommuError::Timeout));
    assert!(rig.memory.now_ns() - before < 1_200_000_000);
    // Nothing opens meanwhile, whatever was told before.
    let other = DeviceId(0x318);
    let result = rig.driver.attach(other, stage_two(&table));
    assert!(result.is_err());
    assert_eq!(rig.vtd.translate(0x318, 0, true), Err(Denied::Fault(2)));
    // It goes on, and everything is forgotten first.
    rig.vtd.hang(false);
    rig.vtd.take_log();
    rig.driver.attach(other, stage_two(&table)).unwrap();
    let log = rig.vtd.take_log();
    assert_eq!(
        [log[0][0] & 0x3f, log[1][0] & 0x3f],
        [0x11, 0x12],
        "all of both"
    );
    assert!(rig.vtd.translate(0x318, 0, true).is_ok());
}

#[test]
fn a_refused_descriptor_fails_its_batch_there_and_the_queue_goes_on() {
    let mut rig = Rig::new(Config::default());
    let _table = rig.open();
    let tag = Invalidation::Tag(TAG);
    rig.vtd.refuse(2, 4);
    let result = rig
        .driver
        .submit(&[Invalidation::Device(DeviceId(1)), tag, tag]);
    let incomplete = result.unwrap_err();
    assert_eq!(
        (incomplete.complete, incomplete.error),
        (1, IommuError::Command(4))
    );
    assert_eq!(rig.driver.counters().refusals, 1);
    rig.driver.invalidate(&[tag]).unwrap();
    // The wait itself.
    rig.vtd.refuse(5, 3);
    assert_eq!(rig.driver.invalidate(&[tag]), Err(IommuError::Command(3)));
    rig.driver.invalidate(&[tag]).unwrap();
    assert_eq!(rig.driver.counters().refusals, 2);
}

#[test]
fn a_device_tlb_that_does_not_answer_is_named_and_got_over() {
    let mut rig = Rig::new(Config::default());
    let tag = Invalidation::Tag(TAG);
    rig.vtd.time_out(0x208);
    let error = IommuError::DeviceTlb(DeviceId(0x208));
    assert_eq!(rig.driver.invalidate(&[tag]), Err(error));
    rig.driver.invalidate(&[tag]).unwrap();
}

#[test]
fn a_unit_that_lost_its_state_refuses_and_then_is_what_it_was() {
    let mut rig = Rig::with(Config::default(), Some(Destinations::Wide));
    let _table = rig.open();
    let index = rig.driver.take_interrupts(1).unwrap();
    rig.driver.route_interrupt(index, &route(0x41)).unwrap();
    assert_eq!(rig.driver.check(), Ok(false));
    rig.vtd.lose_state();
    assert_eq!(rig.driver.check(), Ok(true));
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Ok(RAM));
    assert_eq!(rig.vtd.translate(0x500, 0, true), Err(EVERYTHING));
    let message = Message::new(index);
    let delivered = rig.vtd.message(DEVICE, message.address, message.data);
    assert!(delivered.unwrap().remapped);
    assert!(rig.drain().1, "what happened meanwhile is not known");
    // An attach that finds it so has it back, too.
    rig.vtd.lose_state();
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
        .unwrap();
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(2)));
    // One that does not take it back is stopped, one that is gone is gone.
    rig.vtd.lose_state();
    rig.vtd.deafen(true);
    assert_eq!(rig.driver.check(), Err(IommuError::Stopped));
    let tag = Invalidation::Tag(TAG);
    assert_eq!(rig.driver.invalidate(&[tag]), Err(IommuError::Stopped));
    rig.vtd.vanish(true);
    assert_eq!(rig.driver.check(), Err(IommuError::Gone));
    assert_eq!(rig.drain(), (Vec::new(), true));
}

#[test]
fn faults_come_in_order_around_the_ring_and_say_what_happened() {
    let mut rig = Rig::new(Config::default());
    let _table = rig.open();
    rig.driver.set_fault_message(Some((0xfee0_1000, 0x55)));
    for round in 0..5u64 {
        for index in 0..5u64 {
            let _ = rig
                .vtd
                .translate(DEVICE, (round * 8 + index + 1) << 12, index % 2 == 0);
        }
        let (faults, lost) = rig.drain();
        let seen: Vec<_> = faults.iter().map(|it| (it.iova, it.write)).collect();
        let expected: Vec<_> = (0..5)
            .map(|index| (Some(Iova((round * 8 + index + 1) << 12)), index % 2 == 0))
            .collect();
        assert_eq!((seen, lost), (expected, false));
        assert!(
            faults
                .iter()
                .all(|it| it.reason == FaultReason::Translation)
        );
        assert_eq!(
            rig.vtd.take_messages(),
            [(0xfee0_1000, 0x55)],
            "one a burst"
        );
    }
    // Masked, and told when it is not any more.
    rig.driver.set_fault_message(None);
    let _ = rig.vtd.translate(DEVICE, 0x5000, true);
    assert!(rig.vtd.take_messages().is_empty());
    rig.driver.set_fault_message(Some((0x1_fee0_1000, 0x56)));
    assert_eq!(rig.vtd.take_messages(), [(0x1_fee0_1000, 0x56)]);
}

#[test]
fn the_fault_of_every_kind_of_bad_entry_is_decoded() {
    let mut rig = Rig::new(Config::default());
    let table = rig.open();
    let root = rig.driver.layout().root.base.0;
    let context = rig.memory.load(root + 3 * 16) & !0xfff;
    let entry = context + 0x10 * 16;
    let good = [rig.memory.load(entry), rig.memory.load(entry + 8)];
    let leaf = |rig: &Rig| {
        let mut at = table.root().0;
        for _ in 0..2 {
            at = rig.memory.load(at) & 0xf_ffff_ffff_f000;
        }
        at
    };
    use FaultReason as R;
    let cases: [(u64, u64, u8, R); 7] = [
        (root + 3 * 16, 0, 1, R::BadDeviceEntry),
        (root + 3 * 16, context | 3, 10, R::BadDeviceEntry),
        (root + 3 * 16, 0x70_0000_0001, 9, R::FetchAbort),
        (entry, 0, 2, R::BadDeviceEntry),
        (entry, good[0] | 0xc, 3, R::BadDeviceEntry),
        (entry, good[0] | 0x10, 11, R::BadDeviceEntry),
        (leaf(&rig), RAM | 3 | 1 << 11, 12, R::Other(12)),
    ];
    for (at, word, reason, expected) in cases {
        let old = rig.memory.load(at);
        rig.memory.store(at, word);
        rig.memory.write_barrier();
        rig.driver
            .invalidate(&[Invalidation::Device(DeviceId(0)), Invalidation::Tag(TAG)])
            .unwrap();
        let denied = rig.vtd.translate(DEVICE, 0, true);
        assert_eq!(denied, Err(Denied::Fault(reason)));
        let (faults, _) = rig.drain();
        assert_eq!(
            (faults[0].reason, faults[0].device),
            (expected, DeviceId(DEVICE.into()))
        );
        rig.memory.store(at, old);
        rig.memory.write_barrier();
    }
}

fn route(vector: u8) -> Route {
    Route {
        destination: 3,
        vector,
        level: false,
        source: Source::Requester {
            id: DEVICE,
            phantom: 0,
        },
    }
}

#[test]
fn an_interrupt_goes_where_its_route_says_and_from_nobody_else() {
    for (destinations, destination) in
        [(Destinations::Narrow, 0xab), (Destinations::Wide, 0x1_2345)]
    {
        for coherent in [true, false] {
            let config = Config {
                coherent,
                ..Config::default()
            };
            let mut rig = Rig::with(config, Some(destinations));
            let index = rig.driver.take_interrupts(4).unwrap();
            assert_eq!(index % 4, 0);
            let second = index + 1;
            let message = Message::new(index);
            let send = |rig: &Rig, source| rig.vtd.message(source, message.address, 1);
            assert_eq!(send(&rig, DEVICE), Err(Refused(0x22)));
            let first = Route {
                destination,
                ..route(0x41)
            };
            rig.driver.route_interrupt(second, &first).unwrap();
            let arrived = Delivered {
                destination,
                vector: 0x41,
                level: false,
                remapped: true,
            };
            assert_eq!(send(&rig, DEVICE), Ok(arrived));
            assert_eq!(send(&rig, DEVICE ^ 1), Err(Refused(0x26)));
            assert_eq!(send(&rig, 0), Err(Refused(0x26)));
            // Elsewhere, at once; and nowhere.
            rig.driver
                .route_interrupt(
                    second,
                    &Route {
                        vector: 0x99,
                        ..first
                    },
                )
                .unwrap();
            assert_eq!(send(&rig, DEVICE).unwrap().vector, 0x99);
            rig.driver.block_interrupt(second).unwrap();
            assert_eq!(send(&rig, DEVICE), Err(Refused(0x22)));
            // The device's DMA to the address is the same.
            let address = message.address.into();
            let dma = rig.vtd.dma_write(DEVICE, address, &1u32.to_le_bytes());
            assert_eq!(dma, Err(Denied::Fault(0x22)));
            rig.driver.give_interrupts(index, 4).unwrap();
            assert_eq!(rig.driver.take_interrupts(4), Ok(index));
        }
    }
}

#[test]
fn sources_can_be_phantom_functions_or_the_buses_of_a_bridge() {
    let mut rig = Rig::with(Config::default(), Some(Destinations::Wide));
    let index = rig.driver.take_interrupts(1).unwrap();
    let message = Message::new(index);
    let with = |rig: &mut Rig, source| {
        rig.driver
            .route_interrupt(
                index,
                &Route {
                    source,
                    ..route(0x41)
                },
            )
            .unwrap();
        let passes = |source: &u16| rig.vtd.message(*source, message.address, 0).is_ok();
        [0x310, 0x314, 0x312, 0x311, 0x318, 0x400, 0x5ff, 0x600].map(|it| passes(&it))
    };
    let phantom = |phantom| Source::Requester { id: 0x310, phantom };
    let y = true;
    let n = false;
    assert_eq!(with(&mut rig, phantom(0)), [y, n, n, n, n, n, n, n]);
    assert_eq!(with(&mut rig, phantom(1)), [y, y, n, n, n, n, n, n]);
    assert_eq!(with(&mut rig, phantom(2)), [y, y, y, n, n, n, n, n]);
    assert_eq!(with(&mut rig, phantom(3)), [y, y, y, y, n, n, n, n]);
    let buses = Source::Buses { first: 4, last: 5 };
    assert_eq!(with(&mut rig, buses), [n, n, n, n, n, y, y, n]);
}

#[test]
fn the_compatibility_format_is_blocked_and_recorded() {
    let mut rig = Rig::with(Config::default(), Some(Destinations::Narrow));
    assert_eq!(
        rig.vtd.message(DEVICE, 0xfee0_3000, 0x41),
        Err(Refused(0x25))
    );
    // Past the table, and a forged remappable one.
    let forged = Message::new(INTERRUPTS);
    assert_eq!(
        rig.vtd.message(DEVICE, forged.address, 0),
        Err(Refused(0x21))
    );
    assert!(rig.vtd.take_delivered().is_empty());
    let (faults, lost) = rig.drain();
    assert!(!lost && faults.iter().all(|it| it.iova.is_none() && !it.write));
    let reasons: Vec<_> = faults.iter().map(|it| it.reason).collect();
    assert_eq!(
        reasons,
        [FaultReason::Other(0x25), FaultReason::Other(0x21)]
    );
    assert_eq!(event::interrupt_index(faults[1].raw), Some(INTERRUPTS));
    assert_eq!(rig.vtd.counters().unremapped, 0);
}

#[test]
fn interrupts_can_be_denied_before_there_is_a_driver() {
    let (memory, vtd) = parts(Config::default());
    deny_interrupts(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    assert_eq!(memory.allocations(), 0);
    for handle in [0, 1, 255] {
        let message = Message::new(handle);
        assert_eq!(vtd.message(DEVICE, message.address, 0), Err(Refused(0x22)));
    }
    let past = Message::new(256);
    assert_eq!(vtd.message(DEVICE, past.address, 0), Err(Refused(0x21)));
    assert_eq!(vtd.message(DEVICE, 0xfee0_0000, 0x41), Err(Refused(0x25)));
    let (memory, vtd) = parts(Config {
        interrupt_remapping: false,
        ..Config::default()
    });
    let result = deny_interrupts(&vtd, Hpa(ZEROS), || memory.now_ns());
    assert!(matches!(result, Err(StartError::NoInterruptRemapping(_))));
}

#[test]
fn a_route_that_the_table_cannot_hold_blocks_the_interrupt() {
    let mut rig = Rig::with(Config::default(), Some(Destinations::Narrow));
    let index = rig.driver.take_interrupts(1).unwrap();
    let message = Message::new(index);
    let bad = [
        Route {
            destination: 0x100,
            ..route(0x41)
        },
        Route {
            vector: 15,
            ..route(0x41)
        },
        Route {
            source: Source::Buses { first: 2, last: 1 },
            ..route(0x41)
        },
        Route {
            source: Source::Requester { id: 0, phantom: 4 },
            ..route(0x41)
        },
    ];
    for bad in bad {
        rig.driver.route_interrupt(index, &route(0x41)).unwrap();
        assert!(rig.vtd.message(DEVICE, message.address, 0).is_ok());
        let result = rig.driver.route_interrupt(index, &bad);
        assert_eq!(result, Err(IommuError::Unsupported));
        assert_eq!(
            rig.vtd.message(DEVICE, message.address, 0),
            Err(Refused(0x22))
        );
    }
    // Not taken, too many, an odd number; and where nothing is remapped.
    assert_eq!(
        rig.driver.block_interrupt(index + 1),
        Err(IommuError::Unsupported)
    );
    assert_eq!(rig.driver.take_interrupts(3), Err(IommuError::Unsupported));
    assert_eq!(
        rig.driver.take_interrupts(INTERRUPTS),
        Err(IommuError::OutOfMemory)
    );
    let mut plain = Rig::new(Config::default());
    assert_eq!(
        plain.driver.take_interrupts(1),
        Err(IommuError::Unsupported)
    );
}

/// 5.1.2.2, by hand: handle 0x8123 with SHV; 5.1.5.1: index 0x8123 in an I/O APIC's entry.
#[test]
fn messages_and_io_apic_entries_are_those_of_the_document() {
    assert_eq!(
        Message::new(0x8123).address,
        0xfee0_0000 | 0x123 << 5 | 1 << 4 | 1 << 3 | 1 << 2
    );
    assert_eq!(Message::new(3).data, 0);
    assert_eq!(io_apic_entry(0x8123), 0x123 << 49 | 1 << 48 | 1 << 11);
}
