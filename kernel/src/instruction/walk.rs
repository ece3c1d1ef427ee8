//! From a guest's linear address to where it is in its memory ("Paging", Intel SDM volume 3A): to fetch the instruction
//! that touched a device, and for the other side of a MOVS.
//!
//! A walk is four entries at most, each read once. Accessed and dirty flags stay as they are: the guest's CPU has set them
//! for what it did itself, and no kernel takes pages away while an instruction of its own is on them.

use iommu::addr::Gpa;

/// Registers of a vCPU that say how it translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4. LA57 is never set: CPUID does not offer it.
    pub cr4: u64,
    /// `IA32_EFER`.
    pub efer: u64,
    /// RFLAGS.AC.
    pub alignment_check: bool,
    /// CPL 3.
    pub user: bool,
}

/// What is done at the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It has been executed already: it was allowed.
    Fetch,
    /// Data are read.
    Read,
    /// Data are written.
    Write,
}

/// Why there is nothing at the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The guest takes #PF with this error code.
    Page(u32),
    /// The guest takes #GP(0): the address is not canonical.
    NotCanonical,
    /// Its tables lie where it has no memory, at this address.
    Table(Gpa),
}

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
/// Bits 51:12 of an entry of 64 bits.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Error code of #PF ("Page-Fault Exceptions").
const ERROR_PRESENT: u32 = 1 << 0;
const ERROR_WRITE: u32 = 1 << 1;
const ERROR_USER: u32 = 1 << 2;
/// Where execution can be forbidden at all.
const ERROR_FETCH: u32 = 1 << 4;

impl Paging {
    /// Where `linear` is. `read` reads an entry of this many bytes, 4 or 8, from the guest's memory.
    pub fn translate(
        &self,
        linear: u64,
        access: Access,
        read: &mut dyn FnMut(Gpa, u8) -> Option<u64>,
    ) -> Result<Gpa, Fault> {
        if self.cr0 & CR0_PG == 0 {
            return Ok(Gpa(linear & 0xffff_ffff));
        }
        if self.efer & EFER_LMA != 0 {
            if (linear << 16) as i64 >> 16 != linear as i64 {
                return Err(Fault::NotCanonical);
            }
            let top = self.cr3 & ADDRESS;
            return self.walk(&LONG, top, linear, access, read);
        }
        let linear = linear & 0xffff_ffff;
        if self.cr4 & CR4_PAE != 0 {
            // The CPU has read these four with CR3; they have no rights of their own.
            let at = Gpa((self.cr3 & 0xffff_ffe0) + (linear >> 30) * 8);
            let entry = read(at, 8).ok_or(Fault::Table(at))?;
            if entry & PRESENT == 0 {
                return Err(self.page_fault(access, false));
            }
            return self.walk(&PAE, entry & ADDRESS, linear, access, read);
        }
        self.walk(&TWO_LEVELS, self.cr3 & 0xffff_f000, linear, access, read)
    }

    fn walk(
        &self,
        format: &Format,
        top: u64,
        linear: u64,
        access: Access,
        read: &mut dyn FnMut(Gpa, u8) -> Option<u64>,
    ) -> Result<Gpa, Fault> {
        let mut table = top;
        let mut rights = WRITABLE | USER;
        for (level, &shift) in format.shifts.iter().enumerate() {
            let index = linear >> shift & format.index;
            let at = Gpa(table + index * u64::from(format.size));
            let entry = read(at, format.size).ok_or(Fault::Table(at))?;
            if entry & PRESENT == 0 {
                return Err(self.page_fault(access, false));
            }
            rights &= entry;
            let last = level + 1 == format.shifts.len();
            let large = entry & LARGE != 0
                && (format.large)(shift)
                && (format.size == 8 || self.cr4 & CR4_PSE != 0);
            if last || large {
                self.check(rights, access)?;
                let inside = (1 << shift) - 1;
                return Ok(Gpa((format.page)(entry, shift) & !inside | linear & inside));
            }
            table = entry & ADDRESS;
        }
        Err(self.page_fault(access, false))
    }

    /// "Determination of Access Rights".
    fn check(&self, rights: u64, access: Access) -> Result<(), Fault> {
        let (writable, user) = (rights & WRITABLE != 0, rights & USER != 0);
        let write_protected = self.user || self.cr0 & CR0_WP != 0;
        let allowed = match access {
            Access::Fetch => true,
            Access::Write if !writable && write_protected => false,
            Access::Read | Access::Write => {
                let smap = self.cr4 & CR4_SMAP != 0 && !self.alignment_check;
                if self.user { user } else { !(user && smap) }
            }
        };
        if allowed {
            Ok(())
        } else {
            Err(self.page_fault(access, true))
        }
    }

    fn page_fault(&self, access: Access, present: bool) -> Fault {
        let bit = |is: bool, bit: u32| if is { bit } else { 0 };
        let no_execute = self.cr4 & CR4_PAE != 0 && self.efer & EFER_NXE != 0;
        let fetch = access == Access::Fetch && (no_execute || self.cr4 & CR4_SMEP != 0);
        Fault::Page(
            bit(fetch, ERROR_FETCH)
                | bit(present, ERROR_PRESENT)
                | bit(access == Access::Write, ERROR_WRITE)
                | bit(self.user, ERROR_USER),
        )
    }
}

/// Entries of one kind of paging.
struct Format {
    /// Bytes of an entry.
    size: u8,
    /// Mask of an index.
    index: u64,
    /// Where the index of each level is in the address.
    shifts: &'static [u32],
    /// Whether a level may map pages.
    large: fn(u32) -> bool,
    /// The page that an entry maps.
    page: fn(u64, u32) -> u64,
}

/// "4-Level Paging": pages of 1 GiB and 2 MiB, too.
const LONG: Format = Format {
    size: 8,
    index: 0x1ff,
    shifts: &[39, 30, 21, 12],
    large: |shift| shift <= 30,
    page: |entry, _| entry & ADDRESS,
};

/// "PAE Paging", below its four entries of the first level.
const PAE: Format = Format {
    size: 8,
    index: 0x1ff,
    shifts: &[21, 12],
    large: |_| true,
    page: |entry, _| entry & ADDRESS,
};

/// "32-Bit Paging": pages of 4 MiB may lie above 4 GiB (PSE-36).
const TWO_LEVELS: Format = Format {
    size: 4,
    index: 0x3ff,
    shifts: &[22, 12],
    large: |_| true,
    page: |entry, shift| {
        if shift == 22 {
            entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
        } else {
            entry & 0xffff_f000
        }
    },
};
