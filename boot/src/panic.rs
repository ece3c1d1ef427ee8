//! The end: what happened, where, and how it came there. Then the machine is switched off.

use crate::{backtrace, console};
use arch::{cpu, power};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The CPU that is at it, plus one: the first, whose words are worth more than those of all that follow.
static PANICKING: AtomicUsize = AtomicUsize::new(0);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    #[cfg(target_arch = "aarch64")]
    if !cpu::at_el2() {
        cpu::halt();
    }
    let me = cpu::index() + 1;
    match PANICKING.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // Describing the panic failed in turn.
        Err(first) if first == me => power::off(),
        // The other one switches the machine off.
        Err(_) => cpu::halt(),
    }
    // What was said before comes first, unless this CPU was in the middle of it.
    kernel::terminal::flush();
    // Without the console's lock: whoever holds it may be this CPU.
    let mut raw = console::Raw;
    let _ = write!(raw, "\npanic on CPU {}", cpu::index());
    // Only builds for a debugger know it; in what is shipped, the backtrace says it.
    if let Some(location) = info.location()
        && location.line() != 0
    {
        let _ = write!(raw, " at {location}");
    }
    let _ = writeln!(raw, ":\n{}", info.message());
    backtrace::print(&mut raw);
    let _ = kernel::last_events(&mut raw);
    let _ = writeln!(raw, "Sluice stopped.");
    console::drain();
    power::off()
}
