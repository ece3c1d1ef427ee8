//! A unit that has lost its state, by a power cycle or a suspend behind our back.
//!
//! Found by registers that do not hold what was written to them. All DMA is refused then before anything else is done;
//! then it is turned on as at the start, with the tables that were in memory all the time, and with its message.

use alloc::sync::Arc;

use super::deny::{Cap, Ecap, deny_with};
use super::spec::registers::{
    CAP_FIELDS, GCMD_FIELDS, GSTS, IQA, IRTA, PMEN, PMEN_FIELDS, PQA, RTADDR,
};
use super::{StartError, Vtd};
use crate::hal::{Mmio, Platform};
use crate::physical::IommuError;

impl<P: Platform, M: Mmio> Vtd<P, M> {
    /// Whether the registers hold what was written to them: what is in force and what is not, where the tables and the
    /// queues are, and what the events say.
    fn is_intact(&self) -> Result<bool, IommuError> {
        let registers = &self.registers;
        let status = registers.read::<GCMD_FIELDS::Register>(GSTS);
        if status.get() == u32::MAX {
            return Err(IommuError::Gone);
        }
        let (queue, interrupts) = (&self.queue, self.interrupt_register());
        // What nobody turned on here is firmware's: interrupts stay as they are without a table of ours.
        let ours = GCMD_FIELDS::TE::SET
            + GCMD_FIELDS::SRTP::SET
            + GCMD_FIELDS::QIE.val(queue.is_some().into());
        let of_interrupts = GCMD_FIELDS::IRE::SET + GCMD_FIELDS::SIRTP::SET;
        let on = match interrupts {
            Some(_) => ours.value | of_interrupts.value,
            None => ours.value,
        };
        let off = match interrupts {
            Some(_) => GCMD_FIELDS::CFI::SET.value,
            None => 0,
        };
        let holds =
            |at, value: Option<u64>| value.is_none_or(|value| registers.read64(at) == value);
        Ok(status.get() & (on | off) == on
            && holds(RTADDR, Some(self.root_register()))
            && holds(IQA, queue.as_ref().map(|queue| queue.register()))
            && holds(IRTA, interrupts)
            && self.fault_message.is_intact(registers)
            && self.requests.as_ref().is_none_or(|queue| {
                registers.read64(PQA) == queue.register()
                    && self.request_message.is_intact(registers)
            })
            && !self.is_protecting())
    }

    /// Whether memory is protected as before translation was on.
    fn is_protecting(&self) -> bool {
        let cap = Cap::new(self.capabilities.0);
        let has = cap.is_set(CAP_FIELDS::PLMR) || cap.is_set(CAP_FIELDS::PHMR);
        has && self.registers.read32(PMEN) & PMEN_FIELDS::EPM::SET.value != 0
    }

    /// See [`PhysicalIommu::check`](crate::physical::PhysicalIommu::check).
    pub(super) fn check_state(&mut self) -> Result<bool, IommuError> {
        if self.is_intact()? {
            return Ok(false);
        }
        self.faults.note_loss();
        if let Some(queue) = &mut self.requests {
            queue.note_loss();
        }
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

    /// All DMA refused, then as it was.
    fn restore(&mut self) -> Result<(), IommuError> {
        let platform = Arc::clone(&self.platform);
        let root = self.tables.root().base;
        let (cap, ecap) = self.capabilities;
        let capabilities = (Cap::new(cap), Ecap::new(ecap));
        let now_ns = || platform.now_ns();
        let registers = &self.registers;
        deny_with(registers, root, self.scalable, capabilities, &now_ns).map_err(|error| {
            match error {
                StartError::Hardware(error) => error,
                _ => IommuError::Gone,
            }
        })?;
        self.enable()
    }
}
