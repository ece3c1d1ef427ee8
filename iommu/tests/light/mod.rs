//! A guest with the SMMU that it sees, on hardware that costs nothing: registers are in force at once, and commands are
//! consumed as soon as the doorbell is rung, or one by one if whoever has the [`Hardware`] says so.
#![allow(dead_code, reason = "each user needs a part")]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use iommu::addr::{Gpa, Hpa, Iova, Span};
use iommu::guest::vsmmu::{Behind, Effect, ObjectSlice, Setup, VirtSmmu};
use iommu::hal::{DmaBuffer, GuestMemory, GuestMemoryError, Mmio, Platform};
use iommu::id::{DeviceId, IommuIndex, VirtDeviceId};
use iommu::object::Context;
use iommu::object::driver::{Access, DeviceInfo, Driver, Memory};
use iommu::object::unit::Unit;
use iommu::smmuv3::{Identity, Offer, Smmu};

pub const GUEST: u64 = 0x4000_0000;
pub const BYTES: u64 = 0x10_0000;
pub const COMMANDS: u64 = GUEST;
pub const TABLE: u64 = GUEST + 0x4_0000;
pub const LOG2: u64 = 12;
pub const STREAMS: u32 = 8;

/// Stage 1 and 2, 44 bits, range invalidation, 16-bit identities; an implementer without errata.
pub const HARDWARE: Identity = Identity {
    idr: [0x0d44_101b, 0x0273_0010, 0, 0x1414, 0, 0x74],
    iidr: 0x1000_0001,
    aidr: 1,
};

/// Registers that are in force at once, and a command queue that is always empty unless it is slow.
pub struct Hardware {
    registers: Vec<AtomicU32>,
    /// Commands are consumed by [`step`](Self::step) alone.
    pub slow: AtomicBool,
    consumed: AtomicU64,
}

impl Hardware {
    fn new() -> Self {
        let mut registers = Vec::new();
        registers.resize_with(0x2_0000 / 4, AtomicU32::default);
        for (register, value) in HARDWARE.idr.into_iter().chain([HARDWARE.iidr]).enumerate() {
            registers[register] = AtomicU32::new(value);
        }
        Self {
            registers,
            slow: AtomicBool::new(false),
            consumed: AtomicU64::new(0),
        }
    }

    /// Consumes a command, if there is one.
    pub fn step(&self) {
        let [base, prod, cons] = [0x90, 0x98, 0x9c].map(|offset| &self.registers[offset / 4]);
        let at = cons.load(Relaxed);
        if at != prod.load(Relaxed) {
            let log2 = base.load(Relaxed) & 0x1f;
            cons.store((at + 1) & ((2 << log2) - 1), Relaxed);
            self.consumed.fetch_add(1, Relaxed);
        }
    }

    /// Commands that [`step`](Self::step) has consumed.
    pub fn consumed(&self) -> u64 {
        self.consumed.load(Relaxed)
    }
}

struct Registers(Arc<Hardware>);

impl Mmio for Registers {
    fn read32(&self, offset: usize) -> u32 {
        self.0.registers[offset / 4].load(Relaxed)
    }
    fn write32(&self, offset: usize, value: u32) {
        let follows = match offset {
            0x98 if self.0.slow.load(Relaxed) => offset,
            0x20 | 0x50 | 0x98 => offset + 4,
            _ => offset,
        };
        let value = if offset == 0x44 {
            value & !(1 << 31)
        } else {
            value
        };
        self.0.registers[offset / 4].store(value, Relaxed);
        self.0.registers[follows / 4].store(value, Relaxed);
    }
    fn read64(&self, offset: usize) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }
    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

pub struct Buffer {
    words: Vec<AtomicU64>,
    at: u64,
}

impl DmaBuffer for Buffer {
    fn hpa(&self) -> Hpa {
        Hpa(self.at)
    }
    fn len(&self) -> usize {
        self.words.len() * 8
    }
    fn read64(&self, offset: usize) -> u64 {
        self.words[offset / 8].load(Relaxed)
    }
    fn write64(&mut self, offset: usize, value: u64) {
        *self.words[offset / 8].get_mut() = value;
    }
    fn clean(&self, _offset: usize, _len: usize) {}
}

pub struct Machine {
    free: AtomicU64,
    /// What a look at the clock does: whoever waits for the SMMU looks at it between two looks at the queue.
    pub waits: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Platform for Machine {
    type Buffer = Buffer;
    fn allocate(&self, len: usize) -> Option<Buffer> {
        let at = self.free.load(Relaxed).next_multiple_of(len as u64);
        self.free.store(at + len as u64, Relaxed);
        let mut words = Vec::new();
        words.resize_with(len / 8, AtomicU64::default);
        Some(Buffer { words, at })
    }
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        if let Some(waits) = self.waits.get() {
            waits();
        }
        0
    }
}

#[derive(Debug)]
struct Ram;

impl Memory for Ram {
    fn size(&self) -> u64 {
        BYTES
    }
    fn writable(&self) -> bool {
        true
    }
    fn piece(&self, offset: u64) -> Option<Span<Hpa>> {
        Some(Span {
            base: Hpa(0x8000_0000 + offset),
            len: BYTES.checked_sub(offset).filter(|len| *len > 0)?,
        })
    }
}

