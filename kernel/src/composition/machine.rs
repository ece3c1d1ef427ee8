//! A whole machine for tests: GIC, ITS, SMMU and PCI functions that answer well enough for everything above them to run
//! as it does in the image, and that remember what was asked of them.

use crate::boot_info::{
    BootInfo, Cpu, Devices, Gic, Irq, Its, PlatformDevice, Smmu, StreamOf, Timer,
};
use crate::bundle::Builder;
use crate::config::{self, Bytes, DeviceAddress, Machine, OnFault, ResetPolicy};
use crate::pci::fake::{FakeBus, FakeFunction, Random};
use crate::pci::fixtures::{ITS, SMMU, edu, host_bridge, nvme, virt_host};
use crate::pci::{Bdf, ConfigSpace, Function};
use crate::setup;
use crate::system::System;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::host::memory::pool;
use arch::host::mmio::{Device, DeviceMap, Memory};
use arch::memory::FramePool;
use arch::mmio::MmioPool;
use core::sync::atomic::{AtomicUsize, Ordering};
use iommu::addr::{Hpa, Span};
use iommu::id::DeviceId;
use std::collections::{BTreeMap, BTreeSet};
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

/// Registers that keep what is written, and a list of the writes.
pub struct Logged {
    memory: Memory,
    /// Offset and value.
    pub writes: Mutex<Vec<(u64, u64)>>,
}

impl Logged {
    fn new(len: u64, words: &[(u64, u64)]) -> Arc<Self> {
        let memory = Memory::new(len);
        for &(offset, word) in words {
            memory.write(offset, 8, word);
        }
        Arc::new(Self {
            memory,
            writes: Mutex::default(),
        })
    }
}

impl Device for Logged {
    fn read(&self, offset: u64, size: usize) -> u64 {
        self.memory.read(offset, size)
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        self.writes.lock().unwrap().push((offset, value));
        // One-bit-an-interrupt state is not kept: nothing here ever becomes pending.
        if !(0x100..0x400).contains(&(offset & 0x1_ffff)) {
            self.memory.write(offset, size, value);
        }
    }
}

/// An ITS that executes what maps and unmaps (IHI 0069, 5.3).
pub struct FakeIts {
    frames: &'static FramePool,
    registers: Mutex<BTreeMap<u64, u64>>,
    /// (DeviceID, EventID) to (LPI, collection).
    pub events: Mutex<BTreeMap<(u64, u64), (u64, u64)>>,
    /// Events that were mapped so far.
    pub mapped: AtomicUsize,
    /// DeviceIDs that a command named.
    pub named: Mutex<BTreeSet<u64>>,
}

impl FakeIts {
    fn execute(&self, words: [u64; 4]) {
        let (opcode, device, event) = (words[0] & 0xff, words[0] >> 32, words[1] & 0xffff_ffff);
        let mut events = self.events.lock().unwrap();
        if !matches!(opcode, 0x05 | 0x09 | 0x0d) {
            self.named.lock().unwrap().insert(device);
        }
        match opcode {
            0x01 => events.get_mut(&(device, event)).expect("MOVI").1 = words[2] & 0xffff,
            0x04 | 0x0c => assert!(events.contains_key(&(device, event)), "{words:x?}"),
            0x08 => events.retain(|(owner, _), _| *owner != device),
            0x0a => {
                let of = (words[1] >> 32, words[2] & 0xffff);
                assert!(events.values().all(|(lpi, _)| *lpi != of.0), "an LPI twice");
                events.insert((device, event), of);
                self.mapped.fetch_add(1, Ordering::Relaxed);
            }
            0x0f => drop(events.remove(&(device, event)).expect("DISCARD")),
            _ => {}
        }
    }
}

impl Device for FakeIts {
    fn read(&self, offset: u64, _size: usize) -> u64 {
        let registers = self.registers.lock().unwrap();
        let value = registers.get(&offset).copied().unwrap_or(0);
        match offset {
            0x0000 => value & 1 | (!value & 1) << 31,
            0x0008 => 0x1 | 11 << 4 | 15 << 8 | 15 << 13,
            // CREADR: all is done at once.
            0x0090 => registers.get(&0x88).copied().unwrap_or(0) & !1,
            // Devices and collections, entries of 8 bytes.
            0x0100 => value & !(0x071f << 48) | 0x0107 << 48,
            0x0108 => value & !(0x071f << 48) | 0x0407 << 48,
            0xffe8 => 0x3b,
            _ => value,
        }
    }

    fn write(&self, offset: u64, _size: usize, value: u64) {
        let old = self.registers.lock().unwrap().insert(offset, value);
        if offset != 0x88 {
            return;
        }
        let base = self.registers.lock().unwrap()[&0x80] & 0xf_ffff_ffff_f000;
        let mut at = old.unwrap_or(0) & 0xf_ffe0;
        while at != value & 0xf_ffe0 {
            self.execute([0, 8, 16, 24].map(|word| self.frames.window().read64(base + at + word)));
            at = (at + 32) % 0x1_0000;
        }
    }
}

