//! The allow-list of identification fields. What is not listed reads as zero, which for these registers means "not there"
//! (the exceptions are listed for that reason).
//!
//! Layouts: DDI 0487, D24.2, under the name of each register; the principle that a lower value of an unsigned field is less:
//! "Principles of the ID scheme" in D24.1.3. What a feature needs of EL2 before EL1 may use it is in its FEAT_ paragraph in A2.
//!
//! Pointer authentication is let through: it is on the condition that `HCR_EL2.API` and `APK` are set, which `arch` does.

use crate::guest_map::IPA_BITS;

/// One register in the space op0 = 3, op1 = 0, CRn = 0.
pub struct IdRegister {
    pub crm: u8,
    pub op2: u8,
    fields: &'static [Field],
}

/// Four bits.
struct Field {
    shift: u8,
    rule: Rule,
}

enum Rule {
    /// As the CPU has it.
    Keep,
    /// At most this.
    Max(u8),
    /// At most 0, where 0b1111 is "not there" and 0 the base.
    MaxSignedZero,
    /// This, whatever the CPU has.
    Fixed(u8),
}

impl IdRegister {
    /// What the guest sees where the CPU has `physical`.
    pub fn filter(&self, physical: u64) -> u64 {
        self.fields.iter().fold(0, |value, field| {
            let has = physical >> field.shift & 0xf;
            let sees = match field.rule {
                Rule::Keep => has,
                Rule::Max(most) => has.min(u64::from(most)),
                Rule::MaxSignedZero => {
                    if has < 8 {
                        0
                    } else {
                        has
                    }
                }
                Rule::Fixed(fixed) => u64::from(fixed),
            };
            value | sees << field.shift
        })
    }
}

const fn keep(shift: u8) -> Field {
    Field {
        shift,
        rule: Rule::Keep,
    }
}

const fn max(shift: u8, most: u8) -> Field {
    Field {
        shift,
        rule: Rule::Max(most),
    }
}

const fn max_signed_zero(shift: u8) -> Field {
    Field {
        shift,
        rule: Rule::MaxSignedZero,
    }
}

const fn fixed(shift: u8, value: u8) -> Field {
    Field {
        shift,
        rule: Rule::Fixed(value),
    }
}

/// `PARange`: the smallest size that holds the intermediate physical addresses. What lies between is never mapped.
const PA_RANGE: u8 = match IPA_BITS {
    0..=32 => 0,
    33..=36 => 1,
    37..=40 => 2,
    41..=42 => 3,
    43..=44 => 4,
    _ => 5,
};

pub static ID_REGISTERS: &[IdRegister] = &[
    IdRegister {
        crm: 4,
        op2: 0,
        fields: PFR0,
    },
    IdRegister {
        crm: 4,
        op2: 1,
        fields: PFR1,
    },
    IdRegister {
        crm: 5,
        op2: 0,
        fields: DFR0,
    },
    IdRegister {
        crm: 6,
        op2: 0,
        fields: ISAR0,
    },
    IdRegister {
        crm: 6,
        op2: 1,
        fields: ISAR1,
    },
    IdRegister {
        crm: 6,
        op2: 2,
        fields: ISAR2,
    },
    IdRegister {
        crm: 7,
        op2: 0,
        fields: MMFR0,
    },
    IdRegister {
        crm: 7,
        op2: 1,
        fields: MMFR1,
    },
    IdRegister {
        crm: 7,
        op2: 2,
        fields: MMFR2,
    },
    // Hidden whole: PFR2, ZFR0, SMFR0, FPFR0, DFR1, DFR2, AFR0, AFR1, ISAR3, MMFR3, MMFR4.
];

/// Not listed: EL2, EL3, RAS, SVE, SEL2, MPAM, AMU, RME.
#[rustfmt::skip]
const PFR0: &[Field] = &[
    fixed(0, 1),  // EL0: AArch64 only
    fixed(4, 1),  // EL1: AArch64 only
    keep(16),     // FP: 0b1111 is "not there"
    keep(20),     // AdvSIMD: likewise
    fixed(24, 1), // GIC: the system registers of version 3, which is what a partition's GIC is
    keep(48),     // DIT: a PSTATE bit
    max(56, 1),   // CSV2: from 2 on there are SCXTNUM registers, which trap
    keep(60),     // CSV3: a promise of the CPU
];

