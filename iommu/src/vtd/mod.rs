//! Intel VT-d: the physical driver.
//!
//! [`deny_all`] is the first thing that happens to a unit: a root table without contexts, and translation on, without any
//! memory but a page of zeros. [`Vtd::start`] comes later, probes, allocates, and takes over with tables of its own in
//! which every source is refused. A source passes only between [`PhysicalIommu::attach`] with a second stage and the next
//! one with `Refuse` or `Abort`. If the driver is dropped, or a step of the start fails, the unit refuses everything.
//!
//! In legacy mode a context entry leads to one second stage. In scalable mode it leads to a directory of PASIDs, each with a
//! second stage, a first, or a guest's first on ours; requests without are those of PASID 0. Which mode, follows from the
//! unit ([`Setup::scalable`]). Nothing is ever passed through untranslated (PGTT 100, TT 10).
//!
//! Files: `spec/` has the layouts; `deny` and `start` turn it on and off, `lost` once more; `probe` says what it has; `entry`
//! builds context and PASID entries, `attach` puts them in force; `command` says what can be forgotten, `program` chooses of it,
//! by what `users` knows; `tables`, `pasid_tables`, `invalidation_queue`, `request_queue`, `fault_log`, `event_message` and
//! `interrupt_remap` are the one writer or reader of each; `answers` is about pages that wait,
//! `interrupts` what an owner asks of those; `event` and `interrupt_post` are pure; `backend`, `nested` and `slice` are what the
//! objects want of the driver; `errata` says what chipsets get wrong, `quirks` where the emulator differs.
//!
//! The owner wires one message, by [`Vtd::set_fault_message`]: it calls [`PhysicalIommu::drain_faults`] and
//! [`PhysicalIommu::drain_requests`] until there is no `more`, and [`PhysicalIommu::serve_errors`]. None comes from a unit that
//! lost its state: [`PhysicalIommu::check`] is for a timer.

use alloc::sync::Arc;

use crate::addr::{Hpa, Span};
use crate::fault::Fault;
use crate::hal::{Mmio, Platform};
use crate::id::{DeviceId, IommuIndex};
use crate::physical::{
    Answer, Caps, Drained, HardwareErrors, Incomplete, Invalidation, IommuError, PhysicalIommu,
    PriRequest, StreamConfig, Waiting,
};
use command::{Command, Contexts, Translations};
use event_message::EventMessage;
use fault_log::FaultLog;
use interrupt_remap::InterruptTable;
use invalidation_queue::InvalidationQueue;
use pasid_tables::{PASID_BITS, PasidTables};
use program::Program;
use registers::Registers;
use request_queue::RequestQueue;
use spec::registers::{FSTS, FSTS_FIELDS};
use tables::Tables;
use users::Users;

mod answers;
mod attach;
mod backend;
pub mod command;
mod deny;
mod entry;
pub mod errata;
pub mod event;
mod event_message;
mod fault_log;
pub mod interrupt_post;
pub mod interrupt_remap;
mod interrupts;
mod invalidation_queue;
mod lost;
pub mod nested;
mod pasid_tables;
mod probe;
mod program;
mod quirks;
mod registers;
mod request_queue;
pub mod slice;
pub mod spec;
mod start;
mod tables;
mod users;

pub use answers::decode_request;
pub use backend::HW_INFO;
pub use deny::{ZEROS_BYTES, deny_all, deny_interrupts};
pub use entry::ContextEntry as Entry;
pub use probe::Features;
pub use start::{Setup, StartError};

/// Memory that the unit reads and writes by itself, beside context tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The root table.
    pub root: Span<Hpa>,
    /// The invalidation queue and what it writes.
    pub queue: Option<Span<Hpa>>,
    /// The interrupt remapping table.
    pub interrupts: Option<Span<Hpa>>,
    /// The page request queue.
    pub requests: Option<Span<Hpa>>,
}

/// Exact counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Register reads.
    pub register_reads: u64,
    /// Register writes.
    pub register_writes: u64,
    /// Invalidation descriptors, waits not included.
    pub descriptors: u64,
    /// Wait descriptors; each is one write of the tail.
    pub waits: u64,
    /// Descriptors that the unit refused.
    pub refusals: u64,
    /// Fault records read.
    pub records: u64,
    /// Times that records were lost.
    pub losses: u64,
    /// Page requests read.
    pub requests: u64,
    /// Times that page requests were lost.
    pub request_losses: u64,
    /// Bytes of root and context tables.
    pub table_bytes: u64,
    /// Bytes of the queues.
    pub queue_bytes: u64,
}

