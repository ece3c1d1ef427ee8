//! What is no table of its own: CPUs, the UART, the PCIe host.

use crate::guest_acpi::aml::{self, Aml};
use crate::guest_acpi::parts::{Host, host, processors};
use crate::guest_acpi::table::Fields;
use crate::guest_map;
use crate::guest_tree::{GuestTree, Pcie};
use alloc::vec::Vec;

const HOST: Host = Host {
    ports: None,
    window: guest_map::PCI_WINDOW,
    ecam: guest_map::ECAM,
    intx: guest_map::INTX_INTID,
};

/// The table.
pub fn table(guest: &GuestTree<'_>) -> Vec<u8> {
    let mut aml = Aml(Fields::table(b"DSDT", 2));
    let bus = aml.system_bus();
    processors(&mut aml, guest.vcpus());
    uart(&mut aml);
    if let Some(Pcie { dma_coherent, .. }) = guest.pcie {
        host(&mut aml, &HOST, dma_coherent);
    }
    aml.end(bus);
    aml.0.finish()
}

/// The console as the guest finds it set up: the part of a PL011 that SBSA has.
fn uart(aml: &mut Aml) {
    let mut resources = Fields::default();
    aml::memory(&mut resources, guest_map::UART);
    aml::interrupt(&mut resources, guest_map::UART_INTID);
    let uart = aml.device(b"COM0");
    aml.name(b"_HID").text(b"ARMH0011");
    aml.name(b"_UID").number(0);
    aml.resources(&resources);
    aml.end(uart);
}
