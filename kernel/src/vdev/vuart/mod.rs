//! Virtual PL011 (DDI 0183G): registers, a receive FIFO, one level-sensitive interrupt. The transmitter hands each byte out
//! as an effect, at once, unless what is behind it has no room ([`Vuart::stall`]): then its FIFO is full.
//!
//! Registers are 32 bits wide at multiples of 4. Any other access reads as zero and writes nothing; modem lines, DMA and
//! baud rates are kept as written and do nothing. Section numbers are those of chapter 3.

use heapless::Deque;

/// Characters that the receive FIFO holds (§2.1: 32 from revision 3 of the part).
pub const RECEIVE_DEPTH: usize = 32;

mod offset {
    pub const DR: u64 = 0x000;
    pub const RSR_ECR: u64 = 0x004;
    pub const FR: u64 = 0x018;
    pub const ILPR: u64 = 0x020;
    pub const IBRD: u64 = 0x024;
    pub const FBRD: u64 = 0x028;
    pub const LCR_H: u64 = 0x02c;
    pub const CR: u64 = 0x030;
    pub const IFLS: u64 = 0x034;
    pub const IMSC: u64 = 0x038;
    pub const RIS: u64 = 0x03c;
    pub const MIS: u64 = 0x040;
    pub const ICR: u64 = 0x044;
    pub const DMACR: u64 = 0x048;
    pub const ID: u64 = 0xfe0;
    pub const END: u64 = 0x1000;
}

/// UARTPeriphID0-3 and UARTPCellID0-3 (§3.3.15 to §3.3.22): part 0x011 of designer 0x41, revision 3.
const ID: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// DR and RSR, overrun error (§3.3.1): bit 11 beside a character, bit 3 of the status.
const DR_OVERRUN: u16 = 1 << 11;
const RSR_OVERRUN: u8 = 1 << 3;

/// FR (§3.3.3).
const FR_BUSY: u32 = 1 << 3;
const FR_RECEIVE_EMPTY: u32 = 1 << 4;
const FR_TRANSMIT_FULL: u32 = 1 << 5;
const FR_RECEIVE_FULL: u32 = 1 << 6;
const FR_TRANSMIT_EMPTY: u32 = 1 << 7;

/// LCR_H (§3.3.7).
const LCR_FIFOS: u8 = 1 << 4;
const LCR_EIGHT_BITS: u8 = 3 << 5;

/// CR (§3.3.8).
const CR_ENABLE: u16 = 1 << 0;
const CR_LOOPBACK: u16 = 1 << 7;
const CR_RECEIVE: u16 = 1 << 9;
/// Reset: transmitter and receiver on, the UART itself off.
const CR_RESET: u16 = 0x0300;

/// IMSC, RIS, MIS and ICR (§3.3.10 to §3.3.13).
const INT_RECEIVE: u16 = 1 << 4;
const INT_TRANSMIT: u16 = 1 << 5;
const INT_TIMEOUT: u16 = 1 << 6;
const INT_OVERRUN: u16 = 1 << 10;
const INT_ALL: u16 = 0x7ff;

/// What a write leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effect {
    /// A character for the console.
    pub output: Option<u8>,
    /// Level of the interrupt line now.
    pub line: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct Vuart {
    /// Characters with their error bits, as DR shows them.
    received: Deque<u16, RECEIVE_DEPTH>,
    /// A character was lost since the last one that got in: the next one says so.
    overrun: bool,
    /// The transmit FIFO is full.
    stalled: bool,
    lost: u64,
    status: u8,
    ilpr: u8,
    ibrd: u16,
    fbrd: u8,
    lcr: u8,
    control: u16,
    levels: u8,
    mask: u16,
    raw: u16,
    dma: u8,
}

impl Default for Vuart {
    fn default() -> Self {
        Self::new()
    }
}

impl Vuart {
    /// As after reset.
    pub const fn new() -> Self {
        Self {
            received: Deque::new(),
            overrun: false,
            stalled: false,
            lost: 0,
            status: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr: 0,
            control: CR_RESET,
            levels: 0x12,
            mask: 0,
            raw: 0,
            dma: 0,
        }
    }

    /// As firmware leaves it for a driver that knows the SBSA's part of it only and never turns it on: on, 8 bits, with
    /// FIFOs.
    pub fn set_up() -> Self {
        Self {
            control: CR_RESET | CR_ENABLE,
            lcr: LCR_EIGHT_BITS | LCR_FIFOS,
            ..Self::new()
        }
    }

    /// Level of the interrupt line.
    pub const fn line(&self) -> bool {
        self.raw & self.mask != 0
    }

    /// From here on the transmit FIFO is full.
    pub const fn stall(&mut self) {
        self.stalled = true;
    }

    /// It has gone out, down to nothing.
    pub const fn resume(&mut self) {
        if self.stalled {
            self.stalled = false;
            self.raw |= INT_TRANSMIT;
        }
    }

    /// Characters that were dropped: the FIFO was full or the receiver off.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether a character from outside would not be lost for want of room. Without a receiver every one is lost anyway,
    /// and none need wait.
    pub fn has_room(&self) -> bool {
        !self.is_receiving() || self.received.len() < self.depth()
    }

