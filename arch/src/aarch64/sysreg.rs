//! Reading and writing system registers by name or by `S<op0>_<op1>_C<n>_C<m>_<op2>`.
//!
//! On the host, reads give what a test has put there, and the writes are kept for it, in order.

/// Reads a system register whose reading has no side effects.
#[cfg(target_os = "none")]
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
#[cfg(target_os = "none")]
macro_rules! write_guest {
    ($($name:expr => $value:expr;)*) => {
        $({
            let value: u64 = $value;
            // SAFETY: a register of EL1 or EL0, or a control of EL2 over them: it takes effect in the guest.
            unsafe {
                core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
            }
        })*
    };
}

#[cfg(test)]
macro_rules! read {
    ($name:expr) => {
        $crate::aarch64::sysreg::fake::read($name)
    };
}

#[cfg(test)]
macro_rules! write_guest {
    ($($name:expr => $value:expr;)*) => {
        $($crate::aarch64::sysreg::fake::write($name, $value);)*
    };
}

#[cfg(any(target_os = "none", test))]
pub(crate) use {read, write_guest};

#[cfg(test)]
pub(crate) mod fake {
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    std::thread_local! {
        static VALUES: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
        static WRITES: RefCell<Vec<(&'static str, u64)>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn read(name: &'static str) -> u64 {
        VALUES.with_borrow(|values| values.get(name).copied().unwrap_or(0))
    }

    pub(crate) fn write(name: &'static str, value: u64) {
        WRITES.with_borrow_mut(|writes| writes.push((name, value)));
    }

    /// What `name` reads from here on.
    pub(crate) fn set(name: &'static str, value: u64) {
        VALUES.with_borrow_mut(|values| values.insert(name, value));
    }

    /// The writes since the last call, in order.
    pub(crate) fn take_writes() -> Vec<(&'static str, u64)> {
        WRITES.take()
    }
}
