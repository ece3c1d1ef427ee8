//! A small SMMUv3 for driver tests: a register file, memory behind a store buffer that only `write_barrier` empties, and
//! a command queue that is served when PROD is written. It reads memory as a device does: without the store buffer.
//! Numbers are the document's (IHI 0070) and written here a second time; nothing is taken from the driver's `spec`.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use iommu::addr::Hpa;
use iommu::hal::{DmaBuffer, Mmio, Platform};

pub const GBPA: usize = 0x44;
pub const CR0: usize = 0x20;
pub const CR0ACK: usize = 0x24;
pub const GERROR: usize = 0x60;
pub const GERRORN: usize = 0x64;
pub const CMDQ_PROD: usize = 0x98;
pub const CMDQ_CONS: usize = 0x9c;
pub const EVENTQ_PROD: usize = 0x100a8;
pub const EVENTQ_CONS: usize = 0x100ac;

/// One thing the driver did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Read(usize),
    Write(usize, u64),
    Allocate(usize),
    Store(u64, u64),
    Barrier,
    Clean(u64, usize),
}

#[derive(Default)]
pub struct State {
    pub registers: BTreeMap<usize, u64>,
    pub memory: BTreeMap<u64, u64>,
    buffered: Vec<(u64, u64)>,
    pub acts: Vec<Act>,
    pub commands: Vec<[u64; 2]>,
    /// Entries as the SMMU has cached them, by StreamID.
    pub cached: BTreeMap<u32, [u64; 8]>,
    next: u64,
    pub budget: Option<usize>,
    pub freed: Vec<u64>,
    pub now: u64,
    /// Every register reads as all ones.
    pub gone: bool,
    /// Registers that are never acknowledged.
    pub deaf: bool,
    /// The command queue does not move.
    pub stuck: bool,
    /// GBPA.UPDATE stays set for this many reads.
    pub slow_updates: usize,
    /// An opcode that is refused.
    pub illegal: Option<u64>,
    /// A stream that sends a transaction whenever memory changes, and what each met.
    pub watched: Option<u32>,
    pub seen: Vec<Option<[u64; 8]>>,
    /// So many more commands are consumed, then the next is refused with this code, once.
    pub refuse: Option<(usize, u64)>,
    /// So many more commands are consumed, then the queue does not move.
    pub credits: Option<usize>,
    /// The queue's memory cannot be read.
    pub unreadable: bool,
}

impl State {
    fn register(&self, offset: usize) -> u64 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    fn word(&self, at: u64) -> u64 {
        self.memory.get(&at).copied().unwrap_or(0)
    }

    fn flush(&mut self) {
        for (at, value) in std::mem::take(&mut self.buffered) {
            self.memory.insert(at, value);
            if let Some(stream) = self.watched {
                // With a cold cache: whatever is there counts.
                self.cached.remove(&stream);
                let met = self.transaction(stream);
                self.seen.push(met);
            }
        }
    }

    /// The entry of a stream as the SMMU finds it in memory: `Err` for C_BAD_STREAMID.
    pub fn entry(&self, stream: u32) -> Result<[u64; 8], ()> {
        let base = self.register(0x80) & 0x000f_ffff_ffff_ffc0;
        let config = self.register(0x88);
        if u64::from(stream) >> (config & 0x3f) != 0 {
            return Err(());
        }
        let at = if config >> 16 & 3 == 1 {
            let split = config >> 6 & 0x1f;
            let first = self.word(base + (u64::from(stream) >> split) * 8);
            let within = u64::from(stream) & ((1 << split) - 1);
            let span = first & 0x1f;
            if span == 0 || within >= 1 << (span - 1) {
                return Err(());
            }
            (first & 0x000f_ffff_ffff_ffc0) + within * 64
        } else {
            base + u64::from(stream) * 64
        };
        Ok(std::array::from_fn(|word| self.word(at + word as u64 * 8)))
    }

