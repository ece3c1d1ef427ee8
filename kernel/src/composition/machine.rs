//! A whole machine for tests: GIC, ITS, SMMU and PCI functions that answer well enough for everything above them to run
//! as it does in the image, and that remember what was asked of them.

use super::devices::{FakeEcam, FakeIts, FakeSmmu, Logged};
use crate::boot_info::{
    BootInfo, Cpu, Devices, Gic, Irq, Its, PlatformDevice, Smmu, StreamOf, Timer,
};
use crate::bundle::Builder;
use crate::config::{self, Bytes, DeviceAddress, Machine, OnFault, ResetPolicy};
use crate::pci::fake::{FakeBus, FakeFunction, Random};
use crate::pci::fixtures::{ITS, SMMU, edu, host_bridge, nvme, virt_host};
use crate::setup;
use crate::system::System;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::host::memory::pool;
use arch::host::mmio::{Device, DeviceMap};
use arch::memory::FramePool;
use arch::mmio::MmioPool;
use iommu::addr::{Hpa, Span};
use iommu::id::DeviceId;
use std::sync::Mutex;

/// RAM of the machine.
const RAM: u64 = 0x4000_0000;
const RAM_LEN: u64 = 48 << 20;
/// RAM of each partition.
pub const PARTITION_LEN: u64 = 8 << 20;
/// CPUs of the machine; each partition has two of them.
const CPUS: u64 = 4;

/// The EL1 virtual timer's interrupt: another one than what guests see.
pub const TIMER: u32 = 29;

const GICD: u64 = 0x0800_0000;
pub const GITS: u64 = 0x0808_0000;
const GICR: u64 = 0x080a_0000;
const SMMU_REGISTERS: u64 = 0x0905_0000;
const OTHER_SMMU: u64 = 0x0908_0000;

/// The machine without software, and what it remembers.
#[derive(Clone)]
pub struct Hardware {
    pub frames: &'static FramePool,
    pub distributor: Arc<Logged>,
    pub redistributors: Arc<Logged>,
    pub its: Arc<FakeIts>,
    pub smmu: Arc<FakeSmmu>,
    /// One more, where firmware says so.
    pub other_smmu: Arc<FakeSmmu>,
    pub ecam: Arc<FakeEcam>,
}

impl Hardware {
    /// The machine, and the system that is built on it where firmware says `info`; nothing runs yet.
    pub fn build(info: &BootInfo) -> (Self, System) {
        Self::build_with(info, roots(), bundle(&configuration()))
    }

    /// The same with other functions, and another configuration.
    pub fn build_with(
        info: &BootInfo,
        roots: Vec<FakeFunction>,
        bundle: &'static [u8],
    ) -> (Self, System) {
        Self::with_stalls(info, roots, bundle, false)
    }

    /// The same; whether the faults of its SMMUs can stall.
    pub fn with_stalls(
        info: &BootInfo,
        roots: Vec<FakeFunction>,
        bundle: &'static [u8],
        stalls: bool,
    ) -> (Self, System) {
        arch::cpu::set_index(0);
        let frames = pool(RAM, RAM_LEN);
        // IDbits 16, LPIs, 256 interrupts.
        let distributor = Logged::new(0x1_0000, &[(0, (15 << 19 | 1 << 17 | 7) << 32)]);
        distributor.memory.write(0xffe8, 4, 0x3b);
        let redistributors = Logged::new(CPUS * 0x2_0000, &[]);
        for cpu in 0..CPUS {
            let last = u64::from(cpu + 1 == CPUS);
            let base = cpu * 0x2_0000;
            redistributors
                .memory
                .write(base + 8, 8, cpu << 32 | cpu << 8 | last << 4 | 1);
            redistributors.memory.write(base + 0xffe8, 4, 0x3b);
        }
        let its = FakeIts::new(frames);
        let (smmu, other_smmu) = (FakeSmmu::new(frames, stalls), FakeSmmu::new(frames, stalls));
        let ecam = Arc::new(FakeEcam(Mutex::new(FakeBus::new(alloc::vec![(0, roots)]))));
        let host = virt_host();
        let map = DeviceMap::default()
            .with(GICD, 0x1_0000, distributor.clone())
            .with(GICR, CPUS * 0x2_0000, redistributors.clone())
            .with(GITS, 0x2_0000, its.clone())
            .with(SMMU_REGISTERS, 0x2_0000, smmu.clone())
            .with(OTHER_SMMU, 0x2_0000, other_smmu.clone())
            .with(host.ecam.base.0, host.ecam.len, ecam.clone());
        let mut mmio = MmioPool::new(map, alloc::vec![RAM..RAM + RAM_LEN]);
        let system = setup::build(info, DEVICES, 0, frames, &mut mmio, bundle)
            .unwrap_or_else(|error| panic!("{error}"));
        let hardware = Self {
            frames,
            distributor,
            redistributors,
            its,
            smmu,
            other_smmu,
            ecam,
        };
        (hardware, system)
    }
}

/// The functions of its bus.
pub fn roots() -> Vec<FakeFunction> {
    alloc::vec![host_bridge(), nvme(1, 9), edu(2), nvme(3, 9)]
}

/// The machine, with both partitions started.
#[derive(Clone)]
pub struct Bench {
    pub system: &'static System,
    hardware: Hardware,
    pub random: Random,
}

impl core::ops::Deref for Bench {
    type Target = Hardware;
    fn deref(&self) -> &Hardware {
        &self.hardware
    }
}

impl Bench {
    /// Partition 0 has CPUs 0 and 1, an NVMe (00:01.0) and an edu (00:02.0); partition 1 has CPUs 2 and 3 and an NVMe
    /// (00:03.0); each has one of [`NODES`].
    pub fn new(seed: u64) -> Self {
        Self::described(seed, &boot_info())
    }