/// One unit that refuses or translates.
pub struct Vtd<P: Platform, M: Mmio> {
    index: IommuIndex,
    platform: Arc<P>,
    registers: Registers<M>,
    /// CAP and ECAP.
    capabilities: (u64, u64),
    features: Features,
    scalable: bool,
    tables: Tables<P>,
    pasids: PasidTables<P>,
    users: Users,
    queue: Option<InvalidationQueue<P>>,
    interrupts: Option<InterruptTable<P>>,
    requests: Option<RequestQueue<P>>,
    faults: FaultLog,
    fault_message: EventMessage,
    /// The same message, where there are page requests.
    request_message: EventMessage,
    /// Something that was to be forgotten may not be: everything is, before anything else is done.
    unsure: bool,
    /// It refuses everything, and does not take its state back.
    stopped: bool,
}

impl<P: Platform, M: Mmio> Vtd<P, M> {
    /// What the unit has.
    pub fn features(&self) -> Features {
        self.features
    }

    /// CAP and ECAP.
    pub fn capabilities(&self) -> (u64, u64) {
        self.capabilities
    }

    /// Whether it is in scalable mode.
    pub fn is_scalable(&self) -> bool {
        self.scalable
    }

    /// Where its memory is.
    pub fn layout(&self) -> Layout {
        Layout {
            root: self.tables.root(),
            queue: self.queue.as_ref().map(InvalidationQueue::place),
            interrupts: self.interrupts.as_ref().map(InterruptTable::place),
            requests: self.requests.as_ref().map(RequestQueue::place),
        }
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        let (register_reads, register_writes) = self.registers.accesses();
        let (queue, requests) = (self.queue.as_ref(), self.requests.as_ref());
        Counters {
            register_reads,
            register_writes,
            descriptors: queue.map_or(0, |queue| queue.descriptors),
            waits: queue.map_or(0, |queue| queue.waits),
            refusals: queue.map_or(0, |queue| queue.refusals),
            records: self.faults.records,
            losses: self.faults.losses,
            requests: requests.map_or(0, |queue| queue.records),
            request_losses: requests.map_or(0, |queue| queue.losses),
            table_bytes: self.tables.bytes() + self.pasids.bytes(),
            queue_bytes: queue.map_or(0, InvalidationQueue::bytes)
                + requests.map_or(0, RequestQueue::bytes),
        }
    }

    /// Has the unit say by this message that there are faults, page requests, or errors of its own. Messages of the unit are not remapped
    /// (5.1.6): the address is that of a local APIC. `None`: it says nothing.
    pub fn set_fault_message(&mut self, message: Option<(u64, u32)>) {
        self.fault_message.set(&self.registers, message);
        if self.requests.is_some() {
            self.request_message.set(&self.registers, message);
        }
    }

    /// Sends commands and waits for them.
    fn tell(&mut self, commands: &[Command]) -> Result<(), IommuError> {
        let sent = self.send(&mut commands.iter().copied());
        sent.map_err(|incomplete| incomplete.error)
    }

    fn send(&mut self, commands: &mut dyn Iterator<Item = Command>) -> Result<(), Incomplete> {
        let result = match &mut self.queue {
            Some(queue) => queue.submit(&*self.platform, &self.registers, &self.features, commands),
            None => {
                let now_ns = || self.platform.now_ns();
                let mut result = Ok(());
                for (complete, command) in commands.enumerate() {
                    let done = command.by_registers(&self.registers, &self.features, &now_ns);
                    if let Err(error) = done {
                        result = Err(Incomplete { complete, error });
                        break;
                    }
                }
                result
            }
        };
        self.unsure |= result.is_err();
        result
    }

    /// Forgets everything: what leads somewhere before what was made of it (6.5.3.3).
    fn forget_all(&mut self) -> Result<(), IommuError> {
        let all = [
            Some(Command::Contexts(Contexts::All)),
            self.scalable.then_some(Command::Pasids),
            Some(Command::Translations(Translations::All)),
            self.interrupts.is_some().then_some(Command::Interrupts),
        ];
        let sent = self.send(&mut all.into_iter().flatten());
        sent.map_err(|incomplete| incomplete.error)?;
        self.unsure = false;
        Ok(())
    }

