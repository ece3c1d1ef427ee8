//! On x86_64 only the root pointer is noted: the tables are below 4 GiB, where the initial map has them, and stay there.

use super::configuration_table;
use alloc::vec::Vec;
use core::fmt;
use iommu::addr::{Hpa, Span};
use r_efi::efi::{self, SystemTable};

/// What a loader would say otherwise.
#[derive(Debug)]
pub struct Found {
    /// ACPI's root pointer.
    pub rsdp: u64,
    /// RAM.
    pub memory: Vec<Span<Hpa>>,
    /// What of that stays firmware's.
    pub reserved: Vec<Span<Hpa>>,
}

/// Why the application ends: firmware has no ACPI tables.
pub struct Refusal;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("firmware has no ACPI tables")
    }
}

/// Where the root pointer is.
///
/// # Safety
/// As for [`super::efi_main`].
pub unsafe fn describe(system: *mut SystemTable) -> Result<u64, Refusal> {
    // SAFETY: the caller's promise.
    let table = |guid| unsafe { configuration_table(system, guid) };
    table(efi::ACPI_20_TABLE_GUID)
        .or_else(|| table(efi::ACPI_10_TABLE_GUID))
        .map(|rsdp| rsdp.as_ptr().expose_provenance() as u64)
        .ok_or(Refusal)
}

/// All of it.
pub fn complete(rsdp: u64, memory: Vec<Span<Hpa>>, reserved: Vec<Span<Hpa>>) -> Found {
    Found {
        rsdp,
        memory,
        reserved,
    }
}
