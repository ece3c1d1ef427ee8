//! Policy: what a partition is, what it sees, and what happens when it, or its devices, step outside.
//!
//! A walk through it, in the order of a start: [`boot_info`] is all that firmware told us, [`bundle`] and [`config`]
//! what the integrator wants, [`pci`] what is on the buses; [`guest_map`], [`guest_tree`] and [`vdev`] are what a
//! partition sees, [`console`] what we see of it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot_info;
pub mod bundle;
pub mod config;
pub mod console;
pub mod guest_map;
pub mod guest_tree;
pub mod life;
pub mod pci;
pub mod vdev;
