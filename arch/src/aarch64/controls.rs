//! Every register by which EL2 decides what a guest may do, and every one of EL1 and EL0 that a guest can write: what they
//! are set to, and why the others are not (Arm ARM DDI 0487, chapters D24 and A2).
//!
//! [`set`] is for the first entry after a reset, [`reset_el1`] for what the guest finds then; both know the CPU by its
//! identification registers only, so that a host test sees every write. Control registers of EL2 that neither writes:
//!
//! | Register | Why not |
//! |---|---|
//! | `SCTLR_EL2`, `TCR_EL2`, `TTBR0_EL2`, `MAIR_EL2`, `AMAIR_EL2`, `VBAR_EL2`, `SCTLR2_EL2`, `TCR2_EL2` | EL2's own: set at entry, before the MMU is on |
//! | `VTCR_EL2`, `VTTBR_EL2` | [`stage2`](super::stage2) |
//! | `ICC_SRE_EL2`, `ICH_*_EL2` | [`ich`](super::ich) |
//! | `VSTCR_EL2`, `VSTTBR_EL2`, `CNTHPS_*`, `CNTHVS_*` | Secure state only |
//! | `ACTLR_EL2`, `HACR_EL2` | implementation defined; what they could let through, HCR_EL2.TIDCP and TACR trap |
//! | `ZCR_EL2`, `SMCR_EL2`, `SMPRIMAP_EL2` | SVE and SME trap (`CPTR_EL2`) |
//! | `PIR_EL2`, `POR_EL2`, `S2PIR_EL2`, `MAIR2_EL2`, `GCSCR_EL2`, `VNCR_EL2` | count with an enable in another register that is 0 here |
//! | `CNTPOFF_EL2` | counts with CNTHCTL_EL2.ECV, which is 0 |
//! | `CNTHV_*`, `CONTEXTIDR_EL2`, `TTBR1_EL2` | VHE only |
//! | `RGSR_EL1`, `GCR_EL1`, `TFSR*` | tags are off in EL2 (SCTLR_EL2.ATA) and trap for the guest (HCR_EL2.ATA) |
//! | `SCXTNUM_*` | traps for the guest (HCR_EL2.EnSCXT); EL2's own number is nobody else's as any value |
//! | `TRFCR_EL2`, `BRBCR_EL2` | no guest reaches the trace unit or the branch record (`MDCR_EL2`, `HDFGRTR_EL2`), and firmware may keep both to itself (MDCR_EL3) |
//! | `DBGVCR32_EL2` | vector catches of AArch32 at EL1 |

use super::features::Features;
use super::sysreg::{read, write_guest};
use super::vcpu::VcpuConfig;

/// SCTLR_EL1 out of reset: MMU and caches off, little endian, RES1 bits set (D24.2).
const SCTLR_RESET: u64 = 0x30d0_0800;

/// `HCR_EL2`: EL1 is AArch64 behind stage 2; SMC, WFI if asked for, ID registers, ACTLR_EL1 and implementation-defined
/// registers trap; physical interrupts and SErrors come to EL2; set/way invalidation cleans as well (SWIO), and a walk
/// of the guest's never reads a device register (PTW). Memory tags (ATA), context numbers (EnSCXT), activity monitors'
/// offsets (AMVOFFEN), fault injection (FIEN) and nested virtualization (NV) stay 0: they trap or are undefined.
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
    pub const TID5: u64 = 1 << 58;
    pub const ALWAYS: u64 = VM | SWIO | PTW | FMO | IMO | AMO | TID3 | TSC | TIDCP | TACR | RW;
}

/// HCR_EL2.VSE: a virtual SError is pending; the CPU clears it as the guest takes it.
#[cfg(target_os = "none")]
pub const VIRTUAL_SERROR: u64 = 1 << 8;

/// `VSESR_EL2`: the syndrome of a virtual SError, implementation defined (IDS) and so nothing that one could act on.
const SERROR_SYNDROME: u64 = 1 << 24;

