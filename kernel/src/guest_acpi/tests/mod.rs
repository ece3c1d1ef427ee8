//! Tables are walked as a guest walks them, from the device tree on; what acpi_tables can write is compared with what it
//! writes. `boot` reads them back with the reader that it has for the machine's own.

mod aml;
mod golden;
mod x86_64;

use super::aarch64::PART;
use super::table::checksum;
use super::{Built, Places, build};
use crate::guest_map;
use crate::guest_tree::{GuestTree, Pcie};
use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use iommu::addr::{Gpa, Span};

const RAM: Span<Gpa> = Span {
    base: Gpa(0x4000_0000),
    len: 256 << 20,
};

const PCIE: Pcie = Pcie {
    dma_coherent: true,
    msi: true,
};

const GUEST: GuestTree<'_> = GuestTree {
    name: "linux",
    vcpus: 2,
    memory: &[RAM],
    bootargs: "console=ttyAMA0",
    initrd: Some(Span {
        base: Gpa(0x4800_0000),
        len: 0x12_3456,
    }),
    pcie: Some(PCIE),
    smmus: &[],
    platform: &[],
};

const BASE: Gpa = Gpa(0x4240_0000);

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What a guest finds.
struct Read {
    built: Built,
    places: Places,
}

impl Read {
    fn new(guest: &GuestTree<'_>) -> Self {
        let places = Places::from(BASE);
        let built = build(guest, &places);
        assert_eq!(built.too_large(), None);
        Self { built, places }
    }

    /// What is in ACPI's memory at `address`.
    fn acpi(&self, address: u64) -> &[u8] {
        let at = Gpa(address) - self.places.acpi.base;
        &self.built.acpi[at as usize..]
    }

    fn efi(&self, address: u64) -> &[u8] {
        &self.built.efi[(Gpa(address) - self.places.efi.base) as usize..]
    }

    /// The table at `address`.
    fn at(&self, address: u64) -> &[u8] {
        let all = self.acpi(address);
        &all[..u32_at(all, 4) as usize]
    }

    /// The tables that the XSDT lists, and the XSDT itself, and the DSDT.
    fn all(&self) -> Vec<&[u8]> {
        let xsdt = self.at(u64_at(self.acpi(self.places.acpi.base.0), 24));
        let entries = xsdt[36..].chunks(8).map(|entry| self.at(u64_at(entry, 0)));
        let mut all: Vec<&[u8]> = entries.collect();
        let fadt = all.iter().find(|table| table.starts_with(b"FACP"));
        all.push(self.at(u64_at(fadt.unwrap(), 140)));
        all.push(xsdt);
        all
    }

    fn find(&self, signature: &[u8; 4]) -> Option<&[u8]> {
        let mut all = self.all().into_iter();
        all.find(|table| table.starts_with(signature))
    }

    fn table(&self, signature: &[u8; 4]) -> &[u8] {
        self.find(signature).unwrap()
    }

