//! The memory that belongs to one CPU: its stacks, a guard page under each, and what the CPU knows of itself.
//!
//! An exception changes to a stack of its own by its IST entry (AMD64 Architecture Programmer's Manual, volume 2, 8.9.4),
//! so that one on a stack that is full is still described.

#[cfg(target_os = "none")]
use super::descriptors::{Gdt, Tss};
#[cfg(target_os = "none")]
use super::exceptions::ExceptionFrame;
#[cfg(target_os = "none")]
use super::timer::Deadlines;
use core::ops::Range;

/// Size and alignment of an area, in bytes.
pub const SIZE: u64 = 0x2_0000;

/// Offset of the end of the stack; it grows down to the guard page at offset 0.
pub const STACK_END: u64 = 0x1_7000;

/// Offset of the end of the stack for exceptions; it grows down to the guard page at [`STACK_END`].
pub const EMERGENCY_END: u64 = 0x1_b000;

/// Offset of the end of the stack for double faults, above a guard page.
pub const DOUBLE_FAULT_END: u64 = 0x1_d000;

/// Offset of the end of the stack for NMIs and machine checks, above a guard page; what the CPU knows of itself follows.
pub const NMI_END: u64 = 0x1_f800;

/// Size of a guard page, in bytes.
pub const GUARD: u64 = 0x1000;

/// What a CPU knows of itself, at [`NMI_END`] of its area; the base of GS points here.
///
/// The assembly code relies on the first two words.
#[cfg(target_os = "none")]
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Local {
    /// Its own address.
    pub(crate) this: u64,
    pub(crate) index: u64,
    /// The exception that this CPU ends with, or null.
    pub(crate) in_exception: *const ExceptionFrame,
    /// Interrupts that were taken and not served yet, by vector. A handler sets bits, the CPU's own loop clears them.
    pub(crate) interrupts: [u64; 4],
    /// Of the timer.
    pub(crate) deadlines: Deadlines,
    pub(crate) gdt: Gdt,
    pub(crate) tss: Tss,
}

/// The parts of the area at `base` that stay unmapped.
pub fn guards(base: u64) -> [Range<u64>; 4] {
    [0, STACK_END, EMERGENCY_END, DOUBLE_FAULT_END].map(|at| base + at..base + at + GUARD)
}

/// The parts of the area at `base` that are mapped.
pub fn stacks(base: u64) -> [Range<u64>; 4] {
    [
        base + GUARD..base + STACK_END,
        base + STACK_END + GUARD..base + EMERGENCY_END,
        base + EMERGENCY_END + GUARD..base + DOUBLE_FAULT_END,
        base + DOUBLE_FAULT_END + GUARD..base + SIZE,
    ]
}

/// The area of this CPU.
#[cfg(target_os = "none")]
pub fn current() -> u64 {
    (local().addr() as u64) & !(SIZE - 1)
}

/// What this CPU knows of itself.
#[cfg(target_os = "none")]
pub(crate) fn local() -> *mut Local {
    let this: usize;
    // SAFETY: entry, or the CPU that started this one, has set the base of GS to a `Local`, whose first word this is.
    unsafe {
        core::arch::asm!(
            "mov {}, gs:[0]",
            out(reg) this,
            options(nostack, readonly, preserves_flags)
        );
    }
    core::ptr::with_exposed_provenance_mut(this)
}

#[cfg(test)]
mod tests {
    use super::{SIZE, guards, stacks};

    #[test]
    fn stacks_and_guards_are_all_of_an_area() {
        let mut parts = [guards(SIZE), stacks(SIZE)].concat();
        parts.sort_by_key(|part| part.start);
        assert_eq!(parts[0].start, SIZE);
        assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(parts[7].end, 2 * SIZE);
        // Below each stack is a guard page.
        assert!(
            parts
                .iter()
                .step_by(2)
                .all(|part| part.end - part.start == 0x1000)
        );
    }
}
