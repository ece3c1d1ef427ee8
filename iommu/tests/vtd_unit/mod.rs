//! What tests of the objects over the VT-d driver begin with: a unit of the model, its driver, and memory for an address space.

#[path = "../piece/mod.rs"]
mod piece;

use std::sync::Arc;

use iommu::id::IommuIndex;
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, VtdModel};
use iommu::vtd::errata::Errata;
use iommu::vtd::{Setup, Vtd};
pub use piece::Piece;

/// A unit, and the driver of it.
pub fn start(memory: &Memory, index: u8, config: Config) -> (VtdModel, Vtd<Memory, VtdModel>) {
    let vtd = VtdModel::new(config, memory);
    let setup = Setup {
        address_bits: config.output_bits,
        interrupts: None,
        scalable: None,
        errata: Errata::default(),
    };
    let platform = Arc::new(memory.clone());
    let driver = Vtd::start(IommuIndex(index), vtd.clone(), platform, setup);
    (vtd, driver.expect("it starts"))
}
