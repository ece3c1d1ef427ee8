//! The page request queue (VT-d, 7.4.1, 11.4.11): its one consumer.
//!
//! While PRO is set the unit adds nothing: it answers the last request of each group by itself, so that the device asks again.
//! PRO is acknowledged once the queue is empty, so that a loss comes after everything that it did not take.

use super::registers::Registers;
use super::spec::page_request::{REQUEST_BYTES, REQUEST0};
use super::spec::registers::{PQA, PQA_FIELDS, PQH, PQT, PRS, PRS_FIELDS};
use crate::addr::{Hpa, Span};
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::held::{Held, span};
use crate::physical::Drained;

/// PQA.PQS: 2^(2 + 7) descriptors.
const SIZE: u64 = 2;
/// Bytes of them.
const BYTES: usize = 4096 << SIZE;

/// A descriptor, without its reserved words.
pub(super) type Raw = [u64; 2];

pub(super) struct RequestQueue<P: Platform> {
    buffer: Held<P::Buffer>,
    /// PQH.
    head: usize,
    /// Something was lost and nobody was told yet.
    lost: bool,
    coherent: bool,
    pub(super) records: u64,
    pub(super) losses: u64,
}

impl<P: Platform> RequestQueue<P> {
    pub(super) fn new(platform: &P, coherent: bool) -> Option<Self> {
        let buffer = platform.allocate(BYTES)?;
        if !coherent {
            // Zeroes that a cache still holds would be written over the first requests some day.
            buffer.clean(0, BYTES);
        }
        Some(Self {
            buffer: Held::new(buffer),
            head: 0,
            lost: false,
            coherent,
            records: 0,
            losses: 0,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        BYTES as u64
    }

    /// Where it is.
    pub(super) fn place(&self) -> Span<Hpa> {
        span(&*self.buffer)
    }

    pub(super) fn lose(&mut self) {
        self.buffer.lose();
    }

    /// PQA.
    pub(super) fn register(&self) -> u64 {
        self.buffer.hpa().0 | PQA_FIELDS::PQS.val(SIZE).value
    }

    /// Tells the unit where the queue is, while no context allows page requests. Whatever was in it is gone.
    pub(super) fn start<M: Mmio>(&mut self, registers: &Registers<M>) {
        self.head = 0;
        registers.write64(PQH, 0);
        registers.write64(PQT, 0);
        registers.write64(PQA, self.register());
        let all = PRS_FIELDS::PPR::SET + PRS_FIELDS::PRO::SET;
        registers.write32(PRS, all.value);
    }

    /// A request could not be written, or was in a queue that is not there any more.
    pub(super) fn note_loss(&mut self) {
        self.lost = true;
        self.losses += 1;
    }

    /// Decodes the oldest requests into `out`.
    pub(super) fn drain<T, M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
        decode: impl Fn(Raw) -> T,
        out: &mut [T],
    ) -> Drained {
        // Before the tail is read: what comes after that is told anew (7.5).
        registers.write32(PRS, PRS_FIELDS::PPR::SET.value);
        let Some(tail) = tail(registers) else {
            // The unit is gone or its state is. Nothing in memory can be believed.
            return self.drained(0, false);
        };
        platform.read_barrier();
        let start = self.head;
        let mut count = 0;
        while count < out.len() && self.head != tail {
            if let Some(raw) = self.read(self.head) {
                out[count] = decode(raw);
                count += 1;
            }
            self.head = (self.head + REQUEST_BYTES) % BYTES;
        }
        if self.head != start {
            registers.write64(PQH, self.head as u64);
        }
        self.records += count as u64;
        let mut more = self.head != tail;
        let status = registers.read::<PRS_FIELDS::Register>(PRS);
        if !more && status.get() != u32::MAX && status.is_set(PRS_FIELDS::PRO) {
            // Nothing is added any more: that is the last there was before the loss, or there are some in between.
            more = self::tail(registers) != Some(self.head);
            if !more {
                registers.write32(PRS, PRS_FIELDS::PRO::SET.value);
                self.note_loss();
            }
        }
        self.drained(count, more)
    }

    fn drained(&mut self, count: usize, more: bool) -> Drained {
        Drained {
            count,
            lost: core::mem::take(&mut self.lost),
            more,
        }
    }

    /// Takes the first request that `which` is true of out of those in the queue, from place `from` on, so that it is not among
    /// those that are drained later. The request, and the place to go on.
    pub(super) fn take<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
        from: Option<usize>,
        which: impl Fn(Raw) -> bool,
    ) -> Option<(Raw, usize)> {
        let tail = tail(registers)?;
        platform.read_barrier();
        let mut at = from.unwrap_or(self.head);
        while at != tail {
            let next = (at + REQUEST_BYTES) % BYTES;
            if let Some(raw) = self.read(at)
                && which(raw)
            {
                // No type that there is.
                self.buffer.write64(at, 0);
                if !self.coherent {
                    self.buffer.clean(at, REQUEST_BYTES);
                }
                return Some((raw, next));
            }
            at = next;
        }
        None
    }

    /// The request at a place; `None` of a type that there is not.
    fn read(&self, at: usize) -> Option<Raw> {
        if !self.coherent {
            self.buffer.discard(at, REQUEST_BYTES);
        }
        let first = self.buffer.read64(at);
        let kind = first >> REQUEST0::TYPE.shift & REQUEST0::TYPE.mask;
        let known = kind == REQUEST0::TYPE::PageRequest.value;
        known.then(|| [first, self.buffer.read64(at + 8)])
    }
}

/// PQT, where it is a place of the queue.
fn tail<M: Mmio>(registers: &Registers<M>) -> Option<usize> {
    let tail = usize::try_from(registers.read64(PQT)).ok()?;
    (tail < BYTES && tail.is_multiple_of(REQUEST_BYTES)).then_some(tail)
}
