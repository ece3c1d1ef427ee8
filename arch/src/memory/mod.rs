//! Physical memory: who owns which part of RAM.
//!
//! [`FramePool`] holds what is free. [`Frames`] is a part that is owned, zeroed when it was handed out, and goes back
//! when it is dropped. Guests and devices may write to it at any moment, so there are no references into it: only
//! single-copy atomic loads and stores, and copies made of them.

mod pool;
#[cfg(test)]
mod tests;

pub use pool::FramePool;

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The granule of every allocation, in bytes.
pub const FRAME: u64 = 4096;

/// Owned RAM: physically contiguous, zeroed when it was handed out, given back on drop.
///
/// Whoever owns it lets guests and devices at it, and drops it only after they cannot reach it any more. Offsets are in
/// bytes; an access outside, or a word that is not naturally aligned, is the caller's bug and panics.
#[derive(Debug)]
pub struct Frames {
    base: u64,
    len: u64,
    pool: &'static FramePool,
}

macro_rules! words {
    ($read:ident, $write:ident, $word:ty, $atomic:ty) => {
        #[doc = concat!("Loads the `", stringify!($word), "` at `offset`.")]
        #[track_caller]
        pub fn $read(&self, offset: usize) -> $word {
            let pointer = self.pointer(offset, size_of::<$word>()).cast();
            // SAFETY: 1. `pointer` checked that the word is inside of these frames and aligned.
            //         2. They are RAM mapped for writing (`FramePool::add`) and only accessed atomically.
            unsafe { <$atomic>::from_ptr(pointer) }.load(Ordering::Relaxed)
        }

        #[doc = concat!("Stores the `", stringify!($word), "` at `offset`.")]
        #[track_caller]
        pub fn $write(&self, offset: usize, value: $word) {
            let pointer = self.pointer(offset, size_of::<$word>()).cast();
            // SAFETY: as for the load.
            unsafe { <$atomic>::from_ptr(pointer) }.store(value, Ordering::Relaxed);
        }
    };
}

impl Frames {
    /// Physical address of the first byte.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Size in bytes, a multiple of 4 KiB.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: the smallest is one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    words!(read8, write8, u8, AtomicU8);
    words!(read16, write16, u16, AtomicU16);
    words!(read32, write32, u32, AtomicU32);
    words!(read64, write64, u64, AtomicU64);

    /// Stores a `u64` at `offset` and returns the one that was there, in one step for whoever else writes it.
    #[track_caller]
    pub fn swap64(&self, offset: usize, value: u64) -> u64 {
        let pointer = self.pointer(offset, size_of::<u64>()).cast();
        // SAFETY: as for the load.
        unsafe { AtomicU64::from_ptr(pointer) }.swap(value, Ordering::Relaxed)
    }

    /// Stores `count` words from `offset` on, each in one step: `first`, `first + step`, ..
    #[track_caller]
    pub fn write64_run(&self, offset: usize, first: u64, step: u64, count: usize) {
        let pointer = self.words(offset, count);
        let mut value = first;
        for index in 0..count {
            // SAFETY: 1. `words` checked that all words are inside of these frames, and the first is aligned.
            //         2. as for the load.
            unsafe { AtomicU64::from_ptr(pointer.add(index)) }.store(value, Ordering::Relaxed);
            value = value.wrapping_add(step);
        }
    }

    /// Stores pairs of words from `offset` on, each word in one step.
    #[track_caller]
    pub fn write64_pairs(&self, offset: usize, pairs: &[[u64; 2]]) {
        let words = pairs.as_flattened();
        let mut to = self.words(offset, words.len());
        for word in words {
            // SAFETY: as for a run.
            unsafe { AtomicU64::from_ptr(to) }.store(*word, Ordering::Relaxed);
            to = to.wrapping_add(1);
        }
    }

    /// Gives it back with every byte zero, as the caller left it: a single frame is then handed out again as it is.
    pub fn give_back_zeroed(self) {
        if self.len == FRAME && self.pool.keep_zeroed(self.base) {
            core::mem::forget(self);
        }
    }

    /// Copies out, starting at `offset`. Bytes may change meanwhile: each is read once.
    #[track_caller]
    pub fn read_bytes(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        let (head, words) = split(offset, bytes.len());
        let (first, rest) = bytes.split_at_mut(head);
        let (middle, last) = rest.as_chunks_mut::<8>();
        for (index, byte) in first.iter_mut().enumerate() {
            *byte = self.read8(offset + index);
        }
        for (index, word) in middle.iter_mut().enumerate() {
            *word = self.read64(offset + head + index * 8).to_ne_bytes();
        }
        for (index, byte) in last.iter_mut().enumerate() {
            *byte = self.read8(offset + head + words * 8 + index);
        }
    }

