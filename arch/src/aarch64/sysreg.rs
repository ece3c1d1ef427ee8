//! Reading and writing system registers by name or by `S<op0>_<op1>_C<n>_C<m>_<op2>`.

/// Reads a system register whose reading has no side effects.
macro_rules! read {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading this register changes nothing.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags));
        }
        value
    }};
}

/// Writes system registers that have an effect on lower exception levels only, and so none on this program.
macro_rules! write_guest {
    ($($name:literal = $value:expr;)*) => {
        $({
            let value: u64 = $value;
            // SAFETY: a register of EL1 or EL0, or a control of EL2 over them: it takes effect in the guest.
            unsafe {
                core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
            }
        })*
    };
}

pub(crate) use {read, write_guest};
