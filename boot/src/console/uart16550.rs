//! A 16550 at I/O ports (TI's data sheet of the TL16C550C, SLLS177).

use super::wait;
use arch::x86_64::port;
use core::sync::atomic::{AtomicU16, Ordering};

/// Its first port, 0 before it is known.
static PORT: AtomicU16 = AtomicU16::new(0);

/// Transmitter holding register; line status register, with "transmitter holding register empty" and "transmitter empty".
const THR: u16 = 0;
const LSR: u16 = 5;
const THRE: u8 = 1 << 5;
const TEMT: u8 = 1 << 6;

/// Interrupt enable, FIFO control, line control, modem control and divisor registers.
const IER: u16 = 1;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const DLL: u16 = 0;
const DLM: u16 = 1;

/// Uses the 16550 whose first port is `port`, at 115,200 baud, 8N1, without interrupts: nobody has set it up yet.
///
/// # Safety
/// Its eight ports are a 16550's, or nobody's.
pub unsafe fn init(port: u16) {
    let setup: [(u16, u8); 7] = [
        (IER, 0),
        // Divisor latch on; divisor 1; off, 8 bits.
        (LCR, 0x80),
        (DLL, 1),
        (DLM, 0),
        (LCR, 0x03),
        // FIFOs on, and empty.
        (FCR, 0x07),
        // DTR, RTS, and OUT2, which lets its interrupt out.
        (MCR, 0x0b),
    ];
    for (register, value) in setup {
        // SAFETY: the caller's promise; a UART touches no memory.
        unsafe { port::write8(port + register, value) };
    }
    PORT.store(port, Ordering::Release);
}

/// Sends a character.
pub fn put(byte: u8) {
    let port = PORT.load(Ordering::Acquire);
    if port == 0 {
        return;
    }
    wait(|| port::read8(port + LSR) & THRE == 0);
    // SAFETY: as in `init`.
    unsafe { port::write8(port + THR, byte) };
}

/// Waits until everything has left the UART: power does not wait for it.
pub fn drain() {
    let port = PORT.load(Ordering::Acquire);
    if port != 0 {
        wait(|| port::read8(port + LSR) & TEMT == 0);
    }
}
