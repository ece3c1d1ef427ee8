//! The first and the last words on the UART: polled, and always there, whoever owns the PL011 in between.

use arch::clock;
use core::arch::asm;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::mutex::SpinMutex;

/// Base of the PL011, 0 before it is known.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Lines of different CPUs do not mix.
static LINE: SpinMutex<()> = SpinMutex::new(());

/// Data and flag register of a PL011, "transmit FIFO full" and "busy", until the last bit has left (DDI 0183 3.3).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const TXFF: u32 = 1 << 5;
const BUSY: u32 = 1 << 3;

/// A character leaves within 100 µs at 115,200 baud; a UART that takes longer is not there.
const PATIENCE_NS: u64 = 10_000_000;

/// Uses the PL011 at `base`, which firmware has set up.
///
/// # Safety
/// Its registers are mapped there as device memory, now and ever after.
pub unsafe fn init(base: u64) {
    BASE.store(base, Ordering::Release);
}

/// The UART, without a lock.
pub struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let base = BASE.load(Ordering::Acquire);
        if base == 0 {
            return Ok(());
        }
        for byte in text.bytes() {
            if byte == b'\n' {
                put(base, b'\r');
            }
            put(base, byte);
        }
        Ok(())
    }
}

fn put(base: u64, byte: u8) {
    wait(base, TXFF);
    // SAFETY: `init`'s caller: a PL011 is mapped at `base`; writing DR sends a character.
    unsafe { asm!("str {:w}, [{}]", in(reg) u32::from(byte), in(reg) base + DR, options(nostack)) };
}

/// Waits while one of `flags` is set.
fn wait(base: u64, flags: u32) {
    let start = clock::now_ns();
    loop {
        let now: u32;
        // SAFETY: as above; reading FR has no side effects.
        unsafe { asm!("ldr {:w}, [{}]", out(reg) now, in(reg) base + FR, options(nostack)) };
        if now & flags == 0 || clock::now_ns() - start > PATIENCE_NS {
            break;
        }
    }
}

/// Waits until everything has left the UART: power does not wait for it.
pub fn drain() {
    let base = BASE.load(Ordering::Acquire);
    if base != 0 {
        wait(base, BUSY);
    }
}

/// Writes a line.
pub fn line(arguments: fmt::Arguments<'_>) {
    let _line = LINE.lock();
    let _ = writeln!(Raw, "{arguments}");
}