/// `CPTR_EL2` with E2H = 0: RES1 bits, which trap SVE (8) and SME (12) where they exist; trace (20) and activity
/// monitors (30) trap; floating point does not.
const CPTR: u64 = 0x33ff | 1 << 20 | 1 << 30;

/// `MDCR_EL2`: performance monitors (6, 5), debug ROM addresses (11), OS locks and power control (10), statistical
/// profiling (14, E2PB 13:12 = 0), trace filter (19) and trace buffer (E2TB 25:24 = 0) trap. Breakpoints are the guest's
/// own: EL2 takes no debug exception (TDE 8 = 0), not even its own, which it masks.
mod mdcr {
    pub const TPMCR: u64 = 1 << 5;
    pub const TPM: u64 = 1 << 6;
    pub const TDOSA: u64 = 1 << 10;
    pub const TDRA: u64 = 1 << 11;
    pub const TPMS: u64 = 1 << 14;
    /// No event is counted at EL2 (FEAT_PMUv3p1), nor cycles (FEAT_PMUv3p5).
    pub const HPMD: u64 = 1 << 17;
    pub const TTRF: u64 = 1 << 19;
    pub const HCCD: u64 = 1 << 23;
    /// The channel to an external debugger traps (FEAT_FGT).
    pub const TDCC: u64 = 1 << 27;
    pub const ALWAYS: u64 = TPMCR | TPM | TDOSA | TDRA | TPMS | TTRF;
}

/// `MPAM2_EL2`: EL1's and EL0's own registers trap; `MPAMHCR_EL2`: so does MPAMIDR_EL1.
const MPAM2_TRAPS: u64 = 1 << 49 | 1 << 48;
const MPAM2_TRAP_ID: u64 = 1 << 58;
const MPAMHCR_TRAP_ID: u64 = 1 << 31;

/// A four-bit field of an identification register.
const fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

/// Whether the CPU has FEAT_RAS: ESB, DISR_EL1, and syndromes that say something.
pub fn has_ras(features: &Features) -> bool {
    field(features.ID_AA64PFR0(), 28) != 0
}

/// Address and generic authentication, in their three kinds each (ISAR1 7:4, 11:8, 27:24, 31:28; ISAR2 15:12, 11:8).
fn has_authentication(features: &Features) -> bool {
    features.ID_AA64ISAR1() & 0xff00_0ff0 != 0 || features.ID_AA64ISAR2() & 0x0000_ff00 != 0
}

/// PMUVer of an architected PMU: 0 is none, 15 one of another kind.
fn pmu(features: &Features) -> Option<u64> {
    Some(field(features.ID_AA64DFR0(), 8)).filter(|version| matches!(version, 1..=14))
}

