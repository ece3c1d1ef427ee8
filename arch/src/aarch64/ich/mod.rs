//! The virtual CPU interface: list registers and what belongs to them, ICH_*_EL2 (IHI 0069, 12.4).
//!
//! [`init`] runs once on each CPU, after [`Gic::init_cpu`](super::gic::Gic::init_cpu). A CPU has one guest, so nothing
//! is switched on the way in and out: the guest's state lives in the registers while it runs; [`save`] and [`restore`]
//! are for its reset, and for looking at all of it.
//!
//! A guest's ICC_*_EL1 accesses reach this interface by themselves, with HCR_EL2.IMO and FMO set. Three do not, and trap:
//! ICC_SGI1R_EL1 and its siblings always, ICC_SRE_EL1 because [`init`] clears ICC_SRE_EL2.Enable (a guest that cleared
//! SRE would look for a memory interface that it does not have), and ICC_DIR_EL1 with [`Hcr::TDIR`].

mod list_register;
mod spec;
#[cfg(test)]
mod tests;

pub use list_register::{Group, ListRegister, Source, State};

use super::gic::spec::{ICC_SRE_EL2_ENABLE, ICC_SRE_NO_BYPASS, ICC_SRE_SRE};
use super::gic::sysreg::{self, Register};
use spec::Vtr;
use tock_registers::LocalRegisterCopy;

/// As many list registers as the architecture has room for.
pub const MAX_LIST_REGISTERS: usize = 16;

/// ICH_HCR_EL2 (12.4), as bits to combine.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hcr(
    /// The word.
    pub u64,
);

impl Hcr {
    /// The virtual interface works. Everything below needs it.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt: at most one list register is in use.
    pub const UIE: u64 = 1 << 1;
    /// Maintenance interrupt: EOIcount is not 0.
    pub const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt: no list register is pending.
    pub const NPIE: u64 = 1 << 3;
    /// Maintenance interrupt: the guest enables Group 0.
    pub const VGRP0EIE: u64 = 1 << 4;
    /// Maintenance interrupt: the guest disables Group 0.
    pub const VGRP0DIE: u64 = 1 << 5;
    /// Maintenance interrupt: the guest enables Group 1.
    pub const VGRP1EIE: u64 = 1 << 6;
    /// Maintenance interrupt: the guest disables Group 1.
    pub const VGRP1DIE: u64 = 1 << 7;
    /// Traps the registers that both groups share.
    pub const TC: u64 = 1 << 10;
    /// Traps Group 0.
    pub const TALL0: u64 = 1 << 11;
    /// Traps Group 1.
    pub const TALL1: u64 = 1 << 12;
    /// Traps ICC_DIR_EL1, where [`Features::traps_dir`] says so.
    pub const TDIR: u64 = 1 << 14;

    /// How often the guest ended an interrupt that no list register had, modulo 32.
    pub fn eoi_count(self) -> u8 {
        (self.0 >> 27 & 0x1F) as u8
    }

    /// The same with that count set.
    #[must_use]
    pub fn with_eoi_count(self, count: u8) -> Self {
        Self(self.0 & !(0x1F << 27) | u64::from(count & 0x1F) << 27)
    }
}

/// ICH_MISR_EL2 (12.4): why there is a maintenance interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Misr(
    /// The word.
    pub u64,
);

impl Misr {
    /// An interrupt with [`Source::SoftwareWithEoi`] was deactivated; [`eisr`] says where.
    pub const EOI: u64 = 1 << 0;
    /// Underflow, see [`Hcr::UIE`].
    pub const U: u64 = 1 << 1;
    /// See [`Hcr::LRENPIE`].
    pub const LRENP: u64 = 1 << 2;
    /// See [`Hcr::NPIE`].
    pub const NP: u64 = 1 << 3;

    /// Whether any of `bits` is set.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
}

/// ICH_VMCR_EL2 (12.4): what the guest has in its CPU interface's control registers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Vmcr(
    /// The word.
    pub u64,
);

impl Vmcr {
    /// Whether it has Group 0 enabled.
    pub fn group0_enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it has Group 1 enabled.
    pub fn group1_enabled(self) -> bool {
        self.0 >> 1 & 1 != 0
    }

