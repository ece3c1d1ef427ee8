//! Virtual 16550A (National Semiconductor PC16550D): registers, a receive FIFO, one interrupt line that OUT2 gates as on a
//! PC. The transmitter hands each byte out as an effect, at once, unless what is behind it has no room
//! ([`V16550::stall`]): then it is busy.
//!
//! Registers are 8 bits wide, at offsets 0 to 7; any other access reads all ones and writes nothing. Baud rates, parity,
//! breaks and modem outputs are kept as written and do nothing; DCD, DSR and CTS are on. Section numbers are the data
//! sheet's.

use heapless::Deque;

#[cfg(test)]
mod tests;

/// Characters that the receive FIFO holds.
pub const RECEIVE_DEPTH: usize = 16;

mod offset {
    /// Receiver buffer, transmitter holding; divisor, low, while DLAB is set.
    pub const DATA: u64 = 0;
    /// Interrupt enable; divisor, high, while DLAB is set.
    pub const IER: u64 = 1;
    /// Interrupt identification; FIFO control when written.
    pub const IIR_FCR: u64 = 2;
    pub const LCR: u64 = 3;
    pub const MCR: u64 = 4;
    pub const LSR: u64 = 5;
    pub const MSR: u64 = 6;
    pub const SCRATCH: u64 = 7;
}

/// IER (§8.7).
const IER_RECEIVED: u8 = 1 << 0;
const IER_EMPTY: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;

/// IIR (§8.6), by falling priority.
const IIR_LINE: u8 = 0x6;
const IIR_RECEIVED: u8 = 0x4;
const IIR_TIMEOUT: u8 = 0xc;
const IIR_EMPTY: u8 = 0x2;
const IIR_MODEM: u8 = 0x0;
const IIR_NONE: u8 = 0x1;
const IIR_FIFOS: u8 = 0xc0;

/// FCR (§8.5).
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;

/// LCR (§8.1): the divisor is at offsets 0 and 1.
const LCR_DLAB: u8 = 1 << 7;

/// MCR (§8.8).
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOPBACK: u8 = 1 << 4;

/// LSR (§8.4).
const LSR_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_EMPTY: u8 = 1 << 5;
const LSR_IDLE: u8 = 1 << 6;

/// MSR (§8.9): CTS, DSR and DCD; the lower half says which of them changed.
const MSR_CONNECTED: u8 = 0xb0;
const MSR_RING: u8 = 1 << 6;

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
pub struct V16550 {
    received: Deque<u8, RECEIVE_DEPTH>,
    overrun: bool,
    /// The transmitter has become empty, and nobody has been told.
    emptied: bool,
    /// The transmitter is busy.
    stalled: bool,
    lost: u64,
    divisor: [u8; 2],
    enable: u8,
    fifos: u8,
    lcr: u8,
    mcr: u8,
    /// Modem lines that changed.
    changed: u8,
    scratch: u8,
}

impl Default for V16550 {
    fn default() -> Self {
        Self::new()
    }
}

impl V16550 {
    /// As after reset.
    pub const fn new() -> Self {
        Self {
            received: Deque::new(),
            overrun: false,
            emptied: false,
            stalled: false,
            lost: 0,
            divisor: [0; 2],
            enable: 0,
            fifos: 0,
            lcr: 0,
            mcr: 0,
            changed: 0,
            scratch: 0,
        }
    }

    /// Level of the interrupt line.
    pub fn line(&self) -> bool {
        // In loopback the outputs' pins are inactive, OUT2 among them (§8.8).
        self.mcr & (MCR_OUT2 | MCR_LOOPBACK) == MCR_OUT2 && self.identification() != IIR_NONE
    }

    /// From here on the transmitter is busy.
    pub const fn stall(&mut self) {
        self.stalled = true;
    }

    /// All of it has gone out.
    pub const fn resume(&mut self) {
        if self.stalled {
            self.stalled = false;
            self.emptied = true;
        }
    }

    /// Characters that were dropped: no room, or not connected.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether a character from outside would not be lost for want of room. In loopback every one is lost anyway, and
    /// none need wait.
    pub fn has_room(&self) -> bool {
        self.mcr & MCR_LOOPBACK != 0 || self.received.len() < self.depth()
    }

    /// A character from outside; the level of the interrupt line after it.
    pub fn receive(&mut self, byte: u8) -> bool {
        if self.mcr & MCR_LOOPBACK != 0 {
            self.lost += 1;
        } else {
            self.take_in(byte);
        }
        self.line()
    }

