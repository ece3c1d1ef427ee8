//! AArch64 at EL2. What needs the CPU is there in the image only; the rest is compiled and tested on the host as well.
//!
//! Sections of the Arm ARM are those of DDI 0487 M.a.a. The registers of D24.2 and D24.10 have other numbers in each
//! issue: they are found there by their names.

mod sysreg;

pub mod area;
#[cfg(target_os = "none")]
pub mod barrier;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(any(target_os = "none", test))]
pub(crate) mod controls;
#[cfg(target_os = "none")]
mod copy;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod exceptions;
pub mod exit;
pub mod features;
pub mod gic;
#[cfg(target_os = "none")]
pub mod guest;
pub mod ich;
pub(crate) mod inject;
pub mod its;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(target_os = "none")]
pub mod mmio;
#[cfg(target_os = "none")]
pub mod mmu;
pub mod pl011;
#[cfg(target_os = "none")]
pub mod power;
pub mod stage2;
#[cfg(target_os = "none")]
pub mod timer;
pub mod vcpu;