    /// The same machine, of which firmware says this.
    pub fn described(seed: u64, info: &BootInfo) -> Self {
        Self::started(seed, Hardware::build(info))
    }

    /// A machine whose partitions are started.
    pub fn started(seed: u64, (hardware, system): (Hardware, System)) -> Self {
        let system: &'static System = alloc::boxed::Box::leak(alloc::boxed::Box::new(system));
        for partition in &system.partitions {
            partition.start(system);
        }
        Self {
            system,
            hardware,
            random: Random(seed),
        }
    }

    /// Forgets what was asked of the devices so far.
    pub fn forget(&self) {
        self.distributor.writes.lock().unwrap().clear();
        self.redistributors.writes.lock().unwrap().clear();
        self.its.named.lock().unwrap().clear();
        self.smmu.streams.lock().unwrap().clear();
        self.ecam.0.lock().unwrap().writes.clear();
    }
}

const fn span(base: u64, len: u64) -> Span<Hpa> {
    Span {
        base: Hpa(base),
        len,
    }
}

/// A device on the memory bus for each partition: registers, an interrupt, whether that is an edge, and a StreamID.
pub const NODES: [(&str, u64, u32, bool, u32); 2] = [
    ("/edge@9100000", 0x910_0000, 41, true, 0x4040),
    ("/level@9110000", 0x911_0000, 42, false, 0x4141),
];

/// What firmware says of them.
pub const DEVICES: Devices = Devices {
    tables: &[],
    read: |_| NODES.into_iter().map(node).collect(),
};

fn node((path, base, intid, edge, id): (&str, u64, u32, bool, u32)) -> PlatformDevice {
    PlatformDevice {
        path: path.into(),
        enabled: true,
        registers: alloc::vec![span(base, 0x1000)],
        irqs: alloc::vec![Some(Irq { intid, edge })],
        streams: alloc::vec![StreamOf {
            iommu: SMMU,
            id: DeviceId(id),
        }],
        does_dma: true,
        ..PlatformDevice::default()
    }
}

fn level(intid: u32) -> Irq {
    Irq { intid, edge: false }
}

/// As [`boot_info`], with functions from 00:02.0 on behind a second SMMU, whose walks do not snoop.
pub fn two_smmus() -> BootInfo {
    let mut info = boot_info();
    let mut other = info.smmus[0];
    other.registers = span(OTHER_SMMU, 0x2_0000);
    other.phandle += 1000;
    other.event_irq = None;
    other.pri_irq = None;
    other.gerror_irq = None;
    other.dma_coherent = false;
    let map = &mut info.pcie[0].iommu_map;
    let mut rest = map[0];
    map[0].len = 0x10;
    rest.rid_base = 0x10;
    rest.output_base = 0x10;
    rest.len -= 0x10;
    rest.target = other.phandle;
    map.push(rest);
    info.smmus.push(other);
    info
}

/// What firmware says of it.
pub fn boot_info() -> BootInfo {
    let irq = |intid, edge| Some(Irq { intid, edge });
    BootInfo {
        memory: alloc::vec![span(RAM, RAM_LEN)],
        cpus: (0..CPUS).map(|mpidr| Cpu { id: mpidr }).collect(),
        gic: Some(Gic {
            distributor: span(GICD, 0x1_0000),
            redistributors: alloc::vec![span(GICR, CPUS * 0x2_0000)],
            maintenance: irq(25, false),
            its: alloc::vec![Its {
                registers: span(GITS, 0x2_0000),
                phandle: ITS,
            }],
        }),
        timer: Some(Timer {
            virt: level(TIMER),
            phys: level(30),
            hyp: level(26),
        }),
        pcie: alloc::vec![virt_host()],
        smmus: alloc::vec![Smmu {
            registers: span(SMMU_REGISTERS, 0x2_0000),
            phandle: SMMU,
            event_irq: irq(106, true),
            pri_irq: irq(107, true),
            gerror_irq: irq(109, true),
            dma_coherent: true,
        }],
        ..BootInfo::default()
    }
}

/// The configuration.
pub fn configuration() -> Machine {
    Machine {
        machine: config::Identity {
            name: "fake".into(),
            qemu: None,
            board: None,
            sriov: Vec::new(),
        },
        partitions: alloc::vec![
            partition("attacker", [0, 1], &["00:01.0", NODES[0].0, "00:02.0"]),
            partition("victim", [2, 3], &["00:03.0", NODES[1].0]),
        ],
    }
}

/// A configuration and the guest's program.
pub fn bundle(machine: &Machine) -> &'static [u8] {
    let mut image = alloc::vec![0; 64];
    image[16..24].copy_from_slice(&0x1000u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    let mut builder = Builder::new();
    builder.config(machine).unwrap();
    builder.file("guest", image).unwrap();
    builder.finish().leak()
}

pub fn partition(name: &str, cpus: [u16; 2], devices: &[&str]) -> config::Partition {
    let device = |address: &&str| config::Device {
        address: address.parse::<DeviceAddress>().unwrap(),
        guest: None,
        reset: ResetPolicy::BestEffort,
        dma: true,
        manages_vfs: false,
        ats: false,
        reserved_memory: false,
    };
    config::Partition {
        name: name.into(),
        memory: Bytes(PARTITION_LEN),
        base: None,
        cpus: cpus.into(),
        kernel: None,
        initrd: None,
        cmdline: None,
        payload: Some("guest".into()),
        autostart: true,
        viommu: false,
        tables: config::Tables::DeviceTree,
        restart: true,
        on_fault: OnFault::default(),
        devices: devices.iter().map(device).collect(),
        dma_windows: Vec::new(),
    }
}
