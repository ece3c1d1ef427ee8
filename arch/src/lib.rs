//! The machine under the hypervisor: CPUs, exceptions, MMIO, memory, interrupt controllers.
//!
//! Everything is named at the crate root and means the same on every machine: [`mmio`] and [`memory`] own the physical
//! address space, `cpu`, `vcpu`, `stage2`, `clock`, `barrier` and `power` are the CPU. They come from `aarch64` in the
//! image, and from `host`, a fake, anywhere else, so that the crates above run under `cargo test`. What is pure in
//! `aarch64` (decoders, drivers over [`mmio::MmioRegion`]) is compiled and tested on the host as well.
#![cfg_attr(target_os = "none", no_std)]
#![allow(
    unsafe_code,
    reason = "this crate and `boot` are the only homes of unsafe code; see Cargo.toml"
)]

extern crate alloc;

pub mod aarch64;
#[cfg(not(target_os = "none"))]
pub mod host;
pub mod memory;
pub mod mmio;
mod text;
#[cfg(any(target_arch = "x86_64", not(target_os = "none")))]
pub mod x86_64;

#[cfg(target_os = "none")]
use aarch64 as machine;
#[cfg(not(target_os = "none"))]
use host as machine;

pub use aarch64::{gic, ich, its, pl011, vcpu};
pub use machine::{barrier, clock, cpu, power, stage2, timer};
