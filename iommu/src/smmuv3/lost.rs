//! An SMMU that has lost its state, by a power cycle or a reset behind our back (IHI 0070, §3.11: what firmware or an
//! integrator may do at any time, and what GBPA is after it, are theirs).
//!
//! Found by registers that do not hold what was written to them. All DMA is refused then before anything else is done;
//! then it is turned on as at the start, with the stream table that was in memory all the time.

use alloc::sync::Arc;

use super::registers::Registers;
use super::spec::registers::{CR0, GBPA, GBPA_FIELDS, STRTAB_BASE};
use super::{Smmu, StartError, deny_all};
use crate::hal::{Mmio, Platform};
use crate::physical::IommuError;

impl<P: Platform, M: Mmio> Smmu<P, M> {
    /// Whether the registers hold what was written to them: CR0, the stream table, and that all is refused without it.
    fn is_intact(&self, registers: &Registers<M>) -> Result<bool, IommuError> {
        let control = registers.read::<()>(CR0).get();
        if control == u32::MAX {
            return Err(IommuError::Gone);
        }
        let abort = registers.read::<GBPA_FIELDS::Register>(GBPA);
        let table = registers.read::<()>(STRTAB_BASE).get();
        Ok(control == self.control
            && abort.is_set(GBPA_FIELDS::ABORT)
            && table == self.streams.base().base.0 as u32)
    }

    /// See [`PhysicalIommu::check`](crate::physical::PhysicalIommu::check).
    pub(super) fn check_state(&mut self) -> Result<bool, IommuError> {
        let shared = Arc::clone(&self.shared);
        let mut core = shared.lock();
        if self.is_intact(&core.registers)? {
            return Ok(false);
        }
        let denied = deny_all(core.registers.mmio(), || shared.platform.now_ns());
        denied.map_err(|error| match error {
            StartError::Hardware(error) => error,
            _ => IommuError::Gone,
        })?;
        core.queue.forget();
        core.stopped = false;
        self.events.note_loss();
        if let Some(requests) = &mut self.requests {
            requests.note_loss();
        }
        self.control = 0;
        match self.enable(core) {
            Ok(()) => Ok(true),
            Err(_) => {
                // It refuses everything, and nobody waits for it any more.
                self.shared.lock().stopped = true;
                Err(IommuError::Stopped)
            }
        }
    }
}
