//! The guest's own SMMUv3 (IHI 0070), driven without interrupts taken: its registers and queues. What its streams go through
//! is [`crate::stage_one`]'s.

use crate::pci::register;
use crate::runtime::{now_ns, words};
use crate::tree::Tree;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use safe_mmio::{UniqueMmioPointer, fields::ReadPureWrite};

// Registers (6.2); those of the event queue are in page 1.
const IDR1: u64 = 0x04;
const IDR5: u64 = 0x14;
const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const CR1: u64 = 0x28;
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
/// CR0.SMMUEN.
const TRANSLATION: u32 = 1;
/// CR0: EVENTQEN, CMDQEN.
const QUEUES: u32 = 1 << 2 | 1 << 3;
/// CR1: tables and queues are inner and outer write-back, inner shareable.
const CACHED: u32 = 0xd75;
/// IRQ_CTRL: events and errors.
const INTERRUPTS: u32 = 0b101;
/// EVENTQ_PROD.OVFLG, EVENTQ_CONS.OVACKFLG.
const OVERFLOW: u32 = 1 << 31;

/// CMD_SYNC with a signal by event (4.7.3), which is what Linux posts, whether there are such (IDR0.SEV) or not.
pub const SYNC: [u64; 2] = [0x46 | 2 << 12, 0];
/// CMD_CFGI_ALL (4.3.6).
pub const CFGI_ALL: [u64; 2] = [0x04, 31];
/// CMD_TLBI_NSNH_ALL (4.4.4).
pub const TLBI_ALL: [u64; 2] = [0x30, 0];
/// Of every context.
pub const ASID: u64 = 1;

/// CMD_TLBI_NH_VA of a leaf of [`ASID`] (4.4.2).
pub fn tlbi(address: u64) -> [u64; 2] {
    [0x12 | ASID << 48, address & !0xfff | 1]
}

/// CMD_CFGI_STE (4.3.1).
pub fn cfgi_ste(stream: u32) -> [u64; 2] {
    [0x03 | u64::from(stream) << 32, 1]
}

/// CMD_CFGI_CD of substream 0 (4.3.3).
pub fn cfgi_cd(stream: u32) -> [u64; 2] {
    [0x05 | u64::from(stream) << 32, 1]
}

/// log2 of the streams in the table and of the events in the queue.
const LOG2: u32 = 8;
const EVENTS: u64 = 1 << LOG2;
const DEADLINE_NS: u64 = 5_000_000_000;

/// Where all of it is, in the guest's RAM: the command queue, which is 8 MiB at its largest, then what is in [`PART`]s.
const COMMANDS: u64 = 0x4100_0000;
const STREAMS: u64 = 0x4180_0000;
const EVENT_QUEUE: u64 = STREAMS + PART;
/// 64 KiB each: the largest alignment there is.
pub(crate) const PART: u64 = 0x1_0000;
/// Parts from here on are nobody's yet.
pub(crate) const FREE: u64 = EVENT_QUEUE + PART;

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

/// How many events there are of a refused DMA of `bytes`: QEMU's devices send 4 at a time.
pub fn records(bytes: u32) -> u64 {
    u64::from(bytes) / 4
}

/// The SMMU, with a command queue of 2^`log2` entries.
pub struct Smmu {
    registers: u64,
    log2: u32,
    produced: u32,
    taken: u32,
    /// EVENTQ_CONS.OVACKFLG.
    acknowledged: u32,
    /// Whether [`start`](Self::start) has streams go through the table; as it is found, it has.
    pub translates: bool,
}

impl Smmu {
    /// The first one that the tree has. The table of its streams is as it is: zeros, in a guest that has just started.
    pub fn find(tree: &Tree<'_>) -> Option<Self> {
        Some(Self {
            registers: tree.iommu?.base,
            log2: 0,
            produced: 0,
            taken: 0,
            acknowledged: 0,
            translates: true,
        })
    }

    /// log2 of the largest command queue (IDR1.CMDQS).
    pub fn largest(&self) -> u32 {
        self.read(IDR1) >> 21 & 0x1f
    }

    /// Whether it has a granule, by its bit of IDR5.
    pub(crate) fn has_granule(&self, bit: u32) -> bool {
        self.read(IDR5) & bit != 0
    }