    /// Whether deactivation is apart from priority drop (EOImode).
    pub fn eoi_mode(self) -> bool {
        self.0 >> 9 & 1 != 0
    }

    /// Its priority mask: interrupts of this priority and below are not signalled.
    pub fn priority_mask(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

/// What this CPU's virtual interface offers (ICH_VTR_EL2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// List registers, 1 to 16.
    pub list_registers: usize,
    /// Bits of a virtual priority, 5 to 8, counted from the top.
    pub priority_bits: u8,
    /// Of these, the ones that decide preemption, 5 to 7; 32, 64 or 128 active priorities a group.
    pub preemption_bits: u8,
    /// Bits of a virtual interrupt's number, 16 or 24.
    pub id_bits: u8,
    /// [`Hcr::TDIR`] works.
    pub traps_dir: bool,
}

impl Features {
    /// Decodes ICH_VTR_EL2.
    pub fn decode(vtr: u64) -> Self {
        let vtr = LocalRegisterCopy::<u64, Vtr::Register>::new(vtr);
        let list_registers = vtr.read(Vtr::ListRegs) as usize + 1;
        Self {
            // The field has room for 32, the architecture for 16.
            list_registers: list_registers.min(MAX_LIST_REGISTERS),
            priority_bits: vtr.read(Vtr::PriBits) as u8 + 1,
            preemption_bits: vtr.read(Vtr::PreBits) as u8 + 1,
            id_bits: if vtr.read(Vtr::IdBits) == 0 { 16 } else { 24 },
            traps_dir: vtr.is_set(Vtr::Tds),
        }
    }

    /// How many of `ICH_AP0R<n>_EL2`, and of `ICH_AP1R<n>_EL2`, there are: 1, 2 or 4; the others are UNDEFINED.
    pub fn active_priority_registers(&self) -> usize {
        match self.preemption_bits {
            ..=5 => 1,
            6 => 2,
            _ => 4,
        }
    }
}

/// All of a guest's virtual interface.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct IchState {
    /// The list registers; those past [`count`] stay empty.
    pub lr: [ListRegister; MAX_LIST_REGISTERS],
    /// ICH_HCR_EL2.
    pub hcr: Hcr,
    /// ICH_VMCR_EL2.
    pub vmcr: Vmcr,
    /// Active priorities of Group 0.
    pub ap0r: [u32; 4],
    /// Active priorities of Group 1.
    pub ap1r: [u32; 4],
}

/// Prepares this CPU's virtual interface: registers only, no memory interface, nothing pending, off.
pub fn init() {
    sysreg::write(Register::ICC_SRE_EL1, ICC_SRE_SRE | ICC_SRE_NO_BYPASS);
    sysreg::synchronize();
    let sre = sysreg::read(Register::ICC_SRE_EL2);
    sysreg::write(Register::ICC_SRE_EL2, sre & !ICC_SRE_EL2_ENABLE);
    restore(&IchState::default());
}

/// What this CPU's interface offers.
pub fn features() -> Features {
    Features::decode(sysreg::read(Register::ICH_VTR_EL2))
}

/// How many list registers this CPU has.
pub fn count() -> usize {
    features().list_registers
}

/// Reads list register `index`. Panics past [`MAX_LIST_REGISTERS`]; between [`count`] and that it is UNDEFINED.
#[inline(always)]
pub fn read_lr(index: usize) -> ListRegister {
    // Few CPUs have more.
    ListRegister(match index {
        0 => sysreg::read(Register::ICH_LR0_EL2),
        1 => sysreg::read(Register::ICH_LR1_EL2),
        2 => sysreg::read(Register::ICH_LR2_EL2),
        3 => sysreg::read(Register::ICH_LR3_EL2),
        _ => read_any_lr(index),
    })
}

#[inline(never)]
fn read_any_lr(index: usize) -> u64 {
    sysreg::read(LIST_REGISTERS[index])
}

/// Writes list register `index`, as [`read_lr`]. It counts from the next entry into the guest on.
#[inline(always)]
pub fn write_lr(index: usize, value: ListRegister) {
    match index {
        0 => sysreg::write(Register::ICH_LR0_EL2, value.0),
        1 => sysreg::write(Register::ICH_LR1_EL2, value.0),
        2 => sysreg::write(Register::ICH_LR2_EL2, value.0),
        3 => sysreg::write(Register::ICH_LR3_EL2, value.0),
        _ => write_any_lr(index, value.0),
    }
}

