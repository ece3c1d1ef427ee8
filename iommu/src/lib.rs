//! IOMMU drivers, page tables and the words they share, for any hypervisor.
//!
//! No CPU, no global, no `unsafe`: all of the machine that this crate sees is behind the traits of
//! [`hal`]. A walk through it:
//!
//! 1. [`addr`] and [`id`]: the types that keep host, guest and DMA addresses, and physical and
//!    virtual device identities, apart.
//! 2. [`hal`]: what the caller lends us: registers, DMA memory, barriers, a clock.
//! 3. [`physical`]: the one seam to a physical IOMMU, and the values that cross it.
//! 4. [`fault`]: one decoded event, before anybody decides whose it is.
//! 5. [`table`]: stage 2 tables, for CPUs and IOMMUs alike.
//! 6. [`smmuv3`]: the driver of a physical SMMUv3.
//! 7. [`vtd`]: the driver of a physical Intel VT-d unit.
//! 8. [`object`]: IOMMUFD's objects, what a hypervisor gives its partitions.
//! 9. [`guest`]: the IOMMUs that guests see, on top of slices.
//! 10. [`uapi`]: the objects by IOMMUFD's requests, as bytes.
//!
//! [`sync`] is the one lock that all of these use.
//!
//! Feature `model` adds `model`, software hardware to test drivers on.
//!
#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, loom))]
extern crate std;

pub mod addr;
pub mod fault;
pub mod guest;
pub mod hal;
mod held;
pub mod id;
#[cfg(feature = "model")]
pub mod model;
pub mod object;
pub mod physical;
pub mod smmuv3;
pub mod sync;
pub mod table;
mod text;
pub mod uapi;
pub mod vtd;
