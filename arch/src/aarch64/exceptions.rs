//! Exceptions from EL2 itself: but for one that a look at a guest's tables may bring (`look_up`), none is expected, so
//! each is described and ends in a panic.

use super::area::{self, Local};
use super::exit::{Syndrome, class_name};
use core::arch::global_asm;
use core::fmt;
use core::mem::offset_of;

global_asm!(
    include_str!("exceptions.S"),
    in_exception = const offset_of!(Local, in_exception),
    recover = const offset_of!(Local, recover),
);

/// The registers at an exception, as `exceptions.S` stores them.
#[repr(C)]
#[derive(Debug)]
pub struct ExceptionFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Stack pointer.
    pub sp: u64,
    /// Where it happened.
    pub elr: u64,
    /// PSTATE.
    pub spsr: u64,
    /// Syndrome.
    pub esr: u64,
    /// Faulting address, where the syndrome says there is one.
    pub far: u64,
    kind: u64,
    zero: u64,
}

impl ExceptionFrame {
    /// Where it happened.
    pub fn pc(&self) -> u64 {
        self.elr
    }

    /// x29: the frame record of the function where it happened.
    pub fn frame_pointer(&self) -> u64 {
        self.x[29]
    }
}

impl fmt::Display for ExceptionFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = ["synchronous exception", "IRQ", "FIQ", "SError"];
        let kind = kind.get(self.kind as usize).unwrap_or(&"exception");
        match self.kind {
            3 => writeln!(f, "{kind}: {}", Syndrome(self.esr))?,
            _ => writeln!(f, "{kind}: {}", class_name(self.esr))?,
        }
        writeln!(
            f,
            "  pc {:016x}  sp {:016x}  pstate {:08x}  esr {:08x}  far {:016x}",
            self.elr, self.sp, self.spsr, self.esr, self.far
        )?;
        for (row, registers) in self.x.chunks(4).enumerate() {
            for (column, value) in registers.iter().enumerate() {
                write!(f, "  x{:<2} {value:016x}", row * 4 + column)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The exception that this CPU ends with, if there is one.
pub fn fatal_frame() -> Option<&'static ExceptionFrame> {
    // SAFETY: the CPU's own record (`area`); this word is zero, or points to a frame that is never left.
    unsafe { (*area::local()).in_exception.as_ref() }
}

#[unsafe(no_mangle)]
extern "C" fn sluice_fatal_exception(frame: &'static ExceptionFrame) -> ! {
    let area = area::current();
    // Data or instruction abort without a change of EL (Arm ARM D24.2, ESR_EL2: EC 0x25, 0x21): FAR is valid.
    let abort = matches!(frame.esr >> 26 & 0x3f, 0x21 | 0x25);
    if abort
        && area::guards(area)
            .iter()
            .any(|guard| guard.contains(&frame.far))
    {
        panic!("stack overflow\n{frame}");
    }
    panic!("{frame}");
}
