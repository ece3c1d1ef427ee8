//! The control frame (IHI 0069, §12.19).

use super::Vits;
use super::spec::{
    BASER_MASK, CBASER_MASK, CTLR_ENABLED, CTLR_QUIESCENT, QUEUE_OFFSET, QUEUE_STALL, TYPER,
    offset as at,
};
use crate::vdev::vgic::banked::{is_wide, merge, part};
use crate::vdev::vgic::spec::{IIDR, PIDR2};

impl Vits {
    /// Reads `size` bytes (1, 2, 4 or 8) at `offset` of the control frame.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        if let Some(register) = wide(offset, size) {
            let value = match register {
                at::TYPER => TYPER,
                at::CBASER => self.cbaser,
                at::CWRITER => self.cwriter,
                at::CREADR => self.creadr | u64::from(self.stalled),
                _ => *self.baser(register).unwrap_or(&mut 0),
            };
            return part(value, offset, size);
        }
        let word = match offset {
            _ if size != 4 => None,
            at::CTLR if self.control & CTLR_ENABLED == 0 && !self.forget => Some(CTLR_QUIESCENT),
            at::CTLR => Some(self.control),
            at::IIDR => Some(IIDR),
            at::PIDR2 => Some(PIDR2),
            _ => None,
        };
        if word.is_none() && !reserved_as_zero(offset, size) {
            self.refuse();
        }
        u64::from(word.unwrap_or(0))
    }

    /// Writes `size` bytes (1, 2, 4 or 8) at `offset` of the control frame. If there is work now ([`Vits::has_work`]),
    /// poll.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        if let Some(register) = wide(offset, size) {
            return self.write_wide(register, offset, size, value);
        }
        match offset {
            at::CTLR if size == 4 => self.control = value as u32 & CTLR_ENABLED,
            at::IIDR | at::PIDR2 if size == 4 => {}
            _ if reserved_as_zero(offset, size) => {}
            _ => self.refuse(),
        }
    }

    fn write_wide(&mut self, register: u64, offset: u64, size: u8, value: u64) {
        let enabled = self.control & CTLR_ENABLED != 0;
        match register {
            at::TYPER | at::CREADR => {}
            at::CWRITER => {
                let cwriter = merge(self.cwriter, offset, size, value);
                if cwriter & QUEUE_OFFSET < self.queue_bytes() {
                    self.cwriter = cwriter & QUEUE_OFFSET;
                    self.stalled &= cwriter & QUEUE_STALL == 0;
                } else {
                    self.refuse();
                }
            }
            // While we are on, the tables and the queue stay where they are.
            _ if enabled => self.refuse(),
            at::CBASER => {
                self.cbaser = merge(self.cbaser, offset, size, value) & CBASER_MASK;
                self.creadr = 0;
                self.cwriter = 0;
                self.stalled = false;
            }
            _ => {
                if let Some(baser) = self.baser(register) {
                    let old = *baser;
                    *baser = old & !BASER_MASK | merge(old, offset, size, value) & BASER_MASK;
                    // Another table, or none: with the old one all that was mapped is gone.
                    self.forget |= old != *baser;
                }
            }
        }
    }

    fn baser(&mut self, register: u64) -> Option<&mut u64> {
        self.basers
            .get_mut((register.checked_sub(at::BASER)? / 8) as usize)
    }
}

/// The 64-bit register that such an access is to, whole or one of its words.
const fn wide(offset: u64, size: u8) -> Option<u64> {
    let register = offset & !7;
    match register {
        at::TYPER | at::CBASER | at::CWRITER | at::CREADR | at::BASER..0x140
            if is_wide(offset, size) =>
        {
            Some(register)
        }
        _ => None,
    }
}

/// Registers that exist and read as zero here.
fn reserved_as_zero(offset: u64, size: u8) -> bool {
    let word = size == 4 && offset.is_multiple_of(4);
    match offset {
        at::MPAM..0x1c | at::STATUSR => word,
        at::UMSIR..0x50 => word || size == 8,
        at::ID..=0xffff => word,
        _ => false,
    }
}
