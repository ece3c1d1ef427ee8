//! CPUID as kernels read it, on CPUs that have everything, something and nothing.

use super::{Guest, Rates, Registers, is_xcr0};

const GUEST: Guest = Guest {
    vcpu: 2,
    vcpus: 3,
    rates: Rates::new(2_893_202_000),
    invariant_tsc: true,
    address_bits: 39,
    xcr0: 7,
    osxsave: true,
    apic: true,
};

const ZERO: Registers = Registers {
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
};

/// Every bit of every leaf.
fn all(_: u32, _: u32) -> Registers {
    Registers {
        eax: !0,
        ebx: !0,
        ecx: !0,
        edx: !0,
    }
}

/// A CPU with AVX and PKU: sizes and offsets of their areas are those of Intel's CPUs.
fn avx(leaf: u32, subleaf: u32) -> Registers {
    let of = |eax, ebx, ecx, edx| Registers { eax, ebx, ecx, edx };
    match (leaf, subleaf) {
        (0, _) => of(0xd, text("Genu"), text("ntel"), text("ineI")),
        (1, _) => of(0x306c3, 0x0710_0800, !0, !0),
        (7, 0) => of(0, !0, !0, !0),
        (0xd, 0) => of(0x207, 0x340, 0xa88, 0),
        (0xd, 1) => of(0xf, 0x340, 0, 0),
        (0xd, 2) => of(0x100, 0x240, 0, 0),
        (0xd, 9) => of(8, 0xa80, 0, 0),
        (0x8000_0000, _) => of(0x8000_0008, 0, 0, 0),
        (0x8000_0001, _) => of(0, 0, 0x21, 0x2c10_0800),
        (0x8000_0008, _) => of(0x3027, 0, 0, 0),
        _ => ZERO,
    }
}

fn text(letters: &str) -> u32 {
    u32::from_le_bytes(letters.as_bytes().try_into().unwrap())
}

#[test]
fn what_is_not_listed_is_not_there() {
    for (leaf, subleaf) in [
        (3, 0),
        (5, 0),
        (7, 2),
        (9, 0),
        (0xa, 0),
        (0xf, 0),
        (0x10, 1),
        (0x12, 0),
        (0x14, 0),
        (0x17, 0),
        (0x18, 0),
        (0x19, 0),
        (0x1c, 0),
        (0x20, 0),
        (0x4000_0001, 0),
        (0x4000_0011, 0),
        (0x4000_00ff, 0),
        (0x4000_0102, 0),
        (0x4000_0200, 0),
        (0x8000_000a, 0),
        (0x8000_001b, 0),
        (0x8000_001d, 0),
        (0x8000_001e, 0),
        (0x8000_001f, 0),
        (0x8086_0000, 0),
        (0xc000_0000, 0),
        (u32::MAX, 0),
    ] {
        assert_eq!(
            GUEST.cpuid(leaf, subleaf, &all),
            ZERO,
            "{leaf:#x} {subleaf}"
        );
    }
}

#[test]
fn nothing_of_virtualisation_power_or_counters_gets_through() {
    let one = GUEST.cpuid(1, 0, &all);
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2; PDCM; PCID; DCA.
    assert_eq!(one.ecx & (0b1_1111_1100 | 1 << 15 | 1 << 17 | 1 << 18), 0);
    // VME, MCE, MCA, PSN, DS, ACPI, TM, PBE.
    assert_eq!(
        one.edx & (1 << 1 | 1 << 7 | 1 << 14 | 1 << 18 | 3 << 21 | 1 << 29 | 1 << 31),
        0
    );
    let seven = GUEST.cpuid(7, 0, &all);
    // TSC_ADJUST, SGX, HLE, INVPCID, RTM, PQM, MPX, PQE, PT.
    assert_eq!(seven.ebx & 0x0200_dc16, 0);
    // PKU, OSPKE, WAITPKG, CET_SS, TME, LA57.
    assert_eq!(seven.ecx & (0b1011_1000 | 1 << 13 | 1 << 16), 0);
    // IBT, AMX, SPEC_CTRL, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, CORE_CAPABILITIES, SSBD.
    assert_eq!(seven.edx & 0xfd50_0000, 0);
    let amd = GUEST.cpuid(0x8000_0001, 0, &all);
    assert_eq!(
        amd.ecx & (1 << 2 | 1 << 3 | 1 << 10 | 1 << 12 | 1 << 22 | 1 << 29),
        0
    );
    assert_eq!(GUEST.cpuid(0xd, 1, &all).eax, 7, "no XSAVES");
    assert_eq!(GUEST.cpuid(0xd, 1, &all).ecx, 0, "no IA32_XSS");
}

