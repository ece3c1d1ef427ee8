//! This CPU's timer, in its local APIC: one deadline, on the clock of `clock`.
//!
//! In TSC-deadline mode where the CPU has that; else one shot of a counter whose rate [`calibrate`] measures. A deadline past
//! what the counter holds comes early.

use super::{apic, area, clock, msr};
use crate::rate;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

/// Its vector.
pub const VECTOR: u8 = 0xfe;

/// IA32_TSC_DEADLINE.
const TSC_DEADLINE: u32 = 0x6e0;

/// How long the counter is measured.
const MEASURED_NS: u64 = 10_000_000;

/// Ticks a second of the APIC's counter; 0 where deadlines are the TSC's.
static HERTZ: AtomicU64 = AtomicU64::new(0);

/// Measures the counter, where it is needed: on one CPU, for all.
pub fn calibrate() {
    if __cpuid(1).ecx >> 24 & 1 == 0 {
        HERTZ.store(apic::measure(MEASURED_NS).max(1), Ordering::Relaxed);
    }
}

/// Raises the interrupt at `at_ns` on [`clock::now_ns`], in place of any other deadline.
pub fn set(at_ns: u64) {
    note(at_ns);
    match HERTZ.load(Ordering::Relaxed) {
        0 => {
            apic::by_deadline(VECTOR);
            // Up, so that the clock has reached `at_ns` once the interrupt is there; 0 would be none.
            let ticks = rate::ticks(at_ns, clock::frequency()).max(1);
            // SAFETY: this CPU's timer; its interrupt is taken by the CPU's own loop.
            unsafe { msr::write(TSC_DEADLINE, ticks) };
        }
        hertz => {
            let left = at_ns.saturating_sub(clock::now_ns());
            let ticks = rate::ticks(left, hertz).clamp(1, u32::MAX.into());
            apic::one_shot(VECTOR, ticks as u32);
        }
    }
}

/// No deadline.
pub fn off() {
    note(u64::MAX);
    match HERTZ.load(Ordering::Relaxed) {
        0 => {
            apic::by_deadline(VECTOR);
            // SAFETY: as in `set`; 0 is no deadline.
            unsafe { msr::write(TSC_DEADLINE, 0) };
        }
        _ => apic::one_shot(VECTOR, 0),
    }
}

/// The deadline, if there is one.
pub fn deadline() -> Option<u64> {
    // SAFETY: the CPU's own record (`area`).
    let at_ns = unsafe { (*area::local()).deadline };
    (at_ns != u64::MAX).then_some(at_ns)
}

fn note(at_ns: u64) {
    // SAFETY: as in `deadline`; an interrupt does not touch it.
    unsafe { (*area::local()).deadline = at_ns };
}
