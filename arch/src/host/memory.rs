//! RAM at invented physical addresses, backed by memory of the test process.

use crate::memory::FramePool;
use alloc::boxed::Box;
use alloc::vec;

/// Where the fake RAM is in the process.
#[derive(Debug)]
pub struct Window {
    base: u64,
    memory: *mut u8,
}

// SAFETY: the pointer is to leaked memory that lives as long as the process, and is accessed atomically only.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    pub(crate) fn pointer(&self, address: u64) -> *mut u8 {
        self.memory.wrapping_add((address - self.base) as usize)
    }

    pub(crate) fn zero(&self, pointer: *mut u8, len: usize) {
        // SAFETY: `Frames` checked that the range is its own, and it has no references into it.
        unsafe { pointer.write_bytes(0, len) };
    }

    pub(crate) fn clean(&self, _pointer: *mut u8, _len: usize) {}

    pub(crate) fn clean_invalidate(&self, _pointer: *mut u8, _len: usize) {}

    pub(crate) fn sync_icache(&self, _pointer: *mut u8, _len: usize) {}
}

/// A pool of `len` bytes of RAM that starts at the physical address `base`, both multiples of 4 KiB.
pub fn pool(base: u64, len: u64) -> &'static FramePool {
    let memory: &'static mut [u64] = Box::leak(vec![0; len as usize / 8].into_boxed_slice());
    let pool: &'static FramePool = Box::leak(Box::new(FramePool::new(Window {
        base,
        memory: memory.as_mut_ptr().cast(),
    })));
    // SAFETY: the window maps exactly this range to memory that was just allocated for it.
    unsafe { pool.add(base..base + len) };
    pool
}
