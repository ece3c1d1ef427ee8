//! Policy: what a partition is, what it sees, and what happens when it, or its devices, step outside.
//!
//! A walk through it, in the order of a start: [`boot_info`] is all that firmware told us, [`bundle`] and [`config`]
//! what the integrator wants, [`pci`] what is on the buses, [`checked`] whether these fit; [`setup`] makes a [`system`] of them (see [`start()`]). From there on each CPU
//! is in [`vcpu`]: [`irq`] and [`mmio`] bring interrupts and accesses to what a partition sees ([`guest_map`],
//! [`guest_tree`] or [`guest_acpi`], [`vdev`]); [`devices`], [`dma`], [`messages`] and [`intx`] are the functions it owns, [`platform`] its
//! devices of other buses; [`life`] and [`partition`] start and stop it, [`policy`] when its devices fault. [`gate`] and [`monitor`] say whose a fault is;
//! [`terminal`] with [`console`] and [`output`], and [`trace`], are what we see of all that.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    all(target_os = "none", target_arch = "x86_64"),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the walk leads through modules that only the other machine's image has yet"
    )
)]

extern crate alloc;

pub mod boot_info;
pub mod budget;
pub mod bundle;
pub mod checked;
#[cfg(test)]
mod composition;
pub mod config;
pub mod console;
pub mod devices;
pub mod dma;
pub mod functions;
pub mod gate;
pub mod gather;
pub mod guest_acpi;
pub mod guest_map;
pub mod guest_ram;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod guest_tree;
pub mod host;
pub mod idle;
pub mod input;
#[cfg(any(target_arch = "x86_64", test))]
pub mod instruction;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod intx;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod irq;
pub mod life;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod load;
pub mod lock;
pub mod machine;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod messages;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod mmio;
pub mod monitor;
#[cfg(any(target_arch = "x86_64", test))]
pub mod msix_table;
#[cfg(any(target_arch = "x86_64", test))]
pub mod nested;
pub mod output;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod partition;
#[cfg(any(target_arch = "x86_64", not(target_os = "none")))]
pub mod pc_boot;
pub mod pci;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod platform;
pub mod policy;
#[cfg(any(target_arch = "x86_64", test))]
pub mod reserved_memory;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod setup;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
mod start;
pub mod symbols;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod system;
pub mod terminal;
pub mod tick;
pub mod trace;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod vcpu;
pub mod vdev;
#[cfg(any(target_arch = "x86_64", test))]
pub mod vectors;
pub mod viommu;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
mod x86_64;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
use x86_64::{irq, messages, partition, system};

#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub use start::{Start, last_events, start};
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub use x86_64::{Start, last_events, start};