#[test]
fn a_cpu_without_a_feature_does_not_get_it() {
    let none = |leaf: u32, _: u32| match leaf {
        0 | 0x8000_0000 => Registers {
            eax: leaf | 8,
            ..ZERO
        },
        _ => ZERO,
    };
    let one = GUEST.cpuid(1, 0, &none);
    // The deadline timer, x2APIC and "hypervisor"; APIC and several processors.
    assert_eq!((one.ecx, one.edx), (0x8120_0000, 0x1000_0200));
    assert_eq!(GUEST.cpuid(7, 0, &none), ZERO);
    assert_eq!(GUEST.cpuid(0xd, 0, &none), ZERO);
    assert_eq!(GUEST.cpuid(0xd, 1, &none), ZERO);
}

#[test]
fn leaves_above_the_cpus_last_are_not_its_words() {
    let short = |leaf: u32, _: u32| match leaf {
        0 => Registers { eax: 4, ..ZERO },
        0x8000_0000 => Registers {
            eax: 0x8000_0004,
            ..ZERO
        },
        // What Intel's CPUs say above their last leaf.
        _ => all(leaf, 0),
    };
    assert_eq!(GUEST.cpuid(7, 0, &short), ZERO);
    assert_eq!(GUEST.cpuid(0xd, 0, &short), ZERO);
    assert_eq!(GUEST.cpuid(0x8000_0006, 0, &short), ZERO);
    assert_eq!(GUEST.cpuid(0x8000_0000, 0, &short).eax, 0x8000_0004);
}

#[test]
fn processors_are_cores_of_one_package() {
    let one = GUEST.cpuid(1, 0, &avx);
    assert_eq!(one.ebx, 0x0204_0800, "APIC ID 2 of 4, CLFLUSH of 64 bytes");
    assert_eq!(one.eax, 0x306c3);
    for leaf in [0xb, 0x1f] {
        let [threads, cores, end] = [0, 1, 2].map(|subleaf| GUEST.cpuid(leaf, subleaf, &avx));
        assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 0x100));
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (2, 3, 0x201));
        assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
        assert_eq!([threads.edx, cores.edx, end.edx], [2; 3]);
    }
    assert_eq!(GUEST.cpuid(0x8000_0008, 0, &avx).ecx, 0x2002);
    assert_eq!(GUEST.cpuid(0x8000_0008, 0, &avx).eax, 0x3027);
    let alone = Guest {
        vcpu: 0,
        vcpus: 1,
        ..GUEST
    };
    let one = alone.cpuid(1, 0, &avx);
    assert_eq!((one.ebx, one.edx & 1 << 28), (0x800, 0));
    assert_eq!(alone.cpuid(0xb, 1, &avx).eax, 0);
    // A unified cache of the third level, then one of the second: 12 ways, 64 bytes.
    let cache = |_: u32, subleaf: u32| Registers {
        eax: [0xffff_c163, 0xffff_c143, 0][subleaf as usize],
        ebx: 0x02c0_003f,
        ecx: 0x2fff,
        edx: 6,
    };
    assert_eq!(GUEST.cpuid(4, 0, &cache).eax, 0x0c00_c163);
    assert_eq!(GUEST.cpuid(4, 1, &cache).eax, 0x0c00_0143);
    assert_eq!(GUEST.cpuid(4, 2, &cache).eax, 0);
}

