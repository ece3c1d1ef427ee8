//! System registers of EL1 and EL0 that a partition's accesses trap on (DDI 0487, C5 and D24): what each of them is here.
//!
//! Identification registers come from an allow-list of fields (`id`); everything that is not named in this file is
//! undefined for the guest. Breakpoints and watchpoints are the CPU's own and do not trap; what does trap of debug is inert.

mod id;
#[cfg(test)]
mod tests;

pub use super::vgic::SgiRegister;
use id::ID_REGISTERS;

/// The operands of MRS and MSR that name a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoding {
    /// 2 or 3; 1 for SYS instructions.
    pub op0: u8,
    /// 0..8.
    pub op1: u8,
    /// 0..16.
    pub crn: u8,
    /// 0..16.
    pub crm: u8,
    /// 0..8.
    pub op2: u8,
}

/// What the guest does with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// MRS. `physical` is what this CPU's register holds, wherever [`needs_physical`] says so.
    Read {
        /// 0 elsewhere.
        physical: u64,
    },
    /// MSR of this value.
    Write(u64),
}

/// What happens then. All but `Undefined` also skip the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This goes to the target register.
    Value(u64),
    /// Nothing.
    Ignore,
    /// Send SGIs.
    Sgi {
        /// By which register.
        register: SgiRegister,
        /// What was written to it.
        value: u64,
    },
    /// The guest takes an Undefined Instruction exception. To be counted.
    Undefined,
}

/// `ICC_SRE_EL1` (IHI 0069, §12.2): system registers only, no bypass. Not to be changed.
const ICC_SRE: u64 = 7;
/// `OSLSR_EL1`: an OS lock exists (OSLM = 0b10) and is off.
const OSLSR: u64 = 1 << 3;
/// Breakpoints and watchpoints of `ID_AA64DFR0_EL1` as filtered: two of each.
const LAST_BREAKPOINT: u8 = 1;

/// Whether [`access`] makes use of the physical register's value.
pub fn needs_physical(register: Encoding) -> bool {
    id_register(register).is_some()
}

/// Decides on one access.
pub fn access(register: Encoding, access: Access) -> Outcome {
    let Encoding {
        op0,
        op1,
        crn,
        crm,
        op2,
    } = register;
    match (op0, op1, crn, crm, op2) {
        // ID_*: read-only. The space that is not allocated yet reads as zero, and AArch32's is as good as that,
        // as EL0 has no AArch32 here.
        (3, 0, 0, 1..=7, _) => match access {
            Access::Read { physical } => {
                Outcome::Value(id_register(register).map_or(0, |id| id.filter(physical)))
            }
            Access::Write(_) => Outcome::Undefined,
        },
        (3, 0, 0, 0, 6) => constant(0, access), // REVIDR_EL1
        (3, 1, 0, 0, 7) => constant(0, access), // AIDR_EL1
        (3, 0, 1, 0, 1) => inert(access),       // ACTLR_EL1: no bit of it is defined here
        (3, 0, 12, 11, 5) => sgi(SgiRegister::Sgi1r, access),
        (3, 0, 12, 11, 6) => sgi(SgiRegister::Asgi1r, access),
        (3, 0, 12, 11, 7) => sgi(SgiRegister::Sgi0r, access),
        (3, 0, 12, 12, 5) => match access {
            Access::Read { .. } => Outcome::Value(ICC_SRE),
            Access::Write(_) => Outcome::Ignore,
        },
        (2, _, _, _, _) => debug(register, access),
        // Among the rest: PMU, SPE, TRBE, AMU, MPAM, SVE, SME, MTE, RAS, LOR, SCXTNUM (all hidden by `id`), and
        // IMPLEMENTATION DEFINED space (CRn 11 and 15).
        _ => Outcome::Undefined,
    }
}

/// Self-hosted debug (D24.3): read as zero, ignore writes. Trace (op1 = 1) and the rest do not exist.
fn debug(register: Encoding, access: Access) -> Outcome {
    let Encoding {
        op1, crn, crm, op2, ..
    } = register;
    match (op1, crn, crm, op2) {
        (0, 0, 0..=LAST_BREAKPOINT, 4..=7) => inert(access), // DBGBVR, DBGBCR, DBGWVR, DBGWCR
        (0, 0, 0, 2) => inert(access),                       // OSDTRRX_EL1
        (0, 0, 2, 0) => inert(access),                       // MDCCINT_EL1
        (0, 0, 2, 2) => inert(access),                       // MDSCR_EL1
        (0, 0, 3, 2) => inert(access),                       // OSDTRTX_EL1
        (0, 0, 6, 2) => inert(access),                       // OSECCR_EL1
        (0, 1, 0, 0) => constant(0, access),                 // MDRAR_EL1
        (0, 1, 0, 4) => write_only(access),                  // OSLAR_EL1
        (0, 1, 1, 4) => constant(OSLSR, access),             // OSLSR_EL1
        (0, 1, 3, 4) => inert(access),                       // OSDLR_EL1
        (0, 1, 4, 4) => inert(access),                       // DBGPRCR_EL1
        (0, 7, 8 | 9, 6) => inert(access),                   // DBGCLAIMSET_EL1, DBGCLAIMCLR_EL1
        (0, 7, 14, 6) => constant(0, access),                // DBGAUTHSTATUS_EL1
        (3, 0, 1, 0) => constant(0, access),                 // MDCCSR_EL0
        (3, 0, 4 | 5, 0) => inert(access), // DBGDTR_EL0, DBGDTRRX_EL0 and DBGDTRTX_EL0
        _ => Outcome::Undefined,
    }
}

fn id_register(register: Encoding) -> Option<&'static id::IdRegister> {
    let Encoding {
        op0: 3,
        op1: 0,
        crn: 0,
        crm,
        op2,
    } = register
    else {
        return None;
    };
    ID_REGISTERS
        .iter()
        .find(|id| (id.crm, id.op2) == (crm, op2))
}

fn constant(value: u64, access: Access) -> Outcome {
    match access {
        Access::Read { .. } => Outcome::Value(value),
        Access::Write(_) => Outcome::Undefined,
    }
}

fn inert(access: Access) -> Outcome {
    match access {
        Access::Read { .. } => Outcome::Value(0),
        Access::Write(_) => Outcome::Ignore,
    }
}

fn write_only(access: Access) -> Outcome {
    match access {
        Access::Read { .. } => Outcome::Undefined,
        Access::Write(_) => Outcome::Ignore,
    }
}

fn sgi(register: SgiRegister, access: Access) -> Outcome {
    match access {
        Access::Read { .. } => Outcome::Undefined,
        Access::Write(value) => Outcome::Sgi { register, value },
    }
}
