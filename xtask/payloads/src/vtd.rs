//! The guest's own VT-d unit in legacy mode (Intel VT-d, section numbers of revision 5.10), driven without interrupts taken: its
//! registers, queue and fault records. What its sources go through is [`crate::stage_one`]'s.

use crate::pci::register;
use crate::runtime::{barrier, now_ns, words};
use crate::tree::Tree;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use safe_mmio::{UniqueMmioPointer, fields::ReadPureWrite};

// Registers (11.4).
const CAP: u64 = 0x08;
const GCMD: u64 = 0x18;
const GSTS: u64 = 0x1c;
const RTADDR: u64 = 0x20;
const FSTS: u64 = 0x34;
const IQH: u64 = 0x80;
const IQT: u64 = 0x88;
const IQA: u64 = 0x90;
/// GCMD and GSTS: translation, root table pointer, queue.
const TRANSLATION: u32 = 1 << 31;
const ROOT: u32 = 1 << 30;
const QUEUE_ON: u32 = 1 << 26;
/// FSTS: PFO and IQE.
const OVERFLOW: u32 = 1;
const QUEUE_ERROR: u32 = 1 << 4;
/// F of a fault record, in its last word.
const RECORDED: u32 = 1 << 31;

/// What is wrong: no descriptor has this type.
pub const WRONG: [u64; 2] = [0xf, 0];
/// Of all sources (6.5.2.1).
pub const CONTEXTS_ALL: [u64; 2] = [0x11, 0];
/// Of all domains, with reads and writes drained (6.5.2.3).
pub const IOTLB_ALL: [u64; 2] = [0xd2, 0];
/// The domain of every source.
pub const DOMAIN: u64 = 1;

/// Of one source (6.5.2.1).
pub fn context_of(source: u32) -> [u64; 2] {
    [u64::from(source) << 32 | DOMAIN << 16 | 0x31, 0]
}

/// 2^`log2` pages of [`DOMAIN`] from `at` on, with reads and writes drained (6.5.2.3).
pub fn iotlb(at: u64, log2: u64) -> [u64; 2] {
    [DOMAIN << 16 | 0xf2, (at & !0xfff) | log2]
}

/// A write of `value` to [`STATUS`], once all that was posted before is complete (6.5.2.8).
fn wait(value: u32) -> [u64; 2] {
    [u64::from(value) << 32 | 0x25, STATUS]
}

const DEADLINE_NS: u64 = 5_000_000_000;

/// Where all of it is, in the guest's RAM: the queue, which has 512 KiB at its largest, then pages.
const QUEUE: u64 = 0x100_0000;
const STATUS: u64 = 0x110_0000;
const ROOTS: u64 = STATUS + PAGE;
const CONTEXTS: u64 = ROOTS + PAGE;
/// Pages from here on are nobody's yet.
pub(crate) const FREE: u64 = CONTEXTS + PAGE;
pub(crate) const PAGE: u64 = 4096;
/// log2 of the pages of the largest queue (IQA.QS).
pub const LARGEST: u32 = 7;

/// The unit, with a queue of 2^`log2` pages.
pub struct Vtd {
    registers: u64,
    /// Bytes of the queue, and of it up to where descriptors were posted.
    bytes: u64,
    tail: u64,
    waits: u32,
    /// The fault record that is written next.
    record: u64,
}

impl Vtd {
    /// The first one. What its sources go through is as it is: zeros, in a guest that has just started.
    pub fn find(tree: &Tree<'_>) -> Option<Self> {
        Some(Self {
            registers: tree.iommu?.base,
            bytes: 0,
            tail: 0,
            waits: 0,
            record: 0,
        })
    }

    /// Turns it on anew with a queue of 2^`log2` pages, and translation. Whether it followed.
    pub fn start(&mut self, log2: u32) -> bool {
        let mut followed = self.stop();
        (self.bytes, self.tail, self.waits) = (PAGE << log2, 0, 0);
        words(STATUS, 1)[0].store(0, Ordering::Relaxed);
        self.write(FSTS, QUEUE_ERROR);
        words(ROOTS, 2)[0].store(CONTEXTS | 1, Ordering::Relaxed);
        self.write64(RTADDR, ROOTS);
        followed &= self.command(ROOT, true);
        self.write64(IQA, QUEUE | u64::from(log2));
        self.write64(IQT, 0);
        followed &= self.command(QUEUE_ON, true);
        followed &= self.refresh();
        followed && self.command(TRANSLATION, true)
    }

    /// Turns it off. Whether it followed.
    pub fn stop(&self) -> bool {
        self.command(TRANSLATION, false) && self.command(QUEUE_ON, false)
    }

