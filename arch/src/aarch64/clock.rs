//! The generic timer's physical count (Arm ARM D12.2.1).

use crate::rate;
use core::arch::asm;

/// The count, in ticks.
pub fn now() -> u64 {
    let ticks;
    // SAFETY: reads the counter; the ISB keeps the read from moving before earlier instructions (D12.2.1).
    unsafe { asm!("isb", "mrs {}, CNTPCT_EL0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

/// Ticks a second. Never 0: firmware that left CNTFRQ_EL0 unset counts as 1 GHz.
pub fn frequency() -> u32 {
    let hertz: u64;
    // SAFETY: reads a register without side effects.
    unsafe { asm!("mrs {}, CNTFRQ_EL0", out(reg) hertz, options(nomem, nostack)) };
    // Bits 63:32 are RES0 (D24.10, CNTFRQ_EL0).
    match hertz as u32 {
        0 => 1_000_000_000,
        hertz => hertz,
    }
}

/// Nanoseconds since the counter started.
#[inline(never)]
pub fn now_ns() -> u64 {
    rate::ns(now(), frequency())
}
