//! Virtual I/O APIC: an 82093AA of version 0x20, with 24 pins and an EOI register.
//!
//! Pins have levels ([`Vioapic::set_line`]); what is sent is an [`Msi`], as in hardware, so that interrupts of both formats
//! take the same way. After each operation [`Vioapic::next_message`] until it has no more.

mod spec;
#[cfg(test)]
mod tests;

use super::msi::Msi;
use spec::{ID_WRITABLE, entry, offset, register};

/// Pins, and so entries of the redirection table.
pub const PINS: usize = 24;

const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;

/// One input, with its entry.
#[derive(Clone, Copy, Debug)]
struct Pin {
    entry: u64,
    high: bool,
    /// It became high while it was edge-triggered and not masked, and that was not sent yet.
    edge: bool,
}

impl Pin {
    const RESET: Self = Self {
        entry: entry::MASKED,
        high: false,
        edge: false,
    };

    const fn is(&self, bit: u64) -> bool {
        self.entry & bit != 0
    }

    const fn is_due(&self) -> bool {
        if self.is(entry::MASKED) {
            false
        } else if self.is(entry::LEVEL) {
            self.high && !self.is(entry::REMOTE_IRR)
        } else {
            self.edge
        }
    }

    fn set_line(&mut self, high: bool) {
        self.edge |= high && !self.high && !self.is(entry::MASKED | entry::LEVEL);
        self.high = high;
    }

    fn write(&mut self, value: u64) {
        let kept = self.entry & entry::REMOTE_IRR;
        self.entry = value & entry::WRITABLE;
        if self.is(entry::LEVEL) {
            // Only the end of the interrupt, or edge-triggered mode, clears it.
            self.entry |= kept;
        }
        // An edge at a masked pin is ignored (§3.2.4, interrupt mask).
        self.edge &= !self.is(entry::MASKED | entry::LEVEL);
    }

    /// Sends it: address and data have the entry's bits in another order.
    fn send(&mut self) -> Msi {
        let Self { entry, .. } = *self;
        let level = entry & entry::LEVEL;
        if level != 0 {
            self.entry |= entry::REMOTE_IRR;
        }
        self.edge = false;
        let destination = (entry >> 48) << 4;
        let logical = (entry & entry::LOGICAL) >> 9;
        const ASSERT: u64 = 1 << 14;
        Msi {
            address: 0xfee0_0000 | destination | logical,
            data: (entry & 0xff | entry & 7 << entry::MODE_SHIFT | level | ASSERT) as u32,
        }
    }
}

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Vioapic {
    select: u8,
    id: u32,
    pins: [Pin; PINS],
    misuse: u64,
}

impl Default for Vioapic {
    fn default() -> Self {
        Self::new()
    }
}

impl Vioapic {
    /// As after reset: every pin masked.
    pub const fn new() -> Self {
        Self {
            select: 0,
            id: 0,
            pins: [Pin::RESET; PINS],
            misuse: 0,
        }
    }

    /// As after reset, but for the lines, which others drive.
    pub fn reset(&mut self) {
        let pins = self.pins;
        *self = Self {
            misuse: self.misuse,
            ..Self::new()
        };
        for (pin, before) in self.pins.iter_mut().zip(pins) {
            pin.high = before.high;
        }
    }

    /// Accesses so far of what is not there.
    pub fn misuse(&self) -> u64 {
        self.misuse
    }

    /// A load of `size` bytes at `offset`.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (offset::SELECT, 4) => self.select.into(),
            (offset::WINDOW, 4) => self.load().into(),
            _ => {
                self.misuse += 1;
                0
            }
        }
    }

    /// A store of `size` bytes at `offset`.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        match (offset, size) {
            (offset::SELECT, 4) => self.select = value as u8,
            (offset::WINDOW, 4) => self.store(value as u32),
            (offset::EOI, 4) => self.end(value as u8),
            _ => self.misuse += 1,
        }
    }

    /// A device asserts the input `pin`, or no longer does. What is no pin is nobody's.
    pub fn set_line(&mut self, pin: usize, high: bool) {
        if let Some(pin) = self.pins.get_mut(pin) {
            pin.set_line(high);
        }
    }

    /// A processor has ended `vector`: whatever was sent with it may be sent again.
    pub fn end(&mut self, vector: u8) {
        for pin in &mut self.pins {
            if pin.entry as u8 == vector && pin.is(entry::LEVEL) {
                pin.entry &= !entry::REMOTE_IRR;
            }
        }
    }

    /// The next message to be sent, of the lowest pin that has one.
    pub fn next_message(&mut self) -> Option<Msi> {
        self.pins.iter_mut().find(|pin| pin.is_due()).map(Pin::send)
    }

    fn load(&mut self) -> u32 {
        match self.select {
            register::ID | register::ARBITRATION => self.id,
            register::VERSION => VERSION,
            select => match self.selected(select) {
                Some((pin, high)) => (pin.entry >> (32 * u32::from(high))) as u32,
                None => {
                    self.misuse += 1;
                    0
                }
            },
        }
    }

    fn store(&mut self, value: u32) {
        match self.select {
            register::ID => self.id = value & ID_WRITABLE,
            register::VERSION | register::ARBITRATION => {}
            select => match self.selected(select) {
                Some((pin, false)) => pin.write(pin.entry & !0xffff_ffff | u64::from(value)),
                Some((pin, true)) => {
                    pin.write(pin.entry & 0xffff_ffff | u64::from(value) << 32);
                }
                None => self.misuse += 1,
            },
        }
    }

    /// The pin whose entry has this register, and whether it is the upper half.
    fn selected(&mut self, select: u8) -> Option<(&mut Pin, bool)> {
        let half = select.checked_sub(register::REDIRECTION)?;
        let pin = self.pins.get_mut(usize::from(half / 2))?;
        Some((pin, half % 2 != 0))
    }
}

const _: () = assert!(PINS <= 120, "a register number has eight bits");
