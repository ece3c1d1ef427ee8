//! Stage 1 of EL2: an identity map of what the hypervisor uses, nothing both writable and executable.

use super::cpu;
use crate::map_error::MapError;
use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El23Attributes, PhysicalAddress};
use aarch64_paging::paging::{El2, MemoryRegion, PageTable, Translation};
use alloc::vec::Vec;
use core::arch::global_asm;
use core::ops::Range;
use core::ptr::NonNull;

/// `MAIR_EL2`: attribute 0 is Device-nGnRE, 1 is Normal, write-back, read- and write-allocate, 2 Device-nGnRnE unused.
pub const MAIR: u64 = 0xff04;

/// `TCR_EL2` less PS: 48 bits from level 0, 4 KiB granule, walks are write-back and inner shareable; RES1 bits 31, 23.
pub const TCR: u64 = 1 << 31 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 16;

/// `SCTLR_EL2` once the final map is in use: RES1 bits, MMU, caches, SP alignment check, write implies execute-never.
pub const SCTLR: u64 = SCTLR_INITIAL | 1 << 19;

/// `SCTLR_EL2` under the initial map, whose blocks hold text and data together.
pub const SCTLR_INITIAL: u64 = 0x30c5_0830 | 1 << 12 | 1 << 3 | 1 << 2 | 1;

/// What a range holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Instructions: readable and executable.
    Text,
    /// Readable.
    Constant,
    /// Readable and writable.
    Data,
    /// Registers: Device-nGnRE.
    Device,
}

impl Kind {
    fn attributes(self) -> El23Attributes {
        let common = El23Attributes::VALID | El23Attributes::ACCESSED | El23Attributes::USER_RES1;
        let normal = El23Attributes::ATTRIBUTE_INDEX_1 | El23Attributes::INNER_SHAREABLE;
        common
            | match self {
                Self::Text => normal | El23Attributes::READ_ONLY,
                Self::Constant => normal | El23Attributes::READ_ONLY | El23Attributes::XN,
                Self::Data => normal | El23Attributes::XN,
                Self::Device => El23Attributes::ATTRIBUTE_INDEX_0 | El23Attributes::XN,
            }
    }
}

/// The map.
#[derive(Debug)]
pub struct El2Map {
    mapping: Mapping<Tables, El2>,
}

impl El2Map {
    /// An empty map with `spare` tables set aside, so that mapping never asks the heap.
    pub fn new(spare: usize) -> Self {
        let tables = Tables((0..spare).map(|_| PageTable::new()).collect());
        Self {
            mapping: Mapping::new(tables, 0, El2),
        }
    }

    /// The first address past the address space, in bytes.
    pub fn end(&self) -> u64 {
        1 << cpu::features().pa_bits.min(48)
    }

    /// Maps `range`, rounded out to pages, to itself. It may grow an active map, never change it.
    pub fn map(&mut self, range: Range<u64>, kind: Kind) -> Result<(), MapError> {
        // At each end one table of level 2 and one of level 3, and a table of level 1 for each 512 GiB that it touches.
        let needed = 5 + ((range.end - range.start) >> 39);
        if needed > self.mapping.translation().0.len() as u64 {
            return Err(MapError::NoTable);
        }
        if range.end > self.end() {
            return Err(MapError::Range(range.start));
        }
        let region = MemoryRegion::new(range.start as usize, range.end as usize);
        self.mapping
            .map_range(
                &region,
                PhysicalAddress(region.start().0),
                kind.attributes(),
                aarch64_paging::paging::Constraints::NO_CONTIGUOUS_HINT,
            )
            .map_err(|_| MapError::Range(range.start))
    }

    /// Maps the registers in `[base, base + len)`.
    pub fn map_device(&mut self, base: u64, len: u64) -> Result<(), MapError> {
        self.map(base..base + len, Kind::Device)
    }

    /// Physical address of the root table: `TTBR0_EL2`.
    pub fn root(&self) -> u64 {
        self.mapping.root_address().0 as u64
    }

    /// Uses this map from here on, on this CPU and on those that start later, with [`SCTLR`].
    ///
    /// # Safety
    /// It maps all that the image uses: text, data, stacks, heap, at least with the permissions they need.
    pub unsafe fn activate(&mut self) {
        self.mapping.mark_active();
        // SAFETY: the caller's promise.
        unsafe { sluice_switch_map(self.root(), SCTLR) };
    }
}

/// Tables set aside for the map; they are identity-mapped heap.
#[derive(Debug)]
struct Tables(Vec<NonNull<PageTable<El23Attributes>>>);

// SAFETY: the tables are owned by the map that holds them, and reached through it only.
unsafe impl Send for Tables {}

impl Translation<El23Attributes> for Tables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El23Attributes>>, PhysicalAddress) {
        let table = self.0.pop().expect("`map` counted the tables");
        (table, PhysicalAddress(table.as_ptr().expose_provenance()))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El23Attributes>>) {
        // SAFETY: the caller's promise: it is ours and unused; a spare table is all zeros.
        unsafe { table.write(PageTable::EMPTY) };
        self.0.push(table);
    }

    fn physical_to_virtual(&self, address: PhysicalAddress) -> NonNull<PageTable<El23Attributes>> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(address.0))
            .expect("a table is not at address 0")
    }
}

unsafe extern "C" {
    fn sluice_switch_map(root: u64, sctlr: u64);
}

// The new map cuts the blocks of the old one into pages, and changing the size of a live translation needs
// break-before-make (Arm ARM D8.17.1): the MMU is off in between. It touches no memory; text was cleaned to the point
// of coherency before it was loaded, so fetching it with the MMU off is sound.
global_asm!(
    ".pushsection .text.sluice_switch_map, \"ax\"",
    ".global sluice_switch_map",
    "sluice_switch_map:",
    "dsb sy",
    "mrs x2, SCTLR_EL2",
    "bic x2, x2, #1",
    "msr SCTLR_EL2, x2",
    "isb",
    "msr TTBR0_EL2, x0",
    "isb",
    "tlbi alle2",
    "dsb nsh",
    "isb",
    "msr SCTLR_EL2, x1",
    "isb",
    "ret",
    ".popsection",
);
