//! The part of booting that is no machine's: what firmware says, read into the kernel's terms. The binary uses it on the
//! tree that it was entered with, the host tool on trees in files.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi_tables;
pub mod fdt;
pub mod spans;
