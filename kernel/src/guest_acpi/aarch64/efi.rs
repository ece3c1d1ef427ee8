//! What Linux on AArch64 wants beside ACPI: the tables and the memory map that its EFI stub would hand over (UEFI 2.10, §4.3,
//! §4.6, §7.2). There are no services left, neither of boot nor at run time, and a table says so.

use super::Places;
use crate::guest_acpi::table::Fields;
use crate::guest_tree::node::Node;
use crate::guest_tree::{GuestTree, cells};
use alloc::vec::Vec;
use iommu::addr::{Gpa, Span};

/// Tables by their GUIDs: ACPI 2.0; what there is of the runtime services; Linux's own: memory that stays in use after a
/// kexec, to which the driver of the ITS adds.
const ACPI_20: [u8; 16] = [
    0x71, 0xe8, 0x68, 0x88, 0xf1, 0xe4, 0xd3, 0x11, 0xbc, 0x22, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81,
];
const RT_PROPERTIES: [u8; 16] = [
    0x8a, 0x91, 0x66, 0xeb, 0xef, 0x7e, 0x2a, 0x40, 0x84, 0x2e, 0x93, 0x1d, 0x21, 0xc3, 0x8a, 0xe9,
];
const LINUX_MEMRESERVE: [u8; 16] = [
    0xc6, 0xb0, 0x8e, 0x88, 0xde, 0x8e, 0xf5, 0x4f, 0xa8, 0xf0, 0x9a, 0xee, 0x5c, 0xb9, 0x77, 0xc2,
];

/// Where things are among the EFI tables.
const TABLES: u64 = 0x80;
const PROPERTIES: u64 = 0x100;
const MEMRESERVE: u64 = 0x110;
const VENDOR: u64 = 0x120;
const MEMORY_MAP: u64 = 0x180;

/// Length and version of a memory descriptor (§7.2.3).
const DESCRIPTOR: u32 = 40;
const DESCRIPTOR_VERSION: u32 = 1;
/// Of Linux's `efi_secureboot_mode`.
const SECURE_BOOT_DISABLED: u32 = 2;

/// Types of memory, and an attribute.
const RESERVED: u32 = 0;
const CONVENTIONAL: u32 = 7;
const ACPI_RECLAIM: u32 = 9;
const WRITE_BACK: u64 = 8;
const PAGE: u64 = 4096;

/// The device tree that leads to it: with nothing but `/chosen`, so that Linux takes ACPI.
pub fn tree(guest: &GuestTree<'_>, places: &Places) -> Vec<u8> {
    let descriptors = memory(guest, places).len() as u32;
    let efi = places.efi.base;
    let chosen = guest
        .boot_files()
        .set("linux,uefi-system-table", cells(efi.0))
        .set("linux,uefi-mmap-start", cells((efi + MEMORY_MAP).0))
        .set("linux,uefi-mmap-size", descriptors * DESCRIPTOR)
        .set("linux,uefi-mmap-desc-size", DESCRIPTOR)
        .set("linux,uefi-mmap-desc-ver", DESCRIPTOR_VERSION)
        // Debian's kernels take none of these without it.
        .set("linux,uefi-secure-boot", SECURE_BOOT_DISABLED);
    Node::new("")
        .set("#address-cells", 2u32)
        .set("#size-cells", 2u32)
        .add(chosen)
        .flatten()
}

/// The system table and what it points to, for the start of [`Places::efi`].
pub fn tables(guest: &GuestTree<'_>, places: &Places) -> Vec<u8> {
    let efi = places.efi.base;
    let tables = [
        (ACPI_20, places.acpi.base),
        (RT_PROPERTIES, efi + PROPERTIES),
        (LINUX_MEMRESERVE, efi + MEMRESERVE),
    ];
    const SYSTEM_TABLE_LEN: u32 = 120;
    const REVISION: u32 = 2 << 16 | 100;
    let mut all = Fields::default();
    all.bytes(b"IBI SYST").u32(REVISION).u32(SYSTEM_TABLE_LEN);
    all.zeros(8).u64((efi + VENDOR).0).u64(1);
    // No console, no services.
    all.zeros(104 - 40);
    all.u64(tables.len() as u64).u64((efi + TABLES).0);
    let sum = crc32(&all.0);
    all.0[16..20].copy_from_slice(&sum.to_le_bytes());
    at(&mut all, TABLES);
    for (guid, at) in tables {
        all.bytes(&guid).u64(at.0);
    }
    at(&mut all, PROPERTIES);
    // Version 1, 8 bytes, no service.
    all.u16(1).u16(8).u32(0);
    // No room, no entry, no further one; the kernel adds its own.
    at(&mut all, MEMRESERVE);
    at(&mut all, VENDOR);
    for letter in "Sluice\0".bytes() {
        all.u16(letter.into());
    }
    at(&mut all, MEMORY_MAP);
    for (kind, span) in memory(guest, places) {
        all.u32(kind).u32(0).u64(span.base.0).u64(0);
        all.u64(span.len / PAGE).u64(WRITE_BACK);
    }
    all.0
}

/// All of the guest's RAM by its use.
fn memory(guest: &GuestTree<'_>, places: &Places) -> Vec<(u32, Span<Gpa>)> {
    let kept = [(ACPI_RECLAIM, places.acpi), (RESERVED, places.efi)];
    let mut all = Vec::new();
    for ram in guest.memory {
        let mut base = ram.base;
        let end = (
            CONVENTIONAL,
            Span {
                base: ram.end(),
                len: 0,
            },
        );
        for (kind, span) in kept.into_iter().chain([end]) {
            if !ram.covers(&span) {
                continue;
            }
            let len = span.base - base;
            let before = (CONVENTIONAL, Span { base, len });
            all.extend([before, (kind, span)]);
            base = span.end();
        }
    }
    all.retain(|(_, span)| span.len != 0);
    all
}

fn at(all: &mut Fields, offset: u64) {
    let len = all.0.len();
    all.zeros((offset as usize).saturating_sub(len));
}

/// The CRC of EFI's headers (§4.2): that of ISO 3309.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
