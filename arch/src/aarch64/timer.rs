//! This CPU's EL2 physical timer, `CNTHP_*_EL2` (Arm ARM D12.2.4): one deadline, on the clock of `clock`.
//!
//! Its interrupt is a level, high from the deadline on, until [`off`] or a later deadline.

use super::clock;
use super::sysreg::read;
use crate::rate;
use core::arch::asm;

/// `CNTHP_CTL_EL2` (D24.10): ENABLE; IMASK stays 0.
const ENABLE: u64 = 1;

/// Raises the interrupt at `at_ns` on [`clock::now_ns`], in place of any other deadline.
pub fn set(at_ns: u64) {
    // Up, so that the clock has reached `at_ns` once the interrupt is there.
    let ticks = rate::ticks(at_ns, clock::frequency());
    // SAFETY: a timer of EL2 alone; its interrupt is masked at the CPU and taken by the caller's own loop.
    unsafe { asm!("msr CNTHP_CVAL_EL2, {}", in(reg) ticks, options(nomem, nostack)) };
    control(ENABLE);
}

/// No deadline.
pub fn off() {
    control(0);
}

/// The deadline, if there is one.
pub fn deadline() -> Option<u64> {
    let set = read!("CNTHP_CTL_EL2") & ENABLE != 0;
    set.then(|| rate::ns(read!("CNTHP_CVAL_EL2"), clock::frequency()))
}

fn control(value: u64) {
    // SAFETY: as in `set`; the ISB makes the level follow before the interrupt is deactivated.
    unsafe { asm!("msr CNTHP_CTL_EL2, {}", "isb", in(reg) value, options(nomem, nostack)) };
}
