//! This CPU's timer, in its local APIC: one deadline of the hypervisor's and one of the guest that the CPU runs, on the clock of
//! `clock`.
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

/// Raises the interrupt at `at_ns` on [`clock::now_ns`], in place of any other deadline but the guest's.
pub fn set(at_ns: u64) {
    change(|deadlines| deadlines.own = at_ns);
}

/// No deadline but the guest's.
pub fn off() {
    set(NEVER);
}

/// The deadline, if there is one.
pub fn deadline() -> Option<u64> {
    let at_ns = deadlines().own;
    (at_ns != NEVER).then_some(at_ns)
}

/// Raises the interrupt at `at_ns` for the guest that this CPU runs, too; `None`: it waits for no time.
pub fn set_guest(at_ns: Option<u64>) {
    change(|deadlines| deadlines.guest = at_ns.unwrap_or(NEVER));
}

/// The interrupt was taken. The guest's deadline is over, and none comes before one is set, even if this one came early.
pub fn taken() {
    let own = deadlines().own;
    let deadlines = Deadlines {
        own,
        ..Deadlines::NONE
    };
    // SAFETY: as in `deadlines`.
    unsafe { (*area::local()).deadlines = deadlines };
}

/// Nanoseconds on [`clock::now_ns`], `u64::MAX` for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Deadlines {
    own: u64,
    guest: u64,
    /// When the interrupt comes as things are.
    armed: u64,
}

impl Deadlines {
    pub const NONE: Self = Self {
        own: NEVER,
        guest: NEVER,
        armed: NEVER,
    };
}

const NEVER: u64 = u64::MAX;

fn deadlines() -> Deadlines {
    // SAFETY: the CPU's own record (`area`); an interrupt does not touch it.
    unsafe { (*area::local()).deadlines }
}

fn change(change: impl FnOnce(&mut Deadlines)) {
    let mut deadlines = deadlines();
    change(&mut deadlines);
    let first = deadlines.own.min(deadlines.guest);
    if first != deadlines.armed {
        match first {
            NEVER => disarm(),
            at_ns => arm(at_ns),
        }
        deadlines.armed = first;
    }
    // SAFETY: as in `deadlines`.
    unsafe { (*area::local()).deadlines = deadlines };
}

fn arm(at_ns: u64) {
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

fn disarm() {
    match HERTZ.load(Ordering::Relaxed) {
        0 => {
            apic::by_deadline(VECTOR);
            // SAFETY: as in `arm`; 0 is no deadline.
            unsafe { msr::write(TSC_DEADLINE, 0) };
        }
        _ => apic::one_shot(VECTOR, 0),
    }
}
