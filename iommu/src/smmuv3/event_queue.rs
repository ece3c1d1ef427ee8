//! The event queue (IHI 0070, §7.2, §7.4): its one consumer.

use super::event;
use super::held::{Held, span};
use super::registers::Registers;
use super::ring::Position;
use super::spec::event::EVENT_BYTES;
use super::spec::registers::{
    EVENTQ_BASE, EVENTQ_CONS, EVENTQ_INDEX_FIELDS, EVENTQ_PROD, QUEUE_BASE_ALLOCATE,
};
use crate::addr::{Hpa, Span};
use crate::fault::Fault;
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::id::IommuIndex;
use crate::physical::Drained;

/// log2 of the entries used, where the SMMU has that many. One refused transfer of a disk is up to 1,024 records.
const LOG2_ENTRIES: u8 = 10;

/// OVFLG in PROD, OVACKFLG in CONS.
const OVERFLOW: u32 = 1 << 31;

pub(super) struct EventQueue<P: Platform> {
    buffer: Held<P::Buffer>,
    cons: Position,
    /// OVACKFLG as last written.
    acknowledged: u32,
    /// Something was lost and nobody was told yet.
    lost: bool,
    coherent: bool,
    pub(super) events: u64,
    pub(super) losses: u64,
}

impl<P: Platform> EventQueue<P> {
    /// `largest`: IDR1.EVENTQS.
    pub(super) fn new(platform: &P, largest: u8, coherent: bool) -> Option<Self> {
        let log2 = largest.min(LOG2_ENTRIES);
        let bytes = (EVENT_BYTES << log2).max(4096);
        let buffer = platform.allocate(bytes)?;
        if !coherent {
            // Zeroes that a cache still holds would be written over the first records some day.
            buffer.clean(0, buffer.len());
        }
        Some(Self {
            buffer: Held::new(buffer),
            cons: Position::start(log2),
            acknowledged: 0,
            lost: false,
            coherent,
            events: 0,
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
        registers.write64(EVENTQ_BASE, base);
        registers.write(EVENTQ_PROD, 0);
        registers.write(EVENTQ_CONS, 0);
    }

    /// A record could not be written.
    pub(super) fn note_loss(&mut self) {
        self.lost = true;
        self.losses += 1;
    }

    /// Moves the oldest records to `faults`.
    pub(super) fn drain<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
        iommu: IommuIndex,
        faults: &mut [Fault],
    ) -> Drained {
        let register = registers.read::<EVENTQ_INDEX_FIELDS::Register>(EVENTQ_PROD);
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
        for slot in faults.iter_mut().take(waiting as usize) {
            *slot = event::decode(iommu, self.read(self.cons.index()));
            self.cons = self.cons.next();
            count += 1;
        }
        self.events += count as u64;
        let overflow = register.get() & OVERFLOW;
        if overflow != self.acknowledged {
            // §7.4: the handshake allows the next overflow to be seen.
            self.acknowledged = overflow;
            self.note_loss();
            registers.write(EVENTQ_CONS, self.cons.register() | overflow);
        } else if count > 0 {
            registers.write(EVENTQ_CONS, self.cons.register() | overflow);
        }
        Drained {
            count,
            lost: core::mem::take(&mut self.lost),
            more: self.cons != prod,
        }
    }

    fn read(&self, index: usize) -> [u64; 4] {
        let offset = index * EVENT_BYTES;
        if !self.coherent {
            self.buffer.discard(offset, EVENT_BYTES);
        }
        core::array::from_fn(|word| self.buffer.read64(offset + word * 8))
    }
}
