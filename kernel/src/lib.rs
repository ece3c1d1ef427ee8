//! Policy: what a partition is, what it sees, and what happens when it, or its devices, step outside.
//!
//! A walk through it, in the order of a start: [`boot_info`] is all that firmware told us, [`bundle`] and [`config`]
//! what the integrator wants, [`pci`] what is on the buses; [`setup`] makes a [`system`] of them. From there on each CPU
//! is in [`vcpu`]: [`irq`] and [`mmio`] bring interrupts and accesses to what a partition sees ([`guest_map`],
//! [`guest_tree`] or [`guest_acpi`], [`vdev`]); [`devices`], [`dma`], [`messages`] and [`intx`] are the functions it owns, [`platform`] its
//! devices of other buses; [`life`] and [`partition`] start and stop it. [`gate`] and [`monitor`] say whose a fault is;
//! [`terminal`] with [`console`] and [`output`], and [`trace`], are what we see of all that.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot_info;
pub mod budget;
pub mod bundle;
#[cfg(test)]
mod composition;
pub mod config;
pub mod console;
pub mod devices;
pub mod dma;
pub mod gate;
pub mod gather;
pub mod guest_acpi;
pub mod guest_map;
pub mod guest_tree;
pub mod input;
#[cfg(any(target_arch = "x86_64", test))]
pub mod instruction;
pub mod intx;
pub mod irq;
pub mod life;
pub mod load;
pub mod lock;
pub mod machine;
pub mod messages;
pub mod mmio;
pub mod monitor;
pub mod output;
pub mod partition;
#[cfg(target_arch = "x86_64")]
pub mod pc_boot;
pub mod pci;
pub mod platform;
pub mod setup;
pub mod symbols;
pub mod system;
pub mod terminal;
pub mod tick;
pub mod trace;
pub mod vcpu;
pub mod vdev;
pub mod viommu;

use alloc::vec::Vec;
use arch::memory::FramePool;
use arch::mmio::MmioPool;
use boot_info::{BootInfo, Devices};
use core::sync::atomic::Ordering;
use spin::Once;
use system::System;

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
    /// Devices on the memory bus that could be given away.
    pub devices: Devices,
    /// How many bytes of the heap are in use.
    pub heap_in_use: fn() -> usize,
    /// Since when all DMA is denied, in nanoseconds of the counter.
    pub denied_ns: u64,
    /// What was packed behind the image; empty if nothing was.
    pub bundle: &'static [u8],
}

/// All that runs, once it is built.
static SYSTEM: Once<System> = Once::new();

/// Writes what each CPU did last, for a panic: without a lock, and nothing if it is too early.
pub fn last_events(out: &mut dyn core::fmt::Write) -> core::fmt::Result {
    const EACH: usize = 8;
    match SYSTEM.get() {
        Some(system) => system.trace.dump(EACH, out),
        None => Ok(()),
    }
}

/// Takes the machine over. What cannot be done is said, and the machine stops.
pub fn start(start: Start) -> ! {
    let Start {
        boot_info,
        boot_cpu,
        frames,
        mut mmio,
        devices,
        heap_in_use,
        denied_ns,
        bundle,
    } = start;
    if let Some(uart) = &boot_info.uart
        && let Ok(registers) = mmio.take(uart.registers.base.0, uart.registers.len)
    {
        terminal::open(arch::pl011::Pl011::new(registers));
    }
    say!("all dma is denied, {denied_ns} ns after the counter started");
    match setup::build(&boot_info, devices, boot_cpu, frames, &mut mmio, bundle) {
        Ok(mut system) => {
            system.heap_in_use = heap_in_use;
            run(SYSTEM.call_once(|| system), &boot_info, boot_cpu)
        }
        Err(error) => {
            say!("cannot start: {error}");
            terminal::flush();
            arch::power::off()
        }
    }
}

/// Starts the other CPUs and every partition that starts by itself, and does this CPU's own part.
fn run(system: &'static System, boot_info: &BootInfo, boot_cpu: usize) -> ! {
    if let Err(error) = system.listen_here(boot_cpu) {
        say!("CPU {boot_cpu}: GIC: {error}");
    }
    system.listen(boot_cpu);
    tick::by(arch::clock::now_ns());
    let mut missing = Vec::new();
    for (index, cpu) in boot_info.cpus.iter().enumerate() {
        if index != boot_cpu
            && let Err(error) = arch::cpu::start(index, cpu.mpidr, enter)
        {
            say!("CPU {index} does not start: {error}");
            missing.push(index);
        }
    }
    for partition in &system.partitions {
        if !partition.config.autostart {
            say!("{}: is not started by itself", partition.name());
        } else if let Some(cpu) = partition.cpus.iter().find(|cpu| missing.contains(cpu)) {
            say!("{}: cannot start without CPU {cpu}", partition.name());
        } else {
            partition.start(system);
        }
    }
    // There may be none that runs, or none any more.
    system.may_end.store(true, Ordering::Release);
    system.end_if_idle();
    vcpu::run(system, boot_cpu)
}

/// Where every other CPU comes out.
fn enter(cpu: usize) -> ! {
    let Some(system) = SYSTEM.get() else {
        arch::cpu::halt()
    };
    if let Err(error) = system
        .gic
        .init_cpu(cpu)
        .and_then(|()| system.listen_here(cpu))
    {
        say!("CPU {cpu}: GIC: {error}");
        arch::cpu::halt()
    }
    vcpu::run(system, cpu)
}
