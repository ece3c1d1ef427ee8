//! All that runs, as the CPUs share it: fixed once it is built, with a lock in each part that changes.

use crate::gate::Gate;
use crate::irq::{KICK, Served, WORK};
use crate::life::Owner;
use crate::partition::Partition;
use crate::trace::Trace;
use crate::vdev::CpuSet;
use crate::vdev::vgic::{Action, Effects, Physical};
use crate::{input, terminal, tick};
use alloc::vec::Vec;
use arch::gic::{Gic, GicError, Intid, Trigger};
use arch::memory::FramePool;
use core::sync::atomic::{AtomicBool, Ordering};

/// See the module's description.
pub struct System {
    /// The physical interrupt controller.
    pub gic: Gic,
    /// Everything about DMA that partitions share.
    pub gate: Gate,
    /// In the order of the configuration.
    pub partitions: Vec<Partition>,
    /// By physical CPU.
    pub owners: Vec<Option<Owner>>,
    /// By physical CPU, and only for itself: there is something new for its list registers.
    pub attention: Vec<AtomicBool>,
    /// What each CPU did last.
    pub trace: Trace,
    /// RAM that nobody has.
    pub frames: &'static FramePool,
    /// How many bytes of the heap are in use.
    pub heap_in_use: fn() -> usize,
    /// All partitions that start by themselves were started, and nobody is about to switch the machine off.
    pub may_end: AtomicBool,
    /// Interrupt of each CPU's own timer.
    pub timer: (Intid, Trigger),
    /// Interrupt of the EL1 virtual timer, which is the guests'.
    pub guest_timer: Intid,
    /// Maintenance interrupt of the list registers.
    pub maintenance: Option<(Intid, Trigger)>,
    /// Receive interrupt of the console.
    pub uart: Option<(Intid, Trigger)>,
}

impl System {
    /// The vCPU on physical CPU `cpu`.
    pub fn owner(&self, cpu: usize) -> Option<Owner> {
        self.owners.get(cpu).copied().flatten()
    }

    /// Makes the CPUs of these vCPUs look, the caller's own before it enters its guest.
    #[inline]
    pub fn kick(&self, partition: &Partition, vcpus: CpuSet) {
        if vcpus != CpuSet::NONE {
            self.kick_some(partition, vcpus);
        }
    }

    fn kick_some(&self, partition: &Partition, vcpus: CpuSet) {
        for &cpu in vcpus.iter().filter_map(|vcpu| partition.cpus.get(vcpu)) {
            if cpu == arch::cpu::index() {
                self.attend();
            } else {
                self.kick_cpu(cpu);
            }
        }
    }

    /// Makes CPU `cpu` leave the guest that it is in, or is about to enter.
    fn kick_cpu(&self, cpu: usize) {
        // Both numbers are of things that exist.
        let _ = self.gic.send_sgi(cpu, KICK);
    }

    /// Makes CPU `cpu` come out of its guest for the rest of what that asked for, and no more.
    pub fn call_back(&self, cpu: usize) {
        let _ = self.gic.send_sgi(cpu, WORK);
    }

    /// Carries out what a change of `partition`'s virtual GIC means outside.
    #[inline]
    pub fn apply(&self, partition: &Partition, effects: &Effects) {
        if !effects.physical.is_empty() || effects.reload_lpis {
            self.apply_outside(partition, effects);
        }
        self.kick(partition, effects.kick);
    }

    fn apply_outside(&self, partition: &Partition, effects: &Effects) {
        for action in &effects.physical {
            let cpu = |vcpu: usize| partition.cpus[vcpu];
            let own = |physical: &Physical| cpu(physical.cpu.unwrap_or(0));
            // Links name interrupts that exist, so none of these is refused.
            let _ = match action {
                Action::Enable(physical, to) => {
                    let trigger = partition.trigger(physical.intid);
                    self.gic.enable(Intid(physical.intid), trigger, cpu(*to))
                }
                Action::Route(physical, to) => self.gic.route(Intid(physical.intid), cpu(*to)),
                Action::Disable(physical) => self.gic.disable(Intid(physical.intid), own(physical)),
                Action::Deactivate(physical) => {
                    self.gic
                        .set_active(Intid(physical.intid), own(physical), false)
                }
            };
        }
        if effects.reload_lpis {
            partition.reload_messages(self);
        }
    }

    /// Turns on this CPU's own interrupts: those of other CPUs, its timer, and the maintenance of its list registers. Runs on it.
    pub fn listen_here(&self, cpu: usize) -> Result<(), GicError> {
        let own = [self.maintenance, Some(self.timer)];
        let others = [(KICK, Trigger::Edge), (WORK, Trigger::Edge)];
        let mut all = own.into_iter().flatten().chain(others);
        all.try_for_each(|(intid, trigger)| self.gic.enable(intid, trigger, cpu))
    }

    /// Serves a PPI of the hypervisor's own, if it is one.
    pub fn private_interrupt(&'static self, intid: Intid) {
        if self.timer.0 == intid {
            tick::serve(self);
        }
        if self.maintenance.is_some_and(|(own, _)| own == intid) {
            self.attend();
        }
    }

    /// This CPU takes its list registers back before it enters its guest.
    pub fn attend(&self) {
        self.attention[arch::cpu::index()].store(true, Ordering::Relaxed);
    }

    /// Turns on the interrupts of the hypervisor's own devices, at `cpu`.
    pub fn listen(&self, cpu: usize) {
        let own = self
            .gate
            .units
            .iter()
            .flat_map(|unit| unit.irqs.iter().copied());
        for (intid, trigger) in own.chain(self.uart) {
            if let Err(error) = self.gic.enable(intid, trigger, cpu) {
                crate::say!("interrupt {} stays off: {error}", intid.0);
            }
        }
        terminal::listen(true);
        terminal::serve();
    }

    /// Serves an SPI.
    pub fn shared_interrupt(&'static self, intid: Intid) -> Served {
        if self.uart.is_some_and(|(uart, _)| uart == intid) {
            if let Some(again) = input::pump(self) {
                tick::by(again);
            }
            return Served::Done;
        }
        match self.gate.interrupt(self, intid) {
            Some(true) => return Served::Later,
            Some(false) => return Served::Done,
            None => {}
        }
        let mut partitions = self.partitions.iter();
        match partitions.any(|partition| partition.take_spi(self, intid)) {
            true => Served::Guests,
            false => Served::Done,
        }
    }

    /// Serves an LPI.
    pub fn message(&self, intid: Intid) {
        let _taken = self
            .partitions
            .iter()
            .any(|partition| partition.take_message(self, intid));
    }
}
