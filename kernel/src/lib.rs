//! Policy: what a partition is, what it sees, and what happens when it, or its devices, step outside.
//!
//! A walk through it, in the order of a start: [`boot_info`] is all that firmware told us.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot_info;
