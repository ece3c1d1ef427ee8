//! Words put together by hand from the field tables of the Arm ARM (D24.2, ESR_EL2), not by the decoder's own shifts.

use super::{
    AbortInfo, Exit, MmioAccess, Syndrome, SysregAccess, class_name, decode, needs_address,
    read_only, translated,
};

#[test]
fn a_word_store_to_a_hole_is_a_device_access() {
    // EC 100100, IL, ISV, SAS 10, SRT 00011, SF 0, WnR, DFSC 000111: translation fault, level 3.
    assert_eq!(
        decode(0x9383_0047, 0xffff_0000_0900_0018, 0x0009_0000),
        Exit::Mmio(MmioAccess {
            ipa: 0x0900_0018,
            far: 0xffff_0000_0900_0018,
            size: 4,
            write: true,
            reg: 3,
            sign_extend: false,
            sixty_four: false,
        })
    );
}

#[test]
fn a_signed_byte_load_says_so() {
    // EC 100100, IL, ISV, SAS 00, SSE, SRT 11111, SF, DFSC 000110.
    let exit = decode(0x933f_8006, 0x1003, 0x0008_0000);
    let Exit::Mmio(access) = exit else {
        panic!("{exit:?}")
    };
    assert_eq!((access.size, access.reg, access.write), (1, 31, false));
    assert_eq!(access.ipa, 0x0800_0003);
    assert_eq!(access.extend(0x1280), 0xffff_ffff_ffff_ff80);
    let word = MmioAccess {
        sixty_four: false,
        ..access
    };
    assert_eq!(word.extend(0x80), 0xffff_ff80);
    let unsigned = MmioAccess {
        sign_extend: false,
        ..access
    };
    assert_eq!(unsigned.extend(0x1280), 0x80);
}

#[test]
fn a_load_of_a_doubleword_is_whole() {
    // EC 100100, IL, ISV, SAS 11, SRT 00001, SF, DFSC 000101.
    let exit = decode(0x93c1_8005, 0x40, 0x0008_0800);
    let Exit::Mmio(access) = exit else {
        panic!("{exit:?}")
    };
    assert_eq!((access.size, access.ipa), (8, 0x0808_0040));
    assert_eq!(access.extend(u64::MAX - 1), u64::MAX - 1);
}

#[test]
fn an_access_without_syndrome_is_not_emulated() {
    // ISV = 0 (a pair, a write-back), DFSC 000111, a load.
    assert_eq!(
        decode(0x9200_0007, 0x7010, 0x0009_0000),
        Exit::Abort(AbortInfo {
            ipa: Some(0x0900_0010),
            far: 0x7010,
            fetch: false,
            write: false,
            walk: false,
            esr: 0x9200_0007,
        })
    );
}

#[test]
fn a_table_walk_is_not_emulated_though_it_has_a_syndrome() {
    // ISV, S1PTW, DFSC 000111; and a permission fault on a walk, whose HPFAR is valid.
    for esr in [0x9380_0087, 0x9380_008f] {
        let exit = decode(esr, 0xdead_beef, 0x0009_0000);
        let Exit::Abort(info) = exit else {
            panic!("{exit:?}")
        };
        assert!(info.walk);
        assert_eq!(info.ipa, Some(0x0900_0000));
    }
}

#[test]
fn cache_maintenance_is_not_emulated() {
    // ISV, CM, WnR, DFSC 000111.
    assert!(matches!(decode(0x9300_0147, 0, 0), Exit::Abort(_)));
}

#[test]
fn a_store_to_what_may_be_read_only_goes_where_the_guests_tables_say() {
    // EC 100100, IL, ISV, SAS 10, SRT 00011, SF 0, WnR, DFSC 001111: permission fault, level 3.
    let esr = 0x9383_004f;
    assert!(needs_address(esr));
    // PAR_EL1: PA[51:12], and below 12 NS, SH and RES1 with F = 0; ATTR in the top byte.
    let page = translated(0xff00_0000_0905_0b80);
    assert_eq!(page, Some(0x0009_0500));
    assert_eq!(
        read_only(esr, 0xffff_8000_1234_5098, page.unwrap()),
        Exit::ReadOnly(MmioAccess {
            ipa: 0x0905_0098,
            far: 0xffff_8000_1234_5098,
            size: 4,
            write: true,
            reg: 3,
            sign_extend: false,
            sixty_four: false,
        })
    );
    // F = 1, and a fault status where the address would be.
    assert_eq!(translated(0x80b), None);
    // Level 2; level 0.
    assert!(needs_address(0x9383_004e) && needs_address(0x9383_004c));
    // No syndrome; a load; cache maintenance; on a walk; a translation fault; a fetch; of EL2 itself.
    for other in [
        0x9283_004f,
        0x9383_000f,
        0x9383_014f,
        0x9383_00cf,
        0x9383_0047,
        0x8383_004f,
        0x9783_004f,
    ] {
        assert!(!needs_address(other), "{other:#x}");
    }
}

