//! A queue that the SMMU writes records to (IHI 0070, §3.5.1, §7.4, §8.1): its one consumer. Events and page requests have
//! one each; what the records mean is said elsewhere.

use super::registers::Registers;
use super::ring::Position;
use super::spec::registers::{EVENTQ_INDEX_FIELDS, QUEUE_BASE_ALLOCATE};
use crate::addr::{Hpa, Span};
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::held::{Held, span};
use crate::physical::Drained;

/// log2 of the entries used, where the SMMU has that many. One refused transfer of a disk is up to 1,024 records.
const LOG2_ENTRIES: u8 = 10;

/// Where a queue's registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct QueueRegisters {
    pub(super) base: usize,
    pub(super) prod: usize,
    pub(super) cons: usize,
}

/// OVFLG in PROD, OVACKFLG in CONS.
const OVERFLOW: u32 = 1 << 31;

/// What comes after a record that found the queue full, until the overflow is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AfterOverflow {
    /// Whatever finds room again: events (§7.4). That some are lost is told at once.
    Records,
    /// Nothing: page requests are answered by the SMMU (§8.1). That some are lost is told behind all that came before.
    Nothing,
}

/// Records of `WORDS` 64-bit words.
pub(super) struct RecordQueue<P: Platform, const WORDS: usize> {
    buffer: Held<P::Buffer>,
    at: QueueRegisters,
    after: AfterOverflow,
    cons: Position,
    /// OVACKFLG as last written.
    acknowledged: u32,
    /// Something was lost and nobody was told yet.
    lost: bool,
    coherent: bool,
    pub(super) records: u64,
    pub(super) losses: u64,
}

impl<P: Platform, const WORDS: usize> RecordQueue<P, WORDS> {
    const BYTES: usize = WORDS * 8;

    /// `largest`: log2 of the most entries (IDR1.EVENTQS, PRIQS).
    pub(super) fn new(
        platform: &P,
        at: QueueRegisters,
        after: AfterOverflow,
        largest: u8,
        coherent: bool,
    ) -> Option<Self> {
        let log2 = largest.min(LOG2_ENTRIES);
        let bytes = (Self::BYTES << log2).max(4096);
        let buffer = platform.allocate(bytes)?;
        if !coherent {
            // Zeroes that a cache still holds would be written over the first records some day.
            buffer.clean(0, buffer.len());
        }
        Some(Self {
            buffer: Held::new(buffer),
            at,
            after,
            cons: Position::start(log2),
            acknowledged: 0,
            lost: false,
            coherent,
            records: 0,
            losses: 0,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Where it is.
    pub(super) fn place(&self) -> Span<Hpa> {
        span(&*self.buffer)
    }

    pub(super) fn lose(&mut self) {
        self.buffer.lose();
    }

    /// Tells a disabled SMMU where the queue is.
    pub(super) fn program<M: Mmio>(&mut self, registers: &Registers<M>) {
        let log2 = self.cons.entries().ilog2();
        self.cons = Position::start(log2 as u8);
        self.acknowledged = 0;
        let base = QUEUE_BASE_ALLOCATE | self.buffer.hpa().0 | u64::from(log2);
        registers.write64(self.at.base, base);
        registers.write(self.at.prod, 0);
        registers.write(self.at.cons, 0);
    }

    /// A record could not be written.
    pub(super) fn note_loss(&mut self) {
        self.lost = true;
        self.losses += 1;
    }

    /// Decodes the oldest records into `out`.
    pub(super) fn drain<T, M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
        decode: impl Fn([u64; WORDS]) -> T,
        out: &mut [T],
    ) -> Drained {
        let register = registers.read::<EVENTQ_INDEX_FIELDS::Register>(self.at.prod);
        let prod = self.cons.of_register(register.get());
        let waiting = prod.since(self.cons);
        if register.get() == u32::MAX || waiting > prod.entries() {
            // Nonsense: the SMMU is gone or its state is. Nothing in memory can be believed.
            let lost = core::mem::take(&mut self.lost);
            return Drained {
                count: 0,
                lost,
                more: false,
            };
        }
        platform.read_barrier();
        let mut count = 0;
        for slot in out.iter_mut().take(waiting as usize) {
            *slot = decode(self.read(self.cons.index()));
            self.cons = self.cons.next();
            count += 1;
        }
        self.records += count as u64;
        let more = self.cons != prod;
        let overflow = register.get() & OVERFLOW;
        let is_due = self.after == AfterOverflow::Records || !more;
        let lost = overflow != self.acknowledged && is_due;
        if lost {
            // §7.4: the handshake allows the next overflow to be seen.
            self.acknowledged = overflow;
            self.note_loss();
        }
        if lost || count > 0 {
            registers.write(self.at.cons, self.cons.register() | self.acknowledged);
        }
        Drained {
            count,
            lost: core::mem::take(&mut self.lost),
            more,
        }
    }

    fn read(&self, index: usize) -> [u64; WORDS] {
        let offset = index * Self::BYTES;
        if !self.coherent {
            self.buffer.discard(offset, Self::BYTES);
        }
        core::array::from_fn(|word| self.buffer.read64(offset + word * 8))
    }
}
