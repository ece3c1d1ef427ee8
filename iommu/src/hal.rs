//! All of the machine that this crate sees. The implementors carry the proofs; the traits are safe.

use crate::addr::{Gpa, Hpa};

/// The register page(s) of one device; `offset` is in bytes from its base.
///
/// An access outside the region, or not naturally aligned, is a bug of the caller: implementors panic.
pub trait Mmio: Send {
    /// 32-bit read.
    fn read32(&self, offset: usize) -> u32;
    /// 32-bit write.
    fn write32(&self, offset: usize, value: u32);
    /// 64-bit read, single-copy atomic where the bus allows.
    fn read64(&self, offset: usize) -> u64;
    /// 64-bit write, single-copy atomic where the bus allows.
    fn write64(&self, offset: usize, value: u64);
}

/// One owned, zeroed, physically contiguous allocation, naturally aligned to its power-of-two size, that a device
/// reads or writes. Accesses are single-copy atomic 64-bit words; ordering comes from [`Platform`].
///
/// Dropping it frees the memory: the owner first proves that no device can reach it any more.
pub trait DmaBuffer: Send {
    /// Where the device finds it.
    fn hpa(&self) -> Hpa;
    /// Size in bytes.
    fn len(&self) -> usize;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads the 64-bit word at byte `offset`.
    fn read64(&self, offset: usize) -> u64;
    /// Reads words, one after the other from byte `offset` on.
    fn read64_words(&self, offset: usize, words: &mut [u64]) {
        for (at, word) in (offset..).step_by(8).zip(words) {
            *word = self.read64(at);
        }
    }
    /// Writes the 64-bit word at byte `offset` with one store.
    fn write64(&mut self, offset: usize, value: u64);
    /// Writes pairs of words, one after the other from byte `offset` on.
    fn write64_pairs(&mut self, offset: usize, pairs: &[[u64; 2]]) {
        for (at, [first, second]) in (offset..).step_by(16).zip(pairs) {
            self.write64(at, *first);
            self.write64(at + 8, *second);
        }
    }
    /// Writes `count` words from byte `offset` on, each with one store: `first`, `first + step`, `first + 2 * step`, ..
    /// Implementors that can check the whole run at once save a check a word.
    fn write64_run(&mut self, offset: usize, first: u64, step: u64, count: usize) {
        let mut value = first;
        for index in 0..count {
            self.write64(offset + index * 8, value);
            value = value.wrapping_add(step);
        }
    }
    /// Writes the 64-bit word at byte `offset` and returns the one that was there. Where a device changes words in the
    /// buffer on its own (a table walker that notes writes), implementors make this one atomic exchange.
    fn swap64(&mut self, offset: usize, value: u64) -> u64 {
        let old = self.read64(offset);
        self.write64(offset, value);
        old
    }
    /// Makes `[offset, offset + len)` visible to a device that does not snoop CPU caches.
    fn clean(&self, offset: usize, len: usize);
    /// [`write64`](Self::write64), then [`clean`](Self::clean) of that word. Implementors may check once for both.
    fn write64_clean(&mut self, offset: usize, value: u64) {
        self.write64(offset, value);
        self.clean(offset, 8);
    }
    /// Makes what a device that does not snoop CPU caches wrote to `[offset, offset + len)` visible to our reads.
    /// Implementors whose `clean` leaves lines valid clean and invalidate here. Nobody writes such a range by CPU.
    fn discard(&self, offset: usize, len: usize) {
        self.clean(offset, len);
    }
}

/// What the machine offers beside registers.
pub trait Platform: Send + Sync {
    /// The memory it hands out.
    type Buffer: DmaBuffer;

    /// `len` zeroed bytes, `len` a power of two ≥ 4096, aligned to `len`; `None` if there are none left.
    fn allocate(&self, len: usize) -> Option<Self::Buffer>;
    /// Whether [`release_zeroed`](Self::release_zeroed) keeps what it is told, so that it pays to clear a few words
    /// before giving a buffer back.
    const KEEPS_ZEROED: bool = false;
    /// Takes back a buffer of which every word is zero again: the next [`allocate`](Self::allocate) may hand it out as
    /// it is. To drop it is right as well.
    fn release_zeroed(&self, buffer: Self::Buffer) {
        drop(buffer);
    }
    /// All earlier stores to DMA memory are visible to devices before any later store (to memory or a register).
    fn write_barrier(&self);
    /// All earlier loads (of a register or of memory) complete before any later load.
    fn read_barrier(&self);
    /// Nanoseconds of a monotonic clock, for deadlines.
    fn now_ns(&self) -> u64;
}

/// An access outside what the partition owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestMemoryError(
    /// The first address that is not the guest's.
    pub Gpa,
);

impl core::fmt::Display for GuestMemoryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        crate::text::write(f, "not the guest's memory:", Some(self.0.0))
    }
}

impl core::error::Error for GuestMemoryError {}

/// Bounds-checked access to one partition's memory. The guest may change it at any time: read once, decide on the copy.
pub trait GuestMemory {
    /// Copies `bytes.len()` bytes from `at`.
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError>;
    /// Reads little-endian words from `at`, a multiple of 8.
    fn read_words(&self, at: Gpa, words: &mut [u64]) -> Result<(), GuestMemoryError> {
        for (offset, word) in (0..).step_by(8).zip(words) {
            let mut bytes = [0; 8];
            self.read(Gpa(at.0.wrapping_add(offset)), &mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Ok(())
    }
    /// Copies `bytes` to `at`.
    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError>;
}
