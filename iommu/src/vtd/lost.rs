//! A unit that has lost its state, by a power cycle or a suspend behind our back.
//!
//! Found by registers that do not hold what was written to them. All DMA is refused then before anything else is done;
//! then it is turned on as at the start, with the tables that were in memory all the time.

use super::Vtd;
use super::spec::registers::{GCMD_FIELDS, GSTS, RTADDR};
use crate::hal::{Mmio, Platform};
use crate::physical::IommuError;

impl<P: Platform, M: Mmio> Vtd<P, M> {
    /// Whether the registers hold what was written to them: the root table, and that it, the queue and the interrupt table
    /// are in force.
    fn is_intact(&self) -> Result<bool, IommuError> {
        let status = self.registers.read::<GCMD_FIELDS::Register>(GSTS);
        if status.get() == u32::MAX {
            return Err(IommuError::Gone);
        }
        let root = self.registers.read64(RTADDR);
        Ok(status.is_set(GCMD_FIELDS::TE)
            && status.is_set(GCMD_FIELDS::SRTP)
            && (self.queue.is_none() || status.is_set(GCMD_FIELDS::QIE))
            && (self.interrupts.is_none() || status.is_set(GCMD_FIELDS::IRE))
            && root == self.root_register())
    }

    /// See [`PhysicalIommu::check`](crate::physical::PhysicalIommu::check).
    pub(super) fn check_state(&mut self) -> Result<bool, IommuError> {
        if self.is_intact()? {
            return Ok(false);
        }
        self.faults.note_loss();
        match self.restore() {
            Ok(()) => {
                self.stopped = false;
                Ok(true)
            }
            Err(IommuError::Gone) => Err(IommuError::Gone),
            Err(_) => {
                self.stopped = true;
                Err(IommuError::Stopped)
            }
        }
    }
}
