//! The bootable binary.
#![allow(unsafe_code, reason = "entry, statics and allocator; see Cargo.toml")]

extern crate alloc;

#[cfg_attr(
    not(target_os = "none"),
    allow(dead_code, reason = "the host only tests it")
)]
mod fdt;

fn main() {}
