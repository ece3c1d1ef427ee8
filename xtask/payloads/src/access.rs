//! Single loads and stores of every width, at any address, whatever becomes of them.

use crate::runtime::expect_fault;
use core::arch::asm;

/// Widths of a load or store, in bytes.
pub const WIDTHS: [u8; 4] = [1, 2, 4, 8];

/// What became of one access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// It ended in a synchronous exception.
    pub refused: bool,
    /// What was read; 0 after an exception and after a store.
    pub value: u64,
}

impl Outcome {
    /// Refused, or read as zero: what the architecture has for things that are not there.
    pub fn is_nothing(&self) -> bool {
        self.refused || self.value == 0
    }
}

/// Runs one instruction that may be refused; its result is what it leaves in a register that was 0.
pub fn attempt(instruction: impl FnOnce() -> u64) -> Outcome {
    let mut value = 0;
    let refused = expect_fault(|| value = instruction()) != 0;
    Outcome { refused, value }
}

/// A load of `width` bytes.
pub fn load(address: u64, width: u8) -> Outcome {
    attempt(|| {
        let mut value: u64 = 0;
        // SAFETY: one load into a register; a scenario calls this for what is no Rust object. An exception skips it.
        unsafe {
            match width {
                1 => asm!("ldrb {0:w}, [{1}]", inout(reg) value, in(reg) address),
                2 => asm!("ldrh {0:w}, [{1}]", inout(reg) value, in(reg) address),
                4 => asm!("ldr {0:w}, [{1}]", inout(reg) value, in(reg) address),
                _ => asm!("ldr {0}, [{1}]", inout(reg) value, in(reg) address),
            }
        }
        value
    })
}

/// A store of the low `width` bytes of `value`.
pub fn store(address: u64, width: u8, value: u64) -> Outcome {
    attempt(|| {
        // SAFETY: one store; a scenario calls this for what is no Rust object. An exception skips it.
        unsafe {
            match width {
                1 => asm!("strb {0:w}, [{1}]", in(reg) value, in(reg) address),
                2 => asm!("strh {0:w}, [{1}]", in(reg) value, in(reg) address),
                4 => asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address),
                _ => asm!("str {0}, [{1}]", in(reg) value, in(reg) address),
            }
        }
        0
    })
}

/// SMC or HVC with these arguments; x0 afterwards.
pub fn call(conduit: Conduit, function: u32, arguments: [u64; 3]) -> u64 {
    let mut x0 = u64::from(function);
    let [x1, x2, x3] = arguments;
    // SAFETY: x4 to x17 may change (DEN 0028, 2.6); a call that would end or restart the guest is the caller's wish.
    unsafe {
        match conduit {
            Conduit::Hvc => asm!("hvc #0", inout("x0") x0, in("x1") x1, in("x2") x2, in("x3") x3,
                clobber_abi("C")),
            Conduit::Smc => asm!("smc #0", inout("x0") x0, in("x1") x1, in("x2") x2, in("x3") x3,
                clobber_abi("C")),
        }
    }
    x0
}

/// How a call is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// To EL2.
    Hvc,
    /// To EL3, which EL2 takes.
    Smc,
}
