//! The RAM of a partition, as its files are put there and its queues are read.

use crate::config::Platform;
use crate::irq;
use crate::machine::Ram;
use alloc::sync::Arc;
use arch::memory::Frames;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu::addr::{Gpa, Hpa, Span};
use iommu::hal::{GuestMemory, GuestMemoryError};
use iommu::object::driver::Memory;

/// Bytes of memory that are cleared or copied in one go, in far less than a millisecond.
const PIECE: usize = 256 << 10;

/// A partition's RAM: one piece of host memory, where [`Platform::ram`] says. Clearing and filling all of it takes long:
/// interrupts are served meanwhile, and no lock may be held.
#[derive(Debug)]
pub struct GuestRam {
    /// Whatever lets devices at it holds it too.
    memory: Arc<Ram>,
    /// Where the guest sees it, lowest first.
    spans: [Span<Gpa>; 2],
    /// Neither we nor a guest has written to it yet, and frames are handed out zeroed.
    untouched: AtomicBool,
}

impl GuestRam {
    /// All of `frames` as RAM of a guest on `platform`. Nobody has written to them.
    pub fn new(frames: Frames, platform: Platform) -> Self {
        Self {
            spans: platform.ram(frames.len()),
            memory: Arc::new(Ram(frames)),
            untouched: AtomicBool::new(true),
        }
    }

    /// The first part of it.
    pub fn guest(&self) -> Span<Gpa> {
        self.spans[0]
    }

    /// All of its parts, one behind the other in the host's memory.
    pub fn spans(&self) -> &[Span<Gpa>] {
        match &self.spans {
            [low, high] if high.len == 0 => core::slice::from_ref(low),
            all => all,
        }
    }

    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.memory.0.len()
    }

    /// Where it is.
    pub fn host(&self) -> Hpa {
        Hpa(self.memory.0.base())
    }

    /// What devices are let at: free only when none can reach it any more.
    pub fn memory(&self) -> Arc<dyn Memory> {
        Arc::clone(&self.memory) as Arc<dyn Memory>
    }

    /// Zeroes all of it, unless it still is.
    pub fn clear(&self) {
        if !self.untouched.swap(false, Ordering::AcqRel) {
            self.in_pieces(|at, len| self.memory.0.zero(at, len));
        }
    }

    /// All of it may be code, and may be read with caches off: makes it visible to both.
    pub fn publish(&self) {
        self.in_pieces(|at, len| self.memory.0.clean_invalidate(at, len));
        // What is clean already; once, as it is for all instruction caches.
        self.memory.0.sync_icache(0, 1);
    }

    fn in_pieces(&self, action: impl Fn(usize, usize)) {
        let end = self.memory.0.len() as usize;
        for at in (0..end).step_by(PIECE) {
            action(at, PIECE.min(end - at));
            irq::serve_meanwhile();
        }
    }

    /// Copies a file in.
    pub fn fill(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let mut to = at.0;
        for piece in bytes.chunks(PIECE) {
            self.write(Gpa(to), piece)?;
            to += piece.len() as u64;
            irq::serve_meanwhile();
        }
        Ok(())
    }

    /// Where the `len` bytes at `at` are, which have to be in one part.
    #[inline(always)]
    fn offset(&self, at: Gpa, len: usize) -> Result<usize, GuestMemoryError> {
        let inside = |span: &Span<Gpa>| {
            let offset = at.0.checked_sub(span.base.0)?;
            let end = offset.checked_add(len as u64)?;
            (end <= span.len).then_some(offset)
        };
        let [low, high] = &self.spans;
        let offset = match inside(low) {
            Some(offset) => offset,
            None => low.len + inside(high).ok_or(GuestMemoryError(at))?,
        };
        Ok(offset as usize)
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let offset = self.offset(at, bytes.len())?;
        self.memory.0.read_bytes(offset, bytes);
        Ok(())
    }

    fn read_words(&self, at: Gpa, words: &mut [u64]) -> Result<(), GuestMemoryError> {
        let offset = self.offset(at, size_of_val(words))?;
        self.memory.0.read_words(offset, words);
        Ok(())
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let offset = self.offset(at, bytes.len())?;
        self.untouched.store(false, Ordering::Relaxed);
        self.memory.0.write_bytes(offset, bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::GuestRam;
    use crate::config::Platform;
    use iommu::addr::{Gpa, Span};
    use iommu::hal::GuestMemory;

    /// As on x86_64 with more than 3 GiB, with pages of it: the second part goes on in the host's memory where the first ends.
    #[test]
    fn two_parts_are_one_piece_of_memory() {
        const HIGH: u64 = 0x1_0000_0000;
        let pool = arch::host::memory::pool(0x10_0000, 0x4000);
        let frames = pool.allocate(0x3000, 0x1000).expect("free");
        let mut ram = GuestRam::new(frames, Platform::X86_64);
        assert_eq!(ram.spans().len(), 1);
        ram.spans = [(0, 0x1000), (HIGH, 0x2000)].map(|(base, len)| Span {
            base: Gpa(base),
            len,
        });
        assert_eq!(ram.spans().len(), 2);
        assert_eq!(ram.size(), 0x3000);
        for (at, inside) in [
            (0, true),
            (0xff8, true),
            (0xffc, false),
            (0x1000, false),
            (HIGH - 8, false),
            (HIGH - 4, false),
            (HIGH, true),
            (HIGH + 0x1ff8, true),
            (HIGH + 0x1ffc, false),
            (u64::MAX - 3, false),
        ] {
            let written = ram.write(Gpa(at), &at.to_le_bytes());
            assert_eq!(written.is_ok(), inside, "{at:#x}");
        }
        // Each where it belongs, and nothing of one over another.
        for at in [0, 0xff8, HIGH, HIGH + 0x1ff8] {
            let mut words = [0];
            ram.read_words(Gpa(at), &mut words).expect("inside");
            assert_eq!(words, [at]);
        }
        let host = |at: u64| ram.memory.0.read64(at as usize);
        assert_eq!(
            [host(0xff8), host(0x1000), host(0x2ff8)],
            [0xff8, HIGH, HIGH + 0x1ff8]
        );
    }
}
