//! An ITS with its GIC, a guest's memory, and a physical ITS that insists on being used as agreed.

use crate::vdev::CpuSet;
use crate::vdev::vgic::{Effects, Vgic};
use crate::vdev::vits::{BackendError, ItsBackend, Vits};
use iommu::addr::Gpa;
use iommu::hal::{GuestMemory, GuestMemoryError};
use iommu::id::VirtDeviceId;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The partition's RAM: 1 MiB.
pub const RAM: u64 = 0x4000_0000;
pub const RAM_LEN: u64 = 0x10_0000;
/// Where the tests put the queue and the property table.
pub const QUEUE: u64 = RAM + 0x1_0000;
pub const PROPERTIES: u64 = RAM + 0x8_0000;

/// Two devices with this many vectors.
pub const DEVICES: [(VirtDeviceId, u32); 2] = [(VirtDeviceId(0x10), 5), (VirtDeviceId(0x8), 8)];

pub struct Memory(pub RefCell<Vec<u8>>, pub RefCell<BTreeMap<u64, usize>>);

impl GuestMemory for Memory {
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        *self.1.borrow_mut().entry(at.0).or_default() += 1;
        let ram = self.0.borrow();
        let from = at.0.checked_sub(RAM).ok_or(GuestMemoryError(at))? as usize;
        let source = ram
            .get(from..from + bytes.len())
            .ok_or(GuestMemoryError(at))?;
        bytes.copy_from_slice(source);
        Ok(())
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let from = (at.0 - RAM) as usize;
        self.0.borrow_mut()[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// One physical LPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    pub cpu: usize,
    pub enabled: bool,
    pub cleared: u32,
}

#[derive(Default)]
pub struct Backend {
    pub mapped: BTreeMap<(u32, u32), Mapped>,
    /// Maps that are still to succeed.
    pub room: Option<usize>,
    pub cpus: usize,
}

impl Backend {
    fn at(&mut self, device: VirtDeviceId, event: u32) -> &mut Mapped {
        self.mapped
            .get_mut(&(device.0, event))
            .expect("asked only about what is mapped")
    }
}

impl ItsBackend for Backend {
    fn map_event(
        &mut self,
        device: VirtDeviceId,
        event: u32,
        cpu: usize,
    ) -> Result<(), BackendError> {
        let known = DEVICES
            .iter()
            .find(|(id, _)| *id == device)
            .expect("a device of this partition");
        assert!(event < known.1 && cpu < self.cpus);
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(1).ok_or(BackendError::NoLpi)?;
        }
        let fresh = Mapped {
            cpu,
            enabled: false,
            cleared: 0,
        };
        assert_eq!(
            self.mapped.insert((device.0, event), fresh),
            None,
            "mapped twice"
        );
        Ok(())
    }

    fn unmap_event(&mut self, device: VirtDeviceId, event: u32) {
        self.mapped
            .remove(&(device.0, event))
            .expect("unmapped once");
    }

    fn move_event(&mut self, device: VirtDeviceId, event: u32, cpu: usize) {
        assert!(cpu < self.cpus);
        self.at(device, event).cpu = cpu;
    }

    fn set_enabled(&mut self, device: VirtDeviceId, event: u32, enabled: bool) {
        self.at(device, event).enabled = enabled;
    }

    fn clear_event(&mut self, device: VirtDeviceId, event: u32) {
        self.at(device, event).cleared += 1;
    }
}

pub struct Bench {
    pub vits: Vits,
    pub vgic: Vgic,
    pub memory: Memory,
    pub backend: Backend,
}

impl Bench {
    /// After reset.
    pub fn new(cpus: usize) -> Self {
        let vits = Vits::new(&DEVICES, cpus).unwrap();
        let affinities: Vec<u32> = (0..cpus as u32).collect();
        let vgic = Vgic::new(&affinities, vits.lpi_slots()).unwrap();
        Self {
            vits,
            vgic,
            memory: Memory(RefCell::new(vec![0; RAM_LEN as usize]), RefCell::default()),
            backend: Backend {
                cpus,
                ..Backend::default()
            },
        }
    }

