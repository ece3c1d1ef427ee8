//! Linux drives SMMUs of its own: its stage 1, walked by the hardware on our stage 2.

mod disk;
mod faults;
mod layout;
mod slices;

use super::lines::{self, answer, answers};
use super::{Case, Context, case, random, sha256};
use anyhow::{Result, ensure};
use layout::{Layout, Linux};
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("viommu::linux_drives_its_own", disk::linux_drives_its_own),
    case(
        "viommu::two_guests_use_equal_names",
        disk::two_guests_use_equal_names,
    ),
    case(
        "viommu::a_restart_leaves_nothing_over",
        disk::a_restart_leaves_nothing_over,
    ),
    case(
        "viommu::two_smmus_are_two_slices",
        slices::two_smmus_are_two_slices,
    ),
    case(
        "viommu::a_guest_is_told_of_its_own_faults",
        faults::a_guest_is_told_of_its_own_faults,
    ),
];

const MIB: usize = 1 << 20;
const RUN_LIMIT: Duration = Duration::from_secs(200);

/// A disk image of 96 MiB that starts with `given`.
fn disk(context: &Context, name: &str, given: &[u8]) -> Result<()> {
    let mut disk = given.to_vec();
    disk.resize(96 * MIB, 0);
    context.file(name, &disk).map(drop)
}
