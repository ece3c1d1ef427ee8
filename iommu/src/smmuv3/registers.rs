//! The register file, with a count of accesses and waits that end.

use core::cell::Cell;

use tock_registers::{LocalRegisterCopy, RegisterLongName};

use crate::hal::{Mmio, Platform};
use crate::physical::IommuError;

/// Longest wait for an acknowledgement or for a command, in nanoseconds.
pub(super) const DEADLINE_NS: u64 = 1_000_000_000;

/// What an absent device reads as.
const GONE: u32 = u32::MAX;

/// The registers of one SMMU. All accesses go through here.
pub(super) struct Registers<M> {
    mmio: M,
    reads: Cell<u64>,
    writes: Cell<u64>,
}

impl<M: Mmio> Registers<M> {
    pub(super) fn new(mmio: M) -> Self {
        Self {
            mmio,
            reads: Cell::new(0),
            writes: Cell::new(0),
        }
    }

    /// The registers themselves, for what comes before all else.
    pub(super) fn mmio(&self) -> &M {
        &self.mmio
    }

    pub(super) fn read<R: RegisterLongName>(&self, offset: usize) -> LocalRegisterCopy<u32, R> {
        self.reads.set(self.reads.get() + 1);
        LocalRegisterCopy::new(self.mmio.read32(offset))
    }

    pub(super) fn write(&self, offset: usize, value: u32) {
        self.writes.set(self.writes.get() + 1);
        self.mmio.write32(offset, value);
    }

    pub(super) fn write64(&self, offset: usize, value: u64) {
        self.writes.set(self.writes.get() + 1);
        self.mmio.write64(offset, value);
    }

    /// Reads and writes so far.
    pub(super) fn accesses(&self) -> (u64, u64) {
        (self.reads.get(), self.writes.get())
    }

    /// Reads `offset` until `done`, at most for [`DEADLINE_NS`].
    pub(super) fn wait(
        &self,
        platform: &impl Platform,
        offset: usize,
        done: impl Fn(u32) -> bool,
    ) -> Result<u32, IommuError> {
        let start = platform.now_ns();
        loop {
            let value = self.read::<()>(offset).get();
            if value == GONE {
                return Err(IommuError::Gone);
            }
            if done(value) {
                return Ok(value);
            }
            if platform.now_ns().saturating_sub(start) > DEADLINE_NS {
                return Err(IommuError::Timeout);
            }
            core::hint::spin_loop();
        }
    }

    /// Writes a control register and waits until its acknowledgement says the same.
    pub(super) fn write_acknowledged(
        &self,
        platform: &impl Platform,
        offset: usize,
        acknowledgement: usize,
        value: u32,
    ) -> Result<(), IommuError> {
        self.write(offset, value);
        self.wait(platform, acknowledgement, |seen| seen == value)
            .map(drop)
    }
}