    /// The entry of a source on bus 0 (9.3).
    pub fn entry(&self, source: u32) -> &'static [AtomicU64] {
        &words(CONTEXTS, PAGE as usize / 8)[source as usize * 2..][..2]
    }

    /// Has it look at everything anew. Whether it did in time.
    pub fn refresh(&mut self) -> bool {
        self.run(&[CONTEXTS_ALL, IOTLB_ALL])
    }

    /// Puts a descriptor behind the others, without a word.
    pub fn post(&mut self, descriptor: [u64; 2]) {
        let at = words(QUEUE + self.tail, 2);
        for (there, word) in at.iter().zip(descriptor) {
            there.store(word, Ordering::Relaxed);
        }
        self.tail = (self.tail + 16) % self.bytes;
    }

    /// Puts a wait behind the others.
    pub fn post_wait(&mut self) {
        self.waits += 1;
        self.post(wait(self.waits));
    }

    /// Address of the tail, the doorbell.
    pub fn doorbell(&self) -> u64 {
        self.registers + IQT
    }

    /// What the doorbell is to be rung with.
    pub fn produced(&self) -> u32 {
        self.tail as u32
    }

    /// Rings the doorbell.
    pub fn ring(&self) {
        barrier();
        self.write(IQT, self.tail as u32);
    }

    /// Whether the last wait is complete in time, and nothing was wrong.
    pub fn settled(&self) -> bool {
        let done = || words(STATUS, 1)[0].load(Ordering::Relaxed) as u32 == self.waits;
        within_time(done) && self.read(FSTS) & QUEUE_ERROR == 0
    }

    /// These descriptors and a wait; whether all of it is complete.
    pub fn run(&mut self, descriptors: &[[u64; 2]]) -> bool {
        for &descriptor in descriptors {
            self.post(descriptor);
        }
        self.post_wait();
        self.ring();
        self.settled()
    }

    /// Whether the queue stops at the last descriptor that was posted.
    pub fn stops(&self) -> bool {
        let last = self.tail.wrapping_sub(16) % self.bytes;
        within_time(|| self.read(FSTS) & QUEUE_ERROR != 0) && u64::from(self.read(IQH)) == last
    }

    /// The oldest fault: whether it is that of a write of `source` to the page of `address`, which its tables do not have
    /// (7.1.3); as it stands, if it is another. `None` where there is none.
    pub fn refusal(&mut self, source: u32, address: u64) -> Option<Result<(), [u64; 2]>> {
        let cap = self.read64(CAP);
        let (first, count) = (16 * (cap >> 24 & 0x3ff), (cap >> 40 & 0xff) + 1);
        let at = first + 16 * self.record;
        if self.read(at + 12) & RECORDED == 0 {
            return None;
        }
        let record = [self.read64(at), self.read64(at + 8)];
        self.write(at + 12, RECORDED);
        self.write(FSTS, OVERFLOW);
        self.record = (self.record + 1) % count;
        let [page, rest] = record;
        // Reason 5, of a write.
        let own = page == address & !0xfff
            && rest as u16 == source as u16
            && (rest >> 32) as u8 == 5
            && rest >> 62 & 1 == 0;
        Some(if own { Ok(()) } else { Err(record) })
    }

    /// Turns a bit of GCMD on or off, beside those that are on (11.4). Whether it followed; the root pointer is taken each time.
    fn command(&self, bit: u32, on: bool) -> bool {
        let others = self.read(GSTS) & (TRANSLATION | QUEUE_ON) & !bit;
        self.write(GCMD, others | if on { bit } else { 0 });
        within_time(|| (self.read(GSTS) & bit != 0) == on)
    }

    fn read(&self, offset: u64) -> u32 {
        register(self.registers + offset).read()
    }

    fn write(&self, offset: u64, value: u32) {
        register(self.registers + offset).write(value);
    }

    fn wide(&self, offset: u64) -> UniqueMmioPointer<'static, ReadPureWrite<u64>> {
        let pointer = (self.registers + offset) as *mut ReadPureWrite<u64>;
        let pointer = NonNull::new(pointer).expect("not at address 0");
        // SAFETY: as in `pci::register`; these registers are 8 bytes wide and aligned.
        unsafe { UniqueMmioPointer::new(pointer) }
    }

    fn read64(&self, offset: u64) -> u64 {
        self.wide(offset).read()
    }

    fn write64(&self, offset: u64, value: u64) {
        self.wide(offset).write(value);
    }
}

/// How many records there are of a refused DMA of `_` bytes: QEMU keeps one of a source until that is read (7.2.1).
pub fn records(_: u32) -> u64 {
    1
}

fn within_time(done: impl Fn() -> bool) -> bool {
    let end = now_ns() + DEADLINE_NS;
    while !done() {
        if now_ns() > end {
            return false;
        }
    }
    // What it wrote is read after what says so.
    barrier();
    true
}
