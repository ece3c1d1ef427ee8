//! The ACPI tables of a partition on x86_64: all that it is told of itself. Reduced hardware (ACPI 6.5, §4.1), so neither PIC nor
//! PIT, SMIs or fixed events; local APICs and one I/O APIC; sleep, reset and timer at the ports of
//! [`vpower`].

use super::aml::{self, Aml};
use super::parts::{Host, host, mcfg, processors};
use super::table::Fields;
use super::tables::Tables;
use crate::guest_map::x86_64 as map;
use crate::vdev::{vpci, vpower};
use alloc::vec::Vec;
use iommu::addr::Gpa;

const UART: u32 = aml::eisa_id(b"PNP0501");

/// What a partition on x86_64 has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guest<'a> {
    /// vCPUs, at most 64.
    pub vcpus: usize,
    /// It has a PCIe host.
    pub pcie: bool,
    /// Its VT-d units, if it has any.
    pub vtd: Option<Vtd<'a>>,
}

/// The VT-d units that a partition sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtd<'a> {
    /// Requester IDs, on bus 0, behind each.
    pub units: &'a [Vec<u16>],
    /// Width of the addresses that a device's request may have once it is translated.
    pub address_bits: u8,
    /// They remap interrupts; those of the I/O APIC go through the first unit.
    pub interrupts: bool,
}

/// Requester ID of the I/O APIC: of a bus that no function is on.
pub const IO_APIC_REQUESTER: u16 = 0xff00;
/// Its number in MADT and DMAR.
const IO_APIC_ID: u8 = 0;

/// The RSDP and all tables, to be at [`map::ACPI`].
pub fn build(guest: &Guest<'_>) -> Vec<u8> {
    let mut all = Tables::new(map::ACPI.base);
    let dsdt = all.add(&dsdt(guest));
    all.list(&fadt(dsdt));
    all.list(&madt(guest.vcpus));
    if guest.pcie {
        all.list(&mcfg(map::ECAM));
    }
    if let Some(vtd) = &guest.vtd {
        all.list(&dmar(vtd));
    }
    all.finish()
}

/// Generic address structure (§5.2.3.2) of a port.
fn port(table: &mut Fields, at: u16, bytes: u8) -> &mut Fields {
    const SYSTEM_IO: u8 = 1;
    // 1, 2 and 3 are a byte, a word and a double word.
    let access = bytes.trailing_zeros() as u8 + 1;
    table
        .bytes(&[SYSTEM_IO, 8 * bytes, 0, access])
        .u64(at.into())
}

/// §5.2.9.
fn fadt(dsdt: Gpa) -> Vec<u8> {
    const WBINVD: u32 = 1 << 0;
    // Buttons are control methods, of which there are none.
    const NO_BUTTONS: u32 = 1 << 4 | 1 << 5;
    const TIMER_32: u32 = 1 << 8;
    const RESET: u32 = 1 << 10;
    const HW_REDUCED_ACPI: u32 = 1 << 20;
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_RTC: u16 = 1 << 5;
    let mut table = Fields::table(b"FACP", 6);
    table
        .zeros(76 - 36)
        .u32(vpower::TIMER.into())
        .zeros(91 - 80)
        // Length of the timer.
        .u8(4)
        .zeros(109 - 92)
        .u16(NO_VGA | NO_CMOS_RTC)
        .u8(0)
        .u32(WBINVD | NO_BUTTONS | TIMER_32 | RESET | HW_REDUCED_ACPI);
    port(&mut table, vpower::RESET, 1);
    table
        .u8(vpower::RESET_VALUE)
        .u16(0)
        // Minor version.
        .u8(5)
        .u64(0)
        .u64(dsdt.0)
        .zeros(208 - 148);
    port(&mut table, vpower::TIMER, 4).zeros(244 - 220);
    port(&mut table, vpower::SLEEP_CONTROL, 1);
    port(&mut table, vpower::SLEEP_STATUS, 1).bytes(b"Sluice\0\0");
    table.finish()
}

/// §5.2.12. Processor UIDs are vCPU numbers, as APIC IDs are.
fn madt(vcpus: usize) -> Vec<u8> {
    const ENABLED: u32 = 1;
    let mut table = Fields::table(b"APIC", 6);
    // No 8259.
    table.u32(map::LOCAL_APIC.base.0 as u32).u32(0);
    for vcpu in 0..vcpus as u8 {
        table.bytes(&[0, 8, vcpu, vcpu]).u32(ENABLED);
    }
    table.bytes(&[1, 12, IO_APIC_ID, 0]);
    table.u32(map::IO_APIC.base.0 as u32).u32(0);
    table.finish()
}

/// VT-d specification, §8.1 to §8.3.
fn dmar(vtd: &Vtd<'_>) -> Vec<u8> {
    const INTR_REMAP: u8 = 1 << 0;
    const ENDPOINT: u8 = 1;
    const IO_APIC: u8 = 3;
    const SCOPE_LEN: usize = 8;
    let mut table = Fields::table(b"DMAR", 1);
    table.u8(vtd.address_bits - 1);
    table
        .u8(if vtd.interrupts { INTR_REMAP } else { 0 })
        .zeros(10);
    let scope = |table: &mut Fields, kind, id, requester: u16| {
        let [function, bus] = requester.to_le_bytes();
        table.bytes(&[kind, SCOPE_LEN as u8, 0, 0, id, bus]);
        table.bytes(&[function >> 3, function & 7]);
    };
    for (index, functions) in vtd.units.iter().enumerate() {
        let io_apic = vtd.interrupts && index == 0;
        let scopes = functions.len() + usize::from(io_apic);
        let base = map::VTD.base + index as u64 * map::VTD_STRIDE;
        table.u16(0).u16((16 + SCOPE_LEN * scopes) as u16);
        // Not all of the segment; registers of one page; segment 0.
        table.u8(0).u8(0).u16(0).u64(base.0);
        for &function in functions {
            scope(&mut table, ENDPOINT, 0, function);
        }
        if io_apic {
            scope(&mut table, IO_APIC, IO_APIC_ID, IO_APIC_REQUESTER);
        }
    }
    table.finish()
}

fn dsdt(guest: &Guest<'_>) -> Vec<u8> {
    let mut aml = Aml(Fields::table(b"DSDT", 2));
    // §7.4.2: the values of both sleep type registers, and two that are reserved.
    aml.name(b"_S5_");
    let off = aml.package(4);
    for value in [vpower::SLEEP_TYPE_OFF, 0, 0, 0] {
        aml.number(value.into());
    }
    aml.end(off);
    let bus = aml.system_bus();
    processors(&mut aml, guest.vcpus);
    uart(&mut aml);
    if guest.pcie {
        let is = Host {
            ports: Some(vpci::ports::ADDRESS),
            window: map::PCI_WINDOW,
            ecam: map::ECAM,
            intx: map::INTX_GSI,
        };
        host(&mut aml, &is, true);
    }
    aml.end(bus);
    aml.0.finish()
}

/// The console.
fn uart(aml: &mut Aml) {
    let mut resources = Fields::default();
    aml::ports(&mut resources, map::UART_PORT, 8);
    aml::edge_interrupt(&mut resources, map::UART_GSI);
    let uart = aml.device(b"COM1");
    aml.name(b"_HID").number(UART);
    aml.name(b"_UID").number(0);
    aml.resources(&resources);
    aml.end(uart);
}
