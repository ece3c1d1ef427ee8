//! Barriers: the host's own, so that tests with threads mean something.

use core::sync::atomic::{Ordering, fence};

/// Earlier stores are visible before any later store.
pub fn dma_write() {
    fence(Ordering::Release);
}

/// Earlier loads are complete before any later load.
pub fn dma_read() {
    fence(Ordering::Acquire);
}

/// Everything earlier is complete before anything later.
pub fn full() {
    fence(Ordering::SeqCst);
}
