//! The tables that a partition on AArch64 gets instead of a device tree (`tables = "acpi"`): of the same [`GuestTree`], the same
//! places and the same interrupts.
//!
//! [`build`] is all of it, in the order in which a guest walks it: [`efi`] leads from `/chosen` to the RSDP, [`fixed`] are
//! the tables of one form, [`iort`] says whose DMA goes through which SMMU and which ITS, [`dsdt`] is what has no table.
//! Devices of the memory bus have no description here, and no configuration that has both is valid.

mod dsdt;
mod efi;
mod fixed;
mod iort;

use super::parts::mcfg;
use super::tables::Tables;
use crate::guest_map;
use crate::guest_tree::GuestTree;
use alloc::vec::Vec;
use iommu::addr::{Gpa, Span};

/// The ITS, for MADT and IORT.
const ITS_ID: u32 = 0;
/// Room for each of the parts, and what they are aligned to: a page of the largest size that guests have.
pub(super) const PART: u64 = 64 << 10;

/// Where the parts lie in the guest's RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// The device tree.
    pub tree: Gpa,
    /// ACPI tables, with the RSDP first: the guest's to reclaim.
    pub acpi: Span<Gpa>,
    /// EFI tables: reserved.
    pub efi: Span<Gpa>,
}

impl Places {
    /// From `base` on, which is aligned to 64 KiB; 192 KiB of it.
    pub fn from(base: Gpa) -> Self {
        let part = |index| Span {
            base: base + index * PART,
            len: PART,
        };
        Self {
            tree: base,
            acpi: part(1),
            efi: part(2),
        }
    }
}

/// What goes where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Built {
    /// For [`Places::tree`], which is what the kernel is started with.
    pub tree: Vec<u8>,
    /// For the start of [`Places::acpi`].
    pub acpi: Vec<u8>,
    /// For the start of [`Places::efi`].
    pub efi: Vec<u8>,
}

impl Built {
    /// The part that does not fit its place, if there is one; its length.
    pub fn too_large(&self) -> Option<usize> {
        let lens = [&self.tree, &self.acpi, &self.efi].map(Vec::len);
        lens.into_iter().find(|&len| len as u64 > PART)
    }
}

/// All that a guest needs to start with ACPI.
pub fn build(guest: &GuestTree<'_>, places: &Places) -> Built {
    Built {
        tree: efi::tree(guest, places),
        acpi: acpi(guest, places.acpi.base),
        efi: efi::tables(guest, places),
    }
}

/// The RSDP and all tables, at `base`.
fn acpi(guest: &GuestTree<'_>, base: Gpa) -> Vec<u8> {
    let mut all = Tables::new(base);
    let dsdt = all.add(&dsdt::table(guest));
    let its = guest.pcie.is_some_and(|pcie| pcie.msi);
    for table in [
        fixed::fadt(dsdt),
        fixed::madt(guest.vcpus(), its),
        fixed::gtdt(),
        fixed::spcr(),
    ] {
        all.list(&table);
    }
    if let Some(pcie) = guest.pcie {
        all.list(&mcfg(guest_map::ECAM));
        all.list(&iort::table(pcie, guest.smmus));
    }
    all.finish()
}
