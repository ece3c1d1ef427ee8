//! Memory of the machine for an address space.

use iommu::addr::{Hpa, Span};
use iommu::object::driver::Memory as Shared;

/// Memory in one piece, from a host address on and so many bytes long.
#[derive(Debug)]
pub struct Piece(pub u64, pub u64);

impl Shared for Piece {
    fn size(&self) -> u64 {
        self.1
    }
    fn writable(&self) -> bool {
        true
    }
    fn piece(&self, offset: u64) -> Option<Span<Hpa>> {
        let len = self.1.checked_sub(offset).filter(|len| *len > 0)?;
        Span::<Hpa>::new(Hpa(self.0 + offset), len)
    }
}
