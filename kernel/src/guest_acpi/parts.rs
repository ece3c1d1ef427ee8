//! What partitions of both machines have: processors and the PCIe host, in the DSDT and in the MCFG.

use super::aml::{self, Aml};
use super::table::Fields;
use crate::vdev::vpci::swizzle;
use alloc::vec::Vec;
use iommu::addr::{Gpa, Span};

/// `_OSC` (PCI Firmware Specification 3.3, §4.5.1): of all that the guest may ask for it gets the PCI Express capability
/// structure; there is no hot plug, no power management event and no error reporting.
///
/// ```text
/// Method (_OSC, 4, Serialized) {
///     CreateDWordField (Arg3, 0, CDW1)
///     If (Arg0 == ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766")) {
///         CreateDWordField (Arg3, 8, CDW3)
///         Local0 = CDW3 & 0x10
///         If (Local0 != CDW3) { CDW1 |= 0x10  CDW3 = Local0 }
///         If (Arg1 != 1) { CDW1 |= 0x08 }
///         Return (Arg3)
///     }
///     CDW1 |= 0x04
///     Return (Arg3)
/// }
/// ```
const OSC: &[u8] = b"\x14\x41\x07_OSC\x0c\
    \x8a\x6b\x00CDW1\
    \xa0\x45\x05\x93\x68\x11\x13\x0a\x10\
    \x5b\x4d\xdb\x33\xf7\x1f\x1c\x40\x96\x57\x74\x41\xc0\x3d\xd7\x66\
    \x8a\x6b\x0a\x08CDW3\
    \x7bCDW3\x0a\x10\x60\
    \xa0\x19\x92\x93\x60CDW3\x7dCDW1\x0a\x10CDW1\x70\x60CDW3\
    \xa0\x10\x92\x93\x69\x01\x7dCDW1\x0a\x08CDW1\
    \xa4\x6b\
    \x7dCDW1\x0a\x04CDW1\
    \xa4\x6b";

const PCI_EXPRESS_HOST: u32 = aml::eisa_id(b"PNP0A08");
const PCI_HOST: u32 = aml::eisa_id(b"PNP0A03");
/// Registers that no device claims.
const RESERVED: u32 = aml::eisa_id(b"PNP0C02");

/// The last bus that a configuration space has: a MiB for each.
const fn last_bus(ecam: Span<Gpa>) -> u8 {
    (ecam.len / (1 << 20) - 1) as u8
}

/// One device for each vCPU, by whose `_UID` the MADT names it.
pub(super) fn processors(aml: &mut Aml, vcpus: usize) {
    for vcpu in 0..vcpus as u32 {
        let digit = |shift: u32| b"0123456789ABCDEF"[(vcpu >> shift & 0xf) as usize];
        let cpu = aml.device(&[b'C', b'P', digit(4), digit(0)]);
        aml.name(b"_HID").text(b"ACPI0007");
        aml.name(b"_UID").number(vcpu);
        aml.end(cpu);
    }
}

/// Where the parts of a PCIe host are.
pub(super) struct Host {
    /// Ports of configuration mechanism #1, if it has them.
    pub ports: Option<u16>,
    /// Memory window.
    pub window: Span<Gpa>,
    /// Configuration space.
    pub ecam: Span<Gpa>,
    /// The interrupt of its INTA; INTB to INTD follow.
    pub intx: u32,
}

/// Segment 0, bus 0 upwards, and the configuration space that it takes.
pub(super) fn host(aml: &mut Aml, is: &Host, dma_coherent: bool) {
    let mut resources = Fields::default();
    aml::buses(&mut resources, last_bus(is.ecam).into());
    if let Some(first) = is.ports {
        aml::ports(&mut resources, first, 8);
    }
    aml::window(&mut resources, is.window);
    let host = aml.device(b"PCI0");
    for (name, value) in [
        (b"_HID", PCI_EXPRESS_HOST),
        (b"_CID", PCI_HOST),
        (b"_UID", 0),
        (b"_SEG", 0),
        (b"_BBN", 0),
        (b"_CCA", dma_coherent.into()),
        (b"_CBA", is.ecam.base.0 as u32),
    ] {
        aml.name(name).number(value);
    }
    aml.resources(&resources);
    routes(aml, is.intx);
    aml.0.bytes(OSC);
    let mut resources = Fields::default();
    aml::memory(&mut resources, is.ecam);
    let space = aml.device(b"RES0");
    aml.name(b"_HID").number(RESERVED);
    aml.resources(&resources);
    aml.end(space);
    aml.end(host);
}

/// `_PRT` (§6.2.13): interrupts of their own for the pins of all devices of bus 0.
fn routes(aml: &mut Aml, intx: u32) {
    const ALL_FUNCTIONS: u32 = 0xffff;
    const DEVICES: u8 = 32;
    let pins = (0..DEVICES).flat_map(|device| (0..4).map(move |pin| (device, pin)));
    aml.name(b"_PRT");
    let all = aml.package(DEVICES * 4);
    for (device, pin) in pins {
        let route = aml.package(4);
        aml.number(u32::from(device) << 16 | ALL_FUNCTIONS);
        aml.number(pin.into());
        // No link device: an interrupt of the controller itself.
        aml.number(0);
        aml.number(intx + u32::from(swizzle(device, pin)));
        aml.end(route);
    }
    aml.end(all);
}

/// Configuration space of segment 0 (PCI Firmware Specification 3.3, §4.1.2).
pub fn mcfg(ecam: Span<Gpa>) -> Vec<u8> {
    let mut table = Fields::table(b"MCFG", 1);
    table.zeros(8).u64(ecam.base.0).u16(0);
    table.u8(0).u8(last_bus(ecam)).zeros(4);
    table.finish()
}
