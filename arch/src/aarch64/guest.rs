//! The hardware side of a vCPU: entering it, and what EL2 lets it do.

use super::cpu;
use super::exit::{Exit, decode};
use super::features::Features;
use super::inject::{self, Before, Exception};
use super::sysreg::{read, write_guest};
use super::vcpu::{Registers, VcpuConfig};
use core::arch::{asm, global_asm};

/// SCTLR_EL1 out of reset: MMU and caches off, little endian, RES1 bits set (Arm ARM D24.2.175).
const SCTLR_RESET: u64 = 0x30d0_0800;

/// `HCR_EL2`: EL1 is AArch64 behind stage 2; SMC, WFI if asked for, ID registers, ACTLR_EL1 and implementation-defined
/// registers trap; physical interrupts and SErrors come to EL2; set/way invalidation cleans as well (SWIO), and a walk
/// of the guest's never reads a device register (PTW).
mod hcr {
    pub const VM: u64 = 1 << 0;
    pub const SWIO: u64 = 1 << 1;
    pub const PTW: u64 = 1 << 2;
    pub const FMO: u64 = 1 << 3;
    pub const IMO: u64 = 1 << 4;
    pub const AMO: u64 = 1 << 5;
    pub const TWI: u64 = 1 << 13;
    pub const TID3: u64 = 1 << 18;
    pub const TSC: u64 = 1 << 19;
    pub const TIDCP: u64 = 1 << 20;
    pub const TACR: u64 = 1 << 21;
    pub const RW: u64 = 1 << 31;
    pub const TLOR: u64 = 1 << 35;
    pub const TERR: u64 = 1 << 36;
    pub const APK: u64 = 1 << 40;
    pub const API: u64 = 1 << 41;
    pub const ALWAYS: u64 = VM | SWIO | PTW | FMO | IMO | AMO | TID3 | TSC | TIDCP | TACR | RW;
}

/// `CPTR_EL2` with E2H = 0: RES1 bits, which trap SVE (8) and SME (12) where they exist; trace (20) and activity
/// monitors (30) trap; floating point does not.
const CPTR: u64 = 0x33ff | 1 << 20 | 1 << 30;

/// `MDCR_EL2` less HPMN: performance monitors (6, 5), debug ROM address (11), statistical profiling (14) and trace
/// filter (19) trap. Breakpoints are the guest's own: EL2 takes no debug exception.
const MDCR: u64 = 1 << 19 | 1 << 14 | 1 << 11 | 1 << 6 | 1 << 5;

unsafe extern "C" {
    fn sluice_enter_guest(registers: *mut Registers) -> u64;
    fn sluice_reset_floating_point();
}

// Clears V0 to V31, FPCR and FPSR. EL2 itself is built without floating point.
global_asm!(
    ".pushsection .text.sluice_reset_floating_point, \"ax\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".global sluice_reset_floating_point",
    "sluice_reset_floating_point:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "movi v\\n\\().2d, #0",
    ".endr",
    "msr FPCR, xzr",
    "msr FPSR, xzr",
    "ret",
    ".arch_extension nosimd",
    ".arch_extension nofp",
    ".popsection",
);

/// What is known of the guest beside its registers.
#[derive(Debug)]
pub struct Guest {
    /// The EL1 registers are still those of before a reset.
    fresh: bool,
    esr: u64,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            fresh: true,
            esr: 1 << 25,
        }
    }
}

impl Guest {
    pub(crate) fn reset(&mut self) {
        self.fresh = true;
    }

    /// Length of the instruction that exited (ESR_EL2.IL), in bytes.
    pub(crate) fn instruction_length(&self) -> u64 {
        if self.esr & 1 << 25 != 0 { 4 } else { 2 }
    }

    pub(crate) fn run(&mut self, registers: &mut Registers, config: &VcpuConfig) -> Exit {
        if self.fresh {
            let features = cpu::features();
            set_controls(config, &features);
            reset_el1();
            // PFR0.FP: 15 is none.
            if features.ID_AA64PFR0() >> 16 & 0xf != 0xf {
                // SAFETY: these registers hold nothing of EL2's, and CPTR_EL2 does not trap them since `set_controls`;
                // `reset_el1` has synchronized.
                unsafe { sluice_reset_floating_point() };
            }
            self.fresh = false;
        }
        // SAFETY: the guest changes its own registers and memory only: EL1 is behind stage 2 (HCR_EL2.VM), and
        // comes back through the vectors with the stack and the callee-saved registers as they were.
        let kind = unsafe { sluice_enter_guest(registers) };
        self.esr = read!("ESR_EL2");
        match kind {
            0 => decode(self.esr, read!("FAR_EL2"), read!("HPFAR_EL2")),
            // EL2 masks SErrors, so one that it caused shows here as well: still the best that is known.
            3 => Exit::SError(self.esr),
            _ => Exit::Interrupt,
        }
    }