    /// What failed to be forgotten before is forgotten now.
    fn be_sure(&mut self) -> Result<(), IommuError> {
        if self.stopped {
            return Err(IommuError::Stopped);
        }
        if self.unsure {
            self.forget_all()?;
        }
        Ok(())
    }
}

impl<P: Platform + 'static, M: Mmio + 'static> PhysicalIommu for Vtd<P, M> {
    fn caps(&self) -> Caps {
        Caps {
            output_bits: self.features.output_bits,
            device_id_bits: 16,
            cache_tag_bits: self.features.domain_bits,
            nested: self.scalable && self.features.nested,
            coherent: self.features.coherent,
            range_invalidation: self.features.page_mask.is_some(),
            address_space_bits: 0,
            pasid_bits: match self.scalable {
                true => self.features.pasid_bits.min(PASID_BITS),
                false => 0,
            },
            ats: self.scalable && self.features.device_tlbs,
        }
    }

    fn attach(&mut self, device: DeviceId, config: StreamConfig) -> Result<(), IommuError> {
        let put = match self.configure(device, config) {
            // What it was told before, it has again; this not.
            Err(IommuError::Timeout) if self.check_state() == Ok(true) => {
                self.configure(device, config)
            }
            result => result,
        };
        self.unless_deaf(device, put)
    }

    fn invalidate(&mut self, batch: &[Invalidation]) -> Result<(), IommuError> {
        self.submit(batch).map_err(|incomplete| incomplete.error)
    }

    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        let early = |error| Incomplete { complete: 0, error };
        self.be_sure().map_err(early)?;
        let features = self.features;
        // All of it can be said, or none is.
        for entry in batch {
            program::check(entry, &features).map_err(early)?;
        }
        let users = core::mem::take(&mut self.users);
        let mut program = Program::new(batch, &users, &features);
        let sent = self.send(&mut program);
        let sent = sent.map_err(|incomplete| Incomplete {
            complete: Program::new(batch, &users, &features).entries_in(incomplete.complete),
            ..incomplete
        });
        self.users = users;
        sent
    }

    fn attach_pasid(
        &mut self,
        device: DeviceId,
        pasid: u32,
        config: StreamConfig,
    ) -> Result<(), IommuError> {
        let put = match self.configure_pasid(device, pasid, config) {
            Err(IommuError::Timeout) if self.check_state() == Ok(true) => {
                self.configure_pasid(device, pasid, config)
            }
            result => result,
        };
        self.unless_deaf(device, put)
    }

    fn drain_faults(&mut self, faults: &mut [Fault]) -> Drained {
        let index = self.index;
        let decode = |raw| event::decode(index, raw);
        self.faults.drain(&self.registers, decode, faults)
    }

    fn drain_requests(&mut self, requests: &mut [PriRequest]) -> Drained {
        self.take_requests(requests)
    }

    fn respond(
        &mut self,
        device: DeviceId,
        waiting: Waiting,
        answer: Answer,
    ) -> Result<(), IommuError> {
        self.answer(device, waiting, answer)
    }

    fn serve_errors(&mut self) -> Result<HardwareErrors, IommuError> {
        let status = self.registers.read::<FSTS_FIELDS::Register>(FSTS);
        if status.get() == u32::MAX {
            return Err(IommuError::Gone);
        }
        // The queue's own are whoever's who waits for it; here they are acknowledged where nobody does.
        let queue = FSTS_FIELDS::IQE::SET + FSTS_FIELDS::ICE::SET + FSTS_FIELDS::ITE::SET;
        let of_queue = status.get() & queue.value;
        if of_queue != 0 {
            self.registers.write32(FSTS, of_queue);
            self.unsure = true;
        }
        Ok(HardwareErrors {
            records_lost: status.is_set(FSTS_FIELDS::PFO),
            command: of_queue != 0,
            stopped: self.stopped,
            raw: status.get(),
        })
    }

    fn check(&mut self) -> Result<bool, IommuError> {
        self.check_state()
    }
}
