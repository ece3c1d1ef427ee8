//! The register file, with a count of accesses and waits that end.

use core::cell::Cell;

use tock_registers::fields::FieldValue;
use tock_registers::{LocalRegisterCopy, RegisterLongName};

use super::spec::registers::{GCMD, GCMD_FIELDS, GSTS};
use crate::hal::Mmio;
use crate::physical::IommuError;

/// Longest wait for one change of state or one batch of descriptors, in nanoseconds.
pub(super) const DEADLINE_NS: u64 = 1_000_000_000;

/// What an absent device reads as.
const GONE: u32 = u32::MAX;

/// Bits of GSTS that are a state: those that GCMD has to repeat, or it ends them (11.4, GCMD).
const STATE: u32 = GCMD_FIELDS::TE::SET.value
    | GCMD_FIELDS::EAFL::SET.value
    | GCMD_FIELDS::QIE::SET.value
    | GCMD_FIELDS::IRE::SET.value
    | GCMD_FIELDS::CFI::SET.value;

/// A bit of GCMD and GSTS.
pub(super) type Bit = FieldValue<u32, GCMD_FIELDS::Register>;

/// Reads until `done`, at most for [`DEADLINE_NS`].
pub(super) fn wait(
    now_ns: &impl Fn() -> u64,
    mut done: impl FnMut() -> Result<bool, IommuError>,
) -> Result<(), IommuError> {
    let start = now_ns();
    while !done()? {
        if now_ns().saturating_sub(start) > DEADLINE_NS {
            return Err(IommuError::Timeout);
        }
        crate::sync::relax();
    }
    Ok(())
}

/// GSTS.
pub(super) fn status(mmio: &impl Mmio) -> Result<u32, IommuError> {
    match mmio.read32(GSTS) {
        GONE => Err(IommuError::Gone),
        status => Ok(status),
    }
}

/// Has the unit take a pointer or flush its buffers: a command that is over once its bit in GSTS says so.
pub(super) fn command(
    mmio: &impl Mmio,
    now_ns: &impl Fn() -> u64,
    what: Bit,
) -> Result<(), IommuError> {
    let state = status(mmio)? & STATE;
    mmio.write32(GCMD, state | what.value);
    // GSTS.WBFS is set while buffers are flushed, the others once their pointer is taken.
    let flush = what.value == GCMD_FIELDS::WBF::SET.value;
    wait(now_ns, || Ok((status(mmio)? & what.value != 0) != flush))
}

/// Switches one state on or off.
pub(super) fn switch(
    mmio: &impl Mmio,
    now_ns: &impl Fn() -> u64,
    what: Bit,
    on: bool,
) -> Result<(), IommuError> {
    let state = status(mmio)? & STATE;
    if (state & what.value != 0) == on {
        return Ok(());
    }
    mmio.write32(GCMD, state ^ what.value);
    wait(now_ns, || Ok((status(mmio)? & what.value != 0) == on))
}

/// Writes `value` to a 64-bit register, and waits until the hardware has cleared its topmost bit.
pub(super) fn invalidate(
    mmio: &impl Mmio,
    now_ns: &impl Fn() -> u64,
    offset: usize,
    value: u64,
) -> Result<(), IommuError> {
    mmio.write64(offset, value);
    wait(now_ns, || match mmio.read64(offset) {
        u64::MAX => Err(IommuError::Gone),
        seen => Ok(seen >> 63 == 0),
    })
}

/// The registers of one unit. All accesses go through here.
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

    pub(super) fn read<R: RegisterLongName>(&self, offset: usize) -> LocalRegisterCopy<u32, R> {
        LocalRegisterCopy::new(self.read32(offset))
    }

    pub(super) fn read_wide<R: RegisterLongName>(
        &self,
        offset: usize,
    ) -> LocalRegisterCopy<u64, R> {
        LocalRegisterCopy::new(self.read64(offset))
    }

    /// Reads and writes so far.
    pub(super) fn accesses(&self) -> (u64, u64) {
        (self.reads.get(), self.writes.get())
    }
}

impl<M: Mmio> Mmio for Registers<M> {
    fn read32(&self, offset: usize) -> u32 {
        self.reads.set(self.reads.get() + 1);
        self.mmio.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.writes.set(self.writes.get() + 1);
        self.mmio.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.mmio.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.writes.set(self.writes.get() + 1);
        self.mmio.write64(offset, value);
    }
}
