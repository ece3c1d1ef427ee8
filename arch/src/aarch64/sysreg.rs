//! Reading system registers by name or by `S<op0>_<op1>_C<n>_C<m>_<op2>`.

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

pub(crate) use read;
