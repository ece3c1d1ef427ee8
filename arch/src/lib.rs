//! The machine under the hypervisor: CPUs, exceptions, MMIO, memory, interrupt controllers.
//!
//! Everything is named at the crate root and means the same on every machine: [`mmio`] and [`memory`] own the physical
//! address space, `area`, `cpu`, `vcpu`, `stage2`, `clock`, `barrier` and `power` are the CPU. They come from `aarch64` or
//! `x86_64` in the image, and from `host`, a fake, anywhere else, so that the crates above run under `cargo test`. What is
//! pure in the machines' modules (decoders, drivers over [`mmio::MmioRegion`]) is compiled and tested on the host as well.
#![cfg_attr(target_os = "none", no_std)]
#![allow(
    unsafe_code,
    reason = "this crate and `boot` are the only homes of unsafe code; see Cargo.toml"
)]

extern crate alloc;

#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod aarch64;
#[cfg(not(target_os = "none"))]
pub mod host;
mod map_error;
pub mod memory;
pub mod mmio;
#[cfg(any(target_os = "none", test))]
mod rate;
mod text;
#[cfg(any(target_arch = "x86_64", not(target_os = "none")))]
pub mod x86_64;

#[cfg(all(target_os = "none", target_arch = "x86_64"))]
use self::x86_64 as machine;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
use aarch64 as machine;
#[cfg(not(target_os = "none"))]
use host as machine;

#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub use self::x86_64::uart16550::Uart16550 as Uart;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub use aarch64::{gic, ich, its, pl011, pl011::Pl011 as Uart, vcpu};
#[cfg(target_os = "none")]
pub use machine::exceptions;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub use machine::stage2;
pub use machine::{area, barrier, clock, cpu, power, timer};
pub use map_error::MapError;
