//! Tables for partitions on x86_64, beside acpi_tables and the words of the specifications.

use super::{u32_at, u64_at};
use crate::guest_acpi::table::checksum;
use crate::guest_acpi::x86_64::{Guest, Vtd, build};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, PackageBuilder,
    Path, ResourceTemplate, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};

const BASE: u64 = 0xe_0000;
const OEM: [u8; 6] = *b"SLUICE";
const TABLE: [u8; 8] = *b"PARTITIO";

const GUEST: Guest<'_> = Guest {
    vcpus: 3,
    pcie: true,
    vtd: None,
};

fn bytes(of: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    of.to_aml_bytes(&mut bytes);
    bytes
}

/// Without checksum, creator and its revision.
fn bare(table: &[u8]) -> Vec<u8> {
    let mut table = table.to_vec();
    table[9] = 0;
    table[28..36].fill(0);
    table
}

fn at(all: &[u8], address: u64) -> &[u8] {
    let table = &all[(address - BASE) as usize..];
    &table[..u32_at(table, 4) as usize]
}

/// As a guest finds them; the DSDT last.
fn tables(all: &[u8]) -> Vec<&[u8]> {
    assert_eq!(&all[..8], b"RSD PTR ");
    assert_eq!((checksum(&all[..20]), checksum(&all[..36])), (0, 0));
    let xsdt = at(all, u64_at(all, 24));
    let mut tables: Vec<&[u8]> = xsdt[36..]
        .chunks(8)
        .map(|entry| at(all, u64_at(entry, 0)))
        .collect();
    tables.push(at(all, u64_at(tables[0], 140)));
    for table in tables.iter().chain([&xsdt]) {
        assert_eq!(checksum(table), 0, "{:?}", &table[..4]);
    }
    tables
}

#[test]
fn each_partition_gets_the_tables_of_what_it_has() {
    let names = |guest: &Guest<'_>| -> Vec<String> {
        let all = build(guest);
        let names = tables(&all)
            .into_iter()
            .map(|table| String::from_utf8(table[..4].to_vec()).unwrap());
        names.collect()
    };
    assert_eq!(names(&GUEST), ["FACP", "APIC", "MCFG", "DSDT"]);
    let bare = Guest {
        pcie: false,
        ..GUEST
    };
    assert_eq!(names(&bare), ["FACP", "APIC", "DSDT"]);
    let units: Vec<Vec<u16>> = vec![(0..32).collect(); 8];
    let largest = Guest {
        vcpus: 64,
        pcie: true,
        vtd: Some(Vtd {
            units: &units,
            address_bits: 39,
            interrupts: true,
        }),
    };
    assert_eq!(names(&largest), ["FACP", "APIC", "MCFG", "DMAR", "DSDT"]);
    assert!(build(&largest).len() <= 0x2_0000);
}

#[test]
fn fadt_says_reduced_hardware_and_where_sleep_reset_and_timer_are() {
    let all = build(&GUEST);
    let fadt = tables(&all)[0];
    let io = |port, width, access| GAS::new(Space::SystemIo, width, 0, access, port);
    let mut expected = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(u64_at(fadt, 140))
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt);
    expected.reset_reg = io(0xcf9, 8, AccessSize::ByteAccess);
    expected.reset_value = 6;
    expected.pm_tmr_blk = 0x608.into();
    expected.pm_tmr_len = 4;
    expected.x_pm_tmr_blk = io(0x608, 32, AccessSize::DwordAccess);
    expected.sleep_control_reg = io(0x600, 8, AccessSize::ByteAccess);
    expected.sleep_status_reg = io(0x601, 8, AccessSize::ByteAccess);
    expected.iapc_boot_arch = 0x24.into();
    expected.hypervisor_vendor_identity = u64::from_le_bytes(*b"Sluice\0\0").into();
    assert_eq!(bare(fadt), bare(&bytes(&expected.finalize())));
}

