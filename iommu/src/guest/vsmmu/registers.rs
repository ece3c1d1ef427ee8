//! The register file of a guest's SMMU (IHI 0070, chapter 6): values, and a copy of them in memory that a guest can be
//! given read-only, so that no read has to trap. No register of an SMMU has a side effect when it is read.
//!
//! The copy is written, cleaned to memory (a guest's registers are Device memory, which finds nothing in caches) and never
//! read back. It is [`IMAGE_BYTES`] long: the first 4 KiB of register page 0, then the first
//! 4 KiB of page 1. All else in the two 64 KiB pages reads as zero.

use super::spec::{
    CIDR, CIDR0, CMDQ_ERR_FIELD, CMDQEN, EVENTQEN, GBPA_INCOMING, INDEX, PAGE_ONE, PIDR4, PRIQEN,
    QUEUE_ADDRESS, SMMUEN,
};
use crate::addr::Gpa;
use crate::hal::DmaBuffer;
use crate::smmuv3::Identity;
use crate::smmuv3::ring::Position;
use crate::smmuv3::spec::registers::{
    AIDR, CMDQ_BASE, CMDQ_CONS, CMDQ_PROD, CR0, CR0ACK, EVENTQ_BASE, EVENTQ_CONS, EVENTQ_PROD,
    GBPA, GERROR, GERRORN, IDR0, IIDR, PRIQ_BASE, PRIQ_CONS, PRIQ_PROD, REGION_BYTES,
};

/// Bytes of the readable copy.
pub const IMAGE_BYTES: usize = 0x2000;
/// Where page 1 starts in the copy.
pub const IMAGE_PAGE_ONE: usize = 0x1000;

/// Registers of page 0, from its start on.
const LOW: usize = 0x100 / 4;
/// Of page 1: EVENTQ_PROD, EVENTQ_CONS, PRIQ_PROD, PRIQ_CONS.
const HIGH: usize = 4;
/// Identification registers.
const IDENTIFICATION: usize = 12;

/// A queue that the guest has set up, as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queue {
    base: u64,
    pub prod: Position,
    pub cons: Position,
}

impl Queue {
    /// The queue of these registers; more entries than `largest` says are as many as it says (§6.3.26).
    #[inline(always)]
    fn new(base: u64, prod: u32, cons: u32, largest: u8) -> Self {
        let log2 = (base as u8 & 0x1f).min(largest);
        let start = Position::start(log2);
        Self {
            base,
            prod: start.of_register(prod),
            cons: start.of_register(cons),
        }
    }

    /// Where the entry at `position`, of `bytes`, is. Address bits below the size of the queue are zero.
    pub fn slot(&self, position: Position, bytes: usize) -> Gpa {
        let size = (bytes as u64 * u64::from(position.entries())).max(32);
        let base = self.base & QUEUE_ADDRESS & !(size - 1);
        Gpa(base + (position.index() * bytes) as u64)
    }

    pub fn is_empty(&self) -> bool {
        self.prod == self.cons
    }

    /// Entries that can still be written. A consumer that is nowhere in the queue leaves no room.
    pub fn room(&self) -> u32 {
        let entries = self.prod.entries();
        entries.saturating_sub(self.prod.since(self.cons))
    }
}

/// Largest queues, log2 of their entries (IDR1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct QueueSizes {
    pub commands: u8,
    pub events: u8,
    pub requests: u8,
}

pub(super) struct RegisterFile<B: DmaBuffer> {
    words: [u32; LOW + HIGH + IDENTIFICATION],
    image: B,
    identity: Identity,
    sizes: QueueSizes,
    /// CMDQ_PROD is not in the copy yet.
    rung: bool,
}

/// Where the word of the register at `offset` is kept, if there can be one.
#[inline(always)]
fn slot(offset: usize) -> Option<usize> {
    match offset {
        0..0x100 => Some(offset / 4),
        EVENTQ_PROD => Some(LOW),
        EVENTQ_CONS => Some(LOW + 1),
        PRIQ_PROD => Some(LOW + 2),
        PRIQ_CONS => Some(LOW + 3),
        PIDR4..0x1000 => Some(LOW + HIGH + (offset - PIDR4) / 4),
        _ => None,
    }
}

impl<B: DmaBuffer> RegisterFile<B> {
    /// Out of reset. `image` is zeroed and has [`IMAGE_BYTES`].
    pub fn new(image: B, identity: Identity, sizes: QueueSizes) -> Self {
        let mut file = Self {
            words: [0; LOW + HIGH + IDENTIFICATION],
            image,
            identity,
            sizes,
            rung: false,
        };
        file.image.clean(0, IMAGE_BYTES);
        file.reset();
        file
    }

    /// Reset values. GBPA lets pass what stage 2 lets pass.
    pub fn reset(&mut self) {
        let Identity { idr, iidr, aidr } = self.identity;
        for offset in (0..0x100).step_by(4) {
            let value = match offset {
                IDR0..IIDR => idr[(offset - IDR0) / 4],
                IIDR => iidr,
                AIDR => aidr,
                GBPA => GBPA_INCOMING,
                _ => 0,
            };
            self.set(offset, value);
        }
        for offset in [EVENTQ_PROD, EVENTQ_CONS, PRIQ_PROD, PRIQ_CONS] {
            self.set(offset, 0);
        }
        for (index, value) in CIDR.into_iter().enumerate() {
            self.set(CIDR0 + index * 4, value);
        }
    }

