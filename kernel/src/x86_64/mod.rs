//! The start on x86_64: from what firmware says to every CPU in its loop.
#![warn(rustdoc::broken_intra_doc_links)]

mod console;
pub(crate) mod devices;
mod functions;
pub(crate) mod irq;
pub(crate) mod messages;
mod mmio;
pub(crate) mod partition;
mod run;
pub(crate) mod system;
mod units;

use crate::boot_info::BootInfo;
use crate::bundle::Bundle;
use crate::checked;
use crate::config::Machine;
use crate::functions::streams;
use crate::gate::Gate;
use crate::gather::{Gather, Grow};
use crate::host::Host;
use crate::lock::Mutex;
use crate::machine::{self, Ecam};
use crate::monitor::Monitor;
use crate::pci::{Topology, chipset};
use crate::trace::Trace;
use crate::vectors::Vectors;
use crate::{life, say, terminal, tick, trace};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::memory::{FramePool, Frames};
use arch::mmio::MmioPool;
use arch::x86_64::technology::Technology;
use arch::x86_64::{apic, timer};
use core::fmt::{self, Display};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use partition::{Materials, Partition};
use system::{SYSTEM, System};

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

/// Writes what each CPU did last, for a panic: without a lock, and nothing if it is too early.
pub fn last_events(out: &mut dyn fmt::Write) -> fmt::Result {
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
    let technology = Technology::detect().unwrap_or_else(|error| cannot_start(&error));
    let configured = configuration(bundle);
    let wanted = configured.as_ref().map(|(_, machine)| machine.vfs());
    let found = machine::buses(&boot_info, &mut mmio, &wanted.unwrap_or_default());
    let (buses, mut topology) = found.unwrap_or_else(|error| cannot_start(&error));
    topology.name_sources(&boot_info.dmar);
    let ram = configured.as_ref().map(|(bundle, machine)| {
        let ram = checked::check(machine, &boot_info, frames, &topology, &[], bundle);
        ram.unwrap_or_else(|error| cannot_start(&error))
    });
    let devices = (buses, topology);
    let count = ram.as_ref().map_or(0, Vec::len);
    let mut gate = gate(&boot_info, boot_cpu, frames, &mut mmio, devices, count);
    let partitions = match configured.zip(ram) {
        Some(((bundle, machine), ram)) => {
            let materials = Materials {
                info: &boot_info,
                bundle: &bundle,
                technology: &technology,
                frames,
                gate: &gate,
                mmio: Mutex::new(&mut mmio),
            };
            partitions(&materials, machine, ram)
        }
        None => Vec::new(),
    };
    let (mut owned, nobodys) = streams(&gate, |info| {
        let owns = |partition: &Partition| partition.owns(info);
        partitions.iter().position(owns)
    });
    owned.add_all(nobodys);
    gate.streams = owned;
    say!(
        "{} MiB of RAM free, {} KiB of heap in use",
        frames.free_bytes() >> 20,
        heap_in_use() >> 10
    );
    let apic_id = gate.messages.cpus[boot_cpu];
    if let Err(error) = console::listen(&boot_info, &gate, &mut mmio, apic_id) {
        say!("the console has no input: {error}");
    }
    // What would be captured would have to be dropped, where it is already there.
    let system: &'static System = Box::leak(Box::new(System {
        technology,
        gate,
        owners: life::owners(
            boot_info.cpus.len(),
            partitions.iter().map(|partition| &*partition.cpus),
        ),
        partitions,
        frames,
        trace: Trace::new(boot_info.cpus.len()),
        heap_in_use,
        may_end: AtomicBool::new(false),
    }));
    SYSTEM.call_once(|| system);
    start_partitions(system);
    run::run(system, boot_cpu)
}

/// What was packed behind the image, if it is a configuration.
fn configuration(bundle: &'static [u8]) -> Option<(Bundle<'static>, Machine)> {
    if bundle.is_empty() {
        say!("no configuration: nothing to do");
        return None;
    }
    let parsed = Bundle::parse(bundle).and_then(|bundle| Ok((bundle, bundle.config()?)));
    Some(parsed.unwrap_or_else(|error| cannot_start(&error)))
}

/// The gate: every IOMMU on, with every source refused.
fn gate(
    info: &BootInfo,
    boot_cpu: usize,
    frames: &'static FramePool,
    mmio: &mut MmioPool,
    (buses, topology): (Ecam, Topology),
    partitions: usize,
) -> Gate {
    let cpus: Vec<u32> = info.cpus.iter().map(|cpu| cpu.id as u32).gather();
    let host = Arc::new(Host(frames));
    let errata = chipset::errata(&topology, &mut &buses);
    let units = units::start(info, mmio, &host, errata, cpus[boot_cpu]);
    Gate {
        units,
        messages: messages::Shared {
            vectors: Vectors::new(cpus.len()),
            cpus,
        },
        topology,
        buses,
        streams: Vec::new(),
        monitor: Mutex::new(Monitor::new(partitions)),
        next_watch_ns: AtomicU64::new(0),
    }
}

fn cannot_start(why: &dyn Display) -> ! {
    say!("cannot start: {why}");
    off()
}

/// Those whose units can be used, and for which there is enough of everything. Of the others it is said why not.
fn partitions(materials: &Materials<'_>, machine: Machine, ram: Vec<Frames>) -> Vec<Partition> {
    let mut partitions: Vec<Partition> = Vec::new();
    for (config, ram) in machine.partitions.into_iter().zip(ram) {
        let name = config.name.clone();
        match Partition::new(partitions.len(), config, ram, materials) {
            Ok(partition) => {
                say!(
                    "partition {name}: {} MiB, {} vCPUs",
                    partition.config.memory.0 >> 20,
                    partition.cpus.len()
                );
                partitions.push(partition);
            }
            Err(error) => {
                materials.gate.messages.vectors.give_back(partitions.len());
                say!("{name}: cannot start: {error}");
            }
        }
    }
    terminal::name_partitions(partitions.iter().map(Partition::name));
    partitions
}

/// Every partition that starts by itself.
fn start_partitions(system: &'static System) {
    terminal::listen(true);
    terminal::serve();
    tick::by(arch::clock::now_ns());
    for partition in &system.partitions {
        if partition.config.autostart {
            partition.start(system);
        } else {
            say!("{}: is not started by itself", partition.name());
        }
    }
    // There may be none that runs, or none any more.
    system.may_end.store(true, Ordering::Release);
    system.end_if_idle();
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
    timer::taken();
    timer::off();
    let late_ns = arch::clock::now_ns().saturating_sub(at_ns);
    match vector {
        Some(timer::VECTOR) => say!("CPU {cpu} runs; its timer was {late_ns} ns late"),
        _ => say!("CPU {cpu} runs; something else than its timer woke it"),
    }
    RUNNING.fetch_add(1, Ordering::Release);
    run::run(SYSTEM.wait(), cpu)
}
