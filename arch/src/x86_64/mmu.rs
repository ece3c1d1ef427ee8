//! The hypervisor's own page tables: an identity map of what it uses, nothing both writable and executable.

use super::msr;
use crate::map_error::MapError;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::ops::Range;
use x86_64::structures::paging::mapper::{MapToError, MappedFrame, TranslateResult};
use x86_64::structures::paging::page_table::PageTableFlags as Flags;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PhysFrame, Size1GiB,
    Size2MiB, Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

/// CR0 (AMD64 Architecture Programmer's Manual, volume 2, 3.1.1): PG, WP, NE, ET, PE; caches are on.
pub const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1;

/// CR4 (3.1.3): PAE.
pub const CR4: u64 = 1 << 5;

/// EFER (3.1.7): NXE and LME.
pub const EFER: u64 = 1 << 11 | 1 << 8;

/// What a range holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Instructions: readable and executable.
    Text,
    /// Readable.
    Constant,
    /// Readable and writable.
    Data,
    /// Registers: not cached, whatever MTRRs say (7.8.5: PCD and PWT, entry 3 of the PAT at reset).
    Device,
}

impl Kind {
    fn flags(self) -> Flags {
        let flags = match self {
            Self::Text => Flags::empty(),
            Self::Constant => Flags::NO_EXECUTE,
            Self::Data => Flags::NO_EXECUTE | Flags::WRITABLE,
            Self::Device => {
                Flags::NO_EXECUTE | Flags::WRITABLE | Flags::NO_CACHE | Flags::WRITE_THROUGH
            }
        };
        flags | Flags::PRESENT
    }
}

/// The map.
#[derive(Debug)]
pub struct HostMap {
    mapper: OffsetPageTable<'static>,
    spare: Spare,
    end: u64,
    /// Leaves of 1 GiB are there.
    huge: bool,
}

impl HostMap {
    /// An empty map with `spare` tables set aside, so that mapping never asks the heap.
    pub fn new(spare: usize) -> Self {
        let tables = (0..spare).map(|_| Box::leak(Box::new(PageTable::new())));
        let spare = Spare(tables.collect());
        let root = Box::leak(Box::new(PageTable::new()));
        // SAFETY: memory is where its physical address says, before and after this map is used (`activate`).
        let mapper = unsafe { OffsetPageTable::new(root, VirtAddr::zero()) };
        Self {
            mapper,
            spare,
            end: 1 << physical_bits(),
            huge: has_huge_pages(),
        }
    }

