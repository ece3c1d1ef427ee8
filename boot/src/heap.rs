//! The heap: a small one in the image, from which the final map is built, and a larger one in RAM after that.

use crate::image;
use crate::layout::HEAP;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use linked_list_allocator::Heap;
use spin::mutex::SpinMutex;

struct Heaps {
    early: SpinMutex<Heap>,
    main: SpinMutex<Heap>,
}

#[global_allocator]
static HEAPS: Heaps = Heaps {
    early: SpinMutex::new(Heap::empty()),
    main: SpinMutex::new(Heap::empty()),
};

// SAFETY: both heaps hand out memory that is theirs only, and each block goes back to the heap that it is from.
unsafe impl GlobalAlloc for Heaps {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let from_main = self.main.lock().allocate_first_fit(layout);
        from_main
            .or_else(|()| self.early.lock().allocate_first_fit(layout))
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(pointer) else {
            return;
        };
        let heap = if image::early_heap().contains(&(pointer.addr() as u64)) {
            &self.early
        } else {
            &self.main
        };
        // SAFETY: the caller's promise: `alloc` made it with this layout; from this heap, by its address.
        unsafe { heap.lock().deallocate(block, layout) };
    }
}

/// Bytes in use.
pub fn in_use() -> usize {
    let used = |heap: &SpinMutex<Heap>| heap.lock().used();
    used(&HEAPS.main) + used(&HEAPS.early)
}

/// Opens the heap in the image.
///
/// # Safety
/// Called once, before anything is allocated.
pub unsafe fn init_early() {
    let memory = image::early_heap();
    let pointer = core::ptr::with_exposed_provenance_mut(memory.start as usize);
    let len = (memory.end - memory.start) as usize;
    // SAFETY: the linker script sets the memory aside for this; called once.
    unsafe { HEAPS.early.lock().init(pointer, len) };
}

/// Opens the heap of [`HEAP`] bytes at `base`.
///
/// # Safety
/// Called once, with mapped RAM that nothing else uses.
pub unsafe fn init_main(base: u64) {
    let pointer = core::ptr::with_exposed_provenance_mut(base as usize);
    // SAFETY: the caller's promise.
    unsafe { HEAPS.main.lock().init(pointer, HEAP as usize) };
}
