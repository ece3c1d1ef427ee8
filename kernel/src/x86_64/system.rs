//! All that runs, as the CPUs share it: fixed once it is built, with a lock in each part that changes.

use super::irq::{KICK, POSTED};
use super::partition::Partition;
use crate::gate::Gate;
use crate::life::Owner;
use crate::trace::Trace;
use crate::vdev::CpuSet;
use alloc::vec::Vec;
use arch::memory::FramePool;
use arch::x86_64::apic;
use arch::x86_64::technology::Technology;
use core::sync::atomic::AtomicBool;
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
    /// What each CPU did last, and how often it did what.
    pub trace: Trace,
    /// How many bytes of the heap are in use.
    pub heap_in_use: fn() -> usize,
    /// All partitions that start by themselves were started, and nobody is about to switch the machine off.
    pub may_end: AtomicBool,
}

/// Once the other CPUs may run their partitions.
pub static SYSTEM: Once<&'static System> = Once::new();

impl System {
    /// The vCPU on physical CPU `cpu`.
    pub fn owner(&self, cpu: usize) -> Option<Owner> {
        self.owners.get(cpu).copied().flatten()
    }

    /// Makes the CPUs of these vCPUs look. The caller's own does so before it enters its guest.
    pub fn kick(&self, partition: &Partition, vcpus: CpuSet) {
        for &cpu in vcpus.iter().filter_map(|vcpu| partition.cpus.get(vcpu)) {
            if cpu != arch::cpu::index() {
                self.kick_cpu(cpu);
            }
        }
    }

    /// Posts interrupts to vCPU `vcpu` of `partition`, 64 vectors a word.
    pub fn post(&self, partition: &Partition, vcpu: usize, vectors: [u64; 4]) {
        if partition.posted[vcpu].post(vectors) {
            apic::interrupt(self.gate.messages.cpus[partition.cpus[vcpu]], POSTED);
        }
    }

    /// Makes CPU `cpu` leave the guest that it is in, or is about to enter.
    fn kick_cpu(&self, cpu: usize) {
        apic::interrupt(self.gate.messages.cpus[cpu], KICK);
    }

    /// The same for the rest of what its guest asked for.
    pub fn call_back(&self, cpu: usize) {
        self.kick_cpu(cpu);
    }
}
