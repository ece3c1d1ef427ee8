//! The gate where it is SMMUs: their interrupts, what waits for guests behind them, and what they were told.

use super::{Gate, Unit};
use crate::partition::Partition;
use crate::say;
use crate::system::System;
use crate::viommu::PATIENCE_NS;
use arch::gic::Intid;
use core::fmt;
use core::sync::atomic::Ordering;
use iommu::id::IommuIndex;
use iommu::physical::PhysicalIommu;

/// What an SMMU was told, as ` OPCODE=COUNT` each.
struct Sent<'a>(&'a [u64]);

impl fmt::Display for Sent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sent = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        sent.try_for_each(|(opcode, count)| write!(f, " {opcode:#x}={count}"))
    }
}

impl Unit {
    /// What it was told so far.
    pub(super) fn summarize(&self, index: usize) {
        let (counts, sent) = {
            let physical = self.iommu.physical().lock();
            (physical.counters(), physical.sent())
        };
        say!(
            "sent to smmu{index}: {} commands, {} syncs; {} events read; by opcode:{}",
            counts.commands,
            counts.syncs,
            counts.events,
            Sent(&sent)
        );
    }
}

impl Partition {
    /// What the SMMUs that it sees have done.
    pub(super) fn summarize_viommus(&self) {
        for viommu in self.dma().viommus() {
            let (counts, waiting) = viommu.counters();
            say!(
                "{}: its smmu{}: {} commands, {} syncs, {} batches, {} streams set, {} errors; {} events: {} delivered, {} pending, {} dropped, {} interrupts",
                self.name(),
                viommu.iommu.0,
                counts.commands,
                counts.syncs,
                counts.batches,
                counts.streams,
                counts.errors,
                counts.events.recorded + waiting,
                counts.events.delivered,
                waiting,
                counts.events.dropped(),
                counts.interrupts
            );
        }
    }
}

impl Gate {
    /// Serves faults where `intid` is an IOMMU's, `None` where it is none's: whether there are more, for which it is pending
    /// again.
    pub fn interrupt(&self, system: &'static System, intid: Intid) -> Option<bool> {
        let index = self
            .units
            .iter()
            .position(|unit| unit.irqs.iter().any(|(irq, _)| *irq == intid))?;
        let iommu = IommuIndex(index as u8);
        let errors = self.units[index].iommu.physical().lock().serve_errors();
        match errors {
            Ok(errors) if errors.command || errors.stopped => {
                say!("smmu{index}: errors {:#x}", errors.raw);
            }
            Ok(_) => {}
            Err(error) => {
                say!("smmu{index}: {error}");
                self.check(iommu);
            }
        }
        let more = self.serve_faults(system, iommu);
        if more {
            // The interrupt is an edge, and all of its records may be there already: nothing but this brings us back.
            let _ = system.gic.set_pending(intid, arch::cpu::index(), true);
        }
        Some(more)
    }

    /// What has waited too long for a guest ends: a transaction that stalls, a group of page requests. After each
    /// [`watch`](Self::watch), by whoever did it.
    pub fn expire(&self, system: &'static System) {
        let now = arch::clock::now_ns();
        let older = self.next_age_ns.load(Ordering::Relaxed) <= now;
        if older {
            let next = now + PATIENCE_NS;
            self.next_age_ns.store(next, Ordering::Relaxed);
        }
        for partition in &system.partitions {
            partition.expire_smmus(system);
            if older {
                partition.dma().age_requests();
                self.take_records(system, partition);
            }
        }
    }
}