    /// A property of `/chosen`, as a number.
    fn chosen(&self, name: &str) -> u64 {
        let tree = Fdt::new(&self.built.tree).unwrap();
        let node = tree.find_node("/chosen").unwrap();
        let value = node.property(name).unwrap();
        let bytes = value.value().iter();
        bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    /// Type, first address, pages and attributes of each range of memory.
    fn memory(&self) -> Vec<(u32, u64, u64, u64)> {
        assert_eq!(self.chosen("linux,uefi-mmap-desc-ver"), 1);
        let size = self.chosen("linux,uefi-mmap-desc-size") as usize;
        let map = self.efi(self.chosen("linux,uefi-mmap-start"));
        let map = &map[..self.chosen("linux,uefi-mmap-size") as usize];
        let of = |entry: &[u8]| {
            assert_eq!(u64_at(entry, 16), 0, "no virtual address");
            let pages = u64_at(entry, 24);
            (u32_at(entry, 0), u64_at(entry, 8), pages, u64_at(entry, 32))
        };
        map.chunks(size).map(of).collect()
    }
}

#[test]
fn every_table_has_its_length_and_its_checksum() {
    let read = Read::new(&GUEST);
    let rsdp = &read.acpi(read.places.acpi.base.0)[..36];
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((checksum(&rsdp[..20]), checksum(rsdp)), (0, 0));
    assert_eq!(u32_at(rsdp, 20), 36);
    let names: Vec<_> = read.all().iter().map(|table| &table[..4]).collect();
    assert_eq!(
        names,
        [
            b"FACP", b"APIC", b"GTDT", b"SPCR", b"MCFG", b"IORT", b"DSDT", b"XSDT"
        ]
    );
    for table in read.all() {
        assert_eq!(checksum(table), 0, "{:?}", &table[..4]);
    }
}

#[test]
fn what_a_partition_lacks_is_not_there() {
    let bare = Read::new(&GuestTree {
        pcie: None,
        initrd: None,
        ..GUEST
    });
    assert!(bare.find(b"MCFG").is_none() && bare.find(b"IORT").is_none());
    let dsdt = bare.table(b"DSDT");
    assert!(!dsdt.windows(4).any(|name| name == b"PCI0"));
    assert!(dsdt.windows(4).any(|name| name == b"COM0"));
    // GICD, two GICCs, GICR: no ITS.
    assert_eq!(bare.table(b"APIC").len(), 44 + 24 + 2 * 82 + 16);
    assert_eq!(Read::new(&GUEST).table(b"APIC").len(), 44 + 24 + 164 + 36);
}

#[test]
fn the_device_tree_leads_to_the_tables_and_to_nothing_else() {
    let read = Read::new(&GUEST);
    let tree = Fdt::new(&read.built.tree).unwrap();
    let names = tree.root().children().map(|node| node.name().to_owned());
    assert_eq!(names.collect::<Vec<_>>(), ["chosen"]);
    assert_eq!(read.chosen("linux,initrd-start"), 0x4800_0000);
    assert_eq!(read.chosen("linux,initrd-end"), 0x4812_3456);
    assert_eq!(read.chosen("linux,uefi-secure-boot"), 2, "disabled");
    let system = read.efi(read.chosen("linux,uefi-system-table"));
    assert_eq!(&system[..8], b"IBI SYST");
    // UEFI 2.10, §4.3: revision, size of the header, which is all of the table.
    assert_eq!((u32_at(system, 8), u32_at(system, 12)), (0x2_0064, 120));
    let mut header = system[..120].to_vec();
    header[16..20].fill(0);
    let expected = {
        // Bit by bit as a division, high powers first.
        let mut bits: Vec<u8> = Vec::new();
        for byte in header.iter().chain(&[0; 4]) {
            bits.extend((0..8).map(|bit| byte >> bit & 1));
        }
        bits[..32].iter_mut().for_each(|bit| *bit ^= 1);
        for at in 0..bits.len() - 32 {
            if bits[at] == 1 {
                for power in 0..33u32 {
                    bits[at + power as usize] ^= (0x1_04c1_1db7u64 >> (32 - power) & 1) as u8;
                }
            }
        }
        let rest = &bits[bits.len() - 32..];
        let rest = (0..).zip(rest);
        !rest.fold(0u32, |crc, (at, &bit)| crc | u32::from(bit) << at)
    };
    assert_eq!(u32_at(system, 16), expected);
    let vendor: Vec<u16> = read
        .efi(u64_at(system, 24))
        .chunks(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .take_while(|&unit| unit != 0)
        .collect();
    assert_eq!(String::from_utf16(&vendor).unwrap(), "Sluice");
    // No consoles and no services.
    assert!(system[40..104].iter().all(|&byte| byte == 0));
    assert_eq!(u64_at(system, 104), 3);
    let tables = read.efi(u64_at(system, 112));
    let entry = |at: usize| (u32_at(tables, 24 * at), u64_at(tables, 24 * at + 16));
    // By the first words of their GUIDs.
    let (acpi, rsdp) = entry(0);
    assert_eq!((acpi, rsdp), (0x8868_e871, read.places.acpi.base.0));
    let (properties, at) = entry(1);
    assert_eq!(properties, 0xeb66_918a);
    assert_eq!(&read.efi(at)[..8], [1, 0, 8, 0, 0, 0, 0, 0]);
    let (kept, at) = entry(2);
    assert_eq!(kept, 0x888e_b0c6);
    assert_eq!(&read.efi(at)[..16], [0; 16]);
}

#[test]
fn the_memory_map_is_all_of_ram_and_keeps_the_tables() {
    let read = Read::new(&GUEST);
    let (acpi, efi) = (read.places.acpi, read.places.efi);
    let pages = |len: u64| len / 4096;
    let free = |from: u64, to: u64| (7, from, pages(to - from), 8);
    assert_eq!(
        read.memory(),
        [
            free(RAM.base.0, acpi.base.0),
            (9, acpi.base.0, pages(PART), 8),
            (0, efi.base.0, pages(PART), 8),
            free(efi.end().0, RAM.end().0),
        ]
    );
    // Pages of 64 KiB are of one kind each.
    assert!(acpi.base.is_aligned(PART) && efi.base.is_aligned(PART));
    let at_the_end = build(
        &GuestTree {
            memory: &[Span {
                base: RAM.base,
                len: BASE - RAM.base + 3 * PART,
            }],
            ..GUEST
        },
        &read.places,
    );
    let map = &at_the_end.efi[0x180..];
    assert_eq!(map.len(), 3 * 40, "nothing behind the tables");
}

#[test]
fn the_largest_guest_fits() {
    let smmus: Vec<Vec<u16>> = (0..8).map(|_| (0..32).collect()).collect();
    let read = Read::new(&GuestTree {
        vcpus: 100,
        bootargs: &"x".repeat(2047),
        smmus: &smmus,
        ..GUEST
    });
    assert_eq!(read.table(b"APIC").len(), 44 + 24 + 64 * 82 + 16 + 20);
    assert_eq!(read.table(b"IORT").len(), 48 + 24 + 8 * 88 + 36 + 256 * 20);
    let places = read.places;
    assert_eq!(places.efi.end() - places.tree, 3 * PART);
    let mut larger = read.built;
    larger.efi.resize(PART as usize, 0);
    assert_eq!(larger.too_large(), None);
    larger.efi.push(0);
    assert_eq!(larger.too_large(), Some(PART as usize + 1));
}

#[test]
fn functions_are_behind_their_smmus_and_all_messages_go_to_the_its() {
    let smmus = [vec![8, 0x10], vec![0x18]];
    let read = Read::new(&GuestTree {
        smmus: &smmus,
        ..GUEST
    });
    let iort = read.table(b"IORT");
    let (count, first) = (u32_at(iort, 36), u32_at(iort, 40) as usize);
    let mut nodes = Vec::new();
    let mut at = first;
    for _ in 0..count {
        let len = usize::from(u16::from_le_bytes([iort[at + 1], iort[at + 2]]));
        nodes.push((at as u32, &iort[at..at + len]));
        at += len;
    }
    assert_eq!(at, iort.len());
    let kinds: Vec<u8> = nodes.iter().map(|(_, node)| node[0]).collect();
    assert_eq!(kinds, [0, 4, 4, 2]);
    let maps = |node: &[u8]| -> Vec<[u32; 5]> {
        let (count, at) = (u32_at(node, 8) as usize, u32_at(node, 12) as usize);
        let map = |map: &[u8]| [0, 4, 8, 12, 16].map(|at| u32_at(map, at));
        node[at..at + 20 * count].chunks(20).map(map).collect()
    };
    let its = nodes[0].0;
    for (index, (_, smmu)) in nodes[1..3].iter().enumerate() {
        let base = guest_map::SMMU.base.0 + index as u64 * 0x2_0000;
        assert_eq!(u64_at(smmu, 16), base);
        // Events, page requests, errors, synchronisation.
        let first = 96 + 4 * index as u32;
        let gsivs = [44, 48, 52, 56].map(|at| u32_at(smmu, at));
        assert_eq!(gsivs, [first, first + 1, first + 3, first + 2]);
        assert_eq!(u32_at(smmu, 24), 1, "COHACC override");
        assert_eq!(maps(smmu), [[0, 0xffff, 0, its, 0]]);
    }
    let (_, complex) = nodes[3];
    let (one, two) = (nodes[1].0, nodes[2].0);
    assert_eq!(
        maps(complex),
        [
            [8, 0, 8, one, 0],
            [0x10, 0, 0x10, one, 0],
            [0x18, 0, 0x18, two, 0]
        ]
    );
    // Coherent, CPM and DACS, no ATS, segment 0, 64 bits.
    assert_eq!((u32_at(complex, 16), complex[23]), (1, 3));
    assert_eq!((u32_at(complex, 24), u32_at(complex, 28)), (0, 0));
    assert_eq!(complex[32], 64);
    let without = Read::new(&GuestTree {
        pcie: Some(Pcie {
            dma_coherent: false,
            msi: false,
        }),
        smmus: &smmus,
        ..GUEST
    });
    let iort = without.table(b"IORT");
    assert_eq!((u32_at(iort, 36), iort[48]), (3, 4), "no ITS group");
    assert_eq!(u32_at(iort, 48 + 24), 0, "it does not snoop");
}
