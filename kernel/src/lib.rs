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
pub mod symbols;
pub mod vdev;

use arch::memory::FramePool;
use arch::mmio::MmioPool;
use boot_info::BootInfo;

/// What the kernel starts from: the machine, and all of it that is not in use.
#[derive(Debug)]
pub struct Start {
    /// What firmware says of the machine.
    pub boot_info: BootInfo,
    /// Number of the CPU that boots, in [`BootInfo::cpus`].
    pub boot_cpu: usize,
    /// Free RAM.
    pub frames: &'static FramePool,
    /// Device registers.
    pub mmio: MmioPool,
    /// What was packed behind the image; empty if nothing was.
    pub bundle: &'static [u8],
}

/// Takes the machine over.
pub fn start(start: Start) -> ! {
    let info = &start.boot_info;
    let memory: u64 = info.memory.iter().map(|span| span.len).sum();
    log::info!(
        "{}: {} CPUs, {} MiB of memory, {} MiB free",
        info.model,
        info.cpus.len(),
        memory >> 20,
        start.frames.free_bytes() >> 20
    );
    arch::power::off()
}
