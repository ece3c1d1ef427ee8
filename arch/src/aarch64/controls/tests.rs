//! Which registers are written on which CPU: a register that a CPU does not have is UNDEFINED, one that it has and that
//! nobody writes holds what firmware or the last guest has left. Encodings and bits by hand, from DDI 0487.

use super::{reset_el1, set};
use crate::aarch64::features::{Features, IdRegisters};
use crate::aarch64::sysreg::fake;
use crate::aarch64::vcpu::VcpuConfig;
use alloc::vec::Vec;

const CONFIG: VcpuConfig = VcpuConfig {
    vmpidr: 0x8000_0003,
    vpidr: 0x410f_d0f0,
    trap_wfi: false,
    physical_timer: false,
};

/// Cortex-A57 (TRM 4.3): PFR0, DFR0, ISAR0, MMFR0.
const A57: [(usize, usize, u64); 4] = [
    (4, 0, 0x0000_2222),
    (5, 0, 0x1030_5106),
    (6, 0, 0x0001_1120),
    (7, 0, 0x0000_1124),
];

/// A CPU with everything that registers here depend on: RAS, MPAM, AMU; MTE; PMUv3p8, SPE, TRBE, 16 breakpoints and 16
/// watchpoints, no double lock; APA; FGT2; LOR, HCX.
const FULL: [(usize, usize, u64); 6] = [
    (4, 0, 0x0000_1100_1000_0011),
    (4, 1, 0x0000_0000_0000_0200),
    (5, 0, 0x0000_10f1_00f0_f806),
    (6, 1, 0x0000_0000_0000_0010),
    (7, 0, 0x0200_0000_0000_0005),
    (7, 1, 0x0000_0100_0001_0020),
];

fn features(words: &[(usize, usize, u64)]) -> Features {
    let mut id = [[0; 8]; 7];
    for &(crm, op2, word) in words {
        id[crm - 1][op2] = word;
    }
    Features::new(0, 0, 0, IdRegisters(id))
}

fn writes(action: impl Fn(&Features), words: &[(usize, usize, u64)]) -> Vec<(&'static str, u64)> {
    fake::take_writes();
    action(&features(words));
    fake::take_writes()
}

fn controls(words: &[(usize, usize, u64)]) -> Vec<(&'static str, u64)> {
    writes(|features| set(&CONFIG, features), words)
}

