//! `page_table_multiarch`: the table of the host's own architecture, four levels. It frees no table before all of it goes.

use std::hint::black_box;

use memory_addr::{PhysAddr, VirtAddr};
#[cfg(target_arch = "aarch64")]
use page_table_multiarch::aarch64::A64PageTable as PageTable;
#[cfg(target_arch = "x86_64")]
use page_table_multiarch::x86_64::X64PageTable as PageTable;
use page_table_multiarch::{MappingFlags, PagingHandler};

use super::{PAGE, Peer};

#[repr(align(4096))]
struct Frame([u64; 512]);

struct Frames;

impl PagingHandler for Frames {
    fn alloc_frames(num: usize, _align: usize) -> Option<PhysAddr> {
        // It zeroes them itself.
        (num == 1).then(|| {
            let frame = Box::leak(Box::new(Frame([0; 512])));
            PhysAddr::from(std::ptr::from_mut(frame).expose_provenance())
        })
    }

    /// At the end only, which is the process's.
    fn dealloc_frames(_paddr: PhysAddr, _num: usize) {}

    fn phys_to_virt(paddr: PhysAddr) -> VirtAddr {
        VirtAddr::from(paddr.as_usize())
    }
}

pub struct Table(PageTable<Frames>);

impl Table {
    pub fn new() -> Self {
        Self(PageTable::try_new().expect("memory"))
    }
}

impl Peer for Table {
    #[inline(always)]
    fn map(&mut self, base: u64, leaves: u64) {
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let size = (leaves * PAGE) as usize;
        self.0
            .cursor()
            .map_region(
                black_box(VirtAddr::from(base as usize)),
                |at| PhysAddr::from(at.as_usize()),
                black_box(size),
                black_box(flags),
                true,
            )
            .expect("free");
    }

    #[inline(always)]
    fn unmap(&mut self, base: u64, leaves: u64) {
        let size = (leaves * PAGE) as usize;
        self.0
            .cursor()
            .unmap_region(black_box(VirtAddr::from(base as usize)), black_box(size))
            .expect("mapped");
    }

    fn clean_up(&mut self, _base: u64, _leaves: u64) {}
}