#[inline(never)]
fn write_any_lr(index: usize, value: u64) {
    sysreg::write(LIST_REGISTERS[index], value);
}

/// ICH_HCR_EL2.
pub fn hcr() -> Hcr {
    Hcr(sysreg::read(Register::ICH_HCR_EL2))
}

/// Writes ICH_HCR_EL2, with it EOIcount.
pub fn set_hcr(value: Hcr) {
    sysreg::write(Register::ICH_HCR_EL2, value.0);
}

/// ICH_VMCR_EL2.
pub fn vmcr() -> Vmcr {
    Vmcr(sysreg::read(Register::ICH_VMCR_EL2))
}

/// Writes ICH_VMCR_EL2.
pub fn set_vmcr(value: Vmcr) {
    sysreg::write(Register::ICH_VMCR_EL2, value.0);
}

/// Why there is a maintenance interrupt.
pub fn misr() -> Misr {
    // What the guest did to the list registers just before is in it.
    sysreg::synchronize();
    Misr(sysreg::read(Register::ICH_MISR_EL2))
}

/// A bit for each list register that raised an EOI maintenance interrupt; writing the list register clears it.
pub fn eisr() -> u16 {
    sysreg::read(Register::ICH_EISR_EL2) as u16
}

/// A bit for each list register that is free and owes no EOI maintenance interrupt.
pub fn elrsr() -> u16 {
    sysreg::read(Register::ICH_ELRSR_EL2) as u16
}

/// Reads all of it.
pub fn save(state: &mut IchState) {
    let features = features();
    sysreg::synchronize();
    state.hcr = hcr();
    state.vmcr = vmcr();
    for index in 0..features.list_registers {
        state.lr[index] = read_lr(index);
    }
    let groups = active_priorities(features);
    for (value, [group0, group1]) in state.ap0r.iter_mut().zip(&mut state.ap1r).zip(groups) {
        *value.0 = sysreg::read_any(group0) as u32;
        *value.1 = sysreg::read_any(group1) as u32;
    }
}

/// Writes all of it. The active priorities come before the list registers that they belong to, the switch comes last.
pub fn restore(state: &IchState) {
    let features = features();
    set_hcr(Hcr(0));
    set_vmcr(state.vmcr);
    let groups = active_priorities(features);
    for (value, [group0, group1]) in state.ap0r.iter().zip(&state.ap1r).zip(groups) {
        sysreg::write_any(group0, u64::from(*value.0));
        sysreg::write_any(group1, u64::from(*value.1));
    }
    for index in 0..features.list_registers {
        write_lr(index, state.lr[index]);
    }
    set_hcr(state.hcr);
    sysreg::synchronize();
}

const LIST_REGISTERS: [Register; MAX_LIST_REGISTERS] = [
    Register::ICH_LR0_EL2,
    Register::ICH_LR1_EL2,
    Register::ICH_LR2_EL2,
    Register::ICH_LR3_EL2,
    Register::ICH_LR4_EL2,
    Register::ICH_LR5_EL2,
    Register::ICH_LR6_EL2,
    Register::ICH_LR7_EL2,
    Register::ICH_LR8_EL2,
    Register::ICH_LR9_EL2,
    Register::ICH_LR10_EL2,
    Register::ICH_LR11_EL2,
    Register::ICH_LR12_EL2,
    Register::ICH_LR13_EL2,
    Register::ICH_LR14_EL2,
    Register::ICH_LR15_EL2,
];

/// Both groups' active priority registers, those that this CPU has.
fn active_priorities(features: Features) -> impl Iterator<Item = [Register; 2]> {
    const ALL: [[Register; 2]; 4] = [
        [Register::ICH_AP0R0_EL2, Register::ICH_AP1R0_EL2],
        [Register::ICH_AP0R1_EL2, Register::ICH_AP1R1_EL2],
        [Register::ICH_AP0R2_EL2, Register::ICH_AP1R2_EL2],
        [Register::ICH_AP0R3_EL2, Register::ICH_AP1R3_EL2],
    ];
    ALL.into_iter().take(features.active_priority_registers())
}
