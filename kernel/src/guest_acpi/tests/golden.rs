//! Tables of one form beside those of acpi_tables, but for its creator's name, and beside the words of the specifications.

use super::{GUEST, GuestTree, Read, u32_at, u64_at};
use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::madt::{
    EnabledStatus, GicIts, GicVersion, Gicc, Gicd, Gicr, LocalInterruptController, MADT,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;

const OEM: [u8; 6] = *b"SLUICE";
const TABLE: [u8; 8] = *b"PARTITIO";

/// A table without what differs from writer to writer: checksum, creator and its revision.
fn bare(table: &[u8]) -> Vec<u8> {
    let mut table = table.to_vec();
    table[9] = 0;
    table[28..36].fill(0);
    table
}

fn written(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[test]
fn fadt_says_reduced_hardware_and_psci_by_hvc() {
    let read = Read::new(&GUEST);
    let fadt = read.table(b"FACP");
    let mut expected = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(u64_at(fadt, 140))
        .flag(Flags::HwReducedAcpi);
    expected.arm_boot_arch = 3.into();
    expected.hypervisor_vendor_identity = u64::from_le_bytes(*b"Sluice\0\0").into();
    assert_eq!(bare(fadt), bare(&written(&expected.finalize())));
}

#[test]
fn madt_has_the_gic_and_each_cpu() {
    let guest = GuestTree { vcpus: 18, ..GUEST };
    let read = Read::new(&guest);
    let mut expected = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(0));
    expected.add_structure(Gicd::new(0, 0x800_0000, GicVersion::GICv3));
    for vcpu in 0..18 {
        // Sixteen in a cluster.
        let mpidr = u64::from(((vcpu / 16) << 8) | (vcpu % 16));
        let cpu = Gicc::new(EnabledStatus::Enabled)
            .cpu_interface_number(vcpu)
            .acpi_processor_uid(vcpu)
            .mpidr(mpidr);
        expected.add_structure(cpu);
    }
    expected.add_structure(Gicr::new(0x80a_0000, 18 * 0x2_0000));
    expected.add_structure(GicIts::new(0, 0x808_0000));
    let mut expected = written(&expected);
    // The revision of ACPI 6.5; the crate stays with 1.
    expected[8] = 6;
    assert_eq!(bare(read.table(b"APIC")), bare(&expected));
}

#[test]
fn mcfg_has_sixteen_buses() {
    let mut expected = MCFG::new(OEM, TABLE, 1);
    expected.add_ecam(0x3f00_0000, 0, 0, 15);
    let read = Read::new(&GUEST);
    assert_eq!(bare(read.table(b"MCFG")), bare(&written(&expected)));
}

#[test]
fn rsdp_points_to_the_xsdt() {
    let read = Read::new(&GUEST);
    let rsdp = &read.acpi(read.places.acpi.base.0)[..36];
    assert_eq!(rsdp, written(&Rsdp::new(OEM, u64_at(rsdp, 24))));
}

/// ACPI 6.5, table 5.117.
#[test]
fn gtdt_has_the_timers_and_no_frames() {
    let read = Read::new(&GUEST);
    let gtdt = read.table(b"GTDT");
    assert_eq!((gtdt.len(), gtdt[8]), (104, 3));
    assert_eq!((u64_at(gtdt, 36), u64_at(gtdt, 80)), (u64::MAX, u64::MAX));
    // Level, active high, always on.
    let timers = [48, 56, 64, 72].map(|at| (u32_at(gtdt, at), u32_at(gtdt, at + 4)));
    assert_eq!(timers, [(29, 4), (30, 4), (27, 4), (26, 4)]);
    assert!(gtdt[88..].iter().all(|&byte| byte == 0));
}

/// Microsoft's SPCR, revision 2.
#[test]
fn spcr_is_the_pl011_as_it_is_set_up() {
    let read = Read::new(&GUEST);
    let spcr = read.table(b"SPCR");
    assert_eq!((spcr.len(), spcr[8], spcr[36]), (80, 2, 3));
    assert_eq!(spcr[40..44], [0, 32, 0, 3]);
    assert_eq!(u64_at(spcr, 44), 0x900_0000);
    assert_eq!((spcr[52], u32_at(spcr, 54)), (8, 33));
    assert_eq!(spcr[58], 0, "the rate that it has");
    assert_eq!(spcr[64..68], [0xff; 4]);
}
