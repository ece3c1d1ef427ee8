//! `x86_64`: the table of that architecture, four levels, mapped and unmapped page by page as its interface has it.
#![expect(
    unsafe_code,
    reason = "the interface of this peer is unsafe; none of it is the crate's"
)]

use std::hint::black_box;

use x86_64::structures::paging::mapper::{CleanUp, MappedPageTable, PageTableFrameMapping};
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Mapper, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::{PAGE, Peer};

struct Identity;

// SAFETY: frames are those of `Frames` and the root: tables on the heap, at the address that is their number.
unsafe impl PageTableFrameMapping for Identity {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        std::ptr::with_exposed_provenance_mut(frame.start_address().as_u64() as usize)
    }
}

/// Tables that are kept for the next one who needs one.
struct Frames(Vec<PhysFrame>);

// SAFETY: a frame is new, or was given back by the table that had it.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.pop().or_else(|| {
            let table = std::ptr::from_mut(Box::leak(Box::new(PageTable::new())));
            let at = PhysAddr::new(table.expose_provenance() as u64);
            PhysFrame::from_start_address(at).ok()
        })
    }
}

impl FrameDeallocator<Size4KiB> for Frames {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        self.0.push(frame);
    }
}

pub struct Table {
    table: MappedPageTable<'static, Identity>,
    frames: Frames,
}

impl Table {
    pub fn new() -> Self {
        let root = Box::leak(Box::new(PageTable::new()));
        // SAFETY: it is empty, and tables below it come from `Frames`.
        let table = unsafe { MappedPageTable::new(root, Identity) };
        Self {
            table,
            frames: Frames(Vec::with_capacity(8)),
        }
    }

    /// Bytes of tables that were freed, and wait to be used again.
    pub fn freed(&self) -> u64 {
        self.frames.0.len() as u64 * PAGE
    }
}

fn page(at: u64) -> Page {
    Page::containing_address(VirtAddr::new(at))
}

impl Peer for Table {
    #[inline(always)]
    fn map(&mut self, base: u64, leaves: u64) {
        let flags = black_box(PageTableFlags::PRESENT | PageTableFlags::WRITABLE);
        let (base, leaves) = black_box((base, leaves));
        for at in (0..leaves).map(|leaf| base + leaf * PAGE) {
            let frame = PhysFrame::containing_address(PhysAddr::new(at));
            // SAFETY: no CPU uses this table.
            let mapped = unsafe { self.table.map_to(page(at), frame, flags, &mut self.frames) };
            mapped.expect("free").ignore();
        }
    }

    #[inline(always)]
    fn unmap(&mut self, base: u64, leaves: u64) {
        let (base, leaves) = black_box((base, leaves));
        for at in (0..leaves).map(|leaf| base + leaf * PAGE) {
            self.table.unmap(page(at)).expect("mapped").1.ignore();
        }
    }

    #[inline(always)]
    fn clean_up(&mut self, base: u64, leaves: u64) {
        let range = Page::range_inclusive(page(base), page(base + (leaves - 1) * PAGE));
        // SAFETY: no CPU uses this table, and nobody has its tables twice.
        unsafe {
            self.table.clean_up_addr_range(range, &mut self.frames);
        }
    }
}
