//! Interrupts and errors of a guest's SMMU (IHI 0070, §3.18, §6.3.19, §7.5).

use super::effect::{Effect, Interrupts, Message};
use super::spec::{
    EVENTQ_IRQEN, GERROR_IRQEN, MSI_CMDQ_ABT_ERR, MSI_EVENTQ_ABT_ERR, MSI_GERROR_ABT_ERR,
    MSI_PRIQ_ABT_ERR, PRIQ_IRQEN,
};
use super::{Slice, VirtSmmu};
use crate::addr::Gpa;
use crate::hal::{GuestMemory, Platform};
use crate::smmuv3::spec::registers::{
    EVENTQ_IRQ_CFG0, GERROR, GERROR_IRQ_CFG0, IRQ_CTRL, PRIQ_IRQ_CFG0,
};

impl<P: Platform, S: Slice> VirtSmmu<P, S> {
    /// What hands [`Message`]s on found nothing at the address of one.
    pub fn message_refused(&mut self, memory: &dyn GuestMemory, source: Interrupts) -> Effect {
        let mut effect = self.begin();
        self.raise(memory, message_error(source), &mut effect);
        effect
    }

    /// Makes an error active, unless it is, and interrupts (§6.3.19).
    pub(super) fn raise(&mut self, memory: &dyn GuestMemory, error: u32, effect: &mut Effect) {
        if self.registers.active_errors() & error != 0 {
            return;
        }
        let errors = self.registers.get(GERROR) ^ error;
        self.registers.set(GERROR, errors);
        // An abort of the message for errors does not tell of itself.
        if error != MSI_GERROR_ABT_ERR {
            self.interrupt(memory, Interrupts::ERRORS, effect);
        }
    }

    /// One of the interrupts that IRQ_CTRL turns on.
    pub(super) fn interrupt(
        &mut self,
        memory: &dyn GuestMemory,
        source: Interrupts,
        effect: &mut Effect,
    ) {
        let (enable, config) = match source {
            Interrupts::EVENTS => (EVENTQ_IRQEN, EVENTQ_IRQ_CFG0),
            Interrupts::REQUESTS => (PRIQ_IRQEN, PRIQ_IRQ_CFG0),
            _ => (GERROR_IRQEN, GERROR_IRQ_CFG0),
        };
        if self.registers.get(IRQ_CTRL) & enable != 0 {
            let address = self.registers.get64(config);
            let data = self.registers.get(config + 8);
            self.signal(memory, source, address, data, effect);
        }
    }

    /// An interrupt by a message, or by its wire where the address is 0 (§3.18).
    pub(super) fn signal(
        &mut self,
        memory: &dyn GuestMemory,
        source: Interrupts,
        address: u64,
        data: u32,
        effect: &mut Effect,
    ) {
        self.counters.interrupts += 1;
        if address == 0 {
            effect.interrupts |= source;
            return;
        }
        let address = Gpa(address);
        let message = Message {
            source,
            address,
            data,
        };
        let written =
            memory.write(address, &data.to_le_bytes()).is_ok() || self.outbox.push(message);
        if !written {
            self.raise(memory, message_error(source), effect);
        }
    }
}

/// The error that an aborted message is.
fn message_error(source: Interrupts) -> u32 {
    match source {
        Interrupts::EVENTS => MSI_EVENTQ_ABT_ERR,
        Interrupts::REQUESTS => MSI_PRIQ_ABT_ERR,
        Interrupts::SYNC => MSI_CMDQ_ABT_ERR,
        _ => MSI_GERROR_ABT_ERR,
    }
}
