//! What is left once lives of partitions are over: the machine's memory, and after the last of them nothing to do.

use crate::system::System;
use crate::{say, terminal};
use core::fmt;
use core::sync::atomic::Ordering;
use iommu::id::IommuIndex;

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
            let state = match partition.life.is_running() {
                true => "runs",
                false => "stopped",
            };
            let (name, restarts) = (partition.name(), partition.restarts());
            self.trace.say_state(
                name,
                &partition.cpus,
                format_args!("{name}: {restarts} restarts, {state}"),
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
