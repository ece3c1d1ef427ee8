//! MSRs: what is named, and that nothing else is.

use super::{Access, OWN, Outcome, access, efer};

#[test]
fn what_is_not_named_is_general_protection() {
    let named = |msr: u32| {
        let constants = [
            0x17,
            0x1b,
            0x3a,
            0x8b,
            0xfe,
            0x1a0,
            0x2ff,
            0x6e0,
            0xc000_0080,
        ];
        let amd = [
            0xc001_0010,
            0xc001_0015,
            0xc001_001a,
            0xc001_001d,
            0xc001_1029,
        ];
        let x2apic = msr >> 8 == 8;
        x2apic
            || constants.contains(&msr)
            || amd.contains(&msr)
            || OWN.iter().any(|own| own.msr == msr)
    };
    // All that any CPU has, hypervisors' among them.
    for first in [0, 0x4000_0000, 0x4b56_4d00, 0xc000_0000, 0xc001_0000] {
        for msr in first..first + 0x2000 {
            let read = access(msr, Access::Read);
            assert_eq!(read == Outcome::GeneralProtection, !named(msr), "{msr:#x}");
            let write = access(msr, Access::Write(0));
            assert!(
                named(msr) || write == Outcome::GeneralProtection,
                "{msr:#x}"
            );
        }
    }
}

#[test]
fn what_would_be_the_hypervisors_is_not_named() {
    for msr in [
        0x3b,        // TSC_ADJUST
        0x48,        // SPEC_CTRL
        0x49,        // PRED_CMD
        0x10a,       // ARCH_CAPABILITIES
        0x179,       // MCG_CAP
        0x1d9,       // DEBUGCTL
        0x480,       // VMX_BASIC
        0xda0,       // XSS
        0xc001_0114, // VM_CR
        0xc001_0117, // VM_HSAVE_PA
        0xc001_0131, // SEV_STATUS
    ] {
        for kind in [Access::Read, Access::Write(0), Access::Write(!0)] {
            assert_eq!(access(msr, kind), Outcome::GeneralProtection, "{msr:#x}");
        }
    }
    assert_eq!(access(0x10, Access::Read), Outcome::Own);
    assert_eq!(access(0x10, Access::Write(0)), Outcome::GeneralProtection);
    assert_eq!(access(0x174, Access::Write(1)), Outcome::Own);
    assert_eq!(access(0xfe, Access::Write(0)), Outcome::GeneralProtection);
    assert_eq!(access(0x2ff, Access::Read), Outcome::Value(0x806));
    assert_eq!(access(0x2ff, Access::Write(0)), Outcome::Ignore);
}

#[test]
fn efer_is_what_the_cpu_has_and_never_svme() {
    // SYSCALL, NX, long mode; no FFXSR.
    const FEATURES: u32 = 1 << 11 | 1 << 20 | 1 << 29;
    let write = |value, current, paging| efer(value, current, paging, FEATURES);
    assert_eq!(write(0x901, 0, false), Some(0x901));
    assert_eq!(write(0xd01, 0x500, true), Some(0xd01), "with paging on");
    assert_eq!(write(0x801, 0x500, true), None, "LME cannot change then");
    assert_eq!(
        write(0x801, 0x500, false),
        Some(0xc01),
        "LMA is the CPU's own"
    );
    assert_eq!(write(0x500, 0x100, false), Some(0x100));
    for bit in [1, 9, 12, 13, 14, 15, 18, 63] {
        assert_eq!(write(1 << bit, 0, false), None, "{bit}");
    }
    assert_eq!(efer(1 << 14, 0, false, 1 << 25), Some(1 << 14));
    assert_eq!(efer(1, 0, false, 0), None);
}
