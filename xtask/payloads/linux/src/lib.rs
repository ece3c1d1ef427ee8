//! What programs for Linux guests share: `system` (start, system calls, files, memory) and `vfio` (devices that a
//! program drives, Linux `Documentation/driver-api/vfio.rst`).
//!
//! Each file in `bin/` is one scenario. They are built like the small guests, for the bare machine, and talk to the kernel
//! themselves: so one toolchain does for all. Each prints `check` lines and, last, `result: passed` or `result: failed`.
#![no_std]
#![allow(
    unsafe_code,
    reason = "programs of a guest: system calls, and memory that devices write; nothing of this runs at EL2"
)]

#[cfg(target_os = "none")]
pub mod system;
#[cfg(target_os = "none")]
pub mod vfio;
