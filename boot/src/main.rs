//! The bootable binary.
#![allow(unsafe_code, reason = "entry, statics and allocator; see Cargo.toml")]

fn main() {}
