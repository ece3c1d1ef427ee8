//! An SMMUv3 in software (IHI 0070).
//!
//! Where the document allows hardware to be late, early or forgetful, it is: invalidations take effect at the next
//! CMD_SYNC and not before, entries stay in every cache until the one command that must remove them, entries that are not
//! valid are cached too, what was invalidated is fetched again at once, writes of devices land late. Each of these is a
//! switch in [`Config`].
//!
//! With [`Config::strict`] whatever software must not do is a panic that names the section.
//!
//! Devices behind it are verbs: [`SmmuModel::dma_read`], [`SmmuModel::dma_write`] and others in `device`. Errors come from
//! the verbs in `inject`.
//!
//! Files: `config` the features and ID registers; `registers` and `control` the register file; `strict` what software must not do;
//! `lookup` stream table, CD table and their caches; `ste`, `cd` and `command` decode and are pure; `walk` and `tlb` the
//! tables; `translate` puts these together; `command_queue` and `event` are the queues.
//!
//! Not there: Secure and Realm state, AArch32 tables, 52-bit addresses, MPAM, memory types and shareability, the
//! address translation operations (ATOS), enhanced command queues, DPT.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use spin::{Mutex, MutexGuard};

use super::memory::Memory;
use device::Stall;
use lookup::{Cache, Configuration};
use registers::Registers;
use strict::Images;
use tlb::Tlb;

mod ats;
mod cd;
mod command;
mod command_queue;
mod config;
mod control;
mod device;
mod event;
mod inject;
mod lookup;
mod registers;
mod ste;
mod strict;
mod tlb;
mod translate;
mod walk;

pub use config::{Completion, Config, Pace, StallModel};
pub use device::Initiator;
pub use event::{Interrupt, Interrupts};
pub use strict::Violation;
pub use translate::Denied;

/// Exact counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Walks begun, of either stage.
    pub walks: u64,
    /// Descriptors read by walks.
    pub descriptors: u64,
    /// Translations found in a TLB.
    pub hits: u64,
    /// STEs and CDs read.
    pub configurations: u64,
    /// Commands consumed, CMD_SYNCs not included.
    pub commands: u64,
    /// CMD_SYNCs.
    pub syncs: u64,
    /// Events there should be a record of.
    pub events: u64,
    /// Records written.
    pub events_written: u64,
    /// Events that found the queue full or its memory gone.
    pub events_lost: u64,
    /// Events while the queue was disabled.
    pub events_dropped: u64,
    /// Transactions that passed while translation was off.
    pub bypassed: u64,
    /// Images of STEs that were checked.
    pub images: u64,
}

struct State {
    config: Config,
    memory: Memory,
    registers: Registers,
    cache: Cache,
    tlb: Tlb,
    /// Invalidations that were consumed and wait for a CMD_SYNC.
    waiting: Vec<command_queue::Waiting>,
    /// Configuration invalidations since the last CMD_SYNC.
    settled: Vec<Configuration>,
    /// Level 2 stream tables that were seen: address to level 1 index.
    second: BTreeMap<u64, u32>,
    images: BTreeMap<u64, Images>,
    in_flight: Vec<device::Write>,
    stalls: Vec<Stall>,
    waiting_stalls: VecDeque<event::Event>,
    resumed: Vec<(u16, Stall, bool)>,
    responses: Vec<(u32, u16, u8)>,
    translated: BTreeMap<(u32, Option<u32>, u64), u64>,
    /// Commands consumed, as they were.
    log: Vec<[u64; 2]>,
    /// Commands refused, with the rule.
    refused: Vec<([u64; 2], &'static str)>,
    faults: inject::Faults,
    interrupts: Interrupts,
    counters: Counters,
    violations: Vec<Violation>,
    reads: u64,
    accesses: u64,
}

/// One SMMU. Clones are the same one; it is its own register file.
#[derive(Clone)]
pub struct SmmuModel(Arc<Mutex<State>>);

impl SmmuModel {
    /// An SMMU out of reset that reads `memory`.
    pub fn new(config: Config, memory: &Memory) -> Self {
        let state = Arc::new(Mutex::new(State {
            config,
            memory: memory.clone(),
            registers: Registers::reset(),
            cache: Cache::default(),
            tlb: Tlb::default(),
            waiting: Vec::new(),
            settled: Vec::new(),
            second: BTreeMap::new(),
            images: BTreeMap::new(),
            in_flight: Vec::new(),
            stalls: Vec::new(),
            waiting_stalls: VecDeque::new(),
            resumed: Vec::new(),
            responses: Vec::new(),
            translated: BTreeMap::new(),
            log: Vec::new(),
            refused: Vec::new(),
            faults: inject::Faults::default(),
            interrupts: Interrupts::default(),
            counters: Counters::default(),
            violations: Vec::new(),
            reads: 0,
            accesses: 0,
        }));
        let weak: Weak<Mutex<State>> = Arc::downgrade(&state);
        memory.observe(weak);
        Self(state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Interrupts so far.
    pub fn interrupts(&self) -> Interrupts {
        self.state().interrupts
    }

    /// What software did that it must not, where the model is not strict; taken out.
    pub fn violations(&self) -> Vec<Violation> {
        core::mem::take(&mut self.state().violations)
    }

    /// Commands that were consumed, CMD_SYNCs included; taken out.
    pub fn commands(&self) -> Vec<[u64; 2]> {
        core::mem::take(&mut self.state().log)
    }

    /// Commands that were refused on their own merits, with the rule; taken out.
    pub fn refused(&self) -> Vec<([u64; 2], &'static str)> {
        core::mem::take(&mut self.state().refused)
    }

    /// Register accesses so far.
    pub fn accesses(&self) -> u64 {
        self.state().accesses
    }

    /// Entries in the TLBs.
    pub fn tlb_entries(&self) -> usize {
        self.state().tlb.len()
    }

    /// Processes at most one command. Returns whether there was one.
    pub fn step(&self) -> bool {
        self.state().consume()
    }

    /// Changes how fast commands are processed.
    pub fn set_pace(&self, pace: Pace) {
        self.state().config.pace = pace;
    }
}
