//! Exact counts of what a guest's VT-d unit did.

use crate::guest::RequestCounters;

/// Counts since it was made; a reset of the guest does not clear them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Stores of the guest to registers: each is an exit.
    pub stores: u64,
    /// Descriptors consumed, waits included.
    pub descriptors: u64,
    /// Waits.
    pub waits: u64,
    /// Times that the queue stopped.
    pub errors: u64,
    /// Sources put before something else.
    pub attached: u64,
    /// Reads of guests' translation tables, of one entry or of several in a row.
    pub table_reads: u64,
    /// Entries of them that were read.
    pub entries: u64,
    /// Runs of equal work that shadows were told: each is a mapping or a hole.
    pub runs: u64,
    /// Invalidations of first stages that the hardware walks, as it was told of them.
    pub forgotten: u64,
    /// Interrupts of the unit's own.
    pub interrupts: u64,
    /// Accesses that the architecture does not allow, and waits whose status is not in the guest's memory.
    pub misuse: u64,
    /// Messages of devices that were remapped.
    pub remapped: u64,
    /// What became of faults.
    pub faults: FaultCounters,
    /// And of groups of page requests.
    pub requests: RequestCounters,
}

/// `recorded` is the sum of the others. What waits in the slice is not counted yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCounters {
    /// Faults that there were, lost ones included.
    pub recorded: u64,
    /// In a record of the guest's.
    pub delivered: u64,
    /// Found no record free; the guest was told by PFO.
    pub overflowed: u64,
    /// Of entries that say that nobody is told (FPD), or of what the guest had changed by then.
    pub silent: u64,
    /// Lost on the way here; the guest was told by PFO.
    pub lost: u64,
}

impl FaultCounters {
    /// Faults that the guest has no record of.
    pub fn dropped(&self) -> u64 {
        self.overflowed + self.silent + self.lost
    }
}
