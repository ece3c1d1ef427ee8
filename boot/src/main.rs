//! The bootable binary: from the first instruction to [`kernel::start`].
//!
//! `aarch64.S` and `x86_64.S` are the first instruction, `aarch64` and `x86_64` what follows, step by step; `efi` is what
//! happens before that while UEFI still runs, `loader` what PVH and Multiboot2 say, `root_pointer` where ACPI's tables are.
//! [`boot::fdt`] and [`boot::acpi_tables`] read what firmware says, [`layout`] decides what RAM is for, `heap`, `console` and `panic` are what every Rust program on a bare machine
//! needs.
//! On a host it is an ordinary program that does nothing: its pure modules are tested there.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(unsafe_code, reason = "entry, statics and allocator; see Cargo.toml")]
#![cfg_attr(
    not(target_os = "none"),
    allow(dead_code, reason = "the host only tests it")
)]

extern crate alloc;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod aarch64;
#[cfg(target_os = "none")]
mod backtrace;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
#[cfg_attr(target_arch = "x86_64", path = "deny_vtd.rs")]
mod deny;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod early_map;
#[cfg(target_os = "none")]
mod efi;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod image;
mod layout;
#[cfg(any(target_arch = "x86_64", not(target_os = "none")))]
mod loader;
#[cfg(target_os = "none")]
mod panic;
mod root_pointer;
#[cfg(all(target_os = "none", target_arch = "x86_64", feature = "trial"))]
mod trial;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
mod x86_64;

#[cfg(not(target_os = "none"))]
fn main() {}
