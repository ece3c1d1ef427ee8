//! Hardware that does not answer, refuses, or has lost its state.

use super::{DEVICE, EVERYTHING, RAM, Rig, TAG, route, stage_two};
use iommu::hal::{Mmio, Platform};
use iommu::id::DeviceId;
use iommu::model::vtd::{Config, Denied};
use iommu::physical::{Invalidation, IommuError, PhysicalIommu, StreamConfig};
use iommu::vtd::interrupt_remap::{Destinations, Message};

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

/// Each register that the driver has written, alone as reset leaves it: found, and told again.
#[test]
fn any_register_that_is_lost_is_told_again() {
    for scalable in [false, true] {
        let mut rig = Rig::with(
            Config {
                scalable,
                protected_memory: true,
                // What loses a register does not obey the rules of software.
                strict: false,
                update_reads: 0,
                ..Config::default()
            },
            Some(Destinations::Wide),
        );
        let _table = rig.open();
        let index = rig.driver.take_interrupts(1).unwrap();
        rig.driver.route_interrupt(index, &route(0x41)).unwrap();
        rig.driver.set_fault_message(Some((0x3_fee0_1000, 0x55)));
        let status = rig.vtd.read32(0x1c);
        // GSTS by GCMD, a state each: TES, QIES, IRES off, CFIS on.
        let states =
            [31, 26, 25, 23].map(|bit| (0x18, u64::from((status ^ 1 << bit) & 0x9680_0000)));
        // RTADDR, IQA, IRTA; FECTL, FEDATA, FEADDR, FEUADDR; PMEN.
        let others = [(0x20, 0), (0x90, 0), (0xb8, 0)];
        let events = [
            (0x38, 1 << 31),
            (0x3c, 0),
            (0x40, 0),
            (0x44, 0),
            (0x64, 1 << 31),
        ];
        for (offset, value) in states.into_iter().chain(others).chain(events) {
            assert_eq!(rig.driver.check(), Ok(false), "{offset:#x}");
            match offset {
                0x20 | 0x90 | 0xb8 => rig.vtd.write64(offset, value),
                _ => rig.vtd.write32(offset, value as u32),
            }
            assert_eq!(rig.driver.check(), Ok(true), "{offset:#x} {value:#x}");
            assert_eq!(rig.vtd.read32(0x1c), status, "{offset:#x}");
            assert_eq!(rig.vtd.translate(DEVICE, 0, true), Ok(RAM), "{offset:#x}");
            let message = Message::new(index);
            let delivered = rig.vtd.message(DEVICE, message.address, message.data);
            assert!(delivered.unwrap().remapped, "{offset:#x}");
            rig.driver.invalidate(&[Invalidation::Tag(TAG)]).unwrap();
            // A fault says so, where it was told to.
            rig.drain();
            rig.vtd.take_messages();
            assert!(rig.vtd.translate(0x500, 0, true).is_err());
            assert_eq!(
                rig.vtd.take_messages(),
                [(0x3_fee0_1000, 0x55)],
                "{offset:#x}"
            );
            rig.drain();
        }
    }
}

#[test]
fn a_unit_without_interrupt_remapping_leaves_interrupts_as_they_are() {
    let mut rig = Rig::new(Config::default());
    let _table = rig.open();
    // Compatibility format, as firmware had it.
    rig.vtd.write32(0x18, 0x8480_0000);
    assert_eq!(rig.driver.check(), Ok(false));
    rig.vtd.lose_state();
    assert_eq!(rig.driver.check(), Ok(true));
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Ok(RAM));
    assert_eq!(rig.vtd.read32(0x1c) >> 25 & 1, 0);
}
