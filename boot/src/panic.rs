//! The end: what happened, where, and how it came there. Then the machine is switched off.

use crate::{backtrace, console};
use arch::aarch64::{cpu, power};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

/// Somebody is at it. A second panic, here or on another CPU, has nothing to add.
static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !cpu::at_el2() || PANICKING.swap(true, Ordering::AcqRel) {
        cpu::halt();
    }
    // Without the console's lock: whoever holds it may be this CPU.
    let mut console = console::Raw;
    let _ = write!(console, "\npanic on CPU {}", cpu::index());
    if let Some(location) = info.location() {
        let _ = write!(console, " at {location}");
    }
    let _ = writeln!(console, ":\n{}", info.message());
    backtrace::print(&mut console);
    let _ = writeln!(console, "Sluice stopped.");
    power::off()
}
