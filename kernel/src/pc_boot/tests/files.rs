//! Small files of each kind, field by field.

fn put(file: &mut [u8], at: usize, value: u64, len: usize) {
    file[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// A kernel of protocol 2.15: four sectors of setup, 4 KiB of code that counts, 8 MiB of room that it needs at 16 MiB.
pub fn bzimage(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut file = vec![0; 5 * 512];
    file.extend((0..0x1000).map(|n| n as u8 | 1));
    for (at, value, len) in [
        (0x1f1, 4, 1),
        (0x1f4, 0x100, 4),
        (0x1fe, 0xaa55, 2),
        // A jump over the header, which ends at 0x26c.
        (0x200, 0x6aeb, 2),
        (0x202, 0x5372_6448, 4),
        (0x206, 0x20f, 2),
        (0x211, 1, 1),
        (0x22c, 0x7fff_ffff, 4),
        (0x230, 0x20_0000, 4),
        (0x234, 1, 1),
        (0x236, 1, 2),
        (0x238, 2047, 4),
        (0x258, 0x100_0000, 8),
        (0x260, 0x80_0000, 4),
    ] {
        put(&mut file, at, value, len);
    }
    change(&mut file);
    file
}

/// Two segments, the second of which is longer in memory, and a note: an ELF64 executable that starts at 2 MiB + 16.
pub fn pvh() -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for (at, value, len) in [
        (16, 2, 2),
        (18, 62, 2),
        (20, 1, 4),
        (24, 0xffff_ffff_8020_0000, 8),
        (32, 64, 8),
        (52, 64, 2),
        (54, 56, 2),
        (56, 3, 2),
    ] {
        put(&mut file, at, value, len);
    }
    // Type, flags, offset, virtual and physical address, size in the file and in memory, alignment.
    let segments = [
        (1, 0x200, 0xffff_ffff_8020_0000, 0x20_0000, 0x40, 0x40),
        (1, 0x240, 0xffff_ffff_8030_0000, 0x30_0000, 0x20, 0x1000),
        (4, 0x280, 0, 0, 20, 20),
    ];
    for (n, (kind, offset, virt, phys, in_file, in_memory)) in segments.into_iter().enumerate() {
        let at = 64 + 56 * n;
        for (field, value, len) in [
            (0, kind, 4),
            (8, offset, 8),
            (16, virt, 8),
            (24, phys, 8),
            (32, in_file, 8),
            (40, in_memory, 8),
            (48, 4, 8),
        ] {
            put(&mut file, at + field, value, len);
        }
    }
    file[0x200..0x240].fill(0x90);
    file[0x240..0x260].fill(0x77);
    // The note: name and descriptor of four bytes, type 18.
    for (at, value) in [(0x280, 4), (0x284, 4), (0x288, 18), (0x290, 0x20_0010)] {
        put(&mut file, at, value, 4);
    }
    file[0x28c..0x290].copy_from_slice(b"Xen\0");
    file
}

/// An ELF32 executable at 1 MiB, linked at 3 GiB + 1 MiB, with a Multiboot header at 0x100.
pub fn multiboot(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut file = vec![0; 0x200];
    file[..16].copy_from_slice(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
    for (at, value, len) in [
        (16, 2, 2),
        (18, 3, 2),
        (20, 1, 4),
        (24, 0xc010_0020, 4),
        (28, 52, 4),
        (40, 52, 2),
        (42, 32, 2),
        (44, 1, 2),
        // The segment: offset, virtual and physical address, sizes.
        (52, 1, 4),
        (56, 0x100, 4),
        (60, 0xc010_0000, 4),
        (64, 0x10_0000, 4),
        (68, 0x100, 4),
        (72, 0x2000, 4),
        (76, 5, 4),
        (80, 4, 4),
        (0x100, 0x1bad_b002, 4),
        (0x104, 3, 4),
        (0x108, 0xe452_4ffb, 4),
    ] {
        put(&mut file, at, value, len);
    }
    change(&mut file);
    file
}