    /// Loads words from `offset` on, each in one step.
    #[track_caller]
    #[inline(always)]
    pub fn read_words(&self, offset: usize, words: &mut [u64]) {
        let mut from = self.words(offset, words.len());
        for word in words {
            // SAFETY: 1. `words` checked that all words are inside of these frames, and the first is aligned.
            //         2. as for the load.
            *word = unsafe { AtomicU64::from_ptr(from) }.load(Ordering::Relaxed);
            from = from.wrapping_add(1);
        }
    }

    /// Copies in, starting at `offset`.
    #[track_caller]
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let (head, words) = split(offset, bytes.len());
        let (first, rest) = bytes.split_at(head);
        let (middle, last) = rest.as_chunks::<8>();
        for (index, &byte) in first.iter().enumerate() {
            self.write8(offset + index, byte);
        }
        for (index, &word) in middle.iter().enumerate() {
            self.write64(offset + head + index * 8, u64::from_ne_bytes(word));
        }
        for (index, &byte) in last.iter().enumerate() {
            self.write8(offset + head + words * 8 + index, byte);
        }
    }

    /// Zeroes `len` bytes at `offset`.
    #[track_caller]
    pub fn zero(&self, offset: usize, len: usize) {
        let pointer = self.bytes(offset, len);
        self.pool.window().zero(pointer, len);
    }

    /// Cleans `len` bytes at `offset` to the point of coherency (DC CVAC), for an observer that does not snoop.
    #[track_caller]
    pub fn clean(&self, offset: usize, len: usize) {
        let pointer = self.range(offset, len);
        self.pool.window().clean(pointer, len);
    }

    /// Stores a word and cleans it, as [`write64`](Self::write64) and [`clean`](Self::clean) do.
    #[track_caller]
    pub fn write64_clean(&self, offset: usize, value: u64) {
        let pointer = self.pointer(offset, 8);
        // SAFETY: as for `write64`.
        unsafe { AtomicU64::from_ptr(pointer.cast()) }.store(value, Ordering::Relaxed);
        self.pool.window().clean(pointer, 8);
    }

    /// Cleans and invalidates (DC CIVAC): what such an observer wrote is read from memory next.
    #[track_caller]
    pub fn clean_invalidate(&self, offset: usize, len: usize) {
        let pointer = self.bytes(offset, len);
        self.pool.window().clean_invalidate(pointer, len);
    }

    /// Makes what was written at `offset` visible to every CPU, to instruction fetch and with caches off as well.
    #[track_caller]
    pub fn sync_icache(&self, offset: usize, len: usize) {
        let pointer = self.bytes(offset, len);
        self.pool.window().sync_icache(pointer, len);
    }

    #[track_caller]
    #[inline(always)]
    fn pointer(&self, offset: usize, size: usize) -> *mut u8 {
        if !offset.is_multiple_of(size) {
            misaligned(offset);
        }
        self.range(offset, size)
    }

    /// So many words at `offset`, aligned.
    #[track_caller]
    #[inline(always)]
    fn words(&self, offset: usize, count: usize) -> *mut u64 {
        if !offset.is_multiple_of(8) {
            misaligned(offset);
        }
        self.range(offset, count.saturating_mul(8)).cast()
    }

    /// As `range`, where time is not what counts.
    #[track_caller]
    #[inline(never)]
    fn bytes(&self, offset: usize, len: usize) -> *mut u8 {
        self.range(offset, len)
    }

    #[track_caller]
    #[inline(always)]
    fn range(&self, offset: usize, len: usize) -> *mut u8 {
        self.check(offset, len);
        self.pool.window().pointer(self.base + offset as u64)
    }

    #[track_caller]
    #[inline(always)]
    fn check(&self, offset: usize, len: usize) {
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end as u64 <= self.len);
        if !inside {
            outside(offset, len);
        }
    }
}

#[track_caller]
#[cold]
#[inline(never)]
fn misaligned(offset: usize) -> ! {
    panic!("misaligned access at {offset:#x}")
}

#[track_caller]
#[cold]
#[inline(never)]
fn outside(offset: usize, len: usize) -> ! {
    panic!("access outside of the frames: {offset:#x} + {len:#x}")
}

/// Of `len` bytes at `offset`: bytes before the first aligned word, and the whole words after them.
fn split(offset: usize, len: usize) -> (usize, usize) {
    let head = (offset.next_multiple_of(8) - offset).min(len);
    (head, (len - head) / 8)
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.pool.give_back(self.base..self.base + self.len);
    }
}
