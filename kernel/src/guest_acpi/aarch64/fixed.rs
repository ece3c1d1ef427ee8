//! Tables of one form: FADT, MADT, GTDT, SPCR.

use crate::guest_acpi::table::Fields;
use crate::guest_map;
use crate::vdev::affinity;
use alloc::vec::Vec;
use iommu::addr::Gpa;

/// Nobody's address.
const NONE: u64 = u64::MAX;

/// No fixed hardware of PCs, and PSCI by HVC (§5.2.9), as in 6.5.
pub fn fadt(dsdt: Gpa) -> Vec<u8> {
    const HW_REDUCED_ACPI: u32 = 1 << 20;
    const PSCI_COMPLIANT: u16 = 1 << 0;
    const PSCI_USE_HVC: u16 = 1 << 1;
    let mut table = Fields::table(b"FACP", 6);
    table
        .zeros(112 - 36)
        .u32(HW_REDUCED_ACPI)
        .zeros(129 - 116)
        .u16(PSCI_COMPLIANT | PSCI_USE_HVC)
        // Minor version.
        .u8(5)
        .zeros(140 - 132)
        .u64(dsdt.0)
        .zeros(268 - 148)
        .bytes(b"Sluice\0\0");
    table.finish()
}

/// Who is there, with which interrupt controllers (§5.2.12). Processor UIDs are vCPU numbers.
pub fn madt(vcpus: usize, its: bool) -> Vec<u8> {
    const ENABLED: u32 = 1;
    const GICV3: u8 = 3;
    let mut table = Fields::table(b"APIC", 6);
    table.zeros(8);
    // GICD.
    table.bytes(&[0xc, 24, 0, 0]).u32(0);
    table.u64(guest_map::GICD.base.0).u32(0).u8(GICV3).zeros(3);
    // GICC: without a performance or a maintenance interrupt, and without registers in memory.
    for vcpu in 0..vcpus as u32 {
        table.bytes(&[0xb, 82, 0, 0]).u32(vcpu).u32(vcpu);
        table.u32(ENABLED).zeros(68 - 16);
        table.u64(affinity(vcpu as usize)).zeros(82 - 76);
    }
    // GICR.
    let redistributors = vcpus as u64 * guest_map::GICR_STRIDE;
    table.bytes(&[0xe, 16, 0, 0]).u64(guest_map::GICR.base.0);
    table.u32(redistributors as u32);
    if its {
        table.bytes(&[0xf, 20, 0, 0]).u32(super::ITS_ID);
        table.u64(guest_map::ITS.base.0).u32(0);
    }
    table.finish()
}

/// The architected timers, which never stop (§5.2.25), by the same wires as in a device tree: those of EL3 and EL2, which no
/// guest has, are there because Linux maps them all.
pub fn gtdt() -> Vec<u8> {
    const ALWAYS_ON: u32 = 1 << 2;
    let mut table = Fields::table(b"GTDT", 3);
    table.u64(NONE).u32(0);
    for intid in guest_map::TIMER_INTIDS {
        table.u32(intid).u32(ALWAYS_ON);
    }
    table.u64(NONE).zeros(104 - 88);
    table.finish()
}

/// The console (Microsoft's SPCR, revision 2): all of a PL011, which needs no setting up.
pub fn spcr() -> Vec<u8> {
    const PL011: u8 = 3;
    const GIC: u8 = 1 << 3;
    const ONE_STOP_BIT: u8 = 1;
    const VT_UTF8: u8 = 2;
    let mut table = Fields::table(b"SPCR", 2);
    table.u8(PL011).zeros(3);
    // In memory, 32 bits wide, accessed by 32 bits.
    table.bytes(&[0, 32, 0, 3]).u64(guest_map::UART.base.0);
    table.u8(GIC).u8(0).u32(guest_map::UART_INTID);
    // The rate stays as it is; no parity, no flow control.
    table.bytes(&[0, 0, ONE_STOP_BIT, 0, VT_UTF8, 0]);
    // No PCI device.
    table.u16(0xffff).u16(0xffff).zeros(80 - 68);
    table.finish()
}