#[test]
fn any_other_permission_fault_is_not_emulated_and_has_no_address() {
    // ISV, SAS 10, SRT 0, DFSC 001111, a load; a store without syndrome; a fetch with IFSC 001111: HPFAR is stale.
    for esr in [0x9380_000f, 0x9200_004f, 0x8200_000f] {
        let exit = decode(esr, 0x5008, 0x0123_4560);
        let Exit::Abort(info) = exit else {
            panic!("{exit:?}")
        };
        assert_eq!((info.ipa, info.far), (None, 0x5008));
    }
}

#[test]
fn a_fetch_is_an_abort_whatever_its_low_bits_say() {
    // EC 100000, IL, IFSC 000101; bits 24 and 6 are RES0 there and ignored.
    let exit = decode(0x8300_0045, 0x9000_0000, 0x0090_0000);
    let Exit::Abort(info) = exit else {
        panic!("{exit:?}")
    };
    assert!(info.fetch && !info.write);
    assert_eq!(info.ipa, Some(0x9000_0000));
}

#[test]
fn an_external_abort_is_not_a_stage_2_fault() {
    // DFSC 010000, with ISV; 010111, on a walk of stage 2; 110000, a TLB conflict.
    for esr in [0x9380_0010, 0x9380_0017, 0x9200_0030] {
        let Exit::Abort(info) = decode(esr, 0x1000, 0x0009_0000) else {
            panic!("{esr:#x}")
        };
        assert_eq!((info.ipa, info.far, info.walk), (None, 0x1000, false));
    }
}

#[test]
fn the_syndrome_of_an_error_says_how_far_it_has_gone() {
    // EC 101111, IL; AET 000, 011, 110 with DFSC 010001; IDS.
    let uncontainable = Syndrome(0xbe00_0011);
    assert_eq!(decode(uncontainable.0, 0, 0), Exit::SError(uncontainable));
    assert!(uncontainable.is_uncontainable() && !uncontainable.is_corrected());
    let recoverable = Syndrome(0xbe00_0c11);
    assert!(!recoverable.is_uncontainable() && !recoverable.is_corrected());
    assert_eq!(recoverable.to_string(), "recoverable (ESR 0xbe000c11)");
    assert!(Syndrome(0xbe00_1811).is_corrected());
    // AET means nothing where the syndrome is not architected, or not categorized.
    for esr in [0xbf00_0011, 0xbe00_0000] {
        assert!(!Syndrome(esr).is_uncontainable(), "{esr:#x}");
    }
}

#[test]
fn a_deferred_error_has_the_syndrome_that_it_would_have_had() {
    // DISR_EL1: A, AET 001, EA, DFSC 010001.
    assert_eq!(Syndrome::deferred(0x8000_0611), Syndrome(0xbe00_0611));
    assert_eq!(Syndrome::deferred(0x8100_0000), Syndrome(0xbf00_0000));
}

#[test]
fn high_addresses_come_whole_from_hpfar() {
    // FIPA is bits 47:4: IPA 0x00f4_5678_9abc_d000.
    let exit = decode(0x9380_0007, 0xfff, 0xf456_789a_bcd0);
    let Exit::Mmio(access) = exit else {
        panic!("{exit:?}")
    };
    assert_eq!(access.ipa, 0x00f4_5678_9abc_dfff);
}

#[test]
fn system_registers_keep_their_encoding() {
    // MRS x5, ID_AA64PFR0_EL1 (S3_0_C0_C4_0): op0 11, op2 000, op1 000, CRn 0000, Rt 00101, CRm 0100, read.
    assert_eq!(
        decode(0x6230_00a9, 0, 0),
        Exit::SystemRegister(SysregAccess {
            op0: 3,
            op1: 0,
            crn: 0,
            crm: 4,
            op2: 0,
            reg: 5,
            write: false,
        })
    );
    // MSR ICC_SGI1R_EL1, x0 (S3_0_C12_C11_5): op2 101, CRn 1100, CRm 1011, write.
    assert_eq!(
        decode(0x623a_3016, 0, 0),
        Exit::SystemRegister(SysregAccess {
            op0: 3,
            op1: 0,
            crn: 12,
            crm: 11,
            op2: 5,
            reg: 0,
            write: true,
        })
    );
}

#[test]
fn calls_and_waits() {
    assert_eq!(decode(0x5a00_0000, 0, 0), Exit::Hypercall { imm: 0 });
    assert_eq!(decode(0x5a00_ffff, 0, 0), Exit::Hypercall { imm: 0xffff });
    assert_eq!(decode(0x5e00_0003, 0, 0), Exit::Smc { imm: 3 });
    // COND 1110, CV: WFI, WFE, WFIT.
    assert_eq!(decode(0x07e0_0000, 0, 0), Exit::Wait { event: false });
    assert_eq!(decode(0x07e0_0001, 0, 0), Exit::Wait { event: true });
    assert_eq!(decode(0x07e0_0002, 0, 0), Exit::Wait { event: false });
}

#[test]
fn anything_else_is_left_to_the_caller() {
    // EC 000000; EC 011001: SVE.
    assert_eq!(decode(0x0200_0000, 0, 0), Exit::Unknown(0x0200_0000));
    assert_eq!(decode(0x6600_0000, 0, 0), Exit::Unknown(0x6600_0000));
    assert_eq!(class_name(0x6600_0000), "SVE");
    assert_eq!(class_name(0x9600_0047), "data abort");
}