#[test]
fn madt_has_the_apics() {
    let all = build(&GUEST);
    let controller = LocalInterruptController::Address(0xfee0_0000);
    let mut expected = MADT::new(OEM, TABLE, 1, controller);
    for vcpu in 0..3 {
        expected.add_structure(ProcessorLocalApic::new(vcpu, vcpu, EnabledStatus::Enabled));
    }
    expected.add_structure(IoApic::new(0, 0xfec0_0000, 0));
    let mut expected = bytes(&expected);
    expected[8] = 6;
    assert_eq!(bare(tables(&all)[1]), bare(&expected));
    assert_eq!(u64_at(tables(&all)[2], 44), 0xe000_0000, "ECAM");
}

#[test]
fn dsdt_has_the_uart_the_host_and_the_way_off() {
    let all = build(&GUEST);
    let dsdt = tables(&all).pop().unwrap();
    let contains = |part: &[u8]| dsdt.windows(part.len()).any(|window| window == part);
    let path = Path::new;
    let mut off = PackageBuilder::new();
    for value in [5u8, 0, 0, 0] {
        off.add_element(&value);
    }
    assert!(contains(&bytes(&Name::new(path("_S5_"), &off))));
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0501"));
    let uid = Name::new(path("_UID"), &ZERO);
    let io = IO::new(0x3f8, 0x3f8, 1, 8);
    let gsi = Interrupt::new(true, true, false, false, 4);
    let resources = ResourceTemplate::new(vec![&io, &gsi]);
    let resources = bytes(&Name::new(path("_CRS"), &resources));
    let mut uart = bytes(&Device::new(path("COM1"), vec![&hid, &uid]));
    // The length of a device of less than 64 bytes has one byte.
    uart[2] += resources.len() as u8;
    uart.extend(resources);
    assert!(contains(&uart));
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        0xc000_0000u32,
        0xdfff_ffff,
        None,
    );
    let buses = AddressSpace::new_bus_number(0u16, 15);
    let ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let resources = ResourceTemplate::new(vec![&buses, &ports, &window]);
    assert!(contains(&bytes(&Name::new(path("_CRS"), &resources))));
    assert!(contains(&bytes(&Name::new(path("_CBA"), &0xe000_0000u32))));
    // INTB of device 3 is the first of GSIs 16 to 19 again.
    let mut route = PackageBuilder::new();
    route.add_element(&0x3_ffffu32);
    route.add_element(&1u8);
    route.add_element(&ZERO);
    route.add_element(&16u8);
    assert!(contains(&bytes(&route)));
    let bare = build(&Guest {
        pcie: false,
        ..GUEST
    });
    assert!(!tables(&bare)[2].windows(4).any(|name| name == b"PCI0"));
}

/// VT-d specification, tables of §8.1 to §8.3.1.
#[test]
fn dmar_has_each_unit_with_its_functions() {
    let units = [vec![0x08, 0x11], vec![0x18]];
    let all = build(&Guest {
        vtd: Some(Vtd {
            units: &units,
            address_bits: 39,
            interrupts: true,
        }),
        ..GUEST
    });
    let dmar = tables(&all)[3];
    let mut expected = vec![38, 1];
    expected.extend([0; 10]);
    // DRHD of 16 + 3 * 8 bytes at 0xfed90000.
    expected.extend([0, 0, 40, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0]);
    expected.extend([1, 8, 0, 0, 0, 0, 1, 0]);
    expected.extend([1, 8, 0, 0, 0, 0, 2, 1]);
    // I/O APIC 0, as ff:00.0.
    expected.extend([3, 8, 0, 0, 0, 0xff, 0, 0]);
    expected.extend([0, 0, 24, 0, 0, 0, 0, 0, 0, 0x10, 0xd9, 0xfe, 0, 0, 0, 0]);
    expected.extend([1, 8, 0, 0, 0, 0, 3, 0]);
    assert_eq!(dmar[36..], expected);
    assert_eq!(dmar[8], 1);
}