fn value(writes: &[(&'static str, u64)], name: &str) -> Option<u64> {
    let mut found = writes.iter().filter(|(other, _)| *other == name);
    let value = found.next().map(|(_, value)| *value);
    assert!(found.next().is_none(), "{name} is written twice");
    value
}

#[test]
fn a_cpu_of_the_first_architecture_is_asked_for_nothing_that_it_lacks() {
    fake::set("PMCR_EL0", 0x4101_3000);
    let all = controls(&A57);
    assert!(
        all.iter().all(|(name, _)| !name.starts_with("S3_")),
        "{all:x?}"
    );
    // RW, TACR, TIDCP, TSC, TID3; AMO, IMO, FMO, PTW, SWIO, VM.
    assert_eq!(value(&all, "HCR_EL2"), Some(0x803c_003f));
    // TDRA, TDOSA, TPM, TPMCR; TTRF and TPMS, which are RES0 there; HPMN 6.
    assert_eq!(value(&all, "MDCR_EL2"), Some(0x0008_4c66));
    assert_eq!(value(&all, "CPTR_EL2"), Some(0x4010_33ff));
    assert_eq!(value(&all, "CNTHCTL_EL2"), Some(1));
    assert_eq!(value(&all, "VMPIDR_EL2"), Some(0x8000_0003));
    let reset = writes(reset_el1, &A57);
    assert!(reset.iter().all(|(name, _)| !name.starts_with("S3_")));
    let count = |kind: &str| {
        reset
            .iter()
            .filter(|(name, _)| name.starts_with(kind))
            .count()
    };
    assert_eq!((count("DBGBCR"), count("DBGBVR")), (6, 6));
    assert_eq!((count("DBGWCR"), count("DBGWVR")), (4, 4));
    // DoubleLock 0 is "there".
    assert_eq!(value(&reset, "OSDLR_EL1"), Some(0));
}

#[test]
fn what_the_identification_registers_hide_traps() {
    fake::set("PMCR_EL0", 31 << 11);
    fake::set("S3_0_C10_C4_4", 1 << 17 | 1 << 58);
    let all = controls(&FULL);
    let hcr = value(&all, "HCR_EL2").unwrap();
    for (name, bit, set) in [
        ("TERR", 36, true),
        ("TLOR", 35, true),
        ("APK", 40, true),
        ("API", 41, true),
        ("TID5", 58, true),
        ("VSE", 8, false),
        ("E2H", 34, false),
        ("TGE", 27, false),
        ("NV", 42, false),
        ("FIEN", 47, false),
        ("EnSCXT", 53, false),
        ("ATA", 56, false),
    ] {
        assert_eq!(hcr >> bit & 1 != 0, set, "{name}");
    }
    let mdcr = value(&all, "MDCR_EL2").unwrap();
    // TDCC, HCCD, TTRF, HPMD, TPMS, TDRA, TDOSA, TPM, TPMCR; HPMN 31.
    assert_eq!(mdcr, 0x088a_4c7f);
    // MPAM2_EL2: TIDR, TRAPMPAM0EL1, TRAPMPAM1EL1; MPAMHCR_EL2: TRAP_MPAMIDR_EL1.
    assert_eq!(value(&all, "S3_4_C10_C5_0"), Some(0x0403_0000_0000_0000));
    assert_eq!(value(&all, "S3_4_C10_C4_0"), Some(0x8000_0000));
    // HCRX, HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR, HAFGRTR and the second five: what has an enable there is off.
    for name in [
        "S3_4_C1_C2_2",
        "S3_4_C1_C1_4",
        "S3_4_C1_C1_5",
        "S3_4_C1_C1_6",
        "S3_4_C3_C1_4",
        "S3_4_C3_C1_5",
        "S3_4_C3_C1_6",
        "S3_4_C3_C1_0",
        "S3_4_C3_C1_1",
        "S3_4_C3_C1_2",
        "S3_4_C3_C1_3",
        "S3_4_C3_C1_7",
        // PMBLIMITR, PMSCR_EL1, PMSCR_EL2, TRBLIMITR: nothing writes to memory by itself.
        "S3_0_C9_C10_0",
        "S3_0_C9_C9_0",
        "S3_4_C9_C9_0",
        "S3_0_C9_C11_0",
        // VDISR_EL2; PMCR_EL0: nothing counts.
        "S3_4_C12_C1_1",
        "PMCR_EL0",
    ] {
        assert_eq!(value(&all, name), Some(0), "{name}");
    }
    // VSESR_EL2: IDS.
    assert_eq!(value(&all, "S3_4_C5_C2_3"), Some(1 << 24));
}

#[test]
fn buffers_that_belong_to_firmware_are_left_alone() {
    fake::set("S3_0_C9_C10_7", 1 << 4);
    fake::set("S3_0_C9_C11_7", 1 << 4);
    let all = controls(&FULL);
    for name in ["S3_0_C9_C10_0", "S3_4_C9_C9_0", "S3_0_C9_C11_0"] {
        assert_eq!(value(&all, name), None, "{name}");
    }
}

#[test]
fn nothing_of_the_last_guest_is_left() {
    let reset = writes(reset_el1, &FULL);
    assert_eq!(value(&reset, "SCTLR_EL1"), Some(0x30d0_0800));
    assert_eq!(value(&reset, "DBGCLAIMCLR_EL1"), Some(0xff));
    // Unlocked for good, and no double lock here.
    assert_eq!(value(&reset, "OSLAR_EL1"), Some(0));
    assert_eq!(value(&reset, "OSDLR_EL1"), None);
    // Five keys of two halves (D24.2: APIAKeyLo_EL1 to APGAKeyHi_EL1).
    let keys = [(1, 0..4), (2, 0..4), (3, 0..2)];
    for (crm, op2s) in keys {
        for op2 in op2s {
            let name = alloc::format!("S3_0_C2_C{crm}_{op2}");
            assert_eq!(value(&reset, &name), Some(0), "{name}");
        }
    }
    for n in 0..16 {
        for kind in ["DBGBCR", "DBGBVR", "DBGWCR", "DBGWVR"] {
            let name = alloc::format!("{kind}{n}_EL1");
            assert_eq!(value(&reset, &name), Some(0), "{name}");
        }
    }
    for name in [
        "TTBR0_EL1",
        "TTBR1_EL1",
        "TCR_EL1",
        "MAIR_EL1",
        "AMAIR_EL1",
        "VBAR_EL1",
        "CPACR_EL1",
        "CONTEXTIDR_EL1",
        "TPIDR_EL1",
        "TPIDR_EL0",
        "TPIDRRO_EL0",
        "SP_EL0",
        "SP_EL1",
        "ELR_EL1",
        "SPSR_EL1",
        "ESR_EL1",
        "FAR_EL1",
        "AFSR0_EL1",
        "AFSR1_EL1",
        "PAR_EL1",
        "CSSELR_EL1",
        "CNTKCTL_EL1",
        "CNTV_CTL_EL0",
        "CNTV_CVAL_EL0",
        "CNTP_CTL_EL0",
        "CNTP_CVAL_EL0",
        "MDSCR_EL1",
        "MDCCINT_EL1",
        "OSDTRRX_EL1",
        "OSDTRTX_EL1",
    ] {
        assert_eq!(value(&reset, name), Some(0), "{name}");
    }
}
