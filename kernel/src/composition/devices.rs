//! Devices that keep what is asked of them: GIC registers, an ITS, an SMMU, configuration space.

use crate::pci::fake::FakeBus;
use crate::pci::{Bdf, ConfigSpace, Function};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::host::mmio::{Device, Memory};
use arch::memory::FramePool;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Registers that keep what is written, and a list of the writes.
pub struct Logged {
    pub memory: Memory,
    /// Offset and value.
    pub writes: Mutex<Vec<(u64, u64)>>,
}

impl Logged {
    pub fn new(len: u64, words: &[(u64, u64)]) -> Arc<Self> {
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
    /// Its tables are in `frames`.
    pub fn new(frames: &'static FramePool) -> Arc<Self> {
        Arc::new(Self {
            frames,
            registers: Mutex::default(),
            events: Mutex::default(),
            mapped: AtomicUsize::new(0),
            named: Mutex::default(),
        })
    }

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

impl FakeSmmu {
    /// Its tables and queues are in `frames`.
    pub fn new(frames: &'static FramePool, stalls: bool) -> Arc<Self> {
        Arc::new(Self {
            frames,
            registers: Mutex::default(),
            streams: Mutex::default(),
            answers: Mutex::default(),
            stalls,
        })
    }

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

impl Device for FakeSmmu {
    fn read(&self, offset: u64, _size: usize) -> u64 {
        let registers = self.registers.lock().unwrap();
        let of = |offset| registers.get(&offset).copied().unwrap_or(0);
        match offset {
            // With ATS.
            0x00 if self.stalls => 0x0c44_141b,
            0x00 => 0x0d44_141b,
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
