//! What a partition's RDMSR and WRMSR do. Deny by default: a register that is not named in this file is #GP(0), as one that
//! the CPU does not have. Numbers: "Model-Specific Registers (MSRs)", Intel SDM volume 4, and AMD APM volume 2, appendix A.
//!
//! Some belong to the vCPU's own state and need not trap at all: [`OWN`]. What is left comes here.

#[cfg(test)]
mod tests;

use super::vlapic;

/// What the guest does with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// RDMSR.
    Read,
    /// WRMSR of this value.
    Write(u64),
}

/// What happens then. All but `GeneralProtection` also skip the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This goes to EDX:EAX.
    Value(u64),
    /// Nothing.
    Ignore,
    /// It is the vCPU's own register ([`OWN`]) of which the guest may do this: the CPU's rules decide.
    Own,
    /// `IA32_EFER`: a read is of the vCPU's own, a write goes through [`efer`].
    Efer,
    /// `IA32_APIC_BASE`: for [`vlapic::Vlapics::base`] and [`vlapic::Vlapics::set_base`].
    ApicBase,
    /// `IA32_TSC_DEADLINE`: for [`vlapic::Vlapics::deadline`] and [`vlapic::Vlapics::set_deadline`].
    Deadline,
    /// One of x2APIC mode: for [`vlapic::Vlapics::read_msr`] and [`vlapic::Vlapics::write_msr`].
    X2Apic,
    /// The guest takes #GP(0). To be counted.
    GeneralProtection,
}

/// A register of the vCPU's own: it is part of the state that is kept for each vCPU, so the guest may have it without an
/// exit, as far as it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own {
    /// Its number.
    pub msr: u32,
    /// Writes, too, need no exit.
    pub write: bool,
}

const fn own(msr: u32) -> Own {
    Own { msr, write: true }
}

/// Registers of the vCPU's own.
pub const OWN: &[Own] = &[
    // IA32_TIME_STAMP_COUNTER, with the vCPU's offset. Nobody sets it: timers count by it.
    Own {
        msr: 0x10,
        write: false,
    },
    own(0x174),       // IA32_SYSENTER_CS
    own(0x175),       // IA32_SYSENTER_ESP
    own(0x176),       // IA32_SYSENTER_EIP
    own(0x277),       // IA32_PAT
    own(0xc000_0081), // IA32_STAR
    own(0xc000_0082), // IA32_LSTAR
    own(0xc000_0083), // IA32_CSTAR
    own(0xc000_0084), // IA32_FMASK
    own(0xc000_0100), // IA32_FS_BASE
    own(0xc000_0101), // IA32_GS_BASE
    own(0xc000_0102), // IA32_KERNEL_GS_BASE
    own(0xc000_0103), // IA32_TSC_AUX
];

/// `IA32_MTRRCAP`: no variable and no fixed ranges; write combining exists, by PAT.
const MTRRCAP: u64 = 1 << 10;
/// `IA32_MTRR_DEF_TYPE`: enabled, all memory is write-back.
const MTRR_DEF_TYPE: u64 = 1 << 11 | 6;
/// `IA32_MISC_ENABLE`: fast strings; no branch trace storage, no PEBS.
const MISC_ENABLE: u64 = 1 << 0 | 1 << 11 | 1 << 12;
/// `IA32_FEATURE_CONTROL`: locked, and so without VMX.
const FEATURE_CONTROL: u64 = 1;

/// Decides on one access.
pub fn access(msr: u32, access: Access) -> Outcome {
    if let Some(own) = OWN.iter().find(|own| own.msr == msr) {
        return if own.write || access == Access::Read {
            Outcome::Own
        } else {
            Outcome::GeneralProtection
        };
    }
    match msr {
        0x1b => Outcome::ApicBase,
        0x6e0 => Outcome::Deadline,
        0xc000_0080 => Outcome::Efer,
        msr if vlapic::MSRS.contains(&msr) => Outcome::X2Apic,
        0xfe => constant(MTRRCAP, access),
        0x2ff => kept(MTRR_DEF_TYPE, access),
        // IA32_BIOS_SIGN_ID and AMD's patch level: software writes 0 before it reads it.
        0x8b => kept(0, access),
        // IA32_PLATFORM_ID.
        0x17 => constant(0, access),
        0x3a => constant(FEATURE_CONTROL, access),
        0x1a0 => kept(MISC_ENABLE, access),
        // AMD's SYSCFG, HWCR and the addresses beyond which memory is not DRAM: nothing is set. LS_CFG and its like, which
        // errata ask for, are the hypervisor's business.
        0xc001_0010 | 0xc001_0015 | 0xc001_001a | 0xc001_001d => kept(0, access),
        // AMD's DE_CFG: LFENCE serializes, and stays so.
        0xc001_1029 => kept(1 << 1, access),
        _ => Outcome::GeneralProtection,
    }
}

/// Bits of `IA32_EFER` that a guest may set, where the CPU has them.
mod bit {
    /// SYSCALL.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active: the CPU's own.
    pub const LMA: u64 = 1 << 10;
    /// No-execute.
    pub const NXE: u64 = 1 << 11;
    /// Fast FXSAVE.
    pub const FFXSR: u64 = 1 << 14;
}

/// `IA32_EFER` of the guest after WRMSR of `value` (APM volume 2, §3.1.7), where it is `current` and CR0.PG is `paging`;
/// `None`: #GP(0). CPUID leaf 0x8000_0001, as the guest sees it, has `features` in EDX. SVME is not the guest's.
pub const fn efer(value: u64, current: u64, paging: bool, features: u32) -> Option<u64> {
    let mut writable = 0;
    let known = [
        (11, bit::SCE),
        (20, bit::NXE),
        (25, bit::FFXSR),
        (29, bit::LME),
    ];
    let mut at = 0;
    while at < known.len() {
        let (feature, bit) = known[at];
        if features >> feature & 1 != 0 {
            writable |= bit;
        }
        at += 1;
    }
    if value & !(writable | bit::LMA) != 0 || paging && (value ^ current) & bit::LME != 0 {
        return None;
    }
    Some(value & writable | current & bit::LMA)
}

fn constant(value: u64, access: Access) -> Outcome {
    match access {
        Access::Read => Outcome::Value(value),
        Access::Write(_) => Outcome::GeneralProtection,
    }
}

fn kept(value: u64, access: Access) -> Outcome {
    match access {
        Access::Read => Outcome::Value(value),
        Access::Write(_) => Outcome::Ignore,
    }
}
