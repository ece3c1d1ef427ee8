//! The guest's own SMMUv3 (IHI 0070), driven without interrupts: one stream, one context, a first stage of any granule.

use crate::pci::register;
use crate::runtime::{now_ns, words};
use crate::tree::Tree;
use core::sync::atomic::{AtomicU64, Ordering};

// Registers (6.2); those of the event queue are in page 1.
const IDR5: u64 = 0x14;
const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const CR1: u64 = 0x28;
const IRQ_CTRL: u64 = 0x50;
const IRQ_CTRLACK: u64 = 0x54;
const STRTAB_BASE: u64 = 0x80;
const STRTAB_BASE_CFG: u64 = 0x88;
const CMDQ_BASE: u64 = 0x90;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_BASE: u64 = 0xa0;
const EVENTQ_PROD: u64 = 0x1_00a8;
const EVENTQ_CONS: u64 = 0x1_00ac;
/// CR0: SMMUEN, EVENTQEN, CMDQEN.
const SMMUEN: u32 = 1;
const EVENTQEN: u32 = 1 << 2;
const CMDQEN: u32 = 1 << 3;
/// IRQ_CTRL.
const EVENTQ_IRQEN: u32 = 1 << 2;
/// CR1: tables and queues are inner and outer write-back, inner shareable.
const CACHED: u32 = 0xd75;

/// EVENTQ_PROD.OVFLG, EVENTQ_CONS.OVACKFLG.
const OVERFLOW: u32 = 1 << 31;

// Commands (4.1.1).
const CFGI_STE_RANGE: u64 = 0x04;
const TLBI_NH_VA: u64 = 0x12;
const TLBI_NSNH_ALL: u64 = 0x30;
const SYNC: u64 = 0x46;

/// log2 of the entries of both queues and of the stream table.
const LOG2: u32 = 8;
const ENTRIES: u64 = 1 << LOG2;
/// Bits of an input address: T0SZ is 64 less that.
pub const INPUT_BITS: u32 = 39;
const ASID: u64 = 5;
const DEADLINE_NS: u64 = 5_000_000_000;

/// Each of them in 64 KiB of its own: the largest alignment there is.
const PART: u64 = 0x1_0000;
const STREAMS: u64 = 0x4100_0000;
const COMMANDS: u64 = STREAMS + PART;
const EVENTS: u64 = COMMANDS + PART;
const CONTEXT: u64 = EVENTS + PART;
/// One table a level, the last one first.
const TABLES: u64 = CONTEXT + PART;

/// The size of first-stage pages and tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granule {
    /// 4 KiB.
    Four,
    /// 16 KiB.
    Sixteen,
    /// 64 KiB.
    SixtyFour,
}

impl Granule {
    /// log2 of it in bytes.
    pub fn shift(self) -> u32 {
        match self {
            Self::Four => 12,
            Self::Sixteen => 14,
            Self::SixtyFour => 16,
        }
    }

    /// CD.TG0 (5.4); IDR5's bit.
    fn code(self) -> (u64, u32) {
        match self {
            Self::Four => (0, 1 << 4),
            Self::Sixteen => (2, 1 << 5),
            Self::SixtyFour => (1, 1 << 6),
        }
    }

    /// log2 of the entries of a whole table.
    fn bits(self) -> u32 {
        self.shift() - 3
    }
}

/// An event record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its number (7.3).
    pub kind: u8,
    /// Whose.
    pub stream: u32,
    /// Where.
    pub address: u64,
}

/// The SMMU in front of one stream.
pub struct Smmu {
    registers: u64,
    stream: u32,
    granule: Granule,
    produced: u32,
    taken: u32,
    /// EVENTQ_CONS.OVACKFLG.
    acknowledged: u32,
}

impl Smmu {
    /// Whether the guest's SMMU, if it has one, has `granule`.
    pub fn offers(tree: &Tree<'_>, granule: Granule) -> bool {
        let offered = |registers| register(registers + IDR5).read() & granule.code().1 != 0;
        tree.smmu.is_some_and(|smmu| offered(smmu.base))
    }

