//! Files as linkers write them, and as nobody should.

mod files;
mod hostile;

use super::{Guest, Plan, Refused, Start, plan};
use files::{bzimage, multiboot, pvh};
use iommu::addr::{Gpa, Span};

const MIB: u64 = 1 << 20;

const fn span(base: u64, len: u64) -> Span<Gpa> {
    Span {
        base: Gpa(base),
        len,
    }
}

/// 3 GiB below the hole, and one above.
const MEMORY: [Span<Gpa>; 2] = [span(0, 0xc000_0000), span(0x1_0000_0000, 0x4000_0000)];

const GUEST: Guest<'_> = Guest {
    memory: &MEMORY,
    command_line: "console=ttyS0 quiet",
    initrd: &[0xaa; 5000],
    acpi: b"RSD PTR and so on",
};

/// What the guest finds at `at`.
fn bytes(plan: &Plan<'_>, at: u64, len: usize) -> Vec<u8> {
    let mut found = vec![0; len];
    for part in &plan.parts {
        for (n, byte) in part.bytes.iter().enumerate() {
            let place = (part.at.0 + n as u64).wrapping_sub(at);
            if place < len as u64 {
                found[place as usize] = *byte;
            }
        }
    }
    found
}

fn number(plan: &Plan<'_>, at: u64, len: usize) -> u64 {
    bytes(plan, at, len)
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn text(plan: &Plan<'_>, at: u64) -> String {
    let bytes = bytes(plan, at, 100);
    let end = bytes.iter().position(|&byte| byte == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

/// The map of all guests with [`MEMORY`].
const MAP: [(u64, u64, u64); 4] = [
    (0, 0xa_0000, 1),
    (0xe_0000, 0x2_0000, 3),
    (0x10_0000, 0xbff0_0000, 1),
    (0x1_0000_0000, 0x4000_0000, 1),
];

#[test]
fn linux_starts_in_long_mode_with_its_zero_page() {
    let kernel = bzimage(|_| {});
    let plan = plan(&kernel, &GUEST).unwrap();
    let expected = Start::Long {
        rip: 16 * MIB + 0x200,
        rsi: 0x7000,
        cr3: 0xa000,
    };
    assert_eq!(plan.start, expected);
    assert_eq!(bytes(&plan, 16 * MIB, 0x1000), kernel[0xa00..0x1a00]);
    let zero = |at: u64, len| number(&plan, 0x7000 + at, len);
    // The setup header as the file has it, but for what is the loader's.
    assert_eq!(zero(0x202, 4), 0x5372_6448);
    assert_eq!(zero(0x258, 8), 16 * MIB);
    assert_eq!(zero(0x210, 1), 0xff);
    assert_eq!(zero(0x70, 8), 0xe_0000);
    assert_eq!(text(&plan, zero(0x228, 4)), "console=ttyS0 quiet");
    // As high as it may be, which is below 2 GiB here.
    assert_eq!((zero(0x218, 4), zero(0x21c, 4)), (0x7fff_e000, 5000));
    assert_eq!(bytes(&plan, 0x7fff_e000, 5000), [0xaa; 5000]);
    assert_eq!(zero(0x1e8, 1), 4);
    let entry = |n: u64| {
        (
            zero(0x2d0 + 20 * n, 8),
            zero(0x2d8 + 20 * n, 8),
            zero(0x2e0 + 20 * n, 4),
        )
    };
    assert_eq!([0, 1, 2, 3].map(entry), MAP);
    assert_eq!(bytes(&plan, 0xe_0000, 17), b"RSD PTR and so on");
    // __BOOT_CS and __BOOT_DS.
    assert_eq!(plan.gdt, span(0x6000, 32));
    assert_eq!(number(&plan, 0x6010, 8), 0x00af_9b00_0000_ffff);
    assert_eq!(number(&plan, 0x6018, 8), 0x00cf_9300_0000_ffff);
}

/// As a PC's firmware would, by the port that the FADT names.
#[test]
fn at_the_reset_vector_is_what_resets() {
    let kernel = bzimage(|_| {});
    // As many tables as there may be.
    let acpi = vec![0xaa; 0x1_fff0];
    let guest = Guest {
        acpi: &acpi,
        ..GUEST
    };
    let plan = plan(&kernel, &guest).unwrap();
    // mov $6, %al; mov $0xcf9, %dx; out %al, %dx; then hlt, over and over.
    let code = *b"\xb0\x06\xba\xf9\x0c\xee\xf4\xeb\xfd";
    assert_eq!(bytes(&plan, 0xf_fff0, code.len()), code);
    assert_eq!(bytes(&plan, 0xf_ffef, 1), [0xaa]);
}

/// As a CPU walks them.
#[test]
fn the_page_tables_map_4_gib_to_itself() {
    let kernel = bzimage(|_| {});
    let plan = plan(&kernel, &GUEST).unwrap();
    for address in (0..1u64 << 32).step_by(0x1234_5000) {
        let mut table = 0xa000;
        for shift in [39, 30, 21] {
            let entry = number(&plan, table + 8 * (address >> shift & 0x1ff), 8);
            assert_eq!(entry & 3, 3, "{address:#x}");
            assert_eq!(entry & 0x80 != 0, shift == 21);
            table = entry & 0xf_ffff_ffff_f000;
        }
        assert_eq!(table, address & !0x1f_ffff);
    }
    assert_eq!(
        number(&plan, 0xa008, 8) | number(&plan, 0xb020, 8),
        0,
        "and no more"
    );
}

#[test]
fn a_kernel_that_can_move_does_where_it_has_to() {
    let small = Guest {
        memory: &[span(0, 16 * MIB)],
        ..GUEST
    };
    let kernel = bzimage(|_| {});
    let moved = plan(&kernel, &small).unwrap();
    assert!(
        matches!(moved.start, Start::Long { rip: 0x20_0200, .. }),
        "{:?}",
        moved.start
    );
    let fixed = bzimage(|file| file[0x234] = 0);
    assert_eq!(plan(&fixed, &small).unwrap_err(), Refused::Fixed);
    let odd = bzimage(|file| file[0x230..0x234].fill(3));
    assert_eq!(plan(&odd, &small).unwrap_err(), Refused::Fixed);
    assert!(plan(&fixed, &GUEST).is_ok());
}

#[test]
fn what_the_protocol_does_not_have_is_refused() {
    let refused = |change: &dyn Fn(&mut [u8])| plan(&bzimage(change), &GUEST).unwrap_err();
    assert_eq!(refused(&|file| file[0x1fe] = 0), Refused::Magic);
    assert_eq!(refused(&|file| file[0x202] = 0), Refused::Magic);
    assert_eq!(refused(&|file| file[0x206] = 0x0b), Refused::Version(0x20b));
    assert_eq!(refused(&|file| file[0x236] = 0), Refused::No64Bit);
    assert_eq!(refused(&|file| file[0x201] = 0x10), Refused::Short);
    assert_eq!(refused(&|file| file[0x1f6] = 1), Refused::Short);
    assert_eq!(
        refused(&|file| file[0x238..0x23c].fill(0)),
        Refused::CommandLine(19)
    );
    assert_eq!(plan(b"\x7fELX", &GUEST).unwrap_err(), Refused::Magic);
    assert_eq!(plan(&[], &GUEST).unwrap_err(), Refused::Magic);
    let long = "x".repeat(0x2000);
    let long = Guest {
        command_line: &long,
        ..GUEST
    };
    assert_eq!(
        plan(&bzimage(|_| {}), &long).unwrap_err(),
        Refused::CommandLine(0x2000)
    );
    let large = vec![0; 0x1_fff1];
    let large = Guest {
        acpi: &large,
        ..GUEST
    };
    assert_eq!(
        plan(&bzimage(|_| {}), &large).unwrap_err(),
        Refused::Overlap(Gpa(0xe_0000))
    );
}

#[test]
fn without_an_initrd_there_is_none() {
    let none = Guest {
        initrd: &[],
        ..GUEST
    };
    let kernel = bzimage(|_| {});
    let linux = plan(&kernel, &none).unwrap();
    assert_eq!(number(&linux, 0x7218, 8), 0);
    let kernel = pvh();
    assert_eq!(number(&plan(&kernel, &none).unwrap(), 0x700c, 12), 0);
    let kernel = multiboot(|_| {});
    let plan = plan(&kernel, &none).unwrap();
    assert_eq!(
        (number(&plan, 0x7000, 4), number(&plan, 0x7014, 8)),
        (0x245, 0)
    );
}

#[test]
fn pvh_programs_get_their_start_info() {
    let kernel = pvh();
    let plan = plan(&kernel, &GUEST).unwrap();
    let expected = Start::Protected {
        eip: 0x20_0010,
        eax: 0,
        ebx: 0x7000,
    };
    assert_eq!(plan.start, expected);
    assert_eq!(bytes(&plan, 0x20_0000, 0x40), [0x90; 0x40]);
    assert_eq!(bytes(&plan, 0x30_0000, 0x20), [0x77; 0x20]);
    let info = |at: u64, len| number(&plan, 0x7000 + at, len);
    assert_eq!((info(0, 4), info(4, 4), info(8, 4)), (0x336e_c578, 1, 0));
    let module = info(16, 8);
    assert_eq!(info(12, 4), 1);
    // Below the hole, at a page.
    let at = number(&plan, module, 8);
    assert_eq!((at, number(&plan, module + 8, 8)), (0xbfff_e000, 5000));
    assert_eq!(bytes(&plan, at, 5000), [0xaa; 5000]);
    assert_eq!(text(&plan, info(24, 8)), "console=ttyS0 quiet");
    assert_eq!(info(32, 8), 0xe_0000);
    let (map, entries) = (info(40, 8), info(48, 4));
    assert_eq!(entries, 4);
    let entry = |n: u64| {
        let at = map + 24 * n;
        assert_eq!(number(&plan, at + 20, 4), 0);
        (
            number(&plan, at, 8),
            number(&plan, at + 8, 8),
            number(&plan, at + 16, 4),
        )
    };
    assert_eq!([0, 1, 2, 3].map(entry), MAP);
    assert_eq!(
        number(&plan, 0x6010, 8),
        0x00cf_9b00_0000_ffff,
        "code of 32 bits"
    );
}

#[test]
fn multiboot_programs_get_their_information() {
    let kernel = multiboot(|_| {});
    let plan = plan(&kernel, &GUEST).unwrap();
    let expected = Start::Protected {
        // By its physical address: it is linked 3 GiB higher.
        eip: 0x10_0020,
        eax: 0x2bad_b002,
        ebx: 0x7000,
    };
    assert_eq!(plan.start, expected);
    let info = |at: u64| number(&plan, 0x7000 + at, 4);
    assert_eq!(info(0), 0b10_0100_1101);
    assert_eq!((info(4), info(8)), (640, 0xbff0_0000 / 1024));
    assert_eq!(text(&plan, info(16)), "console=ttyS0 quiet");
    assert_eq!(text(&plan, info(64)), "Sluice");
    assert_eq!(info(20), 1);
    let module = info(24);
    let (start, end) = (number(&plan, module, 4), number(&plan, module + 4, 4));
    assert_eq!((start, end - start), (0xbfff_e000, 5000));
    // Entries follow each other by their sizes.
    let (mut at, end) = (info(48), info(48) + info(44));
    let mut map = Vec::new();
    while at < end {
        map.push((
            number(&plan, at + 4, 8),
            number(&plan, at + 12, 8),
            number(&plan, at + 20, 4),
        ));
        at += number(&plan, at, 4) + 4;
    }
    assert_eq!((map.as_slice(), at), (&MAP[..], end));
}

#[test]
fn programs_that_cannot_start_are_refused() {
    let refused = |change: &dyn Fn(&mut [u8])| plan(&multiboot(change), &GUEST).unwrap_err();
    // Not an executable; another machine; an entry point outside.
    assert_eq!(refused(&|file| file[16] = 3), Refused::Elf);
    assert_eq!(refused(&|file| file[18] = 40), Refused::Elf);
    assert_eq!(refused(&|file| file[25] = 1), Refused::Elf);
    // A segment in low memory, or beyond RAM.
    assert_eq!(
        refused(&|file| file[52 + 12..52 + 16].copy_from_slice(&0x7000u32.to_le_bytes())),
        Refused::Overlap(Gpa(0x7000))
    );
    assert_eq!(
        refused(&|file| file[52 + 15] = 0xd0),
        Refused::Overlap(Gpa(0xd010_0000))
    );
    // No header; a video mode; a checksum that is none.
    assert_eq!(refused(&|file| file[0x100] = 0), Refused::NoProtocol);
    assert_eq!(refused(&|file| file[0x108] ^= 1), Refused::NoProtocol);
    let video = |file: &mut [u8]| {
        file[0x104] = 7;
        file[0x108] -= 4;
    };
    assert_eq!(refused(&video), Refused::Multiboot(7));
}
