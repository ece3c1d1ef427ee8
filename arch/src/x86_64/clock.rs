//! The time stamp counter (AMD64 Architecture Programmer's Manual, volume 2, 13.2.4). It runs at one rate, from reset on,
//! and alike on every CPU: [`is_steady`] says whether the CPU promises that.

use crate::rate;
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{port, rtc};

/// Ticks a second. Until [`calibrate`] has measured them they count for as short as any CPU's, so that no deadline comes
/// early.
static HERTZ: AtomicU64 = AtomicU64::new(6_000_000_000);

/// See [`epoch_ns`].
static EPOCH_NS: AtomicU64 = AtomicU64::new(0);

/// The count, in ticks.
pub fn now() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads the counter; the LFENCE keeps the read from moving before earlier instructions.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Ticks a second. Never 0.
pub fn frequency() -> u64 {
    HERTZ.load(Ordering::Relaxed)
}

/// Nanoseconds since the counter started.
#[inline(never)]
pub fn now_ns() -> u64 {
    ns(now())
}

/// Nanoseconds from the counter's start to `ticks`.
pub fn ns(ticks: u64) -> u64 {
    rate::ns(ticks, frequency())
}

/// The date when the counter was 0, in nanoseconds since 1970 (UTC); 0 if nobody knows.
pub fn epoch_ns() -> u64 {
    EPOCH_NS.load(Ordering::Relaxed)
}

/// Takes the date from the machine's clock, which has seconds.
pub fn set_date() {
    if let Some(date) = rtc::read() {
        let date_ns = date.saturating_mul(rate::SECOND);
        EPOCH_NS.store(date_ns.saturating_sub(now_ns()), Ordering::Relaxed);
    }
}

/// Invariant TSC: CPUID 0x8000_0007, `EDX[8]`.
pub fn is_steady() -> bool {
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx >> 8 & 1 != 0
}

/// ACPI's power management timer (ACPI 6.5, 4.8.3.3), in Hz, and the bits that every one has.
const PM_TIMER: u64 = 3_579_545;
const PM_BITS: u32 = 0xff_ffff;
/// Its ticks in a measurement: 10 ms.
const MEASURED: u32 = 35_795;
/// A timer that needs more reads than this for them stands still. One takes a microsecond, or a few instructions of a
/// machine that is made of software.
const MOST_READS: u32 = 1 << 21;

/// Measures the rate by the power management timer at `port`; false, and the guess stays, if that stands still.
pub fn calibrate(port: u16) -> bool {
    let read = || port::read32(port);
    // From one change of it to another.
    let first = read();
    let Some(start) = (0..MOST_READS).map(|_| read()).find(|&at| at != first) else {
        return false;
    };
    let begin = now();
    let passed = |at: u32| at.wrapping_sub(start) & PM_BITS;
    let Some(end) = (0..MOST_READS)
        .map(|_| read())
        .find(|&at| passed(at) >= MEASURED)
    else {
        return false;
    };
    let ticks = now() - begin;
    let hertz = ticks.saturating_mul(PM_TIMER) / u64::from(passed(end));
    HERTZ.store(hertz.clamp(1, 18_000_000_000), Ordering::Relaxed);
    true
}
