//! The memory that belongs to one CPU: two stacks, a guard page under each, and what the CPU knows of itself.

#[cfg(target_os = "none")]
use super::{exceptions::ExceptionFrame, sysreg::read};
use core::ops::Range;

/// Size and alignment of an area, in bytes.
pub const SIZE: u64 = 0x2_0000;

/// Offset of the end of the stack; it grows down to the guard page at offset 0.
pub const STACK_END: u64 = 0x1_c000;

/// Offset of the end of the stack for exceptions; it grows down to the guard page at [`STACK_END`].
pub const EMERGENCY_END: u64 = SIZE - 64;

/// Size of a guard page, in bytes.
pub const GUARD: u64 = 0x1000;

/// What a CPU knows of itself, at [`EMERGENCY_END`] of its area; `TPIDR_EL2` points here.
///
/// The assembly code relies on this layout: it finds the end of the exception stack in `TPIDR_EL2` itself.
#[cfg(target_os = "none")]
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) index: u64,
    /// The exception that this CPU ends with, or null.
    pub(crate) in_exception: *const ExceptionFrame,
    /// Where an exception of EL2 itself goes on instead, once; 0 where it is fatal.
    pub(crate) recover: u64,
}

/// The parts of the area at `base` that stay unmapped.
pub fn guards(base: u64) -> [Range<u64>; 2] {
    [
        base..base + GUARD,
        base + STACK_END..base + STACK_END + GUARD,
    ]
}

/// The parts of the area at `base` that are mapped.
pub fn stacks(base: u64) -> [Range<u64>; 2] {
    [
        base + GUARD..base + STACK_END,
        base + STACK_END + GUARD..base + SIZE,
    ]
}

/// The area of this CPU.
#[cfg(target_os = "none")]
pub fn current() -> u64 {
    read!("TPIDR_EL2") & !(SIZE - 1)
}

/// What this CPU knows of itself.
#[cfg(target_os = "none")]
pub(crate) fn local() -> *mut Local {
    core::ptr::with_exposed_provenance_mut(read!("TPIDR_EL2") as usize)
}
