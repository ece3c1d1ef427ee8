//! The fault records in registers (VT-d, 7.2.1): their one consumer.

use super::registers::Registers;
use super::spec::fault::FAULT1;
use super::spec::registers::{FRCD_BYTES, FRCD_F, FRCD_LAST, FSTS, FSTS_FIELDS};
use crate::hal::Mmio;
use crate::physical::Drained;

pub(super) struct FaultLog {
    /// Where they are, and how many.
    at: usize,
    count: u16,
    /// The one that comes next.
    next: u16,
    /// Something was lost and nobody was told yet.
    lost: bool,
    pub(super) records: u64,
    pub(super) losses: u64,
}

impl FaultLog {
    pub(super) fn new((at, count): (usize, u16)) -> Self {
        Self {
            at,
            count,
            next: 0,
            lost: false,
            records: 0,
            losses: 0,
        }
    }

    /// A record could not be written.
    pub(super) fn note_loss(&mut self) {
        self.lost = true;
        self.losses += 1;
    }

    /// Forgets what is recorded, of a time before this driver's.
    pub(super) fn clear<M: Mmio>(&mut self, registers: &Registers<M>) {
        for index in 0..self.count {
            registers.write32(self.offset(index) + FRCD_LAST, FRCD_F);
        }
        registers.write32(FSTS, FSTS_FIELDS::PFO::SET.value);
        self.next = 0;
    }

    fn offset(&self, index: u16) -> usize {
        self.at + usize::from(index) * FRCD_BYTES
    }

    /// The record at `index`, if there is one.
    fn read<M: Mmio>(&self, registers: &Registers<M>, index: u16) -> Option<[u64; 2]> {
        let at = self.offset(index);
        // F is set once all of the record is there (7.2.1).
        let second = registers.read_wide::<FAULT1::Register>(at + 8);
        if !second.is_set(FAULT1::F) || second.get() == u64::MAX {
            return None;
        }
        let first = registers.read_wide::<()>(at).get();
        Some([first, second.get()])
    }

    /// Decodes the oldest records into `out`.
    pub(super) fn drain<T, M: Mmio>(
        &mut self,
        registers: &Registers<M>,
        decode: impl Fn([u64; 2]) -> T,
        out: &mut [T],
    ) -> Drained {
        let status = registers.read::<FSTS_FIELDS::Register>(FSTS);
        if status.get() == u32::MAX {
            let lost = core::mem::take(&mut self.lost);
            return Drained {
                lost,
                ..Drained::default()
            };
        }
        let mut count = 0;
        let mut more = false;
        if status.is_set(FSTS_FIELDS::PPF) {
            // FRI is where the first one was when PPF was set; a part of them may have been read since.
            if self.read(registers, self.next).is_none() {
                self.next = status.read(FSTS_FIELDS::FRI) as u16 % self.count;
            }
            for slot in out.iter_mut() {
                let Some(record) = self.read(registers, self.next) else {
                    break;
                };
                *slot = decode(record);
                registers.write32(self.offset(self.next) + FRCD_LAST, FRCD_F);
                self.next = (self.next + 1) % self.count;
                count += 1;
            }
            self.records += count as u64;
            more = count == out.len() && self.read(registers, self.next).is_some();
        }
        if status.is_set(FSTS_FIELDS::PFO) && !more {
            // Nothing is recorded while it is set (7.2.1).
            registers.write32(FSTS, FSTS_FIELDS::PFO::SET.value);
            self.note_loss();
        }
        Drained {
            count,
            lost: core::mem::take(&mut self.lost),
            more,
        }
    }
}
