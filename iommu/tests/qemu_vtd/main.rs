//! QEMU's intel-iommu beside the crate's VT-d driver and model, over QEMU's test protocol, without guest code. `cargo xtask
//! test vtd` runs these tests with the QEMU that it set up; by themselves they are ignored.

mod answer;
mod causes;
#[path = "../qemu/devices.rs"]
mod devices;
#[path = "../qemu/image/dice.rs"]
mod dice;
mod differential;
#[path = "../qemu/driven.rs"]
mod driven;
mod image;
mod machine;
mod predict;
#[path = "../qemu/qtest.rs"]
mod qtest;
#[path = "../qemu/tally.rs"]
mod tally;
#[macro_use]
#[path = "../vtd_bench/mod.rs"]
mod vtd_bench;

use std::sync::Arc;
use std::thread;

use devices::{READING, WRITING, WRITTEN};
use driven::Machine;
use iommu::fault::FaultReason;
use iommu::hal::Mmio;
use iommu::id::IommuIndex;
use iommu::physical::PhysicalIommu;
use iommu::vtd::interrupt_remap::{Destinations, Message, Route, Source};
use iommu::vtd::{Setup, Vtd, event};
use vtd_bench::{Bench, WORD};

const _: () = assert!(WORD == WRITTEN);

/// A machine of one scenario. Tables that a walker was shown are never freed, and hold it: it is ended here.
struct Qemu<const SCALABLE: bool>(Machine);

impl<const SCALABLE: bool> Drop for Qemu<SCALABLE> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<const SCALABLE: bool> Bench for Qemu<SCALABLE> {
    type Platform = Machine;
    type Registers = Machine;

    const RAM: u64 = 0x3000_0000;
    // Both behind root ports.
    const WRITER: u32 = WRITING[2];
    const READER: u32 = READING[2];
    const SCALABLE: bool = SCALABLE;

    fn new() -> Self {
        let scalable = if SCALABLE { ",scalable-mode=on" } else { "" };
        Self(machine::start(&format!(",intremap=on,eim=on{scalable}")))
    }

    fn platform(&self) -> Arc<Machine> {
        Arc::new(self.0.clone())
    }

    fn registers(&self) -> Machine {
        self.0.clone()
    }

    fn load(&self, at: u64) -> u64 {
        self.0.load(at)
    }

    fn store(&self, at: u64, value: u64) {
        self.0.store(at, value);
    }

    fn write(&self, iova: u64) {
        self.0.dma_write(Self::WRITER, iova, 0, &[]);
    }

    fn read(&self, iova: u64) -> u32 {
        self.0.dma_read(Self::READER, iova, 0, &[]);
        machine::slots(&self.0, Self::READER, 1)[0]
    }
}

mod legacy {
    use super::{Qemu, vtd_bench};
    scenarios!(Qemu<false>, [ignore = "needs QEMU: cargo xtask test vtd"]);
}

mod scalable {
    use super::{Qemu, vtd_bench};
    scenarios!(Qemu<true>, [ignore = "needs QEMU: cargo xtask test vtd"]);
}

/// QEMU does not say where an interrupt arrived, but it records those that it refuses.
#[test]
#[ignore = "needs QEMU: cargo xtask test vtd"]
fn interrupts_without_an_entry_or_of_another_source_are_refused_and_recorded() {
    let qemu = Qemu::<false>::new();
    let setup = Setup {
        interrupts: Some(Destinations::Wide),
        ..vtd_bench::setup::<Qemu<false>>()
    };
    let driver = Vtd::start(IommuIndex(0), qemu.registers(), qemu.platform(), setup);
    let mut driver = driver.expect("it starts");
    let index = driver.take_interrupts(1).expect("there are some");
    let message = Message::new(index);
    let refused = |driver: &mut Vtd<Machine, Machine>| {
        let source = Qemu::<false>::READER;
        machine::message(&qemu.0, source, message.address, message.data);
        let mut faults = [event::decode(IommuIndex(0), [0; 2])];
        assert_eq!(driver.drain_faults(&mut faults).count, 1);
        assert_eq!(faults[0].device.0, Qemu::<false>::READER);
        (faults[0].reason, event::interrupt_index(faults[0].raw))
    };
    let route = |id: u32| Route {
        destination: 0,
        vector: 0x41,
        level: false,
        source: Source::Requester {
            id: id as u16,
            phantom: 0,
        },
    };
    let expected = |number| (FaultReason::Other(number), Some(index));
    assert_eq!(refused(&mut driver), expected(0x22), "no entry");
    driver
        .route_interrupt(index, &route(Qemu::<false>::WRITER))
        .expect("routed");
    assert_eq!(refused(&mut driver), expected(0x26), "of another source");
}

/// Half of them in each mode.
#[test]
#[ignore = "needs QEMU: cargo xtask test vtd"]
fn random_images_translate_alike() {
    let (count, seed) = tally::asked();
    let other = thread::spawn(move || differential::compare(seed, count / 2, true));
    let legacy = differential::compare(seed, count - count / 2, false);
    let mut tally = other.join().expect("no panic");
    legacy.report("legacy");
    tally.report("scalable");
    tally.add(legacy);
    tally.check(count);
}

/// Each register alone, as reset leaves it (GCMD, RTADDR, IRTA, FECTL, FEADDR); QEMU takes no IQA while the queue is on.
#[test]
#[ignore = "needs QEMU: cargo xtask test vtd"]
fn a_unit_keeps_what_it_was_told_and_what_is_lost_is_told_again() {
    fn on<const SCALABLE: bool>() {
        let qemu = Qemu::<SCALABLE>::new();
        let setup = Setup {
            interrupts: Some(Destinations::Wide),
            ..vtd_bench::setup::<Qemu<SCALABLE>>()
        };
        let driver = Vtd::start(IommuIndex(0), qemu.registers(), qemu.platform(), setup);
        let mut driver = driver.expect("it starts");
        driver.set_fault_message(Some((0xfee0_1000, 0x41)));
        let registers = qemu.registers();
        let translates = |registers: &Machine| registers.read32(0x1c) >> 31 != 0;
        for (offset, value) in [
            (0x18, 0x0600_0000),
            (0x20, 0),
            (0xb8, 0),
            (0x38, 1 << 31),
            (0x40, 0),
        ] {
            assert_eq!(driver.check(), Ok(false), "{offset:#x}");
            match offset {
                0x20 | 0xb8 => registers.write64(offset, value),
                _ => registers.write32(offset, value as u32),
            }
            assert_eq!(driver.check(), Ok(true), "{offset:#x}");
            assert!(translates(&registers), "{offset:#x}");
        }
        assert_eq!(driver.check(), Ok(false));
    }
    on::<false>();
    on::<true>();
}
