//! Linux drives SMMUs of its own: its stage 1, walked by the hardware on our stage 2.

mod acpi;
pub mod again;
mod disk;
pub mod faults;
mod flood;
mod granules;
mod slices;
pub mod trace;
mod vfio;

use super::layout::{Layout, Linux, Small};
use super::lines::{self, answer, answers};
use super::stream_table;
use super::{Case, Context, case, random, sha256};
use anyhow::{Result, ensure};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("viommu::linux_drives_its_own", disk::linux_drives_its_own),
    case(
        "viommu::two_guests_use_equal_names",
        disk::two_guests_use_equal_names,
    ),
    case(
        "viommu::a_hundred_restarts_leave_nothing_over",
        again::a_hundred_restarts_leave_nothing_over,
    ),
    case(
        "viommu::two_smmus_are_two_slices",
        slices::two_smmus_are_two_slices,
    ),
    case(
        "viommu::iasl_takes_the_acpi_tables",
        acpi::iasl_takes_the_acpi_tables,
    ),
    case(
        "viommu::linux_probes_from_acpi",
        acpi::linux_probes_from_acpi,
    ),
    case(
        "viommu::two_smmus_are_probed_from_acpi",
        slices::two_smmus_are_probed_from_acpi,
    ),
    case(
        "viommu::a_guest_is_told_of_its_own_faults",
        faults::a_guest_is_told_of_its_own_faults,
    ),
    case(
        "viommu::a_flood_is_its_own_guests",
        flood::a_flood_is_its_own_guests,
    ),
    case(
        "viommu::page_sizes_of_guests_may_differ",
        granules::page_sizes_of_guests_may_differ,
    ),
    case(
        "viommu::every_granule_translates",
        granules::every_granule_translates,
    ),
    case(
        "viommu::a_program_drives_a_device",
        vfio::a_program_drives_a_device,
    ),
    case(
        "viommu::a_program_drives_a_device_by_16_kib",
        vfio::a_program_drives_a_device_by_16_kib,
    ),
];

const MIB: usize = 1 << 20;
/// Far more than it takes: what runs beside it on the host may be much.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// The machine's 00:03.0, whose DMA goes where it is told.
pub const EDU: &str = "edu,addr=03.0,dma_mask=0xffffffffffffffff";

/// A disk image of `len` bytes that starts with `given`.
fn disk(context: &Context, name: &str, given: &[u8], len: usize) -> Result<PathBuf> {
    let path = context.file(name, given)?;
    File::options()
        .write(true)
        .open(&path)?
        .set_len(len as u64)?;
    Ok(path)
}