/// What EL2 lets the guest do.
pub fn set(config: &VcpuConfig, features: &Features) {
    let when = |condition: bool, bits: u64| if condition { bits } else { 0 };
    let fine_grained = field(features.ID_AA64MMFR0(), 56);
    let hcr = hcr::ALWAYS
        | when(config.trap_wfi, hcr::TWI)
        | when(field(features.ID_AA64MMFR1(), 16) != 0, hcr::TLOR)
        | when(has_ras(features), hcr::TERR)
        | when(has_authentication(features), hcr::APK | hcr::API)
        | when(field(features.ID_AA64PFR1(), 8) >= 2, hcr::TID5);
    let mut mdcr = mdcr::ALWAYS | when(fine_grained != 0, mdcr::TDCC);
    if let Some(version) = pmu(features) {
        // Off, whatever firmware measured. HPMN = all counters, which is what leaves none to be special.
        let counters = read!("PMCR_EL0") >> 11 & 0x1f;
        write_guest! {
            "PMCR_EL0" => 0;
            "PMCNTENCLR_EL0" => u64::from(u32::MAX);
            "PMINTENCLR_EL1" => u64::from(u32::MAX);
        }
        mdcr |= counters | when(version >= 4, mdcr::HPMD) | when(version >= 6, mdcr::HCCD);
    }
    write_guest! {
        "HCR_EL2" => hcr;
        "CPTR_EL2" => CPTR;
        "MDCR_EL2" => mdcr;
        "HSTR_EL2" => 0;
        "VPIDR_EL2" => config.vpidr;
        "VMPIDR_EL2" => config.vmpidr;
        // EL1PCTEN: the physical count is readable; EL1PCEN: the physical timer, if it is the guest's.
        "CNTHCTL_EL2" => 1 | when(config.physical_timer, 1 << 1);
        "CNTVOFF_EL2" => 0;
    }
    if has_ras(features) {
        write_guest! {
            "S3_4_C5_C2_3" => SERROR_SYNDROME; // VSESR_EL2
            "S3_4_C12_C1_1" => 0; // VDISR_EL2: nothing deferred
        }
    }
    if field(features.ID_AA64MMFR1(), 40) != 0 {
        write_guest! { "S3_4_C1_C2_2" => 0; } // HCRX_EL2: nothing that it would enable
    }
    // Fine-grained traps: none but those of features that need permission, which are trapped by zero.
    if fine_grained != 0 {
        write_guest! {
            "S3_4_C1_C1_4" => 0; // HFGRTR_EL2
            "S3_4_C1_C1_5" => 0; // HFGWTR_EL2
            "S3_4_C1_C1_6" => 0; // HFGITR_EL2
            "S3_4_C3_C1_4" => 0; // HDFGRTR_EL2
            "S3_4_C3_C1_5" => 0; // HDFGWTR_EL2
        }
        if field(features.ID_AA64PFR0(), 44) != 0 {
            write_guest! { "S3_4_C3_C1_6" => 0; } // HAFGRTR_EL2
        }
    }
    if fine_grained >= 2 {
        write_guest! {
            "S3_4_C3_C1_0" => 0; // HDFGRTR2_EL2
            "S3_4_C3_C1_1" => 0; // HDFGWTR2_EL2
            "S3_4_C3_C1_2" => 0; // HFGRTR2_EL2
            "S3_4_C3_C1_3" => 0; // HFGWTR2_EL2
            "S3_4_C3_C1_7" => 0; // HFGITR2_EL2
        }
    }
    set_mpam(features);
    stop_buffers(features);
}

/// Memory partitioning: everything is of partition 0, and the guest cannot say otherwise.
fn set_mpam(features: &Features) {
    if field(features.ID_AA64PFR0(), 40) == 0 && field(features.ID_AA64PFR1(), 16) == 0 {
        return;
    }
    let id = read!("S3_0_C10_C4_4"); // MPAMIDR_EL1
    let tidr = if id >> 58 & 1 != 0 { MPAM2_TRAP_ID } else { 0 };
    write_guest! {
        "S3_0_C10_C5_0" => 0; // MPAM1_EL1
        "S3_0_C10_C5_1" => 0; // MPAM0_EL1
        "S3_4_C10_C5_0" => MPAM2_TRAPS | tidr; // MPAM2_EL2
    }
    if id >> 17 & 1 != 0 {
        write_guest! { "S3_4_C10_C4_0" => MPAMHCR_TRAP_ID; } // MPAMHCR_EL2
    }
}

/// Statistical profiling and the trace buffer write to memory by themselves: what firmware has left on is off, unless
/// they are somebody's above (PMBIDR_EL1.P, TRBIDR_EL1.P).
fn stop_buffers(features: &Features) {
    let ours = |id: u64| id >> 4 & 1 == 0;
    if field(features.ID_AA64DFR0(), 32) != 0 && ours(read!("S3_0_C9_C10_7")) {
        write_guest! {
            "S3_0_C9_C10_0" => 0; // PMBLIMITR_EL1
            "S3_0_C9_C9_0" => 0; // PMSCR_EL1
            "S3_4_C9_C9_0" => 0; // PMSCR_EL2
        }
    }
    if field(features.ID_AA64DFR0(), 44) != 0 && ours(read!("S3_0_C9_C11_7")) {
        write_guest! { "S3_0_C9_C11_0" => 0; } // TRBLIMITR_EL1
    }
}

