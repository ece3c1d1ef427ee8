//! The memory of the partition: what its tables reach, and what its unit reads.

use iommu::addr::{Gpa, Hpa, Span};
use iommu::hal::{GuestMemory, GuestMemoryError};
use iommu::model::memory::Memory;
use iommu::object::driver::Memory as Shared;

use super::{BYTES, HOST, RAM};

#[derive(Debug)]
pub struct Ram;

impl Shared for Ram {
    fn size(&self) -> u64 {
        BYTES
    }
    fn writable(&self) -> bool {
        true
    }
    fn piece(&self, offset: u64) -> Option<Span<Hpa>> {
        let len = BYTES.checked_sub(offset).filter(|len| *len > 0)?;
        Span::<Hpa>::new(Hpa(HOST + offset), len)
    }
}

/// The guest's memory, as its unit reads it.
#[derive(Clone)]
pub struct GuestRam(pub Memory);

impl GuestRam {
    pub fn load(&self, at: u64) -> u64 {
        self.0.load(at - RAM + HOST)
    }
    pub fn store(&self, at: u64, value: u64) {
        self.0.store(at - RAM + HOST, value);
    }
}

fn inside(at: Gpa, len: usize) -> Result<u64, GuestMemoryError> {
    let end = at.0.checked_add(len as u64);
    match end {
        Some(end) if at.0 >= RAM && end <= RAM + BYTES => Ok(at.0 - RAM + HOST),
        _ => Err(GuestMemoryError(at)),
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let from = inside(at, bytes.len())?;
        for (at, byte) in (from..).zip(bytes) {
            *byte = (self.0.load(at & !7) >> (at % 8 * 8)) as u8;
        }
        Ok(())
    }
    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let to = inside(at, bytes.len())?;
        for (at, byte) in (to..).zip(bytes) {
            let shift = at % 8 * 8;
            let old = self.0.load(at & !7) & !(0xff << shift);
            self.0.store(at & !7, old | u64::from(*byte) << shift);
        }
        Ok(())
    }
}
