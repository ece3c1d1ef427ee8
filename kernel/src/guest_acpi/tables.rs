//! All tables of a guest, one behind the other.

use super::table::{Fields, OEM_ID, checksum};
use alloc::vec::Vec;
use iommu::addr::Gpa;

/// Tables behind their RSDP, one after the other.
pub struct Tables {
    base: Gpa,
    all: Fields,
    listed: Vec<Gpa>,
}

impl Tables {
    const RSDP_LEN: usize = 36;

    /// None, from `base` on.
    pub fn new(base: Gpa) -> Self {
        let mut all = Fields::default();
        all.zeros(Self::RSDP_LEN);
        Self {
            base,
            all,
            listed: Vec::new(),
        }
    }

    /// One that another one points to; where it is.
    pub fn add(&mut self, table: &[u8]) -> Gpa {
        let len = self.all.0.len();
        self.all.zeros(len.next_multiple_of(16) - len);
        let at = self.base + self.all.0.len() as u64;
        self.all.bytes(table);
        at
    }

    /// One that the XSDT lists.
    pub fn list(&mut self, table: &[u8]) {
        let at = self.add(table);
        self.listed.push(at);
    }

    /// All of it, with the XSDT at its end and the RSDP first.
    pub fn finish(mut self) -> Vec<u8> {
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
