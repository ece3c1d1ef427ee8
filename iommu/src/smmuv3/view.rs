//! What can be asked of an SMMU that runs: what it has, where its memory is, exact counts.

use super::Smmu;
use super::command_queue::OPCODES;
use super::identity::Identity;
use super::probe::Features;
use super::record_queue::RecordQueue;
use super::spec::command::CMD0;
use crate::addr::{Hpa, Span};
use crate::hal::{Mmio, Platform};

/// Memory that the SMMU reads and writes by itself, beside the tables of streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The stream table, or its first level.
    pub stream_table: Span<Hpa>,
    /// There are two levels; the second ones are allocated as streams are attached.
    pub two_level: bool,
    /// Bits of a StreamID that the table covers: all others are refused.
    pub stream_bits: u8,
    /// The command queue.
    pub command_queue: Span<Hpa>,
    /// The event queue.
    pub event_queue: Span<Hpa>,
}

/// Exact counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Register reads.
    pub register_reads: u64,
    /// Register writes.
    pub register_writes: u64,
    /// Commands, CMD_SYNCs not included.
    pub commands: u64,
    /// CMD_SYNCs.
    pub syncs: u64,
    /// Commands that the SMMU refused.
    pub refusals: u64,
    /// Times that the command queue stopped, whatever for.
    pub command_errors: u64,
    /// Event records read.
    pub events: u64,
    /// Times that records were lost.
    pub losses: u64,
    /// Bytes of stream tables.
    pub stream_table_bytes: u64,
    /// Bytes of both queues.
    pub queue_bytes: u64,
}

impl<P: Platform, M: Mmio> Smmu<P, M> {
    /// What the SMMU has.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Its ID registers.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Where its memory is.
    pub fn layout(&self) -> Layout {
        Layout {
            stream_table: self.streams.base(),
            two_level: self.streams.is_two_level(),
            stream_bits: self.streams.stream_bits(),
            command_queue: self.shared.lock().queue.place(),
            event_queue: self.events.place(),
        }
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        let core = self.shared.lock();
        let (register_reads, register_writes) = core.registers.accesses();
        let syncs = core.queue.sent[CMD0::OPCODE::Sync.value as usize];
        Counters {
            register_reads,
            register_writes,
            commands: core.queue.sent.iter().sum::<u64>() - syncs,
            syncs,
            refusals: core.queue.refusals,
            command_errors: core.queue.stops,
            events: self.events.records,
            losses: self.events.losses,
            stream_table_bytes: self.streams.bytes(),
            queue_bytes: core.queue.bytes()
                + self.events.bytes()
                + self.requests.as_ref().map_or(0, RecordQueue::bytes),
        }
    }

    /// Commands since the start, by opcode (§4.1.1).
    pub fn sent(&self) -> [u64; OPCODES] {
        self.shared.lock().queue.sent
    }
}
