//! The SMMUv3 of a guest (IHI 0070): its queues, one stream's tables, and commands.

use crate::pci::register;
use crate::runtime::page;
use crate::tree::Tree;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use safe_mmio::{UniqueMmioPointer, fields::ReadPureWrite};

// Registers (6.3).
const IDR1: u64 = 0x04;
const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const IRQ_CTRL: u64 = 0x50;
const GERROR: u64 = 0x60;
const GERRORN: u64 = 0x64;
const STRTAB_BASE: u64 = 0x80;
const STRTAB_BASE_CFG: u64 = 0x88;
const CMDQ_BASE: u64 = 0x90;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_BASE: u64 = 0xa0;
const EVENTQ_PROD: u64 = 0x1_00a8;
const EVENTQ_CONS: u64 = 0x1_00ac;
const SMMUEN: u32 = 1;
const EVENTQEN: u32 = 1 << 2;
const CMDQEN: u32 = 1 << 3;
/// Turns to wait for something that is done in a few.
const TURNS: u64 = 100_000_000;

/// CMD_SYNC without a signal (4.7.3).
pub const SYNC: [u64; 2] = [0x46, 0];
/// CMD_CFGI_ALL (4.3.6).
pub const CFGI_ALL: [u64; 2] = [0x04, 31];

/// CMD_TLBI_NH_VA of a leaf of ASID 1 (4.4.2).
pub fn tlbi(address: u64) -> [u64; 2] {
    [0x12 | 1 << 48, address & !0xfff | 1]
}

/// CMD_CFGI_STE (4.3.1).
pub fn cfgi_ste(stream: u32) -> [u64; 2] {
    [0x03 | u64::from(stream) << 32, 1]
}

/// CMD_CFGI_CD of substream 0 (4.3.3).
pub fn cfgi_cd(stream: u32) -> [u64; 2] {
    [0x05 | u64::from(stream) << 32, 1]
}

/// Where a guest has its queues and tables: a MiB of its RAM, and the command queue, as large as it likes.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The event queue, the stream table, a context and the tables of a stage 1, a page or two each.
    pub tables: u64,
    /// The command queue.
    pub commands: u64,
}

/// The SMMU, with a command queue of 2^`log2` entries.
pub struct Smmu {
    registers: u64,
    places: Places,
    log2: u32,
    prod: u32,
}

/// Bytes from [`Places::tables`] to each.
const STREAMS: u64 = 0x1_0000;
const CONTEXT: u64 = 0x2_0000;
const STAGE_ONE: u64 = 0x3_0000;
/// log2 of the streams in the table and of the events in the queue.
const LOG2_STREAMS: u32 = 8;
const LOG2_EVENTS: u32 = 5;

impl Smmu {
    /// The first one that the tree has.
    pub fn find(tree: &Tree<'_>, places: Places) -> Option<Self> {
        Some(Self {
            registers: tree.smmu?.base,
            places,
            log2: 0,
            prod: 0,
        })
    }

    /// Address of CMDQ_PROD, the doorbell.
    pub fn doorbell(&self) -> u64 {
        self.registers + CMDQ_PROD
    }

    /// Address of CMDQ_CONS.
    pub fn consumer(&self) -> u64 {
        self.registers + CMDQ_CONS
    }

    /// log2 of the largest command queue (IDR1.CMDQS).
    pub fn largest(&self) -> u32 {
        register(self.registers + IDR1).read() >> 21 & 0x1f
    }

    /// Turns it on with a command queue of 2^`log2` entries, and translation. Whether it followed.
    pub fn start(&mut self, log2: u32) -> bool {
        let Places { tables, commands } = self.places;
        self.log2 = log2;
        self.prod = 0;
        self.write(CR0, 0);
        let mut followed = self.wait(CR0ACK, 0);
        self.write(GERRORN, self.read(GERROR));
        self.write64(CMDQ_BASE, commands | u64::from(log2));
        self.write(CMDQ_PROD, 0);
        self.write(CMDQ_CONS, 0);
        self.write64(EVENTQ_BASE, tables | u64::from(LOG2_EVENTS));
        self.write(EVENTQ_PROD, 0);
        self.write(EVENTQ_CONS, 0);
        self.write(IRQ_CTRL, 0b101);
        self.write64(STRTAB_BASE, tables + STREAMS);
        self.write(STRTAB_BASE_CFG, LOG2_STREAMS);
        self.write(CR0, CMDQEN | EVENTQEN | SMMUEN);
        followed &= self.wait(CR0ACK, CMDQEN | EVENTQEN | SMMUEN);
        followed
    }