    /// A guest's read of `size` bytes. It may take a character, or end an interrupt: the caller looks at
    /// [`V16550::line`] after it.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        if size != 1 {
            return u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        }
        let value = match offset {
            offset::DATA | offset::IER if self.lcr & LCR_DLAB != 0 => self.divisor[offset as usize],
            offset::DATA => self.received.pop_front().unwrap_or(0),
            offset::IER => self.enable,
            offset::IIR_FCR => {
                let identification = self.identification();
                if identification == IIR_EMPTY {
                    self.emptied = false;
                }
                let fifos = if self.has_fifos() { IIR_FIFOS } else { 0 };
                identification | fifos
            }
            offset::LCR => self.lcr,
            offset::MCR => self.mcr,
            offset::LSR => {
                let status = self.line_status();
                self.overrun = false;
                status
            }
            offset::MSR => {
                let changed = core::mem::take(&mut self.changed);
                self.modem() | changed
            }
            offset::SCRATCH => self.scratch,
            _ => 0xff,
        };
        value.into()
    }

    /// A guest's write of `size` bytes.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Effect {
        let mut output = None;
        if size == 1 {
            output = self.store(offset, value as u8);
        }
        Effect {
            output,
            line: self.line(),
        }
    }

    fn store(&mut self, offset: u64, value: u8) -> Option<u8> {
        match offset {
            offset::DATA | offset::IER if self.lcr & LCR_DLAB != 0 => {
                self.divisor[offset as usize] = value;
            }
            offset::DATA => {
                if self.stalled {
                    self.lost += 1;
                    return None;
                }
                // It is empty again at once.
                self.emptied = true;
                if self.mcr & MCR_LOOPBACK == 0 {
                    return Some(value);
                }
                self.take_in(value);
            }
            offset::IER => {
                // Whoever turns this one on is told what is so already.
                if value & !self.enable & IER_EMPTY != 0 {
                    self.emptied = !self.stalled;
                }
                self.enable = value & 0xf;
            }
            offset::IIR_FCR => {
                let toggled = (value ^ self.fifos) & FCR_ENABLE != 0;
                if toggled || value & FCR_CLEAR_RECEIVER != 0 {
                    self.received.clear();
                }
                // The other bits can be written only together with the first.
                self.fifos = if value & FCR_ENABLE != 0 { value } else { 0 };
            }
            offset::LCR => self.lcr = value,
            offset::MCR => {
                let before = self.modem();
                self.mcr = value & 0x1f;
                let (was, is) = (before >> 4, self.modem() >> 4);
                // Ring tells of its end only.
                let ring = MSR_RING >> 4;
                self.changed |= (was ^ is) & !ring | was & !is & ring;
            }
            offset::SCRATCH => self.scratch = value,
            _ => {}
        }
        None
    }

    fn take_in(&mut self, byte: u8) {
        if self.received.len() < self.depth() {
            // There is room: checked above.
            let _ = self.received.push_back(byte);
        } else {
            self.lost += 1;
            self.overrun = true;
        }
    }

    fn identification(&self) -> u8 {
        let on = |bit: u8| self.enable & bit != 0;
        if on(IER_LINE) && self.overrun {
            IIR_LINE
        } else if on(IER_RECEIVED) && self.received.len() >= self.trigger() {
            IIR_RECEIVED
        } else if on(IER_RECEIVED) && !self.received.is_empty() {
            // No character followed for the time of four (§8.11). There is no such time here: at once.
            IIR_TIMEOUT
        } else if on(IER_EMPTY) && self.emptied {
            IIR_EMPTY
        } else if on(IER_MODEM) && self.changed != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn line_status(&self) -> u8 {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        bit(!self.received.is_empty(), LSR_READY)
            | bit(self.overrun, LSR_OVERRUN)
            | bit(!self.stalled, LSR_EMPTY | LSR_IDLE)
    }

    /// The modem's lines; in loopback RTS, DTR, OUT1 and OUT2 come back as CTS, DSR, RI and DCD.
    fn modem(&self) -> u8 {
        if self.mcr & MCR_LOOPBACK == 0 {
            return MSR_CONNECTED;
        }
        let [dtr, rts, out1, out2] = [0, 1, 2, 3].map(|bit| self.mcr >> bit & 1);
        rts << 4 | dtr << 5 | out1 << 6 | out2 << 7
    }

    const fn has_fifos(&self) -> bool {
        self.fifos & FCR_ENABLE != 0
    }

    const fn depth(&self) -> usize {
        if self.has_fifos() { RECEIVE_DEPTH } else { 1 }
    }

    const fn trigger(&self) -> usize {
        if !self.has_fifos() {
            return 1;
        }
        match self.fifos >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }
}