    /// A guest's read of `size` bytes. It may take a character out of the FIFO: the caller looks at [`Vuart::line`] after it.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        if !is_register(offset, size) {
            return 0;
        }
        let value = match offset {
            offset::DR => u32::from(self.take()),
            offset::RSR_ECR => u32::from(self.status),
            offset::FR => self.flags(),
            offset::ILPR => u32::from(self.ilpr),
            offset::IBRD => u32::from(self.ibrd),
            offset::FBRD => u32::from(self.fbrd),
            offset::LCR_H => u32::from(self.lcr),
            offset::CR => u32::from(self.control),
            offset::IFLS => u32::from(self.levels),
            offset::IMSC => u32::from(self.mask),
            offset::RIS => u32::from(self.raw),
            offset::MIS => u32::from(self.raw & self.mask),
            offset::DMACR => u32::from(self.dma),
            offset::ID..offset::END => u32::from(ID[((offset - offset::ID) / 4) as usize]),
            _ => 0,
        };
        u64::from(value) & (u64::MAX >> (64 - 8 * u32::from(size)))
    }

    /// A guest's write of `size` bytes.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Effect {
        let mut output = None;
        if is_register(offset, size) {
            let value = value & (u64::MAX >> (64 - 8 * u32::from(size)));
            output = self.store(offset, value as u16);
        }
        Effect {
            output,
            line: self.line(),
        }
    }

    /// A character from outside; the level of the interrupt line after it.
    pub fn receive(&mut self, byte: u8) -> bool {
        if !self.is_receiving() {
            self.lost += 1;
        } else if self.received.len() >= self.depth() {
            self.lost += 1;
            self.overrun = true;
            self.status |= RSR_OVERRUN;
            self.raw |= INT_OVERRUN;
        } else {
            let error = if self.overrun { DR_OVERRUN } else { 0 };
            self.overrun = false;
            // There is room: checked above.
            let _ = self.received.push_back(u16::from(byte) | error);
            if self.received.len() >= self.trigger() {
                self.raw |= INT_RECEIVE;
            }
            // §2.8.3: no character followed for 32 bit times. There is no bit time here: at once.
            self.raw |= INT_TIMEOUT;
        }
        self.line()
    }

    fn is_receiving(&self) -> bool {
        const ON: u16 = CR_ENABLE | CR_RECEIVE;
        self.control & ON == ON
    }

    fn store(&mut self, offset: u64, value: u16) -> Option<u8> {
        let byte = value as u8;
        match offset {
            offset::DR => {
                if self.stalled {
                    self.lost += 1;
                    return None;
                }
                // §2.8.2: the FIFO went through its trigger level on the way down again.
                self.raw |= INT_TRANSMIT;
                if self.control & CR_LOOPBACK != 0 {
                    self.receive(byte);
                    return None;
                }
                // Whether or not the UART is on: early consoles count on a boot loader that left it so.
                return Some(byte);
            }
            offset::RSR_ECR => self.status = 0,
            offset::ILPR => self.ilpr = byte,
            offset::IBRD => self.ibrd = value,
            offset::FBRD => self.fbrd = byte & 0x3f,
            offset::LCR_H => {
                // §3.3.7: turning the FIFOs on or off empties them.
                if (self.lcr ^ byte) & LCR_FIFOS != 0 {
                    self.received.clear();
                    self.raw &= !(INT_RECEIVE | INT_TIMEOUT);
                }
                self.lcr = byte;
            }
            offset::CR => self.control = value & 0xff87,
            offset::IFLS => self.levels = byte & 0x3f,
            offset::IMSC => self.mask = value & INT_ALL,
            offset::ICR => self.raw &= !value,
            offset::DMACR => self.dma = byte & 7,
            _ => {}
        }
        None
    }

    /// DR on reading: the status register keeps the errors of the character read last (§3.3.2).
    fn take(&mut self) -> u16 {
        let Some(character) = self.received.pop_front() else {
            return 0;
        };
        self.status = (character >> 8) as u8 & 0xf;
        if self.received.len() < self.trigger() {
            self.raw &= !INT_RECEIVE;
        }
        if self.received.is_empty() {
            self.raw &= !INT_TIMEOUT;
        }
        character
    }

    fn flags(&self) -> u32 {
        let empty = if self.received.is_empty() {
            FR_RECEIVE_EMPTY
        } else {
            0
        };
        let full = if self.received.len() >= self.depth() {
            FR_RECEIVE_FULL
        } else {
            0
        };
        let transmit = if self.stalled {
            FR_BUSY | FR_TRANSMIT_FULL
        } else {
            FR_TRANSMIT_EMPTY
        };
        transmit | empty | full
    }

    fn depth(&self) -> usize {
        if self.lcr & LCR_FIFOS == 0 {
            1
        } else {
            RECEIVE_DEPTH
        }
    }

    /// Characters that raise the receive interrupt (§3.3.9). Reserved settings act as the reset value.
    fn trigger(&self) -> usize {
        if self.lcr & LCR_FIFOS == 0 {
            return 1;
        }
        match self.levels >> 3 & 7 {
            0 => RECEIVE_DEPTH / 8,
            1 => RECEIVE_DEPTH / 4,
            3 => RECEIVE_DEPTH * 3 / 4,
            4 => RECEIVE_DEPTH * 7 / 8,
            _ => RECEIVE_DEPTH / 2,
        }
    }
}

fn is_register(offset: u64, size: u8) -> bool {
    offset < offset::END && offset.is_multiple_of(4) && matches!(size, 1 | 2 | 4)
}

#[cfg(test)]
mod tests;
