//! Physical values: QEMU 11.1.3's `-cpu max` at EL2, read out with its debugger. Expected ones: by hand, from DDI 0487.

use super::{Access, Encoding, Outcome, SgiRegister, access, needs_physical};

fn register(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Encoding {
    Encoding {
        op0,
        op1,
        crn,
        crm,
        op2,
    }
}

fn id(crm: u8, op2: u8, physical: u64) -> u64 {
    match access(register(3, 0, 0, crm, op2), Access::Read { physical }) {
        Outcome::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

fn all() -> impl Iterator<Item = Encoding> {
    (0..1 << 16).map(|bits: u32| {
        register(
            (bits >> 14 & 3) as u8,
            (bits >> 11 & 7) as u8,
            (bits >> 7 & 15) as u8,
            (bits >> 3 & 15) as u8,
            (bits & 7) as u8,
        )
    })
}

#[test]
fn a_full_cpu_is_cut_down_to_what_works() {
    // (CRm, op2, physical, seen)
    let table = [
        (4, 0, 0x1301_0011_2111_0222, 0x1101_0000_0111_0011), // PFR0
        (4, 1, 0x0010_1010_1200_0121, 0x0000_0000_0000_0021), // PFR1
        (4, 2, 0x0000_0001_0000_0111, 0),                     // PFR2
        (4, 4, 0x0110_1101_0121_0022, 0),                     // ZFR0
        (4, 5, 0x92f1_5fff_7180_0001, 0),                     // SMFR0
        (4, 7, 0x0000_0000_fc00_0003, 0),                     // FPFR0
        (5, 0, 0x1000_0000_1030_560a, 0x0000_00f0_0010_1006), // DFR0
        (6, 0, 0x1221_1111_1031_2120, 0x1221_1111_1031_2120), // ISAR0
        (6, 1, 0x0111_2111_1021_1502, 0x0011_2111_1021_1502), // ISAR1
        (6, 2, 0x1120_0000_0011_0012, 0x0020_0000_0010_0010), // ISAR2
        (6, 3, 0x0000_0000_1000_0010, 0),                     // ISAR3
        (7, 0, 0x2100_0323_1020_1126, 0x0000_0000_0010_0022), // MMFR0
        (7, 1, 0x0110_1120_1031_2122, 0x0000_1020_0030_2002), // MMFR1
        (7, 2, 0x1221_0111_1201_1011, 0x1021_0011_1001_0011), // MMFR2
        (7, 3, 0x1000_0000_1100_1111, 0),                     // MMFR3
        (7, 4, 0x0000_0000_0000_0100, 0),                     // MMFR4
    ];
    for (crm, op2, physical, seen) in table {
        assert_eq!(
            id(crm, op2, physical),
            seen,
            "CRm {crm} op2 {op2}: {:#x}",
            id(crm, op2, physical)
        );
    }
}

#[test]
fn absence_that_is_not_zero_stays_absence() {
    // No floating point, no 4 KiB or 64 KiB granule.
    assert_eq!(id(4, 0, 0x00ff_0011) & 0xff_0000, 0xff_0000);
    assert_eq!(id(7, 0, 0xff00_0000), 0xff00_0000);
}

#[test]
fn a_small_cpu_is_not_made_larger() {
    assert_eq!(id(7, 0, 0x0000_0000_0000_1122) & 0xf, 2);
    assert_eq!(id(7, 0, 0x0000_0000_0000_1121) & 0xf, 1);
    for (crm, op2) in [(4, 1), (6, 0), (6, 1), (6, 2), (7, 0), (7, 1), (7, 2)] {
        assert_eq!(id(crm, op2, 0), 0);
    }
}

#[test]
fn the_rest_of_the_id_space_reads_as_zero_and_none_of_it_can_be_written() {
    for (crm, op2) in (1..=7).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
        let at = register(3, 0, 0, crm, op2);
        if !needs_physical(at) {
            assert_eq!(id(crm, op2, u64::MAX), 0);
        }
        assert_eq!(access(at, Access::Write(0)), Outcome::Undefined);
    }
    assert_eq!(all().filter(|&at| needs_physical(at)).count(), 9);
}

#[test]
fn sgis_are_sent_by_writing() {
    for (op2, sender) in [
        (5, SgiRegister::Sgi1r),
        (6, SgiRegister::Asgi1r),
        (7, SgiRegister::Sgi0r),
    ] {
        let at = register(3, 0, 12, 11, op2);
        let value = 0x0012_3456_789a_bcde;
        assert_eq!(
            access(at, Access::Write(value)),
            Outcome::Sgi {
                register: sender,
                value
            }
        );
        assert_eq!(access(at, Access::Read { physical: 0 }), Outcome::Undefined);
    }
}

#[test]
fn debug_is_inert() {
    let mdscr = register(2, 0, 0, 2, 2);
    assert_eq!(access(mdscr, Access::Write(u64::MAX)), Outcome::Ignore);
    assert_eq!(
        access(mdscr, Access::Read { physical: 9 }),
        Outcome::Value(0)
    );
    // DBGBVR0, DBGWCR1 exist; DBGBVR2 does not, as only two of each are announced.
    assert_eq!(
        access(register(2, 0, 0, 0, 4), Access::Write(1)),
        Outcome::Ignore
    );
    assert_eq!(
        access(register(2, 0, 0, 1, 7), Access::Write(1)),
        Outcome::Ignore
    );
    assert_eq!(
        access(register(2, 0, 0, 2, 4), Access::Write(1)),
        Outcome::Undefined
    );
    assert_eq!(
        access(register(2, 0, 1, 0, 4), Access::Write(0)),
        Outcome::Ignore
    );
    assert_eq!(
        access(register(2, 0, 1, 1, 4), Access::Read { physical: 2 }),
        Outcome::Value(8)
    );
    // The trace unit is hidden.
    assert_eq!(
        access(register(2, 1, 0, 0, 0), Access::Read { physical: 0 }),
        Outcome::Undefined
    );
}

#[test]
fn the_system_register_interface_of_the_gic_cannot_be_turned_off() {
    let sre = register(3, 0, 12, 12, 5);
    assert_eq!(access(sre, Access::Write(0)), Outcome::Ignore);
    assert_eq!(access(sre, Access::Read { physical: 0 }), Outcome::Value(7));
}

#[test]
fn hidden_units_are_undefined() {
    let hidden = [
        (3, 3, 9, 12, 0),  // PMCR_EL0
        (3, 3, 14, 8, 0),  // PMEVCNTR0_EL0
        (3, 3, 14, 15, 7), // PMCCFILTR_EL0
        (3, 0, 9, 9, 0),   // PMSCR_EL1
        (3, 0, 9, 11, 0),  // TRBLIMITR_EL1
        (3, 3, 13, 2, 0),  // AMCR_EL0
        (3, 0, 10, 5, 1),  // MPAM0_EL1
        (3, 0, 10, 4, 7),  // LORID_EL1
        (3, 0, 1, 2, 0),   // ZCR_EL1
        (3, 0, 1, 2, 6),   // SMCR_EL1
        (3, 0, 5, 3, 0),   // ERRIDR_EL1
        (3, 0, 5, 6, 0),   // TFSR_EL1
        (3, 0, 13, 0, 7),  // SCXTNUM_EL1
        (3, 0, 15, 0, 0),  // implementation defined
        (3, 7, 11, 15, 7), // implementation defined
        (3, 4, 1, 1, 0),   // HCR_EL2
        (1, 0, 7, 6, 2),   // DC ISW
    ];
    for (op0, op1, crn, crm, op2) in hidden {
        let at = register(op0, op1, crn, crm, op2);
        assert_eq!(
            access(at, Access::Read { physical: u64::MAX }),
            Outcome::Undefined,
            "{at:?}"
        );
        assert_eq!(
            access(at, Access::Write(u64::MAX)),
            Outcome::Undefined,
            "{at:?}"
        );
    }
}

#[test]
fn only_listed_id_registers_let_a_physical_value_through() {
    for at in all().filter(|&at| !needs_physical(at)) {
        let one = access(at, Access::Read { physical: 0 });
        assert_eq!(
            one,
            access(at, Access::Read { physical: u64::MAX }),
            "{at:?}"
        );
    }
}
