//! A physical function and its virtual ones in two partitions: whose reset does what to whom.

use super::machine::{Bench, Hardware, boot_info, bundle, configuration};
use crate::config::{Device, DeviceAddress, ResetPolicy, Sriov};
use crate::guest_map as map;
use crate::life::Change;
use crate::mmio;
use crate::pci::fake::FakeFunction;
use crate::pci::fixtures::{host_bridge, nvme};
use crate::pci::spec;

const PHYSICAL: &str = "00:02.0";
/// The victim's, and nobody's.
const VIRTUALS: [&str; 2] = ["00:02.1", "00:02.2"];
/// What the guest says to its function at 00:01.0.
const MASTER: u64 = 6;
const COMMAND: u64 = spec::COMMAND as u64;
const CONTROL: u64 = 0x80 + spec::DEVICE_CONTROL as u64;

fn bench() -> Bench {
    let virtual_function = FakeFunction::new(0, 0, 0xffff, 0xffff, 0x01_0802)
        .with_express(0x80, 0, true)
        .with_msix(0x40, 3, 0, 0x2000, 0x3000);
    let virtuals = alloc::vec![virtual_function; 2];
    let physical = nvme(2, 9).with_virtuals(0x11, (1, 1), 0x4000, virtuals);
    let mut machine = configuration();
    machine.machine.sriov = alloc::vec![Sriov {
        address: PHYSICAL.parse().unwrap(),
        vfs: 2,
    }];
    let device = |address: &str, manages_vfs| Device {
        address: address.parse::<DeviceAddress>().unwrap(),
        guest: None,
        reset: ResetPolicy::Required,
        dma: true,
        manages_vfs,
        ats: false,
        reserved_memory: false,
    };
    machine.partitions[0].devices = alloc::vec![device(PHYSICAL, true)];
    machine.partitions[1].devices = alloc::vec![device(VIRTUALS[0], false)];
    let roots = alloc::vec![host_bridge(), physical];
    Bench::started(
        1,
        Hardware::build_with(&boot_info(), roots, bundle(&machine)),
    )
}

impl Bench {
    /// The guest of `partition` writes to its function.
    fn configure(&self, partition: usize, offset: u64, value: u64) {
        let own = &self.system.partitions[partition];
        arch::cpu::set_index(own.cpus[0]);
        let at = map::ECAM.base.0 + (1 << 15) + offset;
        assert_eq!(
            mmio::access(self.system, own, 0, at, 2, Some(value)),
            Some(0)
        );
    }

    /// Command register and resets of a function.
    fn function(&self, at: &str) -> (u32, u32) {
        let mut bus = self.ecam.0.lock().unwrap();
        let fake = bus.at(at);
        (fake.get(4) & 0xffff, fake.resets)
    }

    fn carry(&self, partition: usize, change: Change) {
        let own = &self.system.partitions[partition];
        arch::cpu::set_index(own.cpus[0]);
        own.life.ask(change);
        own.carry(self.system, change);
    }
}

const SILENT: u32 = spec::COMMAND_INTX_DISABLE as u32;
const BUSY: u32 = SILENT | MASTER as u32;

#[test]
fn a_virtual_function_outlives_its_physical_ones_resets_and_owner() {
    let bench = bench();
    let resets = |at| bench.function(at).1;
    let command = |at| bench.function(at).0;
    // Each partition has started: the physical one was reset, and its virtual ones with it.
    let (first, own) = (resets(PHYSICAL), resets(VIRTUALS[0]));
    bench.configure(1, COMMAND, MASTER);
    assert_eq!(command(VIRTUALS[0]), BUSY);
    assert_eq!(command(VIRTUALS[1]), SILENT, "nobody's");
    let stream = bench.smmu.entry(0x11);
    assert_eq!(stream[0] & 0xf, 0xd, "valid, stage 2");
    assert_eq!(bench.smmu.entry(0x12)[0] >> 1 & 7, 0, "nobody's aborts");

    // Its guest resets the physical one: the virtual ones are back, as their guests had them.
    bench.configure(0, CONTROL, u64::from(spec::DEVICE_CONTROL_FLR));
    assert_eq!(
        (resets(PHYSICAL), resets(VIRTUALS[0])),
        (first + 1, own + 1)
    );
    assert_eq!(command(VIRTUALS[0]), BUSY);
    assert_eq!(command(VIRTUALS[1]), SILENT);

    // It ends, and the virtual ones go on; it comes again, and they are reset with it.
    bench.carry(0, Change::Stop);
    assert_eq!(
        (resets(PHYSICAL), resets(VIRTUALS[0])),
        (first + 1, own + 1)
    );
    assert_eq!((command(PHYSICAL), command(VIRTUALS[0])), (SILENT, BUSY));
    bench.system.partitions[0].start(bench.system);
    assert_eq!(
        (resets(PHYSICAL), resets(VIRTUALS[0])),
        (first + 2, own + 2)
    );
    assert_eq!(command(VIRTUALS[0]), BUSY);
    assert_eq!(bench.smmu.entry(0x11), stream, "still its partition's");

    // Its own reset, and its owner's end, are nobody else's matter.
    bench.configure(1, CONTROL, u64::from(spec::DEVICE_CONTROL_FLR));
    assert_eq!(
        command(VIRTUALS[0]) & MASTER as u32,
        spec::COMMAND_MEMORY.into()
    );
    bench.carry(1, Change::Stop);
    assert_eq!(
        (resets(PHYSICAL), resets(VIRTUALS[0])),
        (first + 2, own + 4)
    );
    assert_eq!(command(VIRTUALS[0]), SILENT);
    // Nothing is given back to a guest that is no more.
    bench.configure(0, CONTROL, u64::from(spec::DEVICE_CONTROL_FLR));
    assert_eq!(command(VIRTUALS[0]), SILENT);
}

#[test]
fn the_guest_of_a_physical_function_does_not_see_that_it_is_one() {
    let bench = bench();
    let own = &bench.system.partitions[0];
    arch::cpu::set_index(own.cpus[0]);
    let read = |function: u64, offset| {
        let at = map::ECAM.base.0 + (function << 12) + offset;
        mmio::access(bench.system, own, 0, at, 4, None).unwrap()
    };
    assert_eq!(read(8, 0), 0x0010_1b36);
    for offset in (0x100..0x1000).step_by(4) {
        assert_eq!(read(8, offset), 0, "{offset:x}");
    }
    for function in (0..256).filter(|function| *function != 8) {
        assert_eq!(read(function, 0), 0xffff_ffff, "{function:x}");
    }
    bench.forget();
    for offset in (0x100..0x180).step_by(2) {
        bench.configure(0, offset, 0);
    }
    assert!(bench.ecam.0.lock().unwrap().writes.is_empty());
    // The victim's is one like any other, with IDs that it does not have itself.
    let victim = &bench.system.partitions[1];
    arch::cpu::set_index(victim.cpus[0]);
    let at = map::ECAM.base.0 + (8 << 12);
    let ids = mmio::access(bench.system, victim, 0, at, 4, None);
    assert_eq!(ids, Some(0x0011_1b36));
}
