//! All that runs, as the CPUs share it: fixed once it is built, with a lock in each part that changes.

use super::partition::Partition;
use crate::gate::Gate;
use crate::{say, terminal};
use alloc::vec::Vec;
use arch::x86_64::technology::Technology;
use core::sync::atomic::{AtomicUsize, Ordering};
use iommu::id::IommuIndex;
use spin::Once;

/// See the module's description.
pub struct System {
    /// How its CPUs run guests.
    pub technology: Technology,
    /// Everything about DMA that partitions share.
    pub gate: Gate,
    /// In the order of the configuration.
    pub partitions: Vec<Partition>,
    /// Those that have not ended.
    pub left: AtomicUsize,
}

/// Once the other CPUs may run their partitions.
pub static SYSTEM: Once<System> = Once::new();

impl System {
    /// One more partition has ended. With the last one there is nothing left to do for the machine.
    pub fn end_one(&'static self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.end();
        }
    }

    /// Says what was recorded, and switches the machine off.
    pub fn end(&'static self) -> ! {
        for iommu in 0..self.gate.units.len() {
            self.gate.serve_all_faults(self, IommuIndex(iommu as u8));
        }
        self.gate.summary(&self.partitions);
        say!("all partitions have stopped");
        terminal::flush();
        arch::power::off()
    }
}