    /// The copy, for whoever maps it.
    pub fn image(&self) -> &B {
        &self.image
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What a guest reads at `offset`, a multiple of 4.
    #[inline(always)]
    pub fn get(&self, offset: usize) -> u32 {
        slot(offset).map_or(0, |slot| self.words[slot])
    }

    /// As [`get`](Self::get), of a 64-bit register.
    #[inline(always)]
    pub fn get64(&self, offset: usize) -> u64 {
        u64::from(self.get(offset)) | u64::from(self.get(offset + 4)) << 32
    }

    /// Sets a register that is there, and its copy.
    pub fn set(&mut self, offset: usize, value: u32) {
        if let Some(slot) = slot(offset) {
            self.words[slot] = value;
            self.publish(offset);
        }
    }

    /// As [`set`](Self::set), of a 64-bit register.
    pub fn set64(&mut self, offset: usize, value: u64) {
        if let (Some(low), Some(high)) = (slot(offset), slot(offset + 4)) {
            self.words[low] = value as u32;
            self.words[high] = (value >> 32) as u32;
            self.publish(offset);
        }
    }

    /// Sets CMDQ_PROD to its fields of `value`. The copy follows with CMDQ_CONS, which is the other half of its word, or with
    /// [`publish_doorbell`](Self::publish_doorbell).
    pub fn ring(&mut self, value: u32) {
        self.words[CMDQ_PROD / 4] = value & INDEX;
        self.rung = true;
    }

    /// Moves CMDQ_CONS; why the queue stopped last stays (§6.3.28). What [`ring`](Self::ring) has set is in the copy.
    #[inline(always)]
    pub fn set_consumed(&mut self, position: u32) {
        let consumed = &mut self.words[CMDQ_CONS / 4];
        *consumed = *consumed & CMDQ_ERR_FIELD | position;
        self.rung = false;
        self.image.write64_clean(CMDQ_PROD, self.get64(CMDQ_PROD));
    }

    /// What [`ring`](Self::ring) has set is in the copy.
    pub fn publish_doorbell(&mut self) {
        if self.rung {
            self.publish(CMDQ_PROD);
        }
    }

    /// Registers come in pairs, which are one word of the copy.
    fn publish(&mut self, offset: usize) {
        let pair = offset & !7;
        self.rung &= pair != CMDQ_PROD & !7;
        let at = match pair.checked_sub(PAGE_ONE as usize) {
            Some(offset) => IMAGE_PAGE_ONE + offset,
            None => pair,
        };
        self.image.write64_clean(at, self.get64(pair));
    }

    /// A read of the guest's: `None` for a size or an alignment that no register has, or past the end.
    pub fn read(&self, offset: u64, size: u8) -> Option<u64> {
        if !well_formed(offset, size) {
            return None;
        }
        let offset = offset as usize;
        match size {
            4 => Some(self.get(offset).into()),
            _ if is_wide(offset) => Some(self.get64(offset)),
            _ => None,
        }
    }

    /// Which of `bits` of CR0 are on, or on their way.
    pub fn enabled(&self, bits: u32) -> u32 {
        (self.get(CR0) | self.get(CR0ACK)) & bits
    }

    /// Translation is on, as far as the guest asked for it.
    pub fn translates(&self) -> bool {
        self.get(CR0) & SMMUEN != 0
    }

    /// Errors that the guest has not acknowledged.
    pub fn active_errors(&self) -> u32 {
        self.get(GERROR) ^ self.get(GERRORN)
    }

    #[inline(always)]
    fn queue(&self, base: usize, prod: usize, cons: usize, largest: u8) -> Queue {
        Queue::new(self.get64(base), self.get(prod), self.get(cons), largest)
    }

    /// The command queue, if it is on.
    #[inline(always)]
    pub fn commands(&self) -> Option<Queue> {
        if self.get(CR0) & CMDQEN == 0 {
            return None;
        }
        Some(self.queue(CMDQ_BASE, CMDQ_PROD, CMDQ_CONS, self.sizes.commands))
    }

    /// The event queue, if it is on.
    pub fn events(&self) -> Option<Queue> {
        let on = self.get(CR0) & EVENTQEN != 0;
        on.then(|| self.queue(EVENTQ_BASE, EVENTQ_PROD, EVENTQ_CONS, self.sizes.events))
    }

    /// The page request queue, if it is on.
    pub fn requests(&self) -> Option<Queue> {
        let on = self.get(CR0) & PRIQEN != 0;
        on.then(|| self.queue(PRIQ_BASE, PRIQ_PROD, PRIQ_CONS, self.sizes.requests))
    }

    #[cfg(test)]
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

/// Whether an access is one that registers can have.
pub(super) fn well_formed(offset: u64, size: u8) -> bool {
    matches!(size, 4 | 8) && offset.is_multiple_of(size.into()) && offset < REGION_BYTES as u64
}

/// Whether the register at `offset` has 64 bits.
pub(super) fn is_wide(offset: usize) -> bool {
    use crate::smmuv3::spec::registers::{
        EVENTQ_IRQ_CFG0, GERROR_IRQ_CFG0, PRIQ_IRQ_CFG0, STRTAB_BASE,
    };
    matches!(
        offset,
        GERROR_IRQ_CFG0
            | STRTAB_BASE
            | CMDQ_BASE
            | EVENTQ_BASE
            | EVENTQ_IRQ_CFG0
            | PRIQ_BASE
            | PRIQ_IRQ_CFG0
    )
}