    /// How many tables an identity map of `ranges` takes at most.
    pub fn tables_for(ranges: &[Range<u64>]) -> usize {
        // A table of each level at both ends, which neighbours share, and one for each GiB where there are no leaves of that
        // size.
        let mut ends: Vec<(u32, u64)> = Vec::new();
        let mut inner = 0;
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            for shift in [21, 30, 39] {
                for at in [range.start, range.end - 1] {
                    let table = (shift, at >> shift);
                    if !ends.contains(&table) {
                        ends.push(table);
                    }
                }
            }
            let len = range.end - range.start;
            inner += (len >> 39) + if has_huge_pages() { 0 } else { len >> 30 };
        }
        ends.len() + inner as usize
    }

    /// The first address past the address space, in bytes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Maps `range`, rounded out to pages, to itself. It may grow an active map, never change it; what is mapped so
    /// already is no change.
    pub fn map(&mut self, range: Range<u64>, kind: Kind) -> Result<(), MapError> {
        let mut at = range.start & !(Size4KiB::SIZE - 1);
        let end = range
            .end
            .checked_next_multiple_of(Size4KiB::SIZE)
            .filter(|end| *end <= self.end)
            .ok_or(MapError::Range(range.start))?;
        while at < end {
            let fits = |size: u64| at.is_multiple_of(size) && end - at >= size;
            at += if self.huge && fits(Size1GiB::SIZE) {
                self.leaf::<Size1GiB>(at, kind)?
            } else if fits(Size2MiB::SIZE) {
                self.leaf::<Size2MiB>(at, kind)?
            } else {
                self.leaf::<Size4KiB>(at, kind)?
            };
        }
        Ok(())
    }

    fn leaf<S: PageSize>(&mut self, at: u64, kind: Kind) -> Result<u64, MapError>
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        let page = Page::<S>::containing_address(VirtAddr::new(at));
        let frame = PhysFrame::containing_address(PhysAddr::new(at));
        // SAFETY: an identity map of memory or registers whose owner asked for it; nothing in use changes.
        let mapped = unsafe {
            self.mapper
                .map_to(page, frame, kind.flags(), &mut self.spare)
        };
        match mapped {
            // What was not there before is in no TLB (5.5.2).
            Ok(flush) => flush.ignore(),
            Err(MapToError::FrameAllocationFailed) => return Err(MapError::NoTable),
            Err(_) if self.is_mapped(at, S::SIZE, kind) => {}
            Err(_) => return Err(MapError::Range(at)),
        }
        Ok(S::SIZE)
    }

    /// Whether all of it is mapped to itself for `kind`, by a leaf of this size or a larger one.
    fn is_mapped(&self, at: u64, size: u64, kind: Kind) -> bool {
        match self.mapper.translate(VirtAddr::new(at)) {
            TranslateResult::Mapped {
                frame,
                offset,
                flags,
            } => {
                let len = match frame {
                    MappedFrame::Size4KiB(_) => Size4KiB::SIZE,
                    MappedFrame::Size2MiB(_) => Size2MiB::SIZE,
                    MappedFrame::Size1GiB(_) => Size1GiB::SIZE,
                };
                let used = Flags::ACCESSED | Flags::DIRTY | Flags::HUGE_PAGE;
                frame.start_address().as_u64() + offset == at
                    && len - offset >= size
                    && flags.difference(used) == kind.flags()
            }
            _ => false,
        }
    }

    /// Maps the registers in `[base, base + len)`.
    pub fn map_device(&mut self, base: u64, len: u64) -> Result<(), MapError> {
        self.map(base..base + len, Kind::Device)
    }

    /// Physical address of the root table: CR3.
    pub fn root(&self) -> u64 {
        let root: *const PageTable = self.mapper.level_4_table();
        root.addr() as u64
    }

    /// Uses this map from here on, on this CPU and on those that start later.
    ///
    /// # Safety
    /// It maps all that the image uses: text, data, stacks, heap, at least with the permissions they need.
    pub unsafe fn activate(&mut self) {
        // SAFETY: 1. the caller's promise, and both maps map the same addresses to themselves.
        //         2. EFER.LMA is read-only and stays; WP makes read-only pages so for us.
        unsafe {
            msr::write(msr::EFER, msr::read(msr::EFER) | EFER);
            asm!("mov cr3, {}", in(reg) self.root(), options(nostack, preserves_flags));
            asm!("mov cr0, {}", in(reg) CR0, options(nostack, preserves_flags));
        }
    }
}

/// Tables set aside for the map; they are identity-mapped heap.
#[derive(Debug)]
struct Spare(Vec<&'static mut PageTable>);

// SAFETY: each table is handed out once, aligned and all zeros.
unsafe impl FrameAllocator<Size4KiB> for Spare {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let table: *mut PageTable = self.0.pop()?;
        let address = PhysAddr::new(table.expose_provenance() as u64);
        Some(PhysFrame::containing_address(address))
    }
}

/// CPUID 0x8000_0008, `EAX[7:0]`, where it is there; 52 at most, as an entry holds no more.
fn physical_bits() -> u32 {
    match __cpuid(0x8000_0000).eax >= 0x8000_0008 {
        true => (__cpuid(0x8000_0008).eax & 0xff).clamp(32, 47),
        false => 36,
    }
}

/// CPUID 0x8000_0001, `EDX[26]`: leaves of 1 GiB.
fn has_huge_pages() -> bool {
    __cpuid(0x8000_0001).edx >> 26 & 1 != 0
}
