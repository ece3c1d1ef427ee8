//! Model-specific registers that this crate uses (AMD64 Architecture Programmer's Manual, volume 2, appendix A).

use x86_64::registers::model_specific::Msr;

/// EFER.
pub const EFER: u32 = 0xc000_0080;
/// Base of GS.
pub const GS_BASE: u32 = 0xc000_0101;

/// Reads `number`, which this CPU has.
pub fn read(number: u32) -> u64 {
    // SAFETY: the registers that this crate reads have no side effects; one that is not there is an exception.
    unsafe { Msr::new(number).read() }
}

/// Writes `number`.
///
/// # Safety
/// The CPU has the register, and whatever it controls keeps the image's memory as the compiler knows it.
pub unsafe fn write(number: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { Msr::new(number).write(value) }
}
