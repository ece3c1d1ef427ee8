//! What the small guests share: [`runtime`] (entry, console, clock, power), [`tree`] (the device tree they were given),
//! [`pci`] (the functions they own), `smmu` or `vtd` (the IOMMU before them), [`stage_one`] (what it leads to), [`edu`] (QEMU's DMA
//! test device), [`nvme`] (a disk's administration queue), [`igb`] (a network card that gives pieces of itself away),
//! [`access`] (loads and stores that may be refused), [`cost`] (what instructions take) and [`checks`] (what a scenario
//! prints).
//!
//! Each file in `bin/` is one scenario, linked as flat code for the start of a partition's RAM. It prints `check` lines
//! and, last, `result: passed` or `result: failed`, then powers its partition off.
#![no_std]
#![allow(
    unsafe_code,
    reason = "guests map and touch their own devices; nothing of this is the hypervisor's"
)]

#[cfg(target_os = "none")]
#[cfg_attr(target_arch = "x86_64", path = "access_x86_64.rs")]
pub mod access;
pub mod checks;
#[cfg(target_os = "none")]
#[cfg_attr(target_arch = "x86_64", path = "cost_x86_64.rs")]
pub mod cost;
pub mod tree;

#[cfg(target_os = "none")]
pub mod edu;
#[cfg(target_os = "none")]
pub mod igb;
#[cfg(target_os = "none")]
pub mod nvme;
#[cfg(target_os = "none")]
pub mod pci;
#[cfg(target_os = "none")]
#[cfg_attr(target_arch = "x86_64", path = "runtime_x86_64.rs")]
pub mod runtime;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub mod smmu;
#[cfg(target_os = "none")]
#[cfg_attr(target_arch = "x86_64", path = "stage_one_x86_64.rs")]
pub mod stage_one;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub mod vtd;