    /// Turns it on anew with a command queue of 2^`log2` entries, and translation if wanted. Whether it followed. Nothing of what it
    /// may have cached is forgotten by that.
    pub fn start(&mut self, log2: u32) -> bool {
        (self.log2, self.produced, self.taken, self.acknowledged) = (log2, 0, 0, 0);
        let mut followed = self.stop();
        self.write(GERRORN, self.read(GERROR));
        self.write(CR1, CACHED);
        self.write64(CMDQ_BASE, COMMANDS | u64::from(log2));
        self.write(CMDQ_PROD, 0);
        self.write(CMDQ_CONS, 0);
        self.write64(EVENTQ_BASE, EVENT_QUEUE | u64::from(LOG2));
        self.write(EVENTQ_PROD, 0);
        self.write(EVENTQ_CONS, 0);
        self.write(IRQ_CTRL, INTERRUPTS);
        self.write64(STRTAB_BASE, STREAMS);
        self.write(STRTAB_BASE_CFG, LOG2);
        let on = QUEUES | if self.translates { TRANSLATION } else { 0 };
        self.write(CR0, on);
        followed &= self.wait(CR0ACK, on);
        followed
    }

    /// Turns it off. Whether it followed.
    pub fn stop(&self) -> bool {
        self.write(CR0, 0);
        self.wait(CR0ACK, 0)
    }

    /// The entry of a stream (5.2).
    pub fn entry(&self, stream: u32) -> &'static [AtomicU64] {
        &words(STREAMS, PART as usize / 8)[stream as usize * 8..][..8]
    }

    /// Puts a command behind the others, without a word.
    pub fn post(&mut self, command: [u64; 2]) {
        let queue = words(COMMANDS, 2 << self.log2);
        let at = 2 * (self.produced & ((1 << self.log2) - 1)) as usize;
        for (there, word) in queue[at..].iter().zip(command) {
            there.store(word, Ordering::Relaxed);
        }
        self.produced = self.produced.wrapping_add(1) & ((2 << self.log2) - 1);
    }

    /// Address of CMDQ_PROD, the doorbell.
    pub fn doorbell(&self) -> u64 {
        self.registers + CMDQ_PROD
    }

    /// Address of CMDQ_CONS.
    pub fn consumer(&self) -> u64 {
        self.registers + CMDQ_CONS
    }

    /// What the doorbell is to be rung with.
    pub fn produced(&self) -> u32 {
        self.produced
    }

    /// Rings the doorbell.
    pub fn ring(&self) {
        barrier();
        self.write(CMDQ_PROD, self.produced);
    }

    /// Whether everything posted is complete, and nothing was wrong.
    pub fn settled(&self) -> bool {
        self.wait(CMDQ_CONS, self.produced) && self.read(GERROR) == self.read(GERRORN)
    }

    /// These commands and a CMD_SYNC; whether all of it is complete.
    pub fn run(&mut self, commands: &[[u64; 2]]) -> bool {
        for &command in commands {
            self.post(command);
        }
        self.post(SYNC);
        self.ring();
        self.settled()
    }

    /// Whether the queue stops at the last command that was posted, with this code (7.1).
    pub fn stopped_at(&self, code: u32) -> bool {
        let last = self.produced.wrapping_sub(1) & ((2 << self.log2) - 1);
        let stopped = self.wait(CMDQ_CONS, last | code << 24);
        stopped && (self.read(GERROR) ^ self.read(GERRORN)) & 1 != 0
    }

    /// The oldest event: whether it is F_TRANSLATION (7.3.13) of `stream`, of its first stage and of the page of `address`; as
    /// it stands, if it is another. `None` where there is none.
    pub fn refusal(&mut self, stream: u32, address: u64) -> Option<Result<(), [u64; 4]>> {
        let record = self.record()?;
        // The last word is that of a second stage.
        let [first, second, at, last] = record;
        let own = first & 0xff == 0x10
            && first >> 32 == u64::from(stream)
            && second >> 39 & 1 == 0
            && at >> 12 == address >> 12
            && last == 0;
        Some(if own { Ok(()) } else { Err(record) })
    }

    /// Has it look at everything anew. Whether it did in time.
    pub fn refresh(&mut self) -> bool {
        self.run(&[CFGI_ALL, TLBI_ALL])
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
        let at = (u64::from(self.taken) % EVENTS) as usize * 4;
        let record = &words(EVENT_QUEUE, 4 * EVENTS as usize)[at..at + 4];
        let words = core::array::from_fn(|index| record[index].load(Ordering::Relaxed));
        self.taken = (self.taken + 1) % (2 * EVENTS as u32);
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

    fn wait(&self, offset: u64, wanted: u32) -> bool {
        let end = now_ns() + DEADLINE_NS;
        while self.read(offset) != wanted {
            if now_ns() > end {
                return false;
            }
        }
        true
    }

    fn read(&self, offset: u64) -> u32 {
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

/// What was stored is there before a device is told, and what a device was seen to say before what it stored is read.
fn barrier() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy") };
}
