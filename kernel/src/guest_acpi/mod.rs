//! The ACPI tables of partitions: on AArch64 in place of a device tree, on x86_64 all that a partition is told.
//!
//! `aarch64` and `x86_64` are what each gets, [`parts`] what both have; [`tables`] puts tables together, [`table`] and
//! [`aml`] write them.
//!
//! The writers are our own: acpi_tables 0.2.1 has neither GTDT, IORT nor DMAR and costs 22 KiB at EL2 for the others.

#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
mod aarch64;
mod aml;
mod parts;
mod table;
mod tables;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", test))]
pub mod x86_64;

#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub use aarch64::{Built, Places, build};