#[test]
fn bits_that_depend_on_the_vcpus_state_follow_it() {
    let one = GUEST.cpuid(1, 0, &avx);
    assert_eq!((one.ecx >> 27 & 1, one.edx >> 9 & 1), (1, 1));
    let off = Guest {
        osxsave: false,
        apic: false,
        ..GUEST
    };
    let one = off.cpuid(1, 0, &avx);
    assert_eq!((one.ecx >> 27 & 1, one.edx >> 9 & 1), (0, 0));
}

/// Linux's `native_calibrate_tsc` multiplies ECX, in kHz, by EBX and divides by EAX.
#[test]
fn clocks_need_no_calibration() {
    for (hz, shift) in [
        (1_000_000_000, 0),
        (2_893_202_000, 0),
        (4_294_967_295, 0),
        (4_294_967_296, 1),
        (5_800_000_000, 1),
    ] {
        let rates = Rates::new(hz);
        let guest = Guest { rates, ..GUEST };
        let crystal = guest.cpuid(0x15, 0, &avx);
        let khz = u64::from(crystal.ecx / 1000) * u64::from(crystal.ebx) / u64::from(crystal.eax);
        assert!(khz.abs_diff(hz / 1000) <= 1, "{khz}");
        assert_eq!(rates.bus_shift(), shift);
        assert_eq!(guest.cpuid(0x16, 0, &avx).eax, (hz / 1_000_000) as u32);
        let timing = guest.cpuid(0x4000_0010, 0, &avx);
        assert_eq!(
            (timing.eax, timing.ebx),
            ((hz / 1000) as u32, ((hz >> shift) / 1000) as u32)
        );
    }
    assert_eq!(GUEST.cpuid(0x8000_0007, 0, &all).edx, 1 << 8);
    let varying = Guest {
        invariant_tsc: false,
        ..GUEST
    };
    assert_eq!(varying.cpuid(0x8000_0007, 0, &all), ZERO);
}

#[test]
fn the_hypervisor_has_a_name() {
    let name = GUEST.cpuid(0x4000_0000, 0, &avx);
    let bytes: Vec<u8> = [name.ebx, name.ecx, name.edx]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    assert_eq!((name.eax, &bytes[..]), (0x4000_0010, &b"SluiceSluice"[..]));
    let vendor = GUEST.cpuid(0, 0, &avx);
    assert_eq!((vendor.eax, vendor.ebx), (0x1f, text("Genu")));
}

#[test]
fn xsave_areas_are_as_large_as_what_the_guest_can_turn_on() {
    let size = |xcr0| Guest { xcr0, ..GUEST }.cpuid(0xd, 0, &avx);
    // Without PKU, whose area ends at 0xa88.
    assert_eq!((size(7).eax, size(7).ebx, size(7).ecx), (7, 0x340, 0x340));
    assert_eq!((size(3).ebx, size(3).ecx), (0x240, 0x340));
    assert_eq!(
        GUEST.cpuid(0xd, 2, &avx),
        Registers {
            eax: 0x100,
            ebx: 0x240,
            ..ZERO
        }
    );
    assert_eq!(GUEST.cpuid(0xd, 9, &avx), ZERO);
    let compact = Guest { xcr0: 7, ..GUEST }.cpuid(0xd, 1, &avx);
    assert_eq!((compact.eax, compact.ebx), (7, 0x340));
    assert_eq!(Guest { xcr0: 3, ..GUEST }.cpuid(0xd, 1, &avx).ebx, 0x240);
}

#[test]
fn xcr0_is_what_the_manual_allows() {
    for (value, allowed) in [
        (0, false),
        (1, true),
        (2, false),
        (3, true),
        (5, false),
        (7, true),
        (0x27, false),
        (0xe7, true),
        (0xe3, false),
        (0x207, false),
        (1 << 63 | 1, false),
    ] {
        assert_eq!(is_xcr0(value, 0x2e7), allowed, "{value:#x}");
    }
    assert!(!is_xcr0(7, 3));
}