/// Not listed: MTE, RAS_frac, MPAM_frac, SME, RNDR_trap, CSV2_frac, NMI, MTE_frac, GCS, THE, MTEX, DF2, PFAR.
#[rustfmt::skip]
const PFR1: &[Field] = &[
    keep(0),      // BT: branch targets, SCTLR_EL1 and page tables
    keep(4),      // SSBS: a PSTATE bit
];

/// Not listed: TraceVer, PMUVer, PMSS, SEBEP, CTX_CMPs (0 is one), PMSVer, TraceFilt, TraceBuffer, MTPMU, BRBE,
/// ExtTrcBuff, HPMN0.
#[rustfmt::skip]
const DFR0: &[Field] = &[
    fixed(0, 6),   // DebugVer: Armv8.0, the least there is
    fixed(12, 1),  // BRPs: two, the least there is
    fixed(20, 1),  // WRPs: two, the least there is
    fixed(36, 15), // DoubleLock: not there (0 would be "there")
];

/// Not listed: TME.
#[rustfmt::skip]
const ISAR0: &[Field] = &[
    keep(4),      // AES
    keep(8),      // SHA1
    keep(12),     // SHA2
    keep(16),     // CRC32
    keep(20),     // Atomic
    keep(28),     // RDM
    keep(32),     // SHA3
    keep(36),     // SM3
    keep(40),     // SM4
    keep(44),     // DP
    keep(48),     // FHM
    keep(52),     // TS
    keep(56),     // TLB: outer shareable and range invalidation, of the guest's own VMID
    keep(60),     // RNDR
];

/// Not listed: XS and LS64, which HCRX_EL2 governs.
#[rustfmt::skip]
const ISAR1: &[Field] = &[
    keep(0),      // DPB
    keep(4),      // APA: HCR_EL2.API, APK
    keep(8),      // API: HCR_EL2.API, APK
    keep(12),     // JSCVT
    keep(16),     // FCMA
    keep(20),     // LRCPC
    keep(24),     // GPA: HCR_EL2.API, APK
    keep(28),     // GPI: HCR_EL2.API, APK
    keep(32),     // FRINTTS
    keep(36),     // SB
    keep(40),     // SPECRES
    keep(44),     // BF16
    keep(48),     // DGH
    keep(52),     // I8MM
];

/// Not listed: WFxT (the time of a trapped wait is not kept), MOPS (HCRX_EL2.MSCEn), SYSREG_128, SYSINSTR_128, PRFMSLC,
/// PCDPHINT, LUT, ATS1A.
#[rustfmt::skip]
const ISAR2: &[Field] = &[
    keep(4),      // RPRES
    keep(8),      // GPA3: HCR_EL2.API, APK
    keep(12),     // APA3: HCR_EL2.API, APK
    keep(20),     // BC
    keep(24),     // PAC_frac
    keep(28),     // CLRBHB
    keep(48),     // RPRFM: a hint
    keep(52),     // CSSC
];

/// Not listed: BigEnd, BigEndEL0 (trapped accesses are little-endian), SNSMem, the stage 2 granules, FGT, ECV.
#[rustfmt::skip]
const MMFR0: &[Field] = &[
    max(0, PA_RANGE),    // PARange
    keep(4),             // ASIDBits
    max(20, 1),          // TGran16: without 52-bit addresses
    keep(24),            // TGran64: 0 is "there"
    max_signed_zero(28), // TGran4: 0 is "there", 1 has 52-bit addresses
    keep(44),            // ExS
];

/// Not listed: VMIDBits, VH, LO, SpecSEI, XNX, TWED, HCX, TIDCP1, CMOW.
#[rustfmt::skip]
const MMFR1: &[Field] = &[
    max(0, 2),    // HAFDBS: access flag and dirty state, in tables that stage 2 lets the guest write
    keep(12),     // HPDS
    keep(20),     // PAN
    keep(36),     // ETS
    keep(44),     // AFP
    keep(48),     // nTLBPA
    keep(60),     // ECBHB
];

/// Not listed: IESB, NV, FWB, EVT.
#[rustfmt::skip]
const MMFR2: &[Field] = &[
    keep(0),      // CnP
    keep(4),      // UAO
    keep(8),      // LSM
    max(16, 1),   // VARange
    keep(20),     // CCIDX: CCSIDR_EL1 does not trap, so it must say what that one is like
    keep(28),     // ST
    keep(32),     // AT
    max(36, 1),   // IDS: what the CPU does, whoever asks
    keep(48),     // TTL
    keep(52),     // BBM
    keep(60),     // E0PD
];
