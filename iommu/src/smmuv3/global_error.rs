//! Errors of the SMMU itself (IHI 0070, §7.5).

use super::Smmu;
use super::shared::Core;
use super::spec::registers::{GERROR, GERROR_FIELDS, GERRORN};
use crate::hal::{Mmio, Platform};
use crate::physical::IommuError;

/// The errors that [`Smmu::handle_gerror`] found and acknowledged: GERROR bits (§6.3.19).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GlobalErrors(pub u32);

impl GlobalErrors {
    /// None was active.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Event records were lost.
    pub fn events_lost(self) -> bool {
        self.0 & GERROR_FIELDS::EVENTQ_ABT_ERR::SET.value != 0
    }

    /// A command was refused outside a batch.
    pub fn command(self) -> bool {
        self.0 & GERROR_FIELDS::CMDQ_ERR::SET.value != 0
    }

    /// The SMMU has stopped serving: it refuses all DMA.
    pub fn service_failure(self) -> bool {
        self.0 & GERROR_FIELDS::SFM_ERR::SET.value != 0
    }
}

impl<P: Platform, M: Mmio> Smmu<P, M> {
    /// Acknowledges the active global errors (§7.5), and gets the command queue going again if it stopped.
    ///
    /// | bit | what happens |
    /// |---|---|
    /// | CMDQ_ERR | by CMDQ_CONS.ERR: see `command_queue`; the batch concerned fails |
    /// | EVENTQ_ABT_ERR | records were lost: the next drain says so |
    /// | PRIQ_ABT_ERR | page requests were lost: the next call for them says so |
    /// | MSI_*_ABT_ERR | acknowledged; interrupts are wires, CMD_SYNC is polled for |
    /// | SFM_ERR | the SMMU refuses all DMA for good: nothing waits for it any more |
    ///
    /// # Errors
    /// [`IommuError::Gone`]; [`IommuError::Command`] where the command queue cannot go on.
    pub fn handle_gerror(&mut self) -> Result<GlobalErrors, IommuError> {
        let mut core = self.shared.lock();
        let Core {
            registers,
            queue,
            stopped,
            ..
        } = &mut *core;
        let errors = registers.read::<()>(GERROR).get();
        let seen = registers.read::<()>(GERRORN).get();
        if errors == u32::MAX {
            return Err(IommuError::Gone);
        }
        let active = GlobalErrors(errors ^ seen);
        if active.is_empty() {
            return Ok(active);
        }
        if active.events_lost() {
            self.events.note_loss();
        }
        let requests = GERROR_FIELDS::PRIQ_ABT_ERR::SET.value;
        if active.0 & requests != 0
            && let Some(queue) = &mut self.requests
        {
            queue.note_loss();
        }
        *stopped |= active.service_failure();
        let command = GERROR_FIELDS::CMDQ_ERR::SET.value;
        if active.0 & !command != 0 {
            registers.write(GERRORN, seen ^ (active.0 & !command));
        }
        if active.command() {
            queue.recover(&self.platform, registers)?;
        }
        Ok(active)
    }
}