    /// Puts a context and a stage 1 with nothing in it behind a stream: 39 bits, 4 KiB granules, ASID 1 (5.2, 5.4).
    pub fn translate(&self, stream: u32) {
        let context = page(self.places.tables + CONTEXT);
        let words = [
            25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 48,
            self.places.tables + STAGE_ONE,
            0,
            0xff,
        ];
        for (there, word) in context.iter().zip(words) {
            there.store(word, Ordering::Relaxed);
        }
        let entry = self.entry(stream);
        entry[1].store(0xd4, Ordering::Relaxed);
        let valid = 0b1011 | (self.places.tables + CONTEXT);
        entry[0].store(valid, Ordering::Release);
    }

    /// The entry of a stream.
    pub fn entry(&self, stream: u32) -> &'static [AtomicU64] {
        let at = u64::from(stream) * 64;
        let table = page((self.places.tables + STREAMS + at) & !0xfff);
        &table[(at as usize & 0xfff) / 8..][..8]
    }

    /// Maps 4 KiB of a device's addresses, as the first of three levels leads to: a store to a table of its own.
    pub fn map(&self, index: usize, to: u64) {
        let leaf = 0b11 | 1 << 6 | 3 << 8 | 1 << 10 | to;
        page(self.places.tables + STAGE_ONE + 0x2000)[index].store(leaf, Ordering::Release);
    }

    /// Puts a command behind the others, without a word.
    pub fn post(&mut self, command: [u64; 2]) {
        let at = u64::from(self.prod & ((1 << self.log2) - 1)) * 16;
        let there = page((self.places.commands + at) & !0xfff);
        for (offset, word) in command.into_iter().enumerate() {
            there[(at as usize & 0xfff) / 8 + offset].store(word, Ordering::Relaxed);
        }
        self.prod = self.prod.wrapping_add(1) & ((2 << self.log2) - 1);
    }

    /// What the doorbell is to be rung with.
    pub fn prod(&self) -> u32 {
        self.prod
    }

    /// Rings the doorbell.
    pub fn ring(&self) {
        // SAFETY: a barrier; what was posted is there before the doorbell.
        unsafe { core::arch::asm!("dsb ishst") };
        self.write(CMDQ_PROD, self.prod);
    }

    /// Whether everything posted is complete, and nothing was wrong.
    pub fn settled(&self) -> bool {
        self.wait(CMDQ_CONS, self.prod) && self.read(GERROR) == self.read(GERRORN)
    }

    /// Whether the queue stops at the last command that was posted, with this code (7.1).
    pub fn stopped_at(&self, code: u32) -> bool {
        let last = self.prod.wrapping_sub(1) & ((2 << self.log2) - 1);
        let stopped = self.wait(CMDQ_CONS, last | code << 24);
        stopped && (self.read(GERROR) ^ self.read(GERRORN)) & 1 != 0
    }

    fn wait(&self, offset: u64, wanted: u32) -> bool {
        (0..TURNS).any(|_| self.read(offset) == wanted)
    }

    /// Reads a register.
    pub fn read(&self, offset: u64) -> u32 {
        register(self.registers + offset).read()
    }

    fn write(&self, offset: u64, value: u32) {
        register(self.registers + offset).write(value);
    }

    fn write64(&self, offset: u64, value: u64) {
        let pointer = (self.registers + offset) as *mut ReadPureWrite<u64>;
        let pointer = NonNull::new(pointer).expect("not at address 0");
        // SAFETY: as in `pci::register`; these registers are 8 bytes wide and aligned.
        let mut register = unsafe { UniqueMmioPointer::new(pointer) };
        register.write(value);
    }
}
