//! The machine, to drivers and tables that `iommu` has: memory, barriers, a clock.

use arch::memory::{FramePool, Frames};
use iommu::addr::Hpa;
use iommu::hal::{DmaBuffer, Platform};

/// Memory of tables and queues.
#[derive(Debug)]
pub struct Buffer(Frames);

impl DmaBuffer for Buffer {
    fn hpa(&self) -> Hpa {
        Hpa(self.0.base())
    }

    fn len(&self) -> usize {
        self.0.len() as usize
    }

    fn read64(&self, offset: usize) -> u64 {
        self.0.read64(offset)
    }

    fn read64_words(&self, offset: usize, words: &mut [u64]) {
        self.0.read_words(offset, words);
    }

    fn write64(&mut self, offset: usize, value: u64) {
        self.0.write64(offset, value);
    }

    fn write64_pairs(&mut self, offset: usize, pairs: &[[u64; 2]]) {
        self.0.write64_pairs(offset, pairs);
    }

    fn write64_run(&mut self, offset: usize, first: u64, step: u64, count: usize) {
        self.0.write64_run(offset, first, step, count);
    }

    fn swap64(&mut self, offset: usize, value: u64) -> u64 {
        self.0.swap64(offset, value)
    }

    fn clean(&self, offset: usize, len: usize) {
        self.0.clean(offset, len);
    }

    fn write64_clean(&mut self, offset: usize, value: u64) {
        self.0.write64_clean(offset, value);
    }

    fn discard(&self, offset: usize, len: usize) {
        self.0.clean_invalidate(offset, len);
    }
}

/// The machine, to drivers and tables.
#[derive(Clone, Copy, Debug)]
pub struct Host(pub &'static FramePool);

impl Platform for Host {
    type Buffer = Buffer;

    fn allocate(&self, len: usize) -> Option<Buffer> {
        self.0.allocate(len as u64, len as u64).map(Buffer)
    }

    const KEEPS_ZEROED: bool = true;

    fn release_zeroed(&self, buffer: Buffer) {
        buffer.0.give_back_zeroed();
    }

    fn write_barrier(&self) {
        arch::barrier::dma_write();
    }

    fn read_barrier(&self) {
        arch::barrier::dma_read();
    }

    fn now_ns(&self) -> u64 {
        arch::clock::now_ns()
    }
}
