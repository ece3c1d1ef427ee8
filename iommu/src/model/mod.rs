//! Software hardware, hostile where the documents allow it, to test drivers on.
//!
//! Written from the documents with numbers of its own: nothing comes from a driver's `spec` or from `table::spec`, so
//! that a wrong number there cannot hide here.
//!
//! * [`memory`]: physical memory behind a store buffer and a cache, with a clock. It is the driver's
//!   [`Platform`](crate::hal::Platform) and what devices read.
//! * [`smmu`]: an SMMUv3 (IHI 0070). It is the driver's [`Mmio`](crate::hal::Mmio) and has verbs for devices behind it.
//! * [`vtd`]: a VT-d unit, likewise.
//!
//! Sections are those of issue H.a of IHI 0070, and of revision 5.10 of VT-d.

pub mod memory;
pub mod smmu;
pub mod vtd;
