//! The physical PCIe buses: enumeration, BAR assignment, capabilities, isolation, reset, virtual functions.
//!
//! [`Topology::enumerate`] walks every host bridge once, at start, and leaves each function silent: no decoding, no bus
//! mastering, no messages. What it found is data: configuration rules read it, [`crate::vdev::vpci`] shows a guest
//! parts of it, and neither asks the device again. Every word a device says here is bounded: it may be hostile.

mod address;
mod assign;
pub mod bar;
mod bridge;
pub mod capability;
#[cfg(any(target_arch = "x86_64", test))]
pub mod chipset;
mod enumerate;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod fixtures;
mod isolation;
mod quiesce;
mod reset;
pub mod spec;
mod sriov;
#[cfg(test)]
mod tests;
mod topology;

pub use address::{Bdf, Function, NotAnAddress};
pub use bar::{Bar, BarFault, BarKind};
pub use capability::{Capabilities, ChainFault, Express, Msi, Msix, PortType};
pub use quiesce::{open_path, quiesce, turn_on_ats};
pub use reset::{Clock, ResetError, ResetKind, reset, reset_kind};
pub use sriov::{Sriov, SriovFault, Wanted, turn_on as turn_on_vfs};
pub use topology::{Buses, FunctionInfo, Header, Identity, Problem, Topology};

/// Configuration space of the machine. Offsets are below 4096 and aligned to the width; a function that is not there
/// reads all ones, and writes to it do nothing.
pub trait ConfigSpace {
    /// Reads 8 bits.
    fn read8(&mut self, function: Function, offset: u16) -> u8;
    /// Reads 16 bits.
    fn read16(&mut self, function: Function, offset: u16) -> u16;
    /// Reads 32 bits.
    fn read32(&mut self, function: Function, offset: u16) -> u32;
    /// Writes 8 bits.
    fn write8(&mut self, function: Function, offset: u16, value: u8);
    /// Writes 16 bits.
    fn write16(&mut self, function: Function, offset: u16, value: u16);
    /// Writes 32 bits.
    fn write32(&mut self, function: Function, offset: u16, value: u32);
}
