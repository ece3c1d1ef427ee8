//! A model SMMU programmed by words written by hand, without a driver.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use iommu::hal::{DmaBuffer, Mmio, Platform};
use iommu::model::memory::{Buffer, Memory};
use iommu::model::smmu::{Config, Denied, Initiator, SmmuModel};

pub const PAGE: u64 = 4096;
pub const RAM: u64 = 0x2000_0000;
/// What a block of 1 GiB can map; nothing is there.
pub const BLOCK: u64 = 0x4000_0000;
pub const ALL: [u64; 2] = [0x04, 31];
pub const NSNH: [u64; 2] = [0x30, 0];
pub const SYNC: [u64; 2] = [0x46, 0];

/// An SMMU with a linear table of 256 streams and queues, programmed register by register.
pub struct Bare {
    pub memory: Memory,
    pub smmu: SmmuModel,
    pub streams: u64,
    pub commands: u64,
    pub events: u64,
    pub requests: u64,
    pub prod: u32,
    pub next: u64,
    _buffers: Vec<Buffer>,
}

impl Bare {
    pub fn new(config: Config) -> Self {
        let config = Config {
            stream_bits: 8,
            ..config
        };
        let memory = Memory::coherent();
        memory.add_ram(RAM, 0x100_0000);
        let smmu = SmmuModel::new(config, &memory);
        let buffers: Vec<Buffer> = [1 << 14, 4096, 4096, 4096]
            .iter()
            .map(|len| memory.allocate(*len).expect("memory"))
            .collect();
        let [streams, commands, events, requests] = [0, 1, 2, 3].map(|at| buffers[at].hpa().0);
        smmu.write64(0x80, streams);
        smmu.write32(0x88, 8);
        smmu.write64(0x90, commands | 6);
        smmu.write64(0xa0, events | 4);
        smmu.write32(0x2c, 2);
        let mut enable = 0xd;
        if config.pri {
            smmu.write64(0xc0, requests | 2);
            enable |= 2;
        }
        if config.ats {
            enable |= 0x10;
        }
        let bare = Self {
            memory,
            smmu,
            streams,
            commands,
            events,
            requests,
            prod: 0,
            next: RAM + 0x80_0000,
            _buffers: buffers,
        };
        bare.control(enable);
        bare
    }

    pub fn control(&self, value: u32) {
        self.smmu.write32(0x20, value);
        for _ in 0..10 {
            if self.smmu.read32(0x24) == value {
                return;
            }
        }
        panic!("CR0 = {value:#x} is not acknowledged");
    }

    pub fn store(&self, at: u64, value: u64) {
        self.memory.store(at, value);
        self.memory.write_barrier();
    }

    pub fn send(&mut self, commands: &[[u64; 2]]) {
        for command in commands {
            let at = self.commands + u64::from(self.prod & 63) * 16;
            self.memory.store(at, command[0]);
            self.memory.store(at + 8, command[1]);
            self.prod = (self.prod + 1) & 127;
        }
        self.memory.write_barrier();
        self.smmu.write32(0x98, self.prod);
    }

    /// What the queue said to the last command; its place is taken by a CMD_SYNC.
    pub fn error(&mut self) -> Option<u32> {
        if (self.smmu.read32(0x60) ^ self.smmu.read32(0x64)) & 1 == 0 {
            return None;
        }
        let cons = self.smmu.read32(0x9c);
        let at = self.commands + u64::from(cons & 63) * 16;
        self.store(at, SYNC[0]);
        self.smmu.write32(0x64, self.smmu.read32(0x60));
        assert_eq!(self.smmu.read32(0x9c) & 127, self.prod);
        Some(cons >> 24)
    }

    pub fn entry(&mut self, stream: u32, words: &[u64]) {
        let at = self.streams + u64::from(stream) * 64;
        self.store(at, 0);
        self.send(&[[u64::from(stream) << 32 | 3, 1], SYNC]);
        for (index, word) in words.iter().enumerate().skip(1) {
            self.store(at + index as u64 * 8, *word);
        }
        self.send(&[[u64::from(stream) << 32 | 3, 1], SYNC]);
        self.store(at, words[0]);
        self.send(&[[u64::from(stream) << 32 | 3, 1], SYNC]);
    }

    pub fn events(&self) -> Vec<[u64; 4]> {
        let (prod, cons) = (self.smmu.read32(0x100a8), self.smmu.read32(0x100ac));
        let mut at = cons & 31;
        let mut all = Vec::new();
        while at != prod & 31 {
            let base = self.events + u64::from(at & 15) * 32;
            all.push([0, 8, 16, 24].map(|offset| self.memory.load(base + offset)));
            at = (at + 1) & 31;
        }
        self.smmu.write32(0x100ac, prod);
        all
    }

    pub fn page(&mut self) -> u64 {
        self.next += 0x1_0000;
        self.next
    }

    pub fn at(&self, from: impl Into<Initiator>, iova: u64) -> Result<u64, Denied> {
        self.smmu.translate(from, iova, false)
    }
}

pub fn fault(number: u8, stage_two: bool) -> Denied {
    Denied::Fault { number, stage_two }
}

pub fn panic_of(act: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(act)).expect_err("it panics");
    payload
        .downcast::<String>()
        .map_or_else(|_| "no words".into(), |text| *text)
}

/// Stage 2 of an STE (§5.2): S2T0SZ, S2SL0, S2TG, S2PS = 44 bits, AA64, R.
pub fn two(t0sz: u64, sl0: u64, tg: u64, vmid: u64) -> u64 {
    vmid | t0sz << 32 | sl0 << 38 | tg << 46 | 4 << 48 | 1 << 51 | 1 << 58
}

/// A stage 2 page or block: AF, S2AP = read and write.
pub const S2: u64 = 1 << 10 | 3 << 6;
