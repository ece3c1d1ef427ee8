//! The first and the last words on the UART: polled, and always there, whoever owns it in between.

#[cfg_attr(target_arch = "aarch64", path = "pl011.rs")]
#[cfg_attr(target_arch = "x86_64", path = "uart16550.rs")]
mod uart;

use arch::clock;
use core::fmt::{self, Write};
use spin::mutex::SpinMutex;

pub use uart::{drain, init};

/// Lines of different CPUs do not mix.
static LINE: SpinMutex<()> = SpinMutex::new(());

/// A character leaves within 100 µs at 115,200 baud; a UART that takes longer is not there.
const PATIENCE_NS: u64 = 10_000_000;

/// The UART, without a lock.
pub struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                uart::put(b'\r');
            }
            uart::put(byte);
        }
        Ok(())
    }
}

/// Waits while `busy` says so, but not for ever.
fn wait(busy: impl Fn() -> bool) {
    let start = clock::now_ns();
    while busy() && clock::now_ns() - start <= PATIENCE_NS {}
}

/// Writes a line.
pub fn line(arguments: fmt::Arguments<'_>) {
    let _line = LINE.lock();
    let _ = writeln!(Raw, "{arguments}");
}
