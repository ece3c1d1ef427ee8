//! The 16550A UART at I/O ports (National Semiconductor PC16550D data sheet): the console.
//!
//! Sibling of the PL011: the same operations with the same meaning.

use super::{clock, port};

/// Receiver buffer and transmitter holding register (8.0, table II).
const DATA: u16 = 0;
/// Interrupt enable register.
const IER: u16 = 1;
/// FIFO control register.
const FCR: u16 = 2;
/// Line control register.
const LCR: u16 = 3;
/// Modem control register.
const MCR: u16 = 4;
/// Line status register.
const LSR: u16 = 5;

/// IER: something was received.
const RECEIVED: u8 = 1;
/// FCR: FIFOs on, the receiver's interrupts with its first character.
const FIFOS: u8 = 1;
/// LCR: 8 bits, one stop bit, no parity; the divisor is not in the way.
const EIGHT_BITS: u8 = 3;
/// MCR: DTR, RTS, and OUT2, which lets the interrupt out on a PC.
const READY: u8 = 0xb;
/// LSR: something to read; overrun aside, what came is none (parity, framing, break); room; nothing on its way out.
const HAS_DATA: u8 = 1;
const BAD: u8 = 0x1c;
const EMPTY: u8 = 1 << 5;
const IDLE: u8 = 1 << 6;

/// One full FIFO at 9600 baud takes 17 ms.
const TRANSMIT_LIMIT_NS: u64 = 50_000_000;
/// As many characters as a FIFO has.
const FIFO_LEN: usize = 16;

/// The UART took no character within 50 ms: a dead line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransmitTimeout;

/// One UART.
#[derive(Debug)]
pub struct Uart16550 {
    base: u16,
    /// Characters that go into the FIFO before it has to be asked again.
    room: usize,
    /// It timed out: nobody waits for it again before it takes something by itself.
    stuck: bool,
}

impl Uart16550 {
    /// Takes the UART at `base` over, interrupts masked; its rate stays as it is.
    ///
    /// # Safety
    /// Eight ports from there are a 16550's, or nobody's.
    pub unsafe fn new(base: u16) -> Self {
        let mut uart = Self {
            base,
            room: 0,
            stuck: false,
        };
        for (register, value) in [(IER, 0), (LCR, EIGHT_BITS), (FCR, FIFOS), (MCR, READY)] {
            uart.write(register, value);
        }
        uart
    }

    /// Sends one byte as soon as there is room; the byte is lost if there is none in time.
    pub fn write_byte(&mut self, byte: u8) -> Result<(), TransmitTimeout> {
        let limit = if self.stuck { 0 } else { TRANSMIT_LIMIT_NS };
        let start = clock::now_ns();
        while !self.try_write_byte(byte) {
            if clock::now_ns() - start >= limit {
                self.stuck = true;
                return Err(TransmitTimeout);
            }
        }
        Ok(())
    }

    /// Sends one byte if there is room for it now; whether it did.
    pub fn try_write_byte(&mut self, byte: u8) -> bool {
        if self.room == 0 && self.status() & EMPTY != 0 {
            self.room = FIFO_LEN;
        }
        let Some(left) = self.room.checked_sub(1) else {
            return false;
        };
        self.room = left;
        self.stuck = false;
        self.write(DATA, byte);
        true
    }

    /// Waits until the last byte has left, as long as one FIFO may take.
    pub fn wait_idle(&mut self) {
        let start = clock::now_ns();
        while self.status() & IDLE == 0 && clock::now_ns() - start < TRANSMIT_LIMIT_NS {}
    }

    /// The next byte received, if there is one. What came with an error is dropped.
    pub fn read_byte(&mut self) -> Option<u8> {
        for _ in 0..FIFO_LEN {
            let status = self.status();
            if status & HAS_DATA == 0 {
                return None;
            }
            let byte = port::read8(self.base + DATA);
            if status & BAD == 0 {
                return Some(byte);
            }
        }
        None
    }

    /// Whether there is something to read.
    pub fn has_input(&self) -> bool {
        self.status() & HAS_DATA != 0
    }

    /// Raises the UART's interrupt while there is something to read.
    pub fn enable_receive_interrupt(&mut self) {
        self.write(IER, RECEIVED);
    }

    /// Lets the interrupt be, so that input may wait.
    pub fn disable_receive_interrupt(&mut self) {
        self.write(IER, 0);
    }

    /// Nothing to do: reading the last byte lowers it.
    pub fn clear_interrupts(&mut self) {}

    fn status(&self) -> u8 {
        port::read8(self.base + LSR)
    }

    fn write(&mut self, register: u16, value: u8) {
        // SAFETY: `new`'s caller: it is a UART's, which touches no memory.
        unsafe { port::write8(self.base + register, value) };
    }
}
