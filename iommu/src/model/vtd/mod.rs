//! A VT-d unit in software (Intel VT-d, sections of revision 5.10), in legacy mode, and in scalable mode with PASIDs, first and
//! second stages, and the one on the other.
//!
//! Where the document allows hardware to be late or forgetful, it is: what is invalidated stays in use until the wait
//! descriptor behind it, entries stay in every cache until the one invalidation that must remove them, a change of state
//! takes some reads of its status, writes of devices land when they are drained and not before. Each of these is a switch in [`Config`].
//!
//! With [`Config::strict`] whatever software must not do is a panic that names the section.
//!
//! Devices behind it are verbs: [`VtdModel::dma_read`], [`VtdModel::dma_write`], [`VtdModel::message`], and
//! [`VtdModel::translated`] for what they have cached themselves, [`VtdModel::page_request`] for what is not there. Errors come from the
//! verbs in `inject`.
//!
//! Files: `config` the features and capability registers; `registers` and `control` the register file; `queue` the
//! invalidation queue; `cache` contexts, translations and interrupt entries that are held; `space` what a request goes through;
//! `translate` second stages, `first_stage` the others; `interrupt` interrupt remapping; `fault` the records; `device` and
//! `inject` the verbs; `requests` page requests.
//!
//! Not there: advanced fault logging; requests for execution.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::memory::Memory;
use cache::Cache;
use registers::Registers;

mod cache;
mod config;
mod control;
mod device;
mod fault;
mod first_stage;
mod inject;
mod interrupt;
mod queue;
mod registers;
mod requests;
mod space;
mod translate;

pub use config::{Completion, Config};
pub use device::{Denied, Initiator};
pub use interrupt::{Delivered, Refused};
pub use requests::Asked;

/// Exact counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Walks begun.
    pub walks: u64,
    /// Second-stage entries read.
    pub entries: u64,
    /// First-stage entries read.
    pub first_entries: u64,
    /// Translations found in the IOTLB.
    pub hits: u64,
    /// Context entries read.
    pub contexts: u64,
    /// Descriptors taken from the queue, waits not included.
    pub descriptors: u64,
    /// Waits.
    pub waits: u64,
    /// Faults there should be a record of.
    pub faults: u64,
    /// Records written.
    pub records: u64,
    /// Requests that passed while translation was off.
    pub bypassed: u64,
    /// Times that translation was turned off.
    pub turned_off: u64,
    /// Interrupts that passed while they were not remapped.
    pub unremapped: u64,
}

/// Something that software must not do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Section of the document.
    pub section: &'static str,
    /// What it was.
    pub what: String,
}

struct State {
    config: Config,
    memory: Memory,
    registers: Registers,
    cache: Cache,
    /// Invalidations that were taken and wait for a wait descriptor.
    waiting: Vec<cache::Scope>,
    in_flight: Vec<device::Write>,
    requests: requests::Requests,
    faults: inject::Faults,
    counters: Counters,
    delivered: Vec<Delivered>,
    /// Messages of the unit's own: address and data.
    messages: Vec<(u64, u32)>,
    /// Descriptors taken, as they were.
    log: Vec<[u64; 2]>,
    violations: Vec<Violation>,
    accesses: u64,
}

impl State {
    /// Panics, or notes it where the model is not strict.
    fn violation(&mut self, section: &'static str, what: String) {
        if self.config.strict {
            panic!("VT-d {section}: {what}");
        }
        self.violations.push(Violation { section, what });
    }

    fn read(&self, at: u64) -> Option<u64> {
        self.memory.device_read(at, self.config.coherent).ok()
    }
}

/// One unit. Clones are the same one; it is its own register file.
#[derive(Clone)]
pub struct VtdModel(Arc<Mutex<State>>);

impl VtdModel {
    /// A unit out of reset that reads `memory`.
    pub fn new(config: Config, memory: &Memory) -> Self {
        Self(Arc::new(Mutex::new(State {
            config,
            memory: memory.clone(),
            registers: Registers::new(&config),
            cache: Cache::default(),
            waiting: Vec::new(),
            in_flight: Vec::new(),
            requests: requests::Requests::default(),
            faults: inject::Faults::default(),
            counters: Counters::default(),
            delivered: Vec::new(),
            messages: Vec::new(),
            log: Vec::new(),
            violations: Vec::new(),
            accesses: 0,
        })))
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        self.0.lock().counters
    }

    /// What software did that it must not, where the model is not strict.
    pub fn violations(&self) -> Vec<Violation> {
        self.0.lock().violations.clone()
    }

    /// Register accesses so far.
    pub fn accesses(&self) -> u64 {
        self.0.lock().accesses
    }

    /// Descriptors that were taken since the last call.
    pub fn take_log(&self) -> Vec<[u64; 2]> {
        core::mem::take(&mut self.0.lock().log)
    }

    /// Interrupts that arrived since the last call.
    pub fn take_delivered(&self) -> Vec<Delivered> {
        core::mem::take(&mut self.0.lock().delivered)
    }

    /// Messages of the unit's own since the last call: address and data.
    pub fn take_messages(&self) -> Vec<(u64, u32)> {
        core::mem::take(&mut self.0.lock().messages)
    }

    /// Translations that are held.
    pub fn cached(&self) -> usize {
        let state = self.0.lock();
        state.cache.translations.len() + state.cache.first.len()
    }
}