    /// Starts the guest's SMMU anew: the DMA of `stream` goes through an empty first stage of `granule`; there is no other
    /// stream. `None` where it does not do as it is told.
    pub fn start(tree: &Tree<'_>, stream: u32, granule: Granule) -> Option<Self> {
        let registers = tree.smmu?.base;
        let mut smmu = Self {
            registers,
            stream,
            granule,
            produced: 0,
            taken: 0,
            acknowledged: 0,
        };
        smmu.control(0)?;
        for at in [
            STREAMS,
            COMMANDS,
            EVENTS,
            CONTEXT,
            TABLES,
            TABLES + PART,
            TABLES + 2 * PART,
        ] {
            words(at, PART as usize / 8)
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
        smmu.describe();
        smmu.write(CR1, CACHED);
        smmu.write64(STRTAB_BASE, STREAMS);
        smmu.write(STRTAB_BASE_CFG, LOG2);
        smmu.write64(CMDQ_BASE, COMMANDS | u64::from(LOG2));
        smmu.write(CMDQ_PROD, 0);
        smmu.write(CMDQ_CONS, 0);
        smmu.control(CMDQEN)?;
        smmu.command([CFGI_STE_RANGE, 31])?;
        smmu.command([TLBI_NSNH_ALL, 0])?;
        smmu.write64(EVENTQ_BASE, EVENTS | u64::from(LOG2));
        smmu.write(EVENTQ_PROD, 0);
        smmu.write(EVENTQ_CONS, 0);
        smmu.control(CMDQEN | EVENTQEN)?;
        smmu.control(CMDQEN | EVENTQEN | SMMUEN)?;
        Some(smmu)
    }

    /// Turns it off.
    pub fn stop(self) -> bool {
        self.control(0).is_some()
    }

    /// The stream's entry (5.2): stage 1 with one context, cached and inner shareable; and its context (5.4).
    fn describe(&self) {
        let entry = &words(STREAMS, PART as usize / 8)[self.stream as usize * 8..][..8];
        entry[1].store(1 << 44 | 3 << 6 | 1 << 4 | 1 << 2, Ordering::Relaxed);
        entry[0].store(CONTEXT | 0b101 << 1 | 1, Ordering::Relaxed);
        let context = words(CONTEXT, 8);
        let attributes = 3 << 12 | 1 << 10 | 1 << 8;
        // V, AA64, R, A; no second half; outputs of 40 bits.
        let valid = 1 << 31 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 30 | 2 << 32;
        let granule = self.granule.code().0 << 6;
        let first = ASID << 48 | valid | attributes | granule | u64::from(64 - INPUT_BITS);
        context[1].store(self.table(self.first_level()), Ordering::Relaxed);
        context[3].store(0xff, Ordering::Relaxed);
        context[0].store(first, Ordering::Relaxed);
    }

    /// The lowest level at which one table is enough.
    fn first_level(&self) -> u32 {
        let reach = |level| self.index_shift(level) + self.granule.bits();
        (0..3)
            .rev()
            .find(|level| reach(*level) >= INPUT_BITS)
            .unwrap_or(0)
    }

    /// log2 of what an entry of `level` stands for.
    fn index_shift(&self, level: u32) -> u32 {
        self.granule.shift() + self.granule.bits() * (3 - level)
    }

    fn table(&self, level: u32) -> u64 {
        TABLES + u64::from(3 - level) * PART
    }

    fn entry(&self, level: u32, iova: u64) -> &'static AtomicU64 {
        let index = iova >> self.index_shift(level) & ((1 << self.granule.bits()) - 1);
        &words(self.table(level), PART as usize / 8)[index as usize]
    }

    /// Maps the page at `iova` to `page`, for reads and writes. There is one table a level: pages that share none of the
    /// upper indices cannot be mapped at once.
    pub fn map(&self, iova: u64, page: u64) {
        for level in self.first_level()..3 {
            self.entry(level, iova)
                .store(self.table(level + 1) | 3, Ordering::Relaxed);
        }
        // Access flag, inner shareable, for unprivileged accesses too (DDI 0487, D8.3).
        let leaf = page | 1 << 10 | 3 << 8 | 1 << 6 | 3;
        self.entry(3, iova).store(leaf, Ordering::Relaxed);
    }

