//! The GIC's system registers, by name, each access one instruction.
//!
//! Of the system register crates one has the ICC_* and the other the ICH_* registers, and neither has ICH_EISR_EL2 and
//! ICH_ELRSR_EL2; one macro over the assembler's own names covers all. On the host the registers are a table of the
//! thread, so that tests see what was written.

macro_rules! registers {
    (both: $($both:ident)* ; read: $($read:ident)* ; write: $($write:ident)* ;) => {
        /// A system register of the GIC, named as the architecture names it (IHI 0069, 12.2 and 12.4).
        #[allow(non_camel_case_types, reason = "the architecture's names")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum Register { $($both,)* $($read,)* $($write,)* }

        #[cfg(target_os = "none")]
        mod machine {
            use super::Register;
            use core::arch::asm;

            #[inline(always)]
            pub(crate) fn read(register: Register) -> u64 {
                let value: u64;
                macro_rules! mrs { ($name:ident) => {
                    // SAFETY: a register of the CPU interface, readable at EL2. Reading ICC_IAR1_EL1 acknowledges
                    // an interrupt; none touches memory that Rust knows of.
                    unsafe { asm!(concat!("mrs {}, ", stringify!($name)), out(reg) value, options(nostack)) }
                } }
                match register {
                    $(Register::$both => mrs!($both),)*
                    $(Register::$read => mrs!($read),)*
                    $(Register::$write => panic!(concat!(stringify!($write), " is write-only")),)*
                }
                value
            }

            #[inline(always)]
            pub(crate) fn write(register: Register, value: u64) {
                macro_rules! msr { ($name:ident) => {
                    // SAFETY: a register of the CPU interface, writable at EL2. It masks, ends or sends interrupts;
                    // none touches memory that Rust knows of.
                    unsafe { asm!(concat!("msr ", stringify!($name), ", {}"), in(reg) value, options(nostack)) }
                } }
                match register {
                    $(Register::$both => msr!($both),)*
                    $(Register::$write => msr!($write),)*
                    $(Register::$read => panic!(concat!(stringify!($read), " is read-only")),)*
                }
            }

            #[inline(always)]
            pub(crate) fn synchronize() {
                // SAFETY: a context synchronization event; it changes nothing but order.
                unsafe { asm!("isb", options(nostack, preserves_flags)) };
            }
        }
    };
}

registers! {
    both:
        ICC_PMR_EL1 ICC_BPR1_EL1 ICC_CTLR_EL1 ICC_SRE_EL1 ICC_SRE_EL2 ICC_IGRPEN0_EL1 ICC_IGRPEN1_EL1
        ICC_AP0R0_EL1 ICC_AP0R1_EL1 ICC_AP0R2_EL1 ICC_AP0R3_EL1
        ICC_AP1R0_EL1 ICC_AP1R1_EL1 ICC_AP1R2_EL1 ICC_AP1R3_EL1
        ICH_HCR_EL2 ICH_VMCR_EL2
        ICH_AP0R0_EL2 ICH_AP0R1_EL2 ICH_AP0R2_EL2 ICH_AP0R3_EL2
        ICH_AP1R0_EL2 ICH_AP1R1_EL2 ICH_AP1R2_EL2 ICH_AP1R3_EL2
        ICH_LR0_EL2 ICH_LR1_EL2 ICH_LR2_EL2 ICH_LR3_EL2 ICH_LR4_EL2 ICH_LR5_EL2 ICH_LR6_EL2 ICH_LR7_EL2
        ICH_LR8_EL2 ICH_LR9_EL2 ICH_LR10_EL2 ICH_LR11_EL2 ICH_LR12_EL2 ICH_LR13_EL2 ICH_LR14_EL2 ICH_LR15_EL2;
    read: ICC_IAR1_EL1 ICH_VTR_EL2 ICH_MISR_EL2 ICH_EISR_EL2 ICH_ELRSR_EL2;
    write: ICC_EOIR1_EL1 ICC_DIR_EL1 ICC_SGI1R_EL1;
}

#[cfg(target_os = "none")]
pub(crate) use machine::{read, synchronize, write};

#[cfg(not(target_os = "none"))]
pub(crate) use fake::{read, synchronize, write};

/// [`read`] of a register that is not known before: every one has its instruction, here and not in each caller.
#[inline(never)]
pub(crate) fn read_any(register: Register) -> u64 {
    read(register)
}

/// [`write()`] to a register that is not known before.
#[inline(never)]
pub(crate) fn write_any(register: Register, value: u64) {
    write(register, value);
}

/// Registers of the host's thread: what was written is read, and the order of writes is kept.
#[cfg(not(target_os = "none"))]
pub(crate) mod fake {
    use super::Register;
    use alloc::collections::BTreeMap;
    #[cfg(test)]
    use alloc::vec::Vec;
    use core::cell::RefCell;

    std::thread_local! {
        static VALUES: RefCell<BTreeMap<Register, u64>> = const { RefCell::new(BTreeMap::new()) };
        #[cfg(test)]
        static WRITES: RefCell<Vec<(Register, u64)>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn read(register: Register) -> u64 {
        VALUES.with_borrow(|values| values.get(&register).copied().unwrap_or(0))
    }

    pub(crate) fn write(register: Register, value: u64) {
        VALUES.with_borrow_mut(|values| values.insert(register, value));
        #[cfg(test)]
        WRITES.with_borrow_mut(|writes| writes.push((register, value)));
    }

    pub(crate) fn synchronize() {}

    /// What the hardware would show in `register`.
    #[cfg(test)]
    pub(crate) fn set(register: Register, value: u64) {
        VALUES.with_borrow_mut(|values| values.insert(register, value));
    }

    /// The writes since the last call, in order.
    #[cfg(test)]
    pub(crate) fn take_writes() -> Vec<(Register, u64)> {
        WRITES.take()
    }
}
