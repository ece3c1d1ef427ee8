//! The machine under the hypervisor: CPUs, exceptions, MMIO, memory, interrupt controllers.
#![cfg_attr(not(test), no_std)]
#![allow(
    unsafe_code,
    reason = "this crate and `boot` are the only homes of unsafe code; see Cargo.toml"
)]

extern crate alloc;
