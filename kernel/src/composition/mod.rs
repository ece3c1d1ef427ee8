//! All virtual devices of a partition at once, on a machine that remembers what was asked of it: whatever a guest does,
//! nothing panics, nothing blocks, and nothing that is not the partition's is touched.

mod ats;
mod devices;
mod dma;
mod guest;
pub(crate) mod machine;
mod virtuals;
mod waiting;

use crate::guest_map as map;
use crate::irq::Served;
use crate::life::{Change, Next};
use crate::mmio;
use crate::partition::{AfterCall, Partition};
use crate::pci::fake::Random;
use crate::vdev::vgic::{LrState, SgiRegister};
use alloc::vec::Vec;
use arch::gic::Intid;
use guest::Cpu;
use iommu::addr::Gpa;
use iommu::hal::GuestMemory;
use machine::{Bench, NODES, PARTITION_LEN, TIMER, boot_info};

/// Accesses of one run.
const ROUNDS: usize = 100_000;
/// Requester IDs of the attacker's functions: DeviceIDs and StreamIDs too.
const OWN: [u64; 2] = [0x08, 0x10];
/// StreamID of its device on the memory bus.
const OWN_NODE: u64 = 0x4040;
/// SPIs of their pins, and of its device on the memory bus.
const OWN_SPIS: [u32; 3] = [36, 37, 41];

impl Bench {
    /// Nothing but what is the attacker's was asked of any device.
    fn check(&self) {
        let own = &self.system.partitions[0];
        for write in &self.ecam.0.lock().unwrap().writes {
            let id = u64::from(write.function.bdf.requester_id());
            assert!(OWN.contains(&id), "{write:x?}");
        }
        let named = self.its.named.lock().unwrap();
        assert!(named.iter().all(|id| OWN.contains(id)), "{named:x?}");
        for (&(device, event), &(lpi, collection)) in self.its.events.lock().unwrap().iter() {
            let owner = (self.system.partitions.iter().enumerate()).find(|(_, partition)| {
                partition.devices.sources.iter().any(|source| {
                    u64::from(source.device) == device
                        && event < u64::from(source.count)
                        && lpi == u64::from(source.first) + event
                        && partition.cpus.contains(&(collection as usize))
                })
            });
            assert!(
                owner.is_some(),
                "{device:x} {event:x} {lpi:x} {collection:x}"
            );
        }
        let streams = self.smmu.streams.lock().unwrap();
        assert!(
            streams.iter().all(|id| OWN.contains(id) || *id == OWN_NODE),
            "{streams:x?}"
        );
        for &(offset, value) in self.redistributors.writes.lock().unwrap().iter() {
            assert!(offset < 2 * 0x2_0000, "{offset:x} {value:x}");
        }
        let lines: u64 = OWN_SPIS.iter().map(|spi| 1 << (spi - 32)).sum();
        for &(offset, value) in self.distributor.writes.lock().unwrap().iter() {
            let fine = match offset {
                0x100..0x400 => offset & 0x7f == 4 && value & !lines == 0,
                // ICFGR2: SPIs 32 to 47, of which 41 alone is an edge.
                0xc08 => value & !(2 << 18) == 0,
                0x6000.. => OWN_SPIS.contains(&(((offset - 0x6000) / 8) as u32)) && value < 2,
                _ => false,
            };
            assert!(fine, "{offset:x} {value:x}");
        }
        self.check_stage_two(own);
    }

    /// The attacker's CPUs reach its RAM and its BARs.
    fn check_stage_two(&self, own: &Partition) {
        let table = own.stage_two.lock();
        let bars: Vec<_> = own
            .devices
            .owned
            .iter()
            .flat_map(|owned| self.system.gate.topology.functions[owned.info].bars)
            .filter_map(|bar| bar?.host_span())
            .collect();
        let mut at = 0;
        while at < 1 << 32 {
            if let Some(leaf) = table.walk(Gpa(at)) {
                let ram = own.ram.guest().contains(Gpa(at))
                    && leaf.output.0 - own.ram.host().0 == at - map::RAM.0;
                let bar = map::PCI_WINDOW.contains(Gpa(at))
                    && !leaf.attributes.execute
                    && bars.iter().any(|bar| bar.contains(leaf.output));
                let node = Gpa(at) == map::PLATFORM.base
                    && !leaf.attributes.execute
                    && leaf.output.0 == NODES[0].1;
                assert!(ram || bar || node, "{at:x} {leaf:x?}");
            }
            at += if map::PCI_WINDOW.contains(Gpa(at)) || map::PLATFORM.contains(Gpa(at)) {
                0x1000
            } else {
                0x1_0000
            };
        }
    }

