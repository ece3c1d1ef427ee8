//! The message of one kind of event of the unit's own (VT-d, 11.4: FECTL, IECTL and PECTL, each with data, address and upper
//! address in the registers behind it): its one writer.

use super::spec::registers::{FEADDR, FECTL, FECTL_FIELDS, FEDATA, FEUADDR};
use crate::hal::Mmio;

/// Offsets from the control register.
const DATA: usize = FEDATA - FECTL;
const ADDRESS: usize = FEADDR - FECTL;
const UPPER_ADDRESS: usize = FEUADDR - FECTL;

pub(super) struct EventMessage {
    /// The control register.
    control: usize,
    /// Address and data; `None` is masked.
    message: Option<(u64, u32)>,
    /// Data and address as they read once they were written: bits that the unit does not have are 0.
    held: [u32; 3],
}

impl EventMessage {
    /// Masked, whatever the registers hold.
    pub(super) const fn new(control: usize) -> Self {
        Self {
            control,
            message: None,
            held: [0; 3],
        }
    }

    /// Another message.
    pub(super) fn set(&mut self, mmio: &impl Mmio, message: Option<(u64, u32)>) {
        self.message = message;
        self.program(mmio);
    }

    /// Tells the unit. An event that came before is told now (11.4, FECTL.IP).
    pub(super) fn program(&mut self, mmio: &impl Mmio) {
        mmio.write32(self.control, FECTL_FIELDS::IM::SET.value);
        if let Some((address, data)) = self.message {
            mmio.write32(self.control + DATA, data);
            mmio.write32(self.control + ADDRESS, address as u32);
            mmio.write32(self.control + UPPER_ADDRESS, (address >> 32) as u32);
            self.held = self.read(mmio);
            mmio.write32(self.control, 0);
        }
    }

    /// Whether the registers hold it.
    pub(super) fn is_intact(&self, mmio: &impl Mmio) -> bool {
        let masked = mmio.read32(self.control) & FECTL_FIELDS::IM::SET.value != 0;
        masked == self.message.is_none() && (masked || self.read(mmio) == self.held)
    }

    fn read(&self, mmio: &impl Mmio) -> [u32; 3] {
        [DATA, ADDRESS, UPPER_ADDRESS].map(|offset| mmio.read32(self.control + offset))
    }
}
