//! Messages of functions: on VT-d they are no DMA, but pass interrupt remapping.

use crate::gate::Gate;
use alloc::vec::Vec;
use iommu::id::IommuIndex;
use iommu::object::driver::{ReservedKind, ReservedRegion};
use iommu::object::{Error, Ioas};

/// What the messages of all functions share.
pub struct Shared {
    /// Local APIC ID of each CPU.
    pub cpus: Vec<u32>,
}

/// One function's messages.
pub struct Source;

/// A function's entries in the table of its unit. They go with this.
pub struct Mapped;

/// Writes to these are messages, whatever a table says (VT-d, 3.14).
pub const RESERVED: &[ReservedRegion] = &[ReservedRegion {
    first: 0xfee0_0000,
    last: 0xfeef_ffff,
    kind: ReservedKind::Msi,
}];

/// Lets messages out of `space`: they do not pass it.
///
/// # Errors
/// None here.
pub const fn let_through(_: &Gate, _: &Ioas) -> Result<(), Error> {
    Ok(())
}

/// Whether a device cannot send another's messages: its unit knows who may use which entry.
pub fn are_isolated(gate: &Gate, iommu: IommuIndex) -> bool {
    let physical = gate.unit(iommu).iommu.physical().lock();
    physical.layout().interrupts.is_some()
}