    /// All words of the victim's memory.
    fn victim(&self) -> Vec<u64> {
        let base = self.system.partitions[1].ram.host().0;
        (0..PARTITION_LEN / 8)
            .map(|word| self.frames.window().read64(base + 8 * word))
            .collect()
    }
}

fn attack(seed: u64) {
    let mut bench = Bench::new(seed);
    let system = bench.system;
    let own = &system.partitions[0];
    let victim = bench.victim();
    bench.forget();
    let mut cpus = [Cpu::new(), Cpu::new()];
    let mut restarts = 0;
    for round in 0..ROUNDS {
        let vcpu = bench.below(2) as usize;
        arch::cpu::set_index(own.cpus[vcpu]);
        let idle = cpus.iter().all(|cpu| !cpu.inside);
        let cpu = &mut cpus[vcpu];
        if !cpu.inside {
            match own.life.next(vcpu).0 {
                Next::Enter(_) => cpu.inside = true,
                Next::Wait if !own.life.is_running() => own.start(system),
                // All of its vCPUs are off: its owner restarts it.
                Next::Wait if idle && bench.below(32) == 0 => own.ask(system, Change::Restart),
                Next::Wait => {}
                Next::Carry(change) => {
                    own.carry(system, change);
                    restarts += 1;
                    assert_eq!(own.life.is_running(), change == Change::Restart);
                }
            }
            continue;
        }
        cpu.run(&mut bench, vcpu);
        let mut left = false;
        match bench.below(64) {
            0 => bench.set_up(vcpu),
            1..4 => bench.commands(vcpu),
            4..7 => bench.outside(),
            7 => {
                let value = bench.value();
                let register = [SgiRegister::Sgi0r, SgiRegister::Sgi1r, SgiRegister::Asgi1r]
                    [bench.below(3) as usize];
                let kick = own.vgic.lock().write_sgi(vcpu, register, value);
                system.kick(own, kick);
            }
            8 => {
                let intid = bench.value() as u32 % 1100;
                let effects = own.vgic.lock().write_dir(vcpu, intid);
                system.apply(own, &effects);
            }
            // A restart takes 100 ms of the machine's time: seldom.
            9 if round % 8 == 0 => left = bench.call(vcpu) == AfterCall::Leave,
            _ => bench.access(vcpu),
        }
        own.serve_its(system);
        if left || own.life.must_leave() {
            let effects = own.vgic.lock().reset_interface(vcpu);
            system.apply(own, &effects);
            cpus[vcpu].inside = false;
        }
        if round % 10_000 == 0 {
            bench.check();
            bench.forget();
        }
    }
    bench.check();
    assert!(restarts > 0, "the partition was never restarted");
    assert!(own.misuse() > 0);
    assert!(bench.victim() == victim, "the victim's memory changed");
    assert_eq!(system.partitions[1].misuse(), 0);
}