/// EL1 and EL0 as they come out of reset: nothing of an earlier guest, or of firmware, is left. All that a guest can
/// write and that is not here traps, or is in [`ich`](super::ich) or the floating point registers.
pub fn reset_el1(features: &Features) {
    write_guest! {
        "SCTLR_EL1" => SCTLR_RESET;
        "TCR_EL1" => 0;
        "TTBR0_EL1" => 0;
        "TTBR1_EL1" => 0;
        "MAIR_EL1" => 0;
        "AMAIR_EL1" => 0;
        "CONTEXTIDR_EL1" => 0;
        "CPACR_EL1" => 0;
        "VBAR_EL1" => 0;
        "ELR_EL1" => 0;
        "SPSR_EL1" => 0;
        "ESR_EL1" => 0;
        "FAR_EL1" => 0;
        "AFSR0_EL1" => 0;
        "AFSR1_EL1" => 0;
        "PAR_EL1" => 0;
        "CSSELR_EL1" => 0;
        "TPIDR_EL1" => 0;
        "TPIDR_EL0" => 0;
        "TPIDRRO_EL0" => 0;
        "SP_EL0" => 0;
        "SP_EL1" => 0;
        "CNTKCTL_EL1" => 0;
    }
    stop_timers();
    write_guest! {
        "CNTV_CVAL_EL0" => 0;
        "CNTP_CVAL_EL0" => 0;
    }
    if has_authentication(features) {
        // APIA, APIB, APDA, APDB and APGA keys, low and high half each.
        write_guest! {
            "S3_0_C2_C1_0" => 0;
            "S3_0_C2_C1_1" => 0;
            "S3_0_C2_C1_2" => 0;
            "S3_0_C2_C1_3" => 0;
            "S3_0_C2_C2_0" => 0;
            "S3_0_C2_C2_1" => 0;
            "S3_0_C2_C2_2" => 0;
            "S3_0_C2_C2_3" => 0;
            "S3_0_C2_C3_0" => 0;
            "S3_0_C2_C3_1" => 0;
        }
    }
    reset_debug(features);
}

/// The guest's timers do not fire any more.
pub fn stop_timers() {
    write_guest! {
        "CNTV_CTL_EL0" => 0;
        "CNTP_CTL_EL0" => 0;
    }
}

/// Self-hosted debug (D2): off, unlocked (the guest's own accesses to the locks trap), and nothing in it.
fn reset_debug(features: &Features) {
    write_guest! {
        "MDSCR_EL1" => 0;
        "MDCCINT_EL1" => 0;
        "OSLAR_EL1" => 0;
        "OSDTRRX_EL1" => 0;
        "OSDTRTX_EL1" => 0;
        "DBGCLAIMCLR_EL1" => 0xff;
    }
    // The double lock is there where DFR0.DoubleLock is 0.
    if field(features.ID_AA64DFR0(), 36) == 0 {
        write_guest! { "OSDLR_EL1" => 0; }
    }
    let breakpoints = field(features.ID_AA64DFR0(), 12) + 1;
    let watchpoints = field(features.ID_AA64DFR0(), 20) + 1;
    macro_rules! reset_each {
        ($($n:literal)*) => { $(
            if breakpoints > $n {
                write_guest! {
                    concat!("DBGBCR", $n, "_EL1") => 0;
                    concat!("DBGBVR", $n, "_EL1") => 0;
                }
            }
            if watchpoints > $n {
                write_guest! {
                    concat!("DBGWCR", $n, "_EL1") => 0;
                    concat!("DBGWVR", $n, "_EL1") => 0;
                }
            }
        )* }
    }
    reset_each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

#[cfg(test)]
mod tests;
