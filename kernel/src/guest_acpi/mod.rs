//! The ACPI tables that a partition gets instead of a device tree (`tables = "acpi"`): of the same [`GuestTree`], the same
//! places and the same interrupts.
//!
//! [`build`] is all of it, in the order in which a guest walks it: [`efi`] leads from `/chosen` to the RSDP, [`fixed`] are
//! the tables of one form, [`iort`] says whose DMA goes through which SMMU and which ITS, [`dsdt`] is what has no table.
//! [`table`] and [`aml`] write them. What partitions on x86_64 get, who have nothing but ACPI, is in `x86_64`. Devices of the memory bus have no description here, and no configuration that has both
//! is valid.
//!
//! The writers are our own: acpi_tables 0.2.1 has neither GTDT nor IORT and costs 22 KiB at EL2 for the others.

mod aml;
mod dsdt;
mod efi;
mod fixed;
mod iort;
mod table;
#[cfg(any(target_arch = "x86_64", test))]
pub mod x86_64;

use crate::guest_map;
use crate::guest_tree::GuestTree;
use alloc::vec::Vec;
use iommu::addr::{Gpa, Span};
use table::{Fields, OEM_ID, checksum};

/// The ITS, for MADT and IORT.
const ITS_ID: u32 = 0;
/// The last bus of segment 0.
const LAST_BUS: u8 = (guest_map::ECAM.len / (1 << 20) - 1) as u8;

/// Room for each of the parts, and what they are aligned to: a page of the largest size that guests have.
const PART: u64 = 64 << 10;

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
        all.list(&fixed::mcfg(guest_map::ECAM.base));
        all.list(&iort::table(pcie, guest.smmus));
    }
    all.finish()
}

/// Tables behind their RSDP, one after the other.
struct Tables {
    base: Gpa,
    all: Fields,
    listed: Vec<Gpa>,
}

impl Tables {
    const RSDP_LEN: usize = 36;

    /// None, from `base` on.
    fn new(base: Gpa) -> Self {
        let mut all = Fields::default();
        all.zeros(Self::RSDP_LEN);
        Self {
            base,
            all,
            listed: Vec::new(),
        }
    }

    /// One that another one points to; where it is.
    fn add(&mut self, table: &[u8]) -> Gpa {
        let len = self.all.0.len();
        self.all.zeros(len.next_multiple_of(16) - len);
        let at = self.base + self.all.0.len() as u64;
        self.all.bytes(table);
        at
    }

    /// One that the XSDT lists.
    fn list(&mut self, table: &[u8]) {
        let at = self.add(table);
        self.listed.push(at);
    }

    /// All of it, with the XSDT at its end and the RSDP first.
    fn finish(mut self) -> Vec<u8> {
        let mut xsdt = Fields::table(b"XSDT", 1);
        for table in &self.listed {
            xsdt.u64(table.0);
        }
        let xsdt = self.add(&xsdt.finish());
        self.all.0[..Self::RSDP_LEN].copy_from_slice(&rsdp(xsdt));
        self.all.0
    }
}

/// ACPI 6.5, §5.2.5.3: the first checksum is of the part that ACPI 1.0 had.
fn rsdp(xsdt: Gpa) -> Vec<u8> {
    const FIRST: usize = 20;
    let mut rsdp = Fields::default();
    rsdp.bytes(b"RSD PTR ").u8(0).bytes(OEM_ID).u8(2);
    rsdp.u32(0).u32(36).u64(xsdt.0).u32(0);
    rsdp.0[8] = checksum(&rsdp.0[..FIRST]);
    rsdp.0[32] = checksum(&rsdp.0);
    rsdp.0
}

#[cfg(test)]
mod tests;
