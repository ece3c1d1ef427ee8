//! The start on x86_64: from what firmware says to every CPU in its loop.
#![warn(rustdoc::broken_intra_doc_links)]

mod devices;
mod partition;
mod run;

use crate::boot_info::BootInfo;
use crate::bundle::Bundle;
use crate::{say, terminal};
use alloc::vec::Vec;
use arch::memory::FramePool;
use arch::mmio::MmioPool;
use arch::x86_64::technology::Technology;
use arch::x86_64::{apic, timer};
use core::sync::atomic::{AtomicUsize, Ordering};
use partition::Partition;
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
    /// The console.
    pub uart: arch::Uart,
    /// How many bytes of the heap are in use.
    pub heap_in_use: fn() -> usize,
    /// Since when all DMA is denied, in nanoseconds of the counter; none without a VT-d unit.
    pub denied_ns: Option<u64>,
    /// What was packed behind the image; empty if nothing was.
    pub bundle: &'static [u8],
}

/// How long a CPU that has started may take to say so.
const PATIENCE_NS: u64 = 1_000_000_000;

/// CPUs that run.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// All partitions, once the other CPUs may run theirs.
static PARTITIONS: Once<(Technology, Vec<Partition>)> = Once::new();

/// Partitions that have not ended.
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// Takes the machine over. What cannot be done is said, and the machine stops.
pub fn start(start: Start) -> ! {
    let Start {
        boot_info,
        boot_cpu,
        frames,
        mmio: _,
        uart,
        heap_in_use,
        denied_ns,
        bundle,
    } = start;
    terminal::open(uart);
    match denied_ns {
        Some(denied_ns) => say!("all dma is denied, {denied_ns} ns after the counter started"),
        None => say!("no VT-d unit: devices do DMA where they like"),
    }
    report(&boot_info);
    start_cpus(&boot_info, boot_cpu);
    let technology = match Technology::detect() {
        Ok(technology) => technology,
        Err(error) => {
            say!("cannot start: {error}");
            off()
        }
    };
    let partitions = partitions(bundle, &technology, frames, boot_info.cpus.len());
    say!(
        "{} MiB of RAM free, {} KiB of heap in use",
        frames.free_bytes() >> 20,
        heap_in_use() >> 10
    );
    LEFT.store(partitions.len(), Ordering::Release);
    if partitions.is_empty() {
        off();
    }
    PARTITIONS.call_once(|| (technology, partitions));
    run_partition(boot_cpu)
}

/// Those of the configuration that can be had. Of the others it is said why they cannot.
fn partitions(
    bundle: &'static [u8],
    technology: &Technology,
    frames: &'static FramePool,
    cpus: usize,
) -> Vec<Partition> {
    let mut partitions: Vec<Partition> = Vec::new();
    if bundle.is_empty() {
        say!("no configuration: nothing to do");
        return partitions;
    }
    let parsed = Bundle::parse(bundle).and_then(|bundle| Ok((bundle, bundle.config()?)));
    let (bundle, machine) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            say!("cannot start: {error}");
            return partitions;
        }
    };
    terminal::name_partitions(machine.partitions.iter().map(|p| &*p.name));
    for (index, config) in machine.partitions.into_iter().enumerate() {
        if !config.autostart {
            say!("{}: is not started by itself", config.name);
            continue;
        }
        let free = |cpu| cpu < cpus && partitions.iter().all(|other| other.cpu != cpu);
        let name = config.name.clone();
        match Partition::new(index, config, &bundle, technology, frames, free) {
            Ok(partition) => {
                say!(
                    "partition {name}: {} MiB, CPU {}",
                    partition.config.memory.0 >> 20,
                    partition.cpu
                );
                partitions.push(partition);
            }
            Err(error) => say!("{name}: cannot start: {error}"),
        }
    }
    partitions
}

/// Runs the partition of CPU `cpu`, if there is one, and switches the machine off if it was the last.
fn run_partition(cpu: usize) -> ! {
    let (technology, partitions) = PARTITIONS.wait();
    if let Some(partition) = partitions.iter().find(|partition| partition.cpu == cpu) {
        run::run(partition, technology);
        if LEFT.fetch_sub(1, Ordering::AcqRel) == 1 {
            off();
        }
    }
    arch::cpu::halt()
}

fn off() -> ! {
    terminal::flush();
    arch::power::off()
}

/// What was found.
fn report(info: &BootInfo) {
    for unit in &info.dmar.vtds {
        let others = match unit.include_all {
            true => ", and all others",
            false => "",
        };
        say!(
            "vt-d: segment {}, registers at {:#x}, {} scopes{others}",
            unit.segment,
            unit.registers.base.0,
            unit.scopes.len()
        );
    }
    for host in &info.pcie {
        say!(
            "pcie: {}, buses {}-{} at {:#x}",
            host.path,
            host.buses.0,
            host.buses.1,
            host.ecam.base.0
        );
    }
}

/// Starts the other CPUs, and waits until they have said that they run.
fn start_cpus(info: &BootInfo, boot_cpu: usize) {
    let mut started = 0;
    for (index, cpu) in info.cpus.iter().enumerate() {
        if index == boot_cpu {
            continue;
        }
        match arch::cpu::start(index, cpu.id, enter) {
            Ok(()) => started += 1,
            Err(error) => say!("CPU {index} does not start: {error}"),
        }
    }
    let until = arch::clock::now_ns() + PATIENCE_NS;
    while RUNNING.load(Ordering::Acquire) < started && arch::clock::now_ns() < until {
        core::hint::spin_loop();
    }
}

/// Where every other CPU comes out: it has its timer wake it once, and says so.
fn enter(cpu: usize) -> ! {
    let at_ns = arch::clock::now_ns() + 1_000_000;
    timer::set(at_ns);
    arch::cpu::wait();
    let vector = arch::cpu::take_interrupt();
    apic::end_of_interrupt();
    let late_ns = arch::clock::now_ns().saturating_sub(at_ns);
    match vector {
        Some(timer::VECTOR) => say!("CPU {cpu} runs; its timer was {late_ns} ns late"),
        _ => say!("CPU {cpu} runs; something else than its timer woke it"),
    }
    RUNNING.fetch_add(1, Ordering::Release);
    run_partition(cpu)
}
