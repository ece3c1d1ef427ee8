//! This CPU's local APIC (Intel SDM, volume 3, "Advanced Programmable Interrupt Controller"; AMD64 APM, volume 2, 16):
//! as x2APIC, by MSRs, where the CPU has it; else by its page of registers.

use super::{clock, msr};
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, Ordering};

/// IA32_APIC_BASE: EN, EXTD, and the page of registers.
const APIC_BASE: u32 = 0x1b;
const ENABLED: u64 = 1 << 11;
const X2: u64 = 1 << 10;
const PAGE: u64 = 0xf_ffff_ffff_f000;

/// Registers by their x2APIC MSR less 0x800; their offset in the page is 16 times that.
const TPR: u32 = 0x08;
const EOI: u32 = 0x0b;
const SVR: u32 = 0x0f;
const ICR: u32 = 0x30;
const LVT_TIMER: u32 = 0x32;
/// Thermal, performance, LINT0, LINT1 and error.
const LVT_OTHERS: core::ops::RangeInclusive<u32> = 0x33..=0x37;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3e;
/// The upper half of ICR, in the page only.
const ICR_HIGH: u32 = 0x31;

/// SVR: the APIC is on.
const ON: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
/// LVT timer: TSC-deadline mode.
const DEADLINE: u32 = 2 << 17;
/// Divide by 1.
const BY_ONE: u32 = 0xb;
/// ICR: delivery status, level, and the delivery modes INIT and start-up.
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;

/// The vector of interrupts that are none.
pub const SPURIOUS: u8 = 0xff;

/// How long an IPI may stay on its way.
const SENT_NS: u64 = 10_000_000;

/// CPUs are in x2APIC mode.
static WIDE: AtomicBool = AtomicBool::new(false);
/// They are not to be.
static NARROW: AtomicBool = AtomicBool::new(false);

/// Leaves the CPUs in xAPIC mode, unless firmware has taken them out of it, which not every CPU lets be undone (SDM,
/// IA32_XAPIC_DISABLE_STATUS). Their IDs have eight bits. Comes before [`registers`].
pub fn stay_narrow() {
    NARROW.store(msr::read(APIC_BASE) & X2 == 0, Ordering::Relaxed);
}

/// The page of registers, which has to be mapped before [`init`], or none where MSRs stand for it.
pub fn registers() -> Option<u64> {
    let has_x2 = __cpuid(1).ecx >> 21 & 1 != 0;
    (!has_x2 || NARROW.load(Ordering::Relaxed)).then(|| msr::read(APIC_BASE) & PAGE)
}

/// Turns this CPU's APIC on. Nothing interrupts but what somebody asks for, with [`SPURIOUS`] aside.
pub fn init() {
    let wide = registers().is_none();
    WIDE.store(wide, Ordering::Relaxed);
    let mut base = msr::read(APIC_BASE) | ENABLED;
    // SAFETY: this CPU's own; interrupts are masked. EN comes first, or EXTD is refused.
    unsafe {
        msr::write(APIC_BASE, base);
        if wide {
            base |= X2;
            msr::write(APIC_BASE, base);
        }
    }
    write(SVR, ON | u32::from(SPURIOUS));
    write(TPR, 0);
    write(LVT_TIMER, MASKED);
    for lvt in LVT_OTHERS {
        write(lvt, MASKED);
    }
}

/// Whether destinations have 32 bits: CPUs are in x2APIC mode.
pub fn is_wide() -> bool {
    WIDE.load(Ordering::Relaxed)
}

/// The interrupt of the highest priority has been served.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Sends `vector` to the CPU with `id`.
pub fn interrupt(id: u32, vector: u8) {
    send(id, ASSERT | u32::from(vector));
}

/// Sends INIT to the CPU with `id`.
pub(super) fn init_cpu(id: u32) {
    send(id, ASSERT | INIT);
}

/// Has the CPU with `id` start in the page of physical address `page` << 12, if it waits for that.
pub(super) fn start_cpu(id: u32, page: u8) {
    send(id, ASSERT | STARTUP | u32::from(page));
}

fn send(id: u32, command: u32) {
    // What was stored before is there for whoever is interrupted: an MSR is no memory, and waits for none of it.
    super::barrier::full();
    if WIDE.load(Ordering::Relaxed) {
        // SAFETY: sends an interrupt; its receiver is ours.
        unsafe { msr::write(0x800 + ICR, u64::from(id) << 32 | u64::from(command)) };
        return;
    }
    write(ICR_HIGH, id << 24);
    write(ICR, command);
    let start = clock::now_ns();
    while read(ICR) & PENDING != 0 && clock::now_ns() - start < SENT_NS {}
}

/// Ticks a second of the timer, where there is no TSC-deadline mode: measured against the TSC for `ns`.
pub(super) fn measure(ns: u64) -> u64 {
    write(DIVIDE, BY_ONE);
    write(LVT_TIMER, MASKED);
    write(INITIAL_COUNT, u32::MAX);
    let start = clock::now_ns();
    let passed = loop {
        let passed = clock::now_ns() - start;
        if passed >= ns {
            break passed;
        }
    };
    let ticks = u64::from(u32::MAX - read(CURRENT_COUNT));
    write(INITIAL_COUNT, 0);
    ticks * 1_000_000_000 / passed
}

/// Raises `vector` once, after so many ticks of the timer; never, for 0.
pub(super) fn one_shot(vector: u8, ticks: u32) {
    write(DIVIDE, BY_ONE);
    write(LVT_TIMER, u32::from(vector));
    write(INITIAL_COUNT, ticks);
}

/// Has IA32_TSC_DEADLINE raise `vector`.
pub(super) fn by_deadline(vector: u8) {
    write(LVT_TIMER, DEADLINE | u32::from(vector));
    // The mode is in force before the first deadline is written (SDM, "TSC-Deadline Mode").
    super::barrier::full();
}

fn read(register: u32) -> u32 {
    if WIDE.load(Ordering::Relaxed) {
        return msr::read(0x800 + register) as u32;
    }
    let at = page() + u64::from(register) * 16;
    let value;
    // SAFETY: the page of registers, mapped before `init`; these have no side effects when they are read.
    unsafe { asm!("mov {:e}, dword ptr [{}]", out(reg) value, in(reg) at, options(nostack)) };
    value
}

fn write(register: u32, value: u32) {
    if WIDE.load(Ordering::Relaxed) {
        // SAFETY: this CPU's own APIC, which touches no memory.
        unsafe { msr::write(0x800 + register, value.into()) };
        return;
    }
    let at = page() + u64::from(register) * 16;
    // SAFETY: as for reading and as above.
    unsafe { asm!("mov dword ptr [{}], {:e}", in(reg) at, in(reg) value, options(nostack)) };
}

fn page() -> u64 {
    msr::read(APIC_BASE) & PAGE
}
