//! All that runs, as the CPUs share it: fixed once it is built, with a lock in each part that changes.

use super::irq::KICK;
use super::partition::Partition;
use crate::gate::Gate;
use crate::life::Owner;
use crate::vdev::CpuSet;
use crate::{say, terminal};
use alloc::vec::Vec;
use arch::memory::FramePool;
use arch::x86_64::apic;
use arch::x86_64::technology::Technology;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu::id::IommuIndex;
use spin::Once;

/// See the module's description.
pub struct System {
    /// How its CPUs run guests.
    pub technology: Technology,
    /// Everything about DMA that partitions share.
    pub gate: Gate,
    /// Those of the configuration that can be had, in its order.
    pub partitions: Vec<Partition>,
    /// By physical CPU.
    pub owners: Vec<Option<Owner>>,
    /// RAM that nobody has.
    pub frames: &'static FramePool,
    /// How many bytes of the heap are in use.
    pub heap_in_use: fn() -> usize,
    /// All partitions that start by themselves were started, and nobody is about to switch the machine off.
    pub may_end: AtomicBool,
}

/// Once the other CPUs may run their partitions.
pub static SYSTEM: Once<&'static System> = Once::new();

/// What is left of the machine's memory: the same before and after a life of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Bytes that nobody has.
    pub free: u64,
    /// Bytes of the heap in use.
    pub heap: usize,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free, heap } = self;
        write!(f, "{free} bytes free, {heap} bytes of the heap in use")
    }
}

impl System {
    /// The vCPU on physical CPU `cpu`.
    pub fn owner(&self, cpu: usize) -> Option<Owner> {
        self.owners.get(cpu).copied().flatten()
    }

    /// Makes the CPUs of these vCPUs look. The caller's own does so before it enters its guest.
    pub fn kick(&self, partition: &Partition, vcpus: CpuSet) {
        for &cpu in vcpus.iter().filter_map(|vcpu| partition.cpus.get(vcpu)) {
            if cpu != arch::cpu::index() {
                apic::interrupt(self.gate.messages.cpus[cpu], KICK);
            }
        }
    }

    /// What is left of the machine's memory.
    pub fn memory(&self) -> Memory {
        Memory {
            free: self.frames.free_bytes(),
            heap: (self.heap_in_use)(),
        }
    }

    /// Says how every partition is doing.
    pub fn statistics(&self) {
        for partition in &self.partitions {
            let state = if partition.life.is_running() {
                "runs"
            } else {
                "stopped"
            };
            say!(
                "{}: {} restarts, {state}",
                partition.name(),
                partition.restarts.load(Ordering::Relaxed)
            );
        }
        self.gate.summary(&self.partitions);
        say!("{}", self.memory());
    }

    /// Once no partition runs, there is nothing left to do for the machine.
    pub fn end_if_idle(&'static self) {
        let mut partitions = self.partitions.iter();
        if partitions.any(|partition| partition.life.is_running())
            // Two that stop at once both come here.
            || !self.may_end.swap(false, Ordering::AcqRel)
        {
            return;
        }
        for iommu in 0..self.gate.units.len() {
            self.gate.serve_all_faults(self, IommuIndex(iommu as u8));
        }
        self.statistics();
        say!("all partitions have stopped");
        terminal::flush();
        arch::power::off()
    }
}