    /// What a transaction of `stream` meets: `None` is refused, else the entry it is translated by.
    pub fn transaction(&mut self, stream: u32) -> Option<[u64; 8]> {
        if self.register(CR0) & 1 == 0 {
            let bypass = self.register(GBPA) >> 20 & 1 == 0;
            assert!(!bypass, "a transaction passed the SMMU");
            return None;
        }
        let entry = match self.cached.get(&stream) {
            Some(entry) => *entry,
            None => {
                let entry = self.entry(stream).ok()?;
                if entry[0] & 1 != 0 {
                    self.cached.insert(stream, entry);
                }
                entry
            }
        };
        (entry[0] & 1 != 0 && entry[0] >> 1 & 7 != 0).then_some(entry)
    }

    fn serve(&mut self) {
        if self.register(CR0) & 8 == 0 || self.stuck {
            return;
        }
        let base = self.register(0x90);
        let log2 = base & 0x1f;
        let base = base & 0x000f_ffff_ffff_ffe0;
        let wrap = (2u64 << log2) - 1;
        while (self.register(GERROR) ^ self.register(GERRORN)) & 1 == 0 {
            let cons = self.register(CMDQ_CONS) & wrap;
            if cons == self.register(CMDQ_PROD) & wrap {
                return;
            }
            let at = base + (cons & (wrap >> 1)) * 16;
            let command = [self.word(at), self.word(at + 8)];
            let opcode = command[0] & 0xff;
            match &mut self.credits {
                Some(0) => return,
                Some(left) => *left -= 1,
                None => {}
            }
            let refused = match &mut self.refuse {
                Some((0, code)) => Some(*code),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            };
            if refused.is_some() {
                self.refuse = None;
            }
            let error = match opcode {
                _ if refused.is_some() => refused.unwrap_or(0),
                _ if self.unreadable => 2,
                _ if self.illegal == Some(opcode) => 1,
                0x44 | 0x45 if self.register(0) >> 24 & 3 != 1 => 0,
                0x41 if self.register(0) >> 16 & 1 != 0 => 0,
                0x03..=0x06 | 0x10..=0x13 | 0x20..=0x23 | 0x28 | 0x2a | 0x30 | 0x46 => 0,
                0x40 if self.register(0) >> 10 & 1 != 0 => 0,
                _ => 1,
            };
            if error != 0 || refused.is_some() {
                self.registers.insert(CMDQ_CONS, cons | error << 24);
                let toggled = self.register(GERROR) ^ 1;
                self.registers.insert(GERROR, toggled);
                return;
            }
            match opcode {
                0x03 => {
                    self.cached.remove(&((command[0] >> 32) as u32));
                }
                0x04 => self.cached.clear(),
                _ => {}
            }
            self.commands.push(command);
            self.registers.insert(CMDQ_CONS, (cons + 1) & wrap);
        }
    }

    fn write(&mut self, offset: usize, value: u64) {
        self.acts.push(Act::Write(offset, value));
        match offset {
            GBPA => {
                if self.register(GBPA) >> 31 == 0 {
                    self.registers.insert(GBPA, value);
                }
                return;
            }
            _ => self.registers.insert(offset, value),
        };
        match offset {
            CR0 if !self.deaf => {
                self.registers.insert(CR0ACK, value);
            }
            0x50 if !self.deaf => {
                self.registers.insert(0x54, value);
            }
            _ => {}
        }
        if matches!(offset, CMDQ_PROD | CR0 | GERRORN) {
            self.serve();
        }
    }

    fn read(&mut self, offset: usize) -> u64 {
        self.acts.push(Act::Read(offset));
        self.now += 1_000;
        if self.gone {
            return u64::MAX;
        }
        if offset == GBPA {
            let value = self.register(GBPA);
            if self.slow_updates > 0 {
                self.slow_updates -= 1;
            } else {
                self.registers.insert(GBPA, value & !(1 << 31));
            }
            return if self.slow_updates > 0 {
                value
            } else {
                self.register(GBPA)
            };
        }
        self.register(offset)
    }

