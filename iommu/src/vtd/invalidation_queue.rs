//! The invalidation queue (VT-d, 6.5.2): its one producer.
//!
//! A batch is a run of descriptors and a wait behind it, which writes a number to memory once all before it is complete.
//! Whoever sends a batch waits for it, so that the queue is empty in between.
//!
//! | FSTS | what happens (6.5.2.11) |
//! |---|---|
//! | IQE | the descriptor becomes a wait that nobody looks at, the batch fails there, the queue goes on |
//! | ITE | acknowledged; whatever was on its way is not complete, and has to be asked for again |
//! | ICE | acknowledged: a completion that nobody waits for |

use super::command::{Command, wait};
use super::probe::Features;
use super::registers::{DEADLINE_NS, Registers, switch};
use super::spec::descriptor::{NARROW_LOG2, WIDE_LOG2};
use super::spec::registers::{
    FSTS, FSTS_FIELDS, GCMD_FIELDS, IQ_FIELDS, IQA, IQA_FIELDS, IQERCD, IQERCD_FIELDS, IQH, IQT,
};
use crate::addr::{Hpa, Span};
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::held::{Held, span};
use crate::id::DeviceId;
use crate::physical::{Incomplete, IommuError};

/// Bytes of descriptors: IQA.QS is 0. What a wait writes is in the page behind them.
const QUEUE_BYTES: usize = 4096;
/// Bytes of both.
const BYTES: usize = 2 * QUEUE_BYTES;
/// Where waits of batches write, and where those write that took a refused descriptor's place.
const STATUS: usize = QUEUE_BYTES;
const UNREAD: usize = QUEUE_BYTES + 64;
/// Looks at memory between two looks at the registers.
const LOOKS: u32 = 64;

pub(super) struct InvalidationQueue<P: Platform> {
    buffer: Held<P::Buffer>,
    /// log2 of the bytes of a descriptor.
    log2: u8,
    tail: usize,
    /// What the last wait was told to write.
    number: u32,
    coherent: bool,
    /// Something may still be on its way.
    stuck: bool,
    pub(super) descriptors: u64,
    pub(super) waits: u64,
    pub(super) refusals: u64,
}