#[test]
fn whatever_a_guest_does_stays_with_it() {
    for seed in 1..=2u64 {
        attack(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

#[test]
fn two_vcpus_at_once_leave_nothing_behind() {
    let bench = Bench::new(1);
    let system = bench.system;
    bench.forget();
    let threads: Vec<_> = (0..2)
        .map(|vcpu| {
            let mut bench = bench.clone();
            bench.random = Random(0x1234_5678_9abc_def1 << vcpu);
            std::thread::spawn(move || {
                arch::cpu::set_index(vcpu);
                let mut cpu = Cpu::new();
                for _ in 0..ROUNDS / 10 {
                    cpu.run(&mut bench, vcpu);
                    match bench.below(32) {
                        0 => bench.set_up(vcpu),
                        1 | 2 => bench.commands(vcpu),
                        3 => bench.outside(),
                        4..12 => bench.move_bar(vcpu),
                        _ => bench.access(vcpu),
                    }
                    system.partitions[0].serve_its(system);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    bench.check();
    let own = &system.partitions[0];
    own.life.ask(Change::Stop);
    own.carry(system, Change::Stop);
    let table = own.stage_two.lock();
    let window = map::PCI_WINDOW;
    let left = (window.base.0..window.end().0)
        .step_by(0x1000)
        .find(|at| table.walk(Gpa(*at)).is_some());
    assert_eq!(left, None, "a BAR is still mapped");
    assert!(bench.its.events.lock().unwrap().is_empty());
}

#[test]
fn the_guests_virtual_timer_is_the_machines_whatever_its_number() {
    let bench = Bench::new(1);
    let own = &bench.system.partitions[0];
    bench.forget();
    let enable = map::GICR.base.0 + map::GICR_STRIDE + 0x1_0100;
    mmio::access(bench.system, own, 1, enable, 4, Some(1 << 27));
    let writes = bench.redistributors.writes.lock().unwrap();
    assert!(writes.contains(&(0x3_0100, 1 << TIMER)), "{writes:x?}");
    assert!(!writes.contains(&(0x3_0100, 1 << 27)), "{writes:x?}");
}

#[test]
fn a_guest_is_told_whether_its_devices_snoop() {
    for coherent in [true, false] {
        let mut info = boot_info();
        info.pcie[0].dma_coherent = coherent;
        let bench = Bench::described(1, &info);
        let ram = &bench.system.partitions[0].ram;
        let mut bytes = alloc::vec![0; PARTITION_LEN as usize];
        ram.read(map::RAM, &mut bytes).unwrap();
        let says = bytes.windows(12).any(|word| word == b"dma-coherent");
        assert_eq!(says, coherent);
    }
}

#[test]
fn an_interrupt_of_a_device_on_the_memory_bus_is_the_guests_by_its_own_number() {
    let bench = Bench::new(1);
    let system = bench.system;
    for (own, (_, _, physical, edge, _)) in system.partitions.iter().zip(NODES) {
        bench.forget();
        let intid = map::PLATFORM_INTIDS.start;
        let vcpu_zero = map::GICD.base.0 + 0x6000 + 8 * u64::from(intid);
        for (offset, value) in [
            (map::GICD.base.0, 0x13),
            (
                map::GICD.base.0 + 0x80 + 4 * u64::from(intid / 32),
                u64::MAX,
            ),
            (map::GICD.base.0 + 0x100 + 4 * u64::from(intid / 32), 1),
        ] {
            mmio::access(system, own, 0, offset, 4, Some(value & 0xffff_ffff));
        }
        mmio::access(system, own, 0, vcpu_zero, 8, Some(0));
        let writes = bench.distributor.writes.lock().unwrap().clone();
        assert!(
            writes.contains(&(0x104, 1 << (physical - 32))),
            "{writes:x?}"
        );
        // ICFGR2: two bits an interrupt, the upper one says edge (`GICD_ICFGR<n>`; IHI 0069, 12.9).
        let trigger = u64::from(edge) << (2 * (physical % 16) + 1);
        let configured = |&&(at, value): &&(u64, u64)| at == 0xc08 && value == trigger;
        assert!(
            !edge || writes.iter().any(|write| configured(&write)),
            "{writes:x?}"
        );
        let served = system.shared_interrupt(Intid(physical));
        assert_eq!(served, Served::Guests, "it is forwarded");
        let mut lists = LrState {
            lr: [0; 16],
            used: 0,
            count: 4,
            hcr: 0,
            vmcr: 0,
        };
        own.vgic.lock().flush(0, &mut lists);
        // Pending, tied to the physical one (`ICH_LR<n>_EL2`; IHI 0069, 12.4).
        let lr = lists.lr[0];
        assert_eq!(
            (lr & 0xffff_ffff, lr >> 32 & 0x1fff),
            (intid.into(), physical.into())
        );
        assert_eq!(lr >> 61, 0b011, "{lr:x}");
    }
}