    /// Writes one record, or loses it where the queue is full: by the document's handshake, or QEMU's way.
    pub fn event(&mut self, record: [u64; 4], as_qemu: bool) {
        let base = self.register(0xa0);
        let log2 = base & 0x1f;
        let base = base & 0x000f_ffff_ffff_ffe0;
        let wrap = (2u64 << log2) - 1;
        let (prod, cons) = (self.register(EVENTQ_PROD), self.register(EVENTQ_CONS));
        if (prod ^ cons) & wrap == 1 << log2 {
            if as_qemu {
                let toggled = self.register(GERROR) ^ 4;
                self.registers.insert(GERROR, toggled);
            } else if (prod ^ cons) >> 31 == 0 {
                self.registers.insert(EVENTQ_PROD, prod ^ 1 << 31);
            }
            return;
        }
        for (index, word) in record.iter().enumerate() {
            let at = base + (prod & (wrap >> 1)) * 32 + index as u64 * 8;
            self.memory.insert(at, *word);
        }
        let next = ((prod & wrap) + 1) & wrap | prod & 1 << 31;
        self.registers.insert(EVENTQ_PROD, next);
    }
}

/// The machine: registers, memory and clock at once.
#[derive(Clone)]
pub struct Fake(Arc<Mutex<State>>);

impl Fake {
    /// An SMMU with QEMU's ID registers (nested, as reset).
    pub fn new() -> Self {
        let mut state = State::default();
        for (offset, value) in [
            (0x0, 0x0d44_101b),
            (0x4, 0x0273_0010),
            (0xc, 0x1414),
            (0x14, 0x74),
        ] {
            state.registers.insert(offset, value);
        }
        state.registers.insert(GBPA, 0x1000);
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn with(offset: usize, value: u64) -> Self {
        let fake = Self::new();
        fake.state().registers.insert(offset, value);
        fake
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }

    pub fn acts(&self) -> Vec<Act> {
        std::mem::take(&mut self.state().acts)
    }

    pub fn commands(&self) -> Vec<[u64; 2]> {
        std::mem::take(&mut self.state().commands)
    }
}

impl Mmio for Fake {
    fn read32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 0x20000);
        self.state().read(offset) as u32
    }
    fn write32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < 0x20000);
        self.state().write(offset, value.into());
    }
    fn read64(&self, offset: usize) -> u64 {
        panic!("no register is read with 64 bits: {offset:#x}");
    }
    fn write64(&self, offset: usize, value: u64) {
        assert!(
            matches!(offset, 0x68 | 0x80 | 0x90 | 0xa0 | 0xb0 | 0xc0 | 0xd0),
            "not a base register: {offset:#x}"
        );
        self.state().write(offset, value);
    }
}

pub struct FakeBuffer {
    fake: Fake,
    base: u64,
    len: usize,
}

impl Platform for Fake {
    type Buffer = FakeBuffer;
    fn allocate(&self, len: usize) -> Option<FakeBuffer> {
        assert!(len.is_power_of_two() && len >= 4096);
        let mut state = self.state();
        match &mut state.budget {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        state.acts.push(Act::Allocate(len));
        let base = (0x8_0000_0000 + state.next).next_multiple_of(len as u64);
        state.next = base + len as u64 - 0x8_0000_0000;
        Some(FakeBuffer {
            fake: self.clone(),
            base,
            len,
        })
    }
    fn write_barrier(&self) {
        let mut state = self.state();
        state.acts.push(Act::Barrier);
        state.flush();
    }
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        let mut state = self.state();
        state.now += 1_000;
        state.now
    }
}

impl DmaBuffer for FakeBuffer {
    fn hpa(&self) -> Hpa {
        Hpa(self.base)
    }
    fn len(&self) -> usize {
        self.len
    }
    fn read64(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8) && offset < self.len);
        let state = self.fake.state();
        let at = self.base + offset as u64;
        let newest = state.buffered.iter().rev().find(|(to, _)| *to == at);
        newest.map_or_else(|| state.word(at), |(_, value)| *value)
    }
    fn write64(&mut self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8) && offset < self.len);
        let mut state = self.fake.state();
        let at = self.base + offset as u64;
        state.acts.push(Act::Store(at, value));
        state.buffered.push((at, value));
    }
    fn clean(&self, offset: usize, len: usize) {
        let at = self.base + offset as u64;
        self.fake.state().acts.push(Act::Clean(at, len));
    }
}

impl Drop for FakeBuffer {
    fn drop(&mut self) {
        let base = self.base;
        self.fake.state().freed.push(base);
    }
}