    /// Tables, a queue of one page, LPIs on, groups on, collections mapped to the CPU of the same number.
    pub fn ready(cpus: usize) -> Self {
        let mut bench = Self::new(cpus);
        bench
            .vits
            .write(0x100, 8, 1 << 63 | 0x4003_0000 | 0x200 | 7);
        bench.vits.write(0x108, 8, 1 << 63 | 0x4004_0000);
        bench.vits.write(0x80, 8, 1 << 63 | QUEUE);
        bench.vits.write(0, 4, 1);
        bench.vgic.write_distributor(0, 0, 4, 0x12);
        for cpu in 0..cpus as u64 {
            bench
                .vgic
                .write_redistributor(cpu * 0x2_0000 + 0x70, 8, PROPERTIES | 15);
            bench.vgic.write_redistributor(cpu * 0x2_0000, 4, 1);
            bench.run(&[mapc(cpu, cpu)]);
        }
        bench
    }

    pub fn poll(&mut self) -> CpuSet {
        self.vits
            .poll(&mut self.vgic, &self.memory, &mut self.backend)
    }

    /// Puts `commands` into the queue, rings, and polls until all is done.
    pub fn run(&mut self, commands: &[[u64; 4]]) -> CpuSet {
        self.queue(commands);
        let mut kick = CpuSet::NONE;
        for _ in 0..1000 {
            if !self.vits.has_work() {
                return kick;
            }
            kick = kick.union(self.poll());
        }
        panic!("it never ends");
    }

    pub fn queue(&mut self, commands: &[[u64; 4]]) {
        let size = ((self.vits.read(0x80, 8) & 0xff) + 1) * 4096;
        let mut at = self.vits.read(0x88, 8);
        for words in commands {
            for (n, word) in words.iter().enumerate() {
                let to = Gpa(QUEUE + at + 8 * n as u64);
                self.memory.write(to, &word.to_le_bytes()).unwrap();
            }
            at = (at + 32) % size;
        }
        self.vits.write(0x88, 4, at);
    }

    pub fn set_property(&mut self, lpi: u32, property: u8) {
        let at = Gpa(PROPERTIES + u64::from(lpi) - 8192);
        self.memory.write(at, &[property]).unwrap();
    }

    /// A device's event as the core handles it: translated, made pending.
    pub fn signal(&mut self, device: u32, event: u32) -> Option<CpuSet> {
        let found = self.vits.translate(VirtDeviceId(device), event)?;
        let kick = self.vgic.inject_lpi(found.slot);
        assert_eq!(kick.0 & !CpuSet::one(found.cpu).0, 0);
        Some(kick)
    }

    /// What `cpu` would be given: INTID and priority of its first list register.
    pub fn next(&mut self, cpu: usize) -> Option<(u32, u8)> {
        let mut state = crate::vdev::vgic::LrState {
            lr: [0; 16],
            used: 0,
            count: 1,
            hcr: 0,
            vmcr: 0,
        };
        self.vgic.flush(cpu, &mut state);
        let lr = state.lr[0];
        state.lr[0] = 0;
        self.vgic.sync(cpu, &mut state, &mut Effects::default());
        (lr >> 62 == 1).then_some((lr as u32, (lr >> 48) as u8))
    }
}

// Commands, from the figures of IHI 0069, §5.3.

pub fn mapd(device: u64, bits: u64, valid: u64) -> [u64; 4] {
    [device << 32 | 0x08, bits - 1, valid << 63 | 0x4005_0000, 0]
}

pub fn mapc(collection: u64, cpu: u64) -> [u64; 4] {
    [0x09, 0, 1 << 63 | cpu << 16 | collection, 0]
}

pub fn mapti(device: u64, event: u64, lpi: u64, collection: u64) -> [u64; 4] {
    [device << 32 | 0x0a, lpi << 32 | event, collection, 0]
}

pub fn movi(device: u64, event: u64, collection: u64) -> [u64; 4] {
    [device << 32 | 0x01, event, collection, 0]
}

pub fn on_event(opcode: u64, device: u64, event: u64) -> [u64; 4] {
    [device << 32 | opcode, event, 0, 0]
}

pub const INT: u64 = 0x03;
pub const CLEAR: u64 = 0x04;
pub const INV: u64 = 0x0c;
pub const DISCARD: u64 = 0x0f;

pub fn sync(cpu: u64) -> [u64; 4] {
    [0x05, 0, cpu << 16, 0]
}

pub fn invall(collection: u64) -> [u64; 4] {
    [0x0d, 0, collection, 0]
}

pub fn movall(from: u64, to: u64) -> [u64; 4] {
    [0x0e, 0, from << 16, to << 16]
}
