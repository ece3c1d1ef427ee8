//! On AArch64 the tables are read while firmware runs: all of them, wherever they are, are in its map.

use super::configuration_table;
use crate::root_pointer;
use alloc::vec::Vec;
use boot::{acpi_tables, fdt};
use core::arch::asm;
use core::fmt;
use iommu::addr::{Hpa, Span};
use kernel::boot_info::BootInfo;
use r_efi::efi::{self, SystemTable};

/// The whole machine.
pub type Found = BootInfo;

/// Why the application ends.
pub enum Refusal {
    /// It was not entered at EL2, but there.
    NotEl2(u64),
    /// Firmware describes no machine.
    NoTables,
    /// Its ACPI tables are no good.
    Acpi(acpi_tables::AcpiError),
    /// Its device tree is no good.
    Fdt(fdt::FdtError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEl2(level) => write!(
                f,
                "entered at EL{level}, but it runs at EL2 only. Start it where a hypervisor may run"
            ),
            Self::NoTables => f.write_str("firmware has neither ACPI tables nor a device tree"),
            Self::Acpi(error) => write!(f, "ACPI: {error}"),
            Self::Fdt(error) => write!(f, "{error}"),
        }
    }
}

/// From the device tree where there is one, else from ACPI: the machine without its memory.
///
/// # Safety
/// As for [`super::efi_main`].
pub unsafe fn describe(system: *mut SystemTable) -> Result<BootInfo, Refusal> {
    match current_level() {
        2 => {}
        level => return Err(Refusal::NotEl2(level)),
    }
    // SAFETY: the caller's promise; tables are where §4.3 has them, mapped one to one (§2.3.6).
    let table = |guid| unsafe { configuration_table(system, guid) };
    if let Some(tree) = table(efi::DTB_TABLE_GUID) {
        // SAFETY: firmware has a device tree there, whose length is in its header.
        let header = unsafe { tree.cast::<[u8; fdt::HEADER_SIZE]>().read() };
        let size = fdt::total_size(&header).map_err(Refusal::Fdt)?;
        // SAFETY: as above.
        let tree = unsafe { core::slice::from_raw_parts(tree.as_ptr(), size) };
        return fdt::parse(tree).map_err(Refusal::Fdt);
    }
    let rsdp = table(efi::ACPI_20_TABLE_GUID).ok_or(Refusal::NoTables)?;
    // SAFETY: firmware maps memory one to one, and nothing changes its tables while they are read.
    let tables = unsafe { root_pointer::find(rsdp.as_ptr().expose_provenance()) };
    tables
        .and_then(|tables| acpi_tables::parse(&tables))
        .map_err(Refusal::Acpi)
}

/// With its memory, and what of that stays firmware's.
pub fn complete(mut info: BootInfo, memory: Vec<Span<Hpa>>, reserved: Vec<Span<Hpa>>) -> Found {
    info.memory = memory;
    info.reserved = reserved;
    info
}

fn current_level() -> u64 {
    let level: u64;
    // SAFETY: reading CurrentEL has no effect.
    unsafe { asm!("mrs {}, CurrentEL", out(reg) level, options(nomem, nostack)) };
    level >> 2
}
