//! Ordering between memory that devices share, and registers (Arm ARM B2.6.9).

use core::arch::asm;

/// Earlier stores are visible to devices before any later store, to memory or to a register.
pub fn dma_write() {
    // SAFETY: a barrier; it changes nothing but order.
    unsafe { asm!("dsb st", options(nostack, preserves_flags)) };
}

/// Earlier loads, of a register or of memory, are complete before any later load.
pub fn dma_read() {
    // SAFETY: a barrier; it changes nothing but order.
    unsafe { asm!("dsb ld", options(nostack, preserves_flags)) };
}

/// Everything earlier is complete before anything later.
pub fn full() {
    // SAFETY: a barrier; it changes nothing but order.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}
