//! Exact counts of what a guest's SMMU did.

use crate::guest::RequestCounters;

/// Counts since it was made; a reset of the guest does not clear them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Commands consumed, CMD_SYNCs included.
    pub commands: u64,
    /// CMD_SYNCs.
    pub syncs: u64,
    /// Submissions to the slice: each is one CMD_SYNC of the hardware.
    pub batches: u64,
    /// Times that the command queue stopped.
    pub errors: u64,
    /// Stream configurations put in force.
    pub streams: u64,
    /// Of these, those that the slice refused or could not do.
    pub stream_failures: u64,
    /// Interrupts, by wire or message.
    pub interrupts: u64,
    /// Accesses that the architecture does not allow: sizes, alignments, registers that are not there, read-only or
    /// guarded.
    pub misuse: u64,
    /// What became of events.
    pub events: EventCounters,
    /// What became of stalls and groups of page requests.
    pub requests: RequestCounters,
}

/// `recorded` is the sum of the others. What waits in the slice is not counted yet: [`waiting`](super::VirtSmmu::waiting).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventCounters {
    /// Events that there were, lost ones included.
    pub recorded: u64,
    /// Written to the guest's queue.
    pub delivered: u64,
    /// Found the guest's queue full; the guest was told by OVFLG.
    pub overflowed: u64,
    /// The guest's queue is not in its memory; the guest was told by EVENTQ_ABT_ERR.
    pub aborted: u64,
    /// Came while the guest had turned its queue off.
    pub disabled: u64,
    /// Lost on the way here, be it by the hardware or by the slice; the guest was told by OVFLG if its queue was on.
    pub lost: u64,
}

impl EventCounters {
    /// Events that the guest did not get.
    pub fn dropped(&self) -> u64 {
        self.overflowed + self.aborted + self.disabled + self.lost
    }
}