impl<P: Platform> InvalidationQueue<P> {
    /// `wide`: descriptors of 256 bits, which scalable mode asks for.
    pub(super) fn new(platform: &P, wide: bool, coherent: bool) -> Option<Self> {
        let buffer = platform.allocate(BYTES)?;
        if !coherent {
            // Zeroes that a cache still holds would be written over the first status some day.
            buffer.clean(0, BYTES);
        }
        Some(Self {
            buffer: Held::new(buffer),
            log2: if wide { WIDE_LOG2 } else { NARROW_LOG2 },
            tail: 0,
            number: 0,
            coherent,
            stuck: false,
            descriptors: 0,
            waits: 0,
            refusals: 0,
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

    fn entries(&self) -> usize {
        QUEUE_BYTES >> self.log2
    }

    fn tail_register(&self) -> u64 {
        (self.tail << self.log2) as u64
    }

    /// IQA.
    pub(super) fn register(&self) -> u64 {
        let wide = IQA_FIELDS::DW.val((self.log2 == WIDE_LOG2).into());
        self.buffer.hpa().0 | wide.value
    }

    /// Tells the unit where the queue is, and turns it on. Whatever was in it is gone.
    pub(super) fn start<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
    ) -> Result<(), IommuError> {
        let now_ns = || platform.now_ns();
        switch(registers, &now_ns, GCMD_FIELDS::QIE::SET, false)?;
        self.tail = 0;
        // The tail first: a queue that is on takes what lies between head and tail (11.4, IQT).
        registers.write64(IQT, 0);
        registers.write64(IQA, self.register());
        acknowledge(registers);
        switch(registers, &now_ns, GCMD_FIELDS::QIE::SET, true)?;
        self.stuck = false;
        Ok(())
    }

    fn store(&mut self, index: usize, descriptor: [u64; 2]) {
        let offset = index << self.log2;
        self.buffer.write64_pairs(offset, &[descriptor]);
        if self.log2 == WIDE_LOG2 {
            self.buffer.write64_pairs(offset + 16, &[[0; 2]]);
        }
        if !self.coherent {
            self.buffer.clean(offset, 1 << self.log2);
        }
    }

    fn push(&mut self, descriptor: [u64; 2]) {
        self.store(self.tail, descriptor);
        self.tail = (self.tail + 1) % self.entries();
    }

    /// Sends all of `commands`, in batches that fit, and waits for each.
    ///
    /// # Errors
    /// How many are complete for certain, and [`IommuError::Command`] with IQERCD.IQEI, [`IommuError::DeviceTlb`],
    /// [`IommuError::Timeout`] or [`IommuError::Gone`].
    pub(super) fn submit<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
        features: &Features,
        commands: &mut dyn Iterator<Item = Command>,
    ) -> Result<(), Incomplete> {
        let mut complete = 0;
        if self.stuck {
            let idle = self.settle(platform, registers);
            idle.map_err(|error| Incomplete { complete, error })?;
        }
        // One place stays free, and one is for the wait.
        let most = self.entries() - 2;
        loop {
            let first = self.tail;
            let mut count = 0;
            while count < most
                && let Some(command) = commands.next()
            {
                self.push(command.descriptor(features));
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.descriptors += count as u64;
            let refused = self.finish(platform, registers, features.drains_page_requests);
            refused.map_err(|(at, error)| {
                let done = at.map_or(0, |at| (at + self.entries() - first) % self.entries());
                Incomplete {
                    complete: complete + done.min(count),
                    error,
                }
            })?;
            complete += count;
        }
    }

    /// Whether nothing is on its way, so that the queue may be turned off (6.5.2).
    pub(super) fn is_idle(&self) -> bool {
        !self.stuck
    }

    /// Waits for what is still on its way. It cannot be taken back: a queue is not turned off before it is empty (6.5.2).
    fn settle<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
    ) -> Result<(), IommuError> {
        let tail = self.tail_register();
        let now_ns = || platform.now_ns();
        super::registers::wait(&now_ns, || {
            if registers
                .read::<FSTS_FIELDS::Register>(FSTS)
                .is_set(FSTS_FIELDS::IQE)
            {
                self.replace(platform, registers);
            }
            match registers.read64(IQH) {
                u64::MAX => Err(IommuError::Gone),
                head => Ok(head == tail),
            }
        })?;
        self.stuck = false;
        Ok(())
    }

    /// Sends a wait and waits for it. An error comes with the place of the descriptor that was refused.
    fn finish<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
        drains: bool,
    ) -> Result<(), (Option<usize>, IommuError)> {
        self.number = self.number.wrapping_add(1);
        self.waits += 1;
        let number = self.number;
        let status = self.buffer.hpa() + STATUS as u64;
        self.push(wait(status, number, drains));
        // Descriptors are visible before the tail that covers them.
        platform.write_barrier();
        registers.write64(IQT, self.tail_register());
        let start = platform.now_ns();
        let mut refused = None;
        loop {
            for _ in 0..LOOKS {
                if self.status() == number {
                    platform.read_barrier();
                    return refused.map_or(Ok(()), Err);
                }
                crate::sync::relax();
            }
            let errors = registers.read::<FSTS_FIELDS::Register>(FSTS);
            if errors.get() == u32::MAX {
                self.stuck = true;
                return Err((None, IommuError::Gone));
            }
            if errors.is_set(FSTS_FIELDS::IQE) {
                let (at, error) = self.replace(platform, registers);
                refused = refused.or(Some((Some(at), error)));
                if (at + 1) % self.entries() == self.tail {
                    // The wait itself: what is before it may not be complete.
                    self.stuck = true;
                    return Err((Some(at), error));
                }
            }
            if errors.is_set(FSTS_FIELDS::ITE) {
                let record = registers.read_wide::<IQERCD_FIELDS::Register>(IQERCD);
                let device = DeviceId(record.read(IQERCD_FIELDS::ITESID) as u32);
                self.stuck = true;
                acknowledge(registers);
                return Err((None, IommuError::DeviceTlb(device)));
            }
            if errors.is_set(FSTS_FIELDS::ICE) {
                registers.write32(FSTS, FSTS_FIELDS::ICE::SET.value);
            }
            if platform.now_ns().saturating_sub(start) > DEADLINE_NS {
                self.stuck = true;
                return Err((None, IommuError::Timeout));
            }
        }
    }

    /// What the last wait that is complete has written.
    fn status(&self) -> u32 {
        if !self.coherent {
            self.buffer.discard(STATUS, 8);
        }
        self.buffer.read64(STATUS) as u32
    }

    /// Puts a wait that nobody looks at in the place of the descriptor that was refused, and has the queue go on.
    fn replace<M: Mmio>(&mut self, platform: &P, registers: &Registers<M>) -> (usize, IommuError) {
        self.refusals += 1;
        let record = registers.read_wide::<IQERCD_FIELDS::Register>(IQERCD);
        let head = registers.read_wide::<IQ_FIELDS::Register>(IQH).get();
        let at = (head as usize % QUEUE_BYTES) >> self.log2;
        let unread = self.buffer.hpa() + UNREAD as u64;
        self.store(at, wait(unread, self.number, false));
        platform.write_barrier();
        registers.write32(FSTS, FSTS_FIELDS::IQE::SET.value);
        // 6.5.2.11 has it go on by itself; QEMU goes on when it is told of the tail (see `quirks`).
        registers.write64(IQT, self.tail_register());
        let code = record.read(IQERCD_FIELDS::IQEI) as u8;
        (at, IommuError::Command(code))
    }
}

/// Clears all errors of the queue.
fn acknowledge<M: Mmio>(registers: &Registers<M>) {
    let all = FSTS_FIELDS::IQE::SET + FSTS_FIELDS::ICE::SET + FSTS_FIELDS::ITE::SET;
    registers.write32(FSTS, all.value);
}