/// An SMMU that acknowledges, and consumes commands (IHI 0070, chapter 6).
pub struct FakeSmmu {
    frames: &'static FramePool,
    registers: Mutex<BTreeMap<u64, u64>>,
    /// StreamIDs whose entries it was told to forget.
    pub streams: Mutex<BTreeSet<u64>>,
    /// Answers to what waits: CMD_RESUME, CMD_STALL_TERM, CMD_PRI_RESP.
    pub answers: Mutex<Vec<[u64; 2]>>,
    /// IDR0.STALL_MODEL = 0: faults can stall.
    pub stalls: bool,
}

impl Device for FakeSmmu {
    fn read(&self, offset: u64, _size: usize) -> u64 {
        let registers = self.registers.lock().unwrap();
        let of = |offset| registers.get(&offset).copied().unwrap_or(0);
        match offset {
            0x00 if self.stalls => 0x0c44_101b,
            0x00 => 0x0d44_101b,
            0x04 => 0x0273_0010,
            0x0c => 0x1414,
            0x14 => 0x74,
            0x24 => of(0x20),
            0x44 => of(0x44) & !(1 << 31),
            0x54 => of(0x50),
            _ => of(offset),
        }
    }

    fn write(&self, offset: u64, _size: usize, value: u64) {
        let mut registers = self.registers.lock().unwrap();
        let old = registers.insert(offset, value).unwrap_or(0);
        // Commands are served where CMDQEN is on.
        let enabled = registers
            .get(&0x20)
            .is_some_and(|control| control >> 3 & 1 != 0);
        if offset != 0x98 || !enabled {
            return;
        }
        let base = registers.get(&0x90).copied().unwrap_or(0);
        let (log2, base) = (base & 0x1f, base & 0xf_ffff_ffff_ffe0);
        let mut at = old;
        while at != value {
            let slot = base + (at & ((1 << log2) - 1)) * 16;
            let words = [slot, slot + 8].map(|at| self.frames.window().read64(at));
            match words[0] & 0xff {
                0x03 => {
                    self.streams.lock().unwrap().insert(words[0] >> 32);
                }
                0x41 | 0x44 | 0x45 => self.answers.lock().unwrap().push(words),
                _ => {}
            }
            at = (at + 1) & ((2 << log2) - 1);
        }
        registers.insert(0x9c, value);
    }
}

impl FakeSmmu {
    /// What was written to a register last.
    pub fn register(&self, offset: u64) -> u64 {
        self.registers.lock().unwrap()[&offset]
    }

    /// Its registers are as out of reset.
    pub fn power_cycle(&self) {
        self.registers.lock().unwrap().clear();
    }

    /// The first four words of the entry of `stream`, by the two-level table (IHI 0070, 5.1).
    pub fn entry(&self, stream: u64) -> [u64; 4] {
        let ram = self.frames.window();
        let first = (self.register(0x80) & 0xf_ffff_ffff_ffc0) + (stream >> 8) * 8;
        let second = ram.read64(first) & 0xf_ffff_ffff_ffc0;
        assert_ne!(second, 0, "no table for {stream:#x}");
        [0, 8, 16, 24].map(|word| ram.read64(second + (stream & 0xff) * 64 + word))
    }

    /// Writes the record of an event (7.2).
    pub fn report(&self, words: [u64; 4]) {
        let (base, prod) = (self.register(0xa0), self.register(0x1_00a8));
        let (log2, base) = (base & 0x1f, base & 0xf_ffff_ffff_ffe0);
        let at = base + (prod & ((1 << log2) - 1)) * 32;
        for (offset, word) in (0..).step_by(8).zip(words) {
            self.frames.window().write64(at + offset, word);
        }
        let next = (prod + 1) & ((2 << log2) - 1);
        self.registers.lock().unwrap().insert(0x1_00a8, next);
    }
}

/// The buses behind an ECAM window.
pub struct FakeEcam(pub Mutex<FakeBus>);

impl FakeEcam {
    fn place(offset: u64) -> (Function, u16) {
        let function = Function {
            segment: 0,
            bdf: Bdf::from_requester_id((offset >> 12) as u16),
        };
        (function, offset as u16 & 0xfff)
    }
}

impl Device for FakeEcam {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let (function, register) = Self::place(offset);
        let mut bus = self.0.lock().unwrap();
        match size {
            1 => bus.read8(function, register).into(),
            2 => bus.read16(function, register).into(),
            _ => bus.read32(function, register).into(),
        }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let (function, register) = Self::place(offset);
        let mut bus = self.0.lock().unwrap();
        match size {
            1 => bus.write8(function, register, value as u8),
            2 => bus.write16(function, register, value as u16),
            _ => bus.write32(function, register, value as u32),
        }
    }
}

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
        let its = Arc::new(FakeIts {
            frames,
            registers: Mutex::default(),
            events: Mutex::default(),
            mapped: AtomicUsize::new(0),
            named: Mutex::default(),
        });
        let smmu = || {
            Arc::new(FakeSmmu {
                frames,
                registers: Mutex::default(),
                streams: Mutex::default(),
                answers: Mutex::default(),
                stalls,
            })
        };
        let (smmu, other_smmu) = (smmu(), smmu());
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
        cpus: (0..CPUS).map(|mpidr| Cpu { mpidr }).collect(),
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

fn partition(name: &str, cpus: [u16; 2], devices: &[&str]) -> config::Partition {
    let device = |address: &&str| config::Device {
        address: address.parse::<DeviceAddress>().unwrap(),
        guest: None,
        reset: ResetPolicy::BestEffort,
        dma: true,
        manages_vfs: false,
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
