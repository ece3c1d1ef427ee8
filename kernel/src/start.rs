//! The start on AArch64: from what firmware says to every CPU in [`crate::vcpu`].

use crate::boot_info::{BootInfo, Devices};
use crate::system::System;
use crate::{say, setup, terminal, tick, trace, vcpu};
use alloc::vec::Vec;
use arch::memory::FramePool;
use arch::mmio::MmioPool;
use core::sync::atomic::Ordering;
use spin::Once;

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
pub(crate) static SYSTEM: Once<System> = Once::new();

/// Writes what each CPU did last, for a panic: without a lock, and nothing if it is too early.
pub fn last_events(out: &mut dyn core::fmt::Write) -> core::fmt::Result {
    match SYSTEM.get() {
        Some(system) => system.trace.dump(trace::LAST, out),
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
        terminal::open(arch::Uart::new(registers));
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
            && let Err(error) = arch::cpu::start(index, cpu.id, enter)
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
