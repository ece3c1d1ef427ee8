//! The CPU this runs on.

use super::{apic, area};
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

pub use super::smp::{StartError, start};

/// Number of this CPU: its index in the firmware's list.
pub fn index() -> usize {
    // SAFETY: the CPU's own record (`area`), which lives as long as the CPU.
    unsafe { (*area::local()).index as usize }
}

/// Gives the boot CPU, which was number 0 until now, its number.
pub fn set_index(index: usize) {
    // SAFETY: as in `index`; the record is this CPU's own.
    unsafe { (*area::local()).index = index as u64 };
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts are masked first, so nothing follows but waiting.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// What CPUID says: EAX, EBX, ECX and EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let words = __cpuid_count(leaf, subleaf);
    [words.eax, words.ebx, words.ecx, words.edx]
}

/// Width of physical addresses in bits: CPUID 0x8000_0008, `EAX[7:0]`.
pub fn address_bits() -> u8 {
    match __cpuid(0x8000_0000).eax >= 0x8000_0008 {
        true => __cpuid(0x8000_0008).eax as u8,
        false => 36,
    }
}

/// XCR0 of the guest that this CPU runs, which has it for itself; 1, as after reset, where there is no XSAVE.
pub fn xcr0() -> u64 {
    if __cpuid(1).ecx >> 26 & 1 == 0 {
        return 1;
    }
    let (low, high): (u32, u32);
    let cr4: u64;
    // SAFETY: CR4.OSXSAVE, which lets XGETBV be executed, is on for that alone; XCR0 is there, by CPUID.
    unsafe {
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4 | 1 << 18, options(nomem, nostack, preserves_flags));
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
        asm!("mov cr4, {}", in(reg) cr4, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// What firmware calls this CPU: its x2APIC ID (CPUID 0xb, EDX), or the APIC ID where there is none (CPUID 1, `EBX[31:24]`).
pub fn id() -> u32 {
    if __cpuid(0).eax >= 0xb {
        let leaf = __cpuid_count(0xb, 0);
        if leaf.ebx != 0 {
            return leaf.edx;
        }
    }
    __cpuid(1).ebx >> 24
}

/// An interrupt was taken: it stays in service until [`apic::end_of_interrupt`], after [`take_interrupt`].
pub(super) fn note_interrupt(vector: u8) {
    if vector == apic::SPURIOUS {
        return;
    }
    let local = area::local();
    // SAFETY: the CPU's own record (`area`). Interrupts are masked in a handler, and while the bits are read (`wait`,
    // `take_interrupt`).
    unsafe { (*local).interrupts[usize::from(vector >> 6)] |= 1 << (vector & 63) };
}

/// Takes the interrupts that are pending. Nothing else takes any: the hypervisor runs with interrupts masked.
pub fn look_at_interrupts() {
    // SAFETY: handlers only note what was taken. The instruction behind STI is still protected (SDM, "STI").
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// The vector of highest priority that was taken and not served yet. What served it says
/// [`end_of_interrupt`](super::apic::end_of_interrupt).
pub fn take_interrupt() -> Option<u8> {
    let local = area::local();
    for word in (0..4).rev() {
        // SAFETY: as in `note_interrupt`: interrupts are masked.
        let bits = unsafe { &mut (*local).interrupts[word] };
        if let Some(bit) = bits.checked_ilog2() {
            *bits &= !(1 << bit);
            return Some((word as u32 * 64 + bit) as u8);
        }
    }
    None
}

/// Whether an interrupt was taken and not served yet.
pub(super) fn has_interrupt() -> bool {
    // SAFETY: as in `note_interrupt`; handlers change it between two looks.
    unsafe { (&raw const (*area::local()).interrupts).read_volatile() != [0; 4] }
}

/// Waits until an interrupt was taken, and returns at once if one was before.
pub fn wait() {
    while !has_interrupt() {
        // SAFETY: as in `look_at_interrupts`; an interrupt between STI and HLT is taken after HLT has begun, and ends it.
        unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    }
}