/// The guest's memory, in words.
pub struct Words(Vec<AtomicU64>);

impl Words {
    fn at(&self, at: Gpa, len: usize) -> Result<&[AtomicU64], GuestMemoryError> {
        let offset = at.0.checked_sub(GUEST).ok_or(GuestMemoryError(at))?;
        let first = offset as usize / 8;
        self.0
            .get(first..first + len / 8)
            .ok_or(GuestMemoryError(at))
    }

    pub fn store(&self, at: u64, words: &[u64]) {
        let there = self.at(Gpa(at), words.len() * 8).expect("its own");
        for (there, word) in there.iter().zip(words) {
            there.store(*word, Relaxed);
        }
    }
}

impl GuestMemory for Words {
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let words = self.at(at, bytes.len())?;
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Relaxed).to_le_bytes());
        }
        Ok(())
    }
    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let words = self.at(at, bytes.len())?;
        let (bytes, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(GuestMemoryError(at));
        }
        for (word, bytes) in words.iter().zip(bytes) {
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
        Ok(())
    }
}

pub struct Guest {
    pub memory: Words,
    pub smmu: VirtSmmu<Machine, ObjectSlice>,
    pub prod: u64,
}

impl Guest {
    /// With [`STREAMS`] devices from `first` on, and an SMMU that does `budget` invalidations a call.
    pub fn new(context: &Context, machine: &Whole, first: u32, budget: u32) -> Self {
        let (driver, platform) = (&machine.driver, Arc::clone(&machine.platform));
        let ioas = context.ioas().expect("memory");
        let access = Access::READ | Access::WRITE;
        ioas.map(Iova(GUEST), Arc::new(Ram), 0, BYTES, access)
            .expect("mapped");
        let parent = ioas.nest_parent(driver).expect("a parent");
        let mut slice = ObjectSlice::new(context, &parent, driver, 64, 0).expect("a slice");
        let mut devices = Vec::new();
        for stream in 0..STREAMS {
            let info = DeviceInfo {
                driver: Arc::clone(driver),
                streams: &[DeviceId(first + stream)],
                group: first + stream,
                pasid_bits: 0,
                ats: false,
                reserved: &[],
                coherent: true,
                isolated_messages: true,
                shares_page_requests: false,
            };
            let device = Arc::new(context.bind(&info).expect("bound"));
            slice.add(device, stream).expect("named");
            devices.push(Behind {
                stream: VirtDeviceId(stream),
                ats: false,
            });
        }
        let setup = Setup {
            hardware: HARDWARE,
            offer: Offer {
                address_bits: 40,
                ..Offer::default()
            },
            messages: false,
            wake: false,
            stream_bits: 8,
            command_queue_log2: LOG2 as u8,
            event_queue_log2: 7,
            request_queue_log2: 0,
            budget,
            waiting: 0,
            patience_ns: 0,
            contexts: None,
        };
        let mut words = Vec::new();
        words.resize_with(BYTES as usize / 8, AtomicU64::default);
        let smmu = VirtSmmu::new(platform, setup, slice, &devices).expect("it fits");
        let mut guest = Self {
            memory: Words(words),
            smmu,
            prod: 0,
        };
        guest.smmu.start(&guest.memory);
        for (offset, value) in [(0x80, TABLE), (0x90, COMMANDS | LOG2)] {
            guest.smmu.write(&guest.memory, offset, 8, value);
        }
        guest.smmu.write(&guest.memory, 0x88, 4, 8);
        guest.smmu.write(&guest.memory, 0x20, 4, 0b1001);
        guest.settle();
        guest
    }

    pub fn settle(&mut self) {
        while self.smmu.has_work() {
            self.smmu.run(&self.memory);
        }
    }

    pub fn post(&mut self, commands: impl Iterator<Item = [u64; 2]>) {
        for command in commands {
            let slot = self.prod & ((1 << LOG2) - 1);
            self.memory.store(COMMANDS + slot * 16, &command);
            self.prod = (self.prod + 1) & ((2 << LOG2) - 1);
        }
    }

    pub fn ring(&mut self) -> Effect {
        let effect = self.smmu.write(&self.memory, 0x98, 4, self.prod);
        assert_eq!(effect.failed, None);
        effect
    }
}

/// An SMMU, and what drives it.
pub struct Whole {
    pub hardware: Arc<Hardware>,
    pub platform: Arc<Machine>,
    driver: Arc<dyn Driver>,
}

impl Whole {
    pub fn new() -> Self {
        let hardware = Arc::new(Hardware::new());
        let platform = Arc::new(Machine {
            free: AtomicU64::new(0x1_0000_0000),
            waits: OnceLock::new(),
        });
        let registers = Registers(Arc::clone(&hardware));
        let smmu = Smmu::start(IommuIndex(0), registers, Arc::clone(&platform));
        let smmu = smmu.expect("it starts");
        let unit = Unit::new(IommuIndex(0), smmu, Arc::clone(&platform), 39);
        Self {
            hardware,
            platform,
            driver: Arc::new(unit),
        }
    }
}

/// A guest on an SMMU of its own.
pub fn guest(context: &Context) -> Guest {
    Guest::new(context, &Whole::new(), 0x100, 64)
}