    /// What the last level of pages around `iova` is, a table at `at` says, whatever is there.
    pub fn map_table(&self, iova: u64, at: u64) {
        self.entry(2, iova).store(at | 3, Ordering::Relaxed);
    }

    /// Has events interrupt. `None` where it does not do as it is told.
    pub fn interrupt(&self) -> Option<()> {
        self.write(IRQ_CTRL, EVENTQ_IRQEN);
        self.wait(IRQ_CTRLACK, EVENTQ_IRQEN)
    }

    /// Takes the page at `iova` away, and has the SMMU forget it. Whether it did in time.
    pub fn unmap(&mut self, iova: u64) -> bool {
        self.entry(3, iova).store(0, Ordering::Relaxed);
        self.command([ASID << 48 | TLBI_NH_VA, iova & !0xfff | 1])
            .is_some()
    }

    /// One command and a CMD_SYNC; waits until both are consumed.
    fn command(&mut self, command: [u64; 2]) -> Option<()> {
        let queue = words(COMMANDS, 2 * ENTRIES as usize);
        for command in [command, [SYNC, 0]] {
            let at = (u64::from(self.produced) % ENTRIES) as usize * 2;
            queue[at].store(command[0], Ordering::Relaxed);
            queue[at + 1].store(command[1], Ordering::Relaxed);
            self.produced = (self.produced + 1) % (2 * ENTRIES as u32);
        }
        barrier();
        self.write(CMDQ_PROD, self.produced);
        // An error stands in its upper bits, and never goes away here.
        self.wait(CMDQ_CONS, self.produced)
    }

    /// The oldest event; `None` where there is none.
    pub fn event(&mut self) -> Option<Event> {
        let words = self.record()?;
        Some(Event {
            kind: words[0] as u8,
            stream: (words[0] >> 32) as u32,
            address: words[2],
        })
    }

    /// The same, all of it.
    pub fn record(&mut self) -> Option<[u64; 4]> {
        if self.read(EVENTQ_PROD) & !OVERFLOW == self.taken {
            return None;
        }
        barrier();
        let at = (u64::from(self.taken) % ENTRIES) as usize * 4;
        let record = &words(EVENTS, 4 * ENTRIES as usize)[at..at + 4];
        let words = core::array::from_fn(|index| record[index].load(Ordering::Relaxed));
        self.taken = (self.taken + 1) % (2 * ENTRIES as u32);
        self.write(EVENTQ_CONS, self.taken | self.acknowledged);
        Some(words)
    }

    /// Whether events were lost since this was last asked (7.4).
    pub fn has_lost(&mut self) -> bool {
        let flag = self.read(EVENTQ_PROD) & OVERFLOW;
        let lost = flag != self.acknowledged;
        self.acknowledged = flag;
        self.write(EVENTQ_CONS, self.taken | self.acknowledged);
        lost
    }

    fn control(&self, value: u32) -> Option<()> {
        self.write(CR0, value);
        self.wait(CR0ACK, value)
    }

    fn wait(&self, at: u64, value: u32) -> Option<()> {
        let end = now_ns() + DEADLINE_NS;
        while self.read(at) != value {
            if now_ns() > end {
                return None;
            }
        }
        Some(())
    }

    fn read(&self, at: u64) -> u32 {
        register(self.registers + at).read()
    }

    fn write(&self, at: u64, value: u32) {
        register(self.registers + at).write(value);
    }

    /// By halves, as the architecture allows.
    fn write64(&self, at: u64, value: u64) {
        self.write(at, value as u32);
        self.write(at + 4, (value >> 32) as u32);
    }
}

/// What was stored is there before a device is told, and what a device was seen to say before what it stored is read.
fn barrier() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy") };
}
