//! The PL011 UART (Arm DDI 0183): the console.
//!
//! [`Pl011::new`] needs no allocator, so it serves the first line of output as well as the console that follows. Line
//! settings are firmware's where it enabled the UART, else 8N1 at whatever divisor is in place.
//!
//! The `arm-pl011-uart` crate is not used: it owns its registers through a pointer, where ours are an [`MmioRegion`]
//! that was handed out once and answers to a fake on the host, and its transmit waits have no deadline.

#[cfg(test)]
mod tests;

use super::gic::wait;
use crate::mmio::MmioRegion;
use core::fmt;
use tock_registers::{LocalRegisterCopy, register_bitfields};

/// UARTDR (3.3.1).
const DR: usize = 0x00;
/// UARTFR (3.3.3).
const FR: usize = 0x18;
/// UARTLCR_H (3.3.7).
const LCR_H: usize = 0x2C;
/// UARTCR (3.3.8).
const CR: usize = 0x30;
/// UARTIMSC (3.3.10).
const IMSC: usize = 0x38;
/// UARTICR (3.3.13).
const ICR: usize = 0x44;

register_bitfields![u32,
    /// UARTDR (3.3.1).
    Data [
        /// The character.
        Character OFFSET(0) NUMBITS(8) [],
        /// Framing, parity or break error: the character is none.
        Bad OFFSET(8) NUMBITS(3) []
    ],
    /// UARTFR (3.3.3).
    Flags [
        /// Something is on its way out, the FIFO included.
        Busy OFFSET(3) NUMBITS(1) [],
        /// Nothing received.
        Rxfe OFFSET(4) NUMBITS(1) [],
        /// No room to transmit.
        Txff OFFSET(5) NUMBITS(1) []
    ],
    /// UARTLCR_H (3.3.7).
    Line [
        /// FIFOs on.
        Fen OFFSET(4) NUMBITS(1) [],
        /// Bits of a character, less five.
        Wlen OFFSET(5) NUMBITS(2) []
    ],
    /// UARTCR (3.3.8).
    Control [
        /// The UART is on.
        Uarten OFFSET(0) NUMBITS(1) [],
        /// Transmits.
        Txe OFFSET(8) NUMBITS(1) [],
        /// Receives.
        Rxe OFFSET(9) NUMBITS(1) []
    ],
    /// UARTIMSC and UARTICR (3.3.10, 3.3.13).
    Interrupts [
        /// The receive FIFO has reached its level.
        Rx OFFSET(4) NUMBITS(1) [],
        /// It has something, and nothing came for 32 bit times.
        Rt OFFSET(6) NUMBITS(1) []
    ]
];

/// One full FIFO at 9600 baud takes 34 ms.
const TRANSMIT_LIMIT_NS: u64 = 50_000_000;
/// As many characters as a receive FIFO has.
const FIFO_LEN: usize = 32;

/// The UART took no character within 50 ms: flow control, or a dead line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransmitTimeout;

/// One UART.
#[derive(Debug)]
pub struct Pl011 {
    registers: MmioRegion,
    /// It timed out: nobody waits for it again before it takes something by itself.
    stuck: bool,
}

impl Pl011 {
    /// Takes the UART over, transmitting and receiving, interrupts masked.
    pub fn new(registers: MmioRegion) -> Self {
        registers.write32(IMSC, 0);
        let mut control = LocalRegisterCopy::<u32, Control::Register>::new(registers.read32(CR));
        if !control.is_set(Control::Uarten) {
            // 3.3.7: the line may only be set up while the UART is off.
            registers.write32(LCR_H, (Line::Fen::SET + Line::Wlen.val(3)).value);
        }
        let on = Control::Uarten::SET + Control::Txe::SET + Control::Rxe::SET;
        if !control.matches_all(on) {
            control.modify(on);
            registers.write32(CR, control.get());
        }
        Self {
            registers,
            stuck: false,
        }
    }

    /// Sends one byte as soon as there is room; the byte is lost if there is none in time.
    pub fn write_byte(&mut self, byte: u8) -> Result<(), TransmitTimeout> {
        let limit = if self.stuck { 0 } else { TRANSMIT_LIMIT_NS };
        let room = wait::until(limit, || !self.flag(Flags::Txff::SET.value));
        self.stuck = !room;
        if !room {
            return Err(TransmitTimeout);
        }
        self.registers.write32(DR, u32::from(byte));
        Ok(())
    }

    /// Sends one byte if there is room for it now; whether it did.
    pub fn try_write_byte(&mut self, byte: u8) -> bool {
        let room = !self.flag(Flags::Txff::SET.value);
        if room {
            self.stuck = false;
            self.registers.write32(DR, u32::from(byte));
        }
        room
    }

    /// Waits until the last byte has left, as long as one may take.
    pub fn wait_idle(&mut self) {
        wait::until(TRANSMIT_LIMIT_NS, || !self.flag(Flags::Busy::SET.value));
    }

    /// The next byte received, if there is one. What came with an error is dropped.
    pub fn read_byte(&mut self) -> Option<u8> {
        for _ in 0..FIFO_LEN {
            if self.flag(Flags::Rxfe::SET.value) {
                return None;
            }
            let data = LocalRegisterCopy::<u32, Data::Register>::new(self.registers.read32(DR));
            if data.read(Data::Bad) == 0 {
                return Some(data.read(Data::Character) as u8);
            }
        }
        None
    }

    /// Whether there is something to read.
    pub fn has_input(&self) -> bool {
        !self.flag(Flags::Rxfe::SET.value)
    }

    /// Raises the UART's interrupt, a level, while there is something to read.
    pub fn enable_receive_interrupt(&mut self) {
        self.registers.write32(IMSC, RECEIVE);
    }

    /// Lets the interrupt be, so that input may wait: in the FIFO, and then, by flow control, with whoever sends it.
    pub fn disable_receive_interrupt(&mut self) {
        self.registers.write32(IMSC, 0);
    }

    /// Lowers it again, before [`read_byte`](Self::read_byte) is called until it has no more: what comes later raises it.
    pub fn clear_interrupts(&mut self) {
        self.registers.write32(ICR, RECEIVE);
    }

    fn flag(&self, bit: u32) -> bool {
        self.registers.read32(FR) & bit != 0
    }
}

const RECEIVE: u32 = Interrupts::Rx::SET.value | Interrupts::Rt::SET.value;

impl fmt::Write for Pl011 {
    /// Sends the text, each newline as CR LF. The rest is given up after a timeout.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.write_byte(b'\r')
                    .map_err(|TransmitTimeout| fmt::Error)?;
            }
            self.write_byte(byte)
                .map_err(|TransmitTimeout| fmt::Error)?;
        }
        Ok(())
    }
}