    pub(crate) fn inject(&mut self, registers: &mut Registers, exception: Exception) {
        let before = Before {
            pc: registers.pc,
            pstate: registers.pstate,
            vbar: read!("VBAR_EL1"),
            sctlr: read!("SCTLR_EL1"),
        };
        let after = inject::take(&before, exception);
        write_guest! {
            "ELR_EL1" = before.pc;
            "SPSR_EL1" = before.pstate;
            "ESR_EL1" = after.esr;
        }
        if let Some(far) = after.far {
            write_guest! { "FAR_EL1" = far; }
        }
        registers.pc = after.pc;
        registers.pstate = after.pstate;
    }
}

/// What EL2 lets the guest do: set once, as this CPU has one guest.
fn set_controls(config: &VcpuConfig, features: &Features) {
    let has = |register: u64, field: u32| register >> field & 0xf != 0;
    let when = |condition: bool, bits: u64| if condition { bits } else { 0 };
    // Address and generic authentication, in their three kinds each (ISAR1 7:4, 11:8, 27:24, 31:28; ISAR2 15:12, 11:8).
    let authentication =
        features.ID_AA64ISAR1() & 0xff00_0ff0 != 0 || features.ID_AA64ISAR2() & 0x0000_ff00 != 0;
    let hcr = hcr::ALWAYS
        | when(config.trap_wfi, hcr::TWI)
        | when(has(features.ID_AA64MMFR1(), 16), hcr::TLOR)
        | when(has(features.ID_AA64PFR0(), 28), hcr::TERR)
        | when(authentication, hcr::APK | hcr::API);
    // PMUVer: 0 is none, 15 an unarchitected one. HPMN = all counters, which is what leaves none to be special.
    let pmu = features.ID_AA64DFR0() >> 8 & 0xf;
    let counters = if matches!(pmu, 1..=14) {
        read!("PMCR_EL0") >> 11 & 0x1f
    } else {
        0
    };
    write_guest! {
        "HCR_EL2" = hcr;
        "CPTR_EL2" = CPTR;
        "MDCR_EL2" = MDCR | counters;
        "HSTR_EL2" = 0;
        "VPIDR_EL2" = config.vpidr;
        "VMPIDR_EL2" = config.vmpidr;
        // EL1PCTEN: the physical count is readable; EL1PCEN: the physical timer, if it is the guest's.
        "CNTHCTL_EL2" = 1 | when(config.physical_timer, 1 << 1);
        "CNTVOFF_EL2" = 0;
    }
    if has(features.ID_AA64MMFR1(), 40) {
        write_guest! { "S3_4_C1_C2_2" = 0; } // HCRX_EL2: nothing that it would enable
    }
    // Fine-grained traps: none but those of features that need permission, which are trapped by zero.
    if has(features.ID_AA64MMFR0(), 56) {
        write_guest! {
            "S3_4_C1_C1_4" = 0; // HFGRTR_EL2
            "S3_4_C1_C1_5" = 0; // HFGWTR_EL2
            "S3_4_C1_C1_6" = 0; // HFGITR_EL2
            "S3_4_C3_C1_4" = 0; // HDFGRTR_EL2
            "S3_4_C3_C1_5" = 0; // HDFGWTR_EL2
        }
        if has(features.ID_AA64PFR0(), 44) {
            write_guest! { "S3_4_C3_C1_6" = 0; } // HAFGRTR_EL2
        }
    }
    if features.ID_AA64MMFR0() >> 56 & 0xf >= 2 {
        write_guest! {
            "S3_4_C3_C1_0" = 0; // HDFGRTR2_EL2
            "S3_4_C3_C1_1" = 0; // HDFGWTR2_EL2
            "S3_4_C3_C1_2" = 0; // HFGRTR2_EL2
            "S3_4_C3_C1_3" = 0; // HFGWTR2_EL2
            "S3_4_C3_C1_7" = 0; // HFGITR2_EL2
        }
    }
}

/// EL1 and EL0 as they come out of reset: nothing of an earlier guest, or of firmware, is left.
fn reset_el1() {
    write_guest! {
        "SCTLR_EL1" = SCTLR_RESET;
        "TCR_EL1" = 0;
        "TTBR0_EL1" = 0;
        "TTBR1_EL1" = 0;
        "MAIR_EL1" = 0;
        "AMAIR_EL1" = 0;
        "CONTEXTIDR_EL1" = 0;
        "CPACR_EL1" = 0;
        "VBAR_EL1" = 0;
        "ELR_EL1" = 0;
        "SPSR_EL1" = 0;
        "ESR_EL1" = 0;
        "FAR_EL1" = 0;
        "AFSR0_EL1" = 0;
        "AFSR1_EL1" = 0;
        "PAR_EL1" = 0;
        "CSSELR_EL1" = 0;
        "TPIDR_EL1" = 0;
        "TPIDR_EL0" = 0;
        "TPIDRRO_EL0" = 0;
        "SP_EL0" = 0;
        "SP_EL1" = 0;
        "MDSCR_EL1" = 0;
        "CNTKCTL_EL1" = 0;
        "CNTV_CTL_EL0" = 0;
        "CNTV_CVAL_EL0" = 0;
        "CNTP_CTL_EL0" = 0;
        "CNTP_CVAL_EL0" = 0;
    }
    // SAFETY: forgets what an earlier life of this guest left in the TLB under its VMID; invalidation loses no data.
    unsafe {
        asm!(
            "isb",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}
