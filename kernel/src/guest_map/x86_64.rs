//! Where things are for a partition on x86_64: as on a PC, as far as it has them.

use super::at;
use iommu::addr::{Gpa, Span};

/// Width of guest physical addresses: four levels of nested tables.
pub const ADDRESS_BITS: u8 = 48;
/// RAM starts here, with a hole for [`ACPI`] and what PCs have around it.
pub const RAM: Gpa = Gpa(0);
/// Where the lower part of RAM ends; the rest is at [`HIGH_RAM`].
pub const LOW_RAM_END: Gpa = Gpa(0xc000_0000);
/// RAM beyond [`LOW_RAM_END`] goes on here.
pub const HIGH_RAM: Gpa = Gpa(0x1_0000_0000);
/// Conventional memory: below it are the structures that the guest starts with.
pub const CONVENTIONAL_END: Gpa = Gpa(0xa_0000);
/// ACPI tables, the RSDP first: where a PC's BIOS has them, so that a guest finds them that is told nothing.
pub const ACPI: Span<Gpa> = at(0xe_0000, 0x2_0000);
/// Where a CPU starts after a reset, as it is in real mode: the end of a PC's BIOS, and of [`ACPI`].
pub const RESET_VECTOR: Gpa = Gpa(0xf_fff0);
/// Non-prefetchable memory window of the PCIe host.
pub const PCI_WINDOW: Span<Gpa> = at(0xc000_0000, 0x2000_0000);
/// ECAM: 16 buses.
pub const ECAM: Span<Gpa> = at(0xe000_0000, 0x0100_0000);
/// I/O APIC.
pub const IO_APIC: Span<Gpa> = at(0xfec0_0000, 0x1000);
/// VT-d units, as many as the partition's functions are behind.
pub const VTD: Span<Gpa> = at(0xfed9_0000, MAX_VTD_UNITS as u64 * VTD_STRIDE);
/// Size of one unit's registers.
pub const VTD_STRIDE: u64 = 0x1000;
/// Units of a partition at most.
pub const MAX_VTD_UNITS: usize = 8;
/// Local APICs in xAPIC mode; as DMA, messages.
pub const LOCAL_APIC: Span<Gpa> = at(0xfee0_0000, 0x1000);
/// First port of the 16550A: COM1.
pub const UART_PORT: u16 = 0x3f8;
/// Its pin of the I/O APIC, edge-triggered.
pub const UART_GSI: u32 = 4;
/// INTA of the PCIe host; INTB to INTD follow. Level-triggered.
pub const INTX_GSI: u32 = 16;

const _: () = assert!(
    PCI_WINDOW.base.0 == LOW_RAM_END.0 && PCI_WINDOW.base.0 + PCI_WINDOW.len == ECAM.base.0
);
