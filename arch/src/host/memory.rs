//! RAM at invented physical addresses, backed by memory of the test process.

use crate::memory::FramePool;
use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where the fake RAM is in the process.
#[derive(Debug)]
pub struct Window {
    base: u64,
    len: u64,
    memory: *mut u8,
    /// Allocations that are still granted.
    grants: AtomicU64,
}

// SAFETY: the pointer is to leaked memory that lives as long as the process, and is accessed atomically only.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    pub(crate) fn pointer(&self, address: u64) -> *mut u8 {
        self.memory.wrapping_add((address - self.base) as usize)
    }

    /// Grants so many allocations from here on, and refuses the others.
    pub fn grant(&self, allocations: u64) {
        self.grants.store(allocations, Ordering::Relaxed);
    }

    /// Whether one more allocation is granted.
    pub(crate) fn permits(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        self.grants
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }

    /// What a fake device reads at the physical address `address`, whoever owns it. Panics outside of RAM.
    #[track_caller]
    pub fn read64(&self, address: u64) -> u64 {
        self.word(address).load(Ordering::Relaxed)
    }

    /// What a fake device writes.
    #[track_caller]
    pub fn write64(&self, address: u64, value: u64) {
        self.word(address).store(value, Ordering::Relaxed);
    }

    #[track_caller]
    fn word(&self, address: u64) -> &AtomicU64 {
        let inside = address >= self.base && address - self.base <= self.len - 8;
        assert!(
            inside && address.is_multiple_of(8),
            "no RAM at {address:#x}"
        );
        // SAFETY: 1. the word is inside of the leaked memory and aligned, just checked.
        //         2. that memory is accessed atomically only.
        unsafe { AtomicU64::from_ptr(self.pointer(address).cast()) }
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
        len,
        memory: memory.as_mut_ptr().cast(),
        grants: AtomicU64::new(u64::MAX),
    })));
    // SAFETY: the window maps exactly this range to memory that was just allocated for it.
    unsafe { pool.add(base..base + len) };
    pool
}
