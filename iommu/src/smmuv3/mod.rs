//! Arm SMMUv3 (IHI 0070): the physical driver.
//!
//! [`deny_all`] is the first thing that happens to an SMMU: three register accesses, no memory. [`Smmu::start`] comes
//! later, probes, allocates, and turns translation on with a stream table in which every stream is refused. A stream
//! passes only between [`PhysicalIommu::attach`] with a stage 2 and the next one with `Abort`. If the driver is dropped,
//! or a step of the start fails, the SMMU is back at refusing everything.
//!
//! Files: `spec/` has the layouts; `identity` the ID registers, `probe` and `errata` what they stand for; `entry`, `guest_entry` and
//! `context` build entries, `hitless` says how one becomes another; `command` builds commands, `cover` and `invalidation`
//! choose them, `program` puts a batch together; `stream_table`, `command_queue` and `record_queue` are the one writer or
//! reader of each; `shared` is what several CPUs use at once, `nested` what they know of each other; `event` is pure;
//! `slice/` is what a guest may say and hear, `backend` what the objects want of the driver; `quirks` says where the emulator differs; `tags` keeps the VMIDs.
//!
//! The owner wires two interrupts, both edge-triggered: the event queue's calls [`PhysicalIommu::drain_faults`] until
//! there is no `more`, the global error's calls [`Smmu::handle_gerror`].

use alloc::sync::Arc;

use crate::addr::{Hpa, Span};
use crate::fault::Fault;
use crate::hal::{Mmio, Platform};
use crate::id::{CacheTag, DeviceId, IommuIndex};
use crate::physical::{
    Answer, Caps, Drained, HardwareErrors, Incomplete, Invalidate, Invalidation, IommuError,
    PhysicalIommu, PriRequest, StreamConfig, Waiting,
};
use answers::PRI_QUEUE;
use command::Command;
use command_queue::CommandQueue;
use entry::StreamTableEntry as Entry;
use hitless::{ABORTED, INVALID, Kind, Update};
use nested::NestedStreams;
use program::Program;
use record_queue::{QueueRegisters, RecordQueue};
use registers::Registers;
use shared::{Core, Shared};
use spec::event::EVENT_WORDS;
use spec::page_request::PAGE_REQUEST_WORDS;
use spec::registers::{
    CR0, CR0_FIELDS, CR0ACK, CR1, CR1_FIELDS, CR2, CR2_FIELDS, EVENTQ_BASE, EVENTQ_CONS,
    EVENTQ_IRQ_CFG0, EVENTQ_PROD, GERROR, GERROR_IRQ_CFG0, GERRORN, IRQ_CTRL, IRQ_CTRL_FIELDS,
    IRQ_CTRLACK, PRIQ_IRQ_CFG0,
};
use stream_table::StreamTable;

mod answers;
mod backend;
pub mod command;
mod command_queue;
mod context;
mod cover;
mod deny;
mod entry;
pub mod errata;
pub mod event;
mod global_error;
mod guest_entry;
mod held;
mod hitless;
mod identity;
mod invalidation;
mod nested;
mod probe;
mod program;
mod quirks;
mod record_queue;
mod registers;
pub mod ring;
mod shared;
pub mod slice;
pub mod spec;
mod stream_table;
mod tags;

pub use answers::decode_request;
pub use context::{ContextDescriptor, ContextTable, StageOneTable};
pub use deny::deny_all;
pub use entry::StreamTableEntry;
pub use global_error::GlobalErrors;
pub use guest_entry::{GuestEntry, IllegalEntry};
pub use identity::{HW_INFO, Identity, Offer};
pub use probe::{Features, Stalls};
pub use tags::CacheTagAllocator;

const EVENT_QUEUE: QueueRegisters = QueueRegisters {
    base: EVENTQ_BASE,
    prod: EVENTQ_PROD,
    cons: EVENTQ_CONS,
};

/// Why an SMMU cannot be used. It refuses all DMA then, as far as it can be reached at all.
/// Numbers are the register that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// No SMMU answers there: IDR0 or GBPA as read.
    NotThere(u32),
    /// No stage 2 translation (IDR0.S2P).
    NoStageTwo(u32),
    /// No AArch64 tables (IDR0.TTF).
    NoAArch64Tables(u32),
    /// Big-endian walks only (IDR0.TTENDIAN).
    BigEndian(u32),
    /// No 4 KiB granule (IDR5.GRAN4K).
    No4KibGranule(u32),
    /// Table or queue addresses are fixed (IDR1.TABLES_PRESET, QUEUES_PRESET).
    PresetTables(u32),
    /// Sizes that no SMMU has (IDR1).
    BadSizes(u32),
    /// No memory for the queues or the stream table.
    OutOfMemory,
    /// A step of the start failed.
    Hardware(IommuError),
}

impl From<IommuError> for StartError {
    fn from(error: IommuError) -> Self {
        Self::Hardware(error)
    }
}

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

/// One SMMU that refuses or translates.
pub struct Smmu<P: Platform, M: Mmio> {
    index: IommuIndex,
    platform: Arc<P>,
    shared: Arc<Shared<P, M>>,
    identity: Identity,
    features: Features,
    streams: StreamTable<P>,
    events: RecordQueue<P, EVENT_WORDS>,
    /// Page requests, where there are any.
    requests: Option<RecordQueue<P, PAGE_REQUEST_WORDS>>,
}

impl<P: Platform, M: Mmio> Smmu<P, M> {
    /// Denies all DMA, probes, and turns translation on with every stream refused. `mmio` is both register pages,
    /// 128 KiB.
    ///
    /// # Errors
    /// Each [`StartError`]. The SMMU refuses all DMA then, if it was reached at all.
    pub fn start(index: IommuIndex, mmio: M, platform: Arc<P>) -> Result<Self, StartError> {
        Self::start_described(index, mmio, platform, true)
    }

    /// [`Smmu::start`] for an SMMU of which firmware says whether its walks snoop CPU caches: where that says no, an
    /// IDR0.COHACC of 1 is not believed, because the register does not know how the interconnect was wired (§6.3.1).
    ///
    /// # Errors
    /// As for [`Smmu::start`].
    pub fn start_described(
        index: IommuIndex,
        mmio: M,
        platform: Arc<P>,
        coherent: bool,
    ) -> Result<Self, StartError> {
        deny_all(&mmio, || platform.now_ns())?;
        let registers = Registers::new(mmio);
        let identity = Identity::read(&registers);
        let mut features = Features::of(&identity)?;
        features.coherent &= coherent;
        let memory = |platform: &P| {
            let commands =
                CommandQueue::new(platform, features.command_queue_log2, features.coherent)?;
            let largest = features.event_queue_log2;
            let events = RecordQueue::new(platform, EVENT_QUEUE, largest, features.coherent)?;
            let largest = features.pri_queue_log2;
            let requests = if features.pri {
                let queue = RecordQueue::new(platform, PRI_QUEUE, largest, features.coherent)?;
                Some(queue)
            } else {
                None
            };
            let streams = StreamTable::new(platform, &features)?;
            Some((commands, events, requests, streams))
        };
        let (queue, events, requests, streams) =
            memory(&platform).ok_or(StartError::OutOfMemory)?;
        let core = Core {
            registers,
            queue,
            nested: NestedStreams::default(),
            stopped: false,
        };
        let mut smmu = Self {
            index,
            shared: Arc::new(Shared::new(Arc::clone(&platform), features, core)),
            platform,
            identity,
            features,
            streams,
            events,
            requests,
        };
        smmu.enable()?;
        Ok(smmu)
    }

    /// The order of §6.3.10 and §3.11: attributes, tables and queues; commands; forget everything; events; translation.
    fn enable(&mut self) -> Result<(), IommuError> {
        let platform = Arc::clone(&self.platform);
        let shared = Arc::clone(&self.shared);
        let mut core = shared.lock();
        let Core {
            registers, queue, ..
        } = &mut *core;
        registers.write_acknowledged(&*platform, CR0, CR0ACK, 0)?;
        registers.write_acknowledged(&*platform, IRQ_CTRL, IRQ_CTRLACK, 0)?;
        let attributes = if self.features.coherent {
            (CR1_FIELDS::QUEUE_IC.val(1)
                + CR1_FIELDS::QUEUE_OC.val(1)
                + CR1_FIELDS::QUEUE_SH::Inner)
                + (CR1_FIELDS::TABLE_IC.val(1)
                    + CR1_FIELDS::TABLE_OC.val(1)
                    + CR1_FIELDS::TABLE_SH::Inner)
        } else {
            CR1_FIELDS::QUEUE_SH::Outer + CR1_FIELDS::TABLE_SH::Outer
        };
        registers.write(CR1, attributes.value);
        registers.write(
            CR2,
            (CR2_FIELDS::RECINVSID::SET + CR2_FIELDS::PTM::SET).value,
        );
        platform.write_barrier();
        self.streams.program(registers);
        queue.program(registers);
        self.events.program(registers);
        if let Some(requests) = &mut self.requests {
            requests.program(registers);
        }
        // Whatever was active before is not ours.
        let errors = registers.read::<()>(GERROR).get();
        registers.write(GERRORN, errors);

        let mut control = CR0_FIELDS::CMDQEN::SET.value;
        if self.features.ats {
            // Without it whatever claims to be translated passes, from any stream and to any address (§3.9.2).
            control |= CR0_FIELDS::ATSCHK::SET.value;
        }
        registers.write_acknowledged(&*platform, CR0, CR0ACK, control)?;
        drop(core);
        let forget = [
            Command::cfgi_all(),
            Command::tlbi_nsnh_all(),
            Command::tlbi_el2_all(),
        ];
        let forget = &forget[..if self.features.el2 { 3 } else { 2 }];
        self.tell(forget)?;

        let core = shared.lock();
        let registers = &core.registers;
        if self.features.msi {
            // Their reset value is unknown, and what they hold is written to by the SMMU without being translated.
            registers.write64(GERROR_IRQ_CFG0, 0);
            registers.write64(EVENTQ_IRQ_CFG0, 0);
            if self.features.pri {
                registers.write64(PRIQ_IRQ_CFG0, 0);
            }
        }
        control |= CR0_FIELDS::EVENTQEN::SET.value;
        let mut interrupts =
            (IRQ_CTRL_FIELDS::GERROR_IRQEN::SET + IRQ_CTRL_FIELDS::EVENTQ_IRQEN::SET).value;
        if self.features.pri {
            control |= CR0_FIELDS::PRIQEN::SET.value;
            interrupts |= IRQ_CTRL_FIELDS::PRIQ_IRQEN::SET.value;
        }
        registers.write_acknowledged(&*platform, CR0, CR0ACK, control)?;
        registers.write_acknowledged(&*platform, IRQ_CTRL, IRQ_CTRLACK, interrupts)?;
        control |= CR0_FIELDS::SMMUEN::SET.value;
        registers.write_acknowledged(&*platform, CR0, CR0ACK, control)
    }

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
        Counters {
            register_reads,
            register_writes,
            commands: core.queue.commands,
            syncs: core.queue.syncs,
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

    /// Sends commands of the host.
    fn tell(&self, commands: &[Command]) -> Result<(), IommuError> {
        let mut program = Program::of_commands(commands, &self.features);
        self.shared
            .run(&mut program)
            .map_err(|failure| failure.error)
    }

    /// Puts `descriptor` in force for `substream` of `device`, whose entry names `table`: hitless where the architecture
    /// allows ([`hitless`]). TLB entries under its ASID go when their owner invalidates them.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for a substream that the table does not have; those of the command queue. The
    /// substream is refused then, as far as the SMMU can be told.
    pub fn set_context(
        &mut self,
        device: DeviceId,
        table: &mut ContextTable<P>,
        substream: u32,
        descriptor: &ContextDescriptor,
    ) -> Result<(), IommuError> {
        let old = table.read(substream).ok_or(IommuError::Unsupported)?;
        let update = Update::new(&old, &descriptor.0, Kind::ContextDescriptor);
        for image in update.images() {
            if !table.store(&self.platform, substream, image) {
                continue;
            }
            let told = self.tell(&[Command::cfgi_cd(device, substream, true)]);
            if told.is_err() {
                let [shut, ..] = *Update::close(&old, INVALID).images();
                table.store(&self.platform, substream, &shut);
                return told;
            }
        }
        Ok(())
    }

    fn forget_entry(&self, device: DeviceId, leaf: bool) -> Result<(), IommuError> {
        self.tell(&[Command::cfgi_ste(device, leaf)])
    }

    /// Says that `device` is about to use a stage 1 under `tag`. Invalidations of stage 2 that were sent without knowing it
    /// are complete on return ([`nested`]).
    fn announce(&self, tag: CacheTag, device: DeviceId) -> Result<(), IommuError> {
        let new = self.shared.lock().nested.add(tag, device)?;
        if new { self.tell(&[]) } else { Ok(()) }
    }

    /// Goes through the steps of an update; an SMMU has forgotten the entry after each. One that changes nothing is
    /// forgotten once nevertheless: an earlier attempt to be heard may have failed. `linked`: there is a new level 2 table.
    fn update(
        &mut self,
        device: DeviceId,
        update: &Update,
        mut linked: bool,
    ) -> Result<(), IommuError> {
        let mut told = false;
        for image in update.images() {
            if self.streams.store(&self.platform, device, image) {
                self.forget_entry(device, !linked)?;
                (linked, told) = (false, true);
            }
        }
        if told {
            Ok(())
        } else {
            self.forget_entry(device, !linked)
        }
    }
}

impl<P: Platform + 'static, M: Mmio + 'static> PhysicalIommu for Smmu<P, M> {
    fn serve_errors(&mut self) -> Result<HardwareErrors, IommuError> {
        let errors = self.handle_gerror()?;
        Ok(HardwareErrors {
            records_lost: errors.events_lost(),
            command: errors.command(),
            stopped: errors.service_failure(),
            raw: errors.0,
        })
    }

    fn caps(&self) -> Caps {
        Caps {
            output_bits: self.features.output_bits(),
            device_id_bits: self.streams.stream_bits(),
            cache_tag_bits: if self.features.vmid16 { 16 } else { 8 },
            nested: self.features.nested,
            coherent: self.features.coherent,
            range_invalidation: self.features.range_invalidation,
        }
    }

    /// Hitless where the architecture allows, through abort where it does not ([`hitless`]); from an entry to none by one
    /// store. TLB entries are under the tag: they go when their owner invalidates it.
    fn attach(&mut self, device: DeviceId, config: StreamConfig) -> Result<(), IommuError> {
        let linked = self.streams.prepare(&self.platform, device)?;
        let old = self.streams.read(device);
        let old = old.ok_or(IommuError::NoSuchDevice(device))?;
        let closes = matches!(config, StreamConfig::Refuse | StreamConfig::Abort);
        let shut = match config {
            StreamConfig::Abort => ABORTED,
            _ => INVALID,
        };
        let shut = Update::close(&old, shut);
        let entry = Entry::new(config, &self.features);
        let nested = match config {
            StreamConfig::Nested { stage_two, .. } => Some(stage_two.tag),
            _ => None,
        };
        if self.shared.lock().stopped {
            // The SMMU refuses all DMA and answers nothing.
            self.streams
                .store(&self.platform, device, &shut.images()[0]);
            return closes.then_some(()).ok_or(IommuError::Stopped);
        }
        let ready = entry.and_then(|entry| match nested {
            Some(tag) => self.announce(tag, device).map(|()| entry),
            None => Ok(entry),
        });
        let update = match &ready {
            Ok(entry) if !closes => Update::new(&old, &entry.0, Kind::StreamTableEntry),
            _ => shut,
        };
        let updated = self.update(device, &update, linked);
        if updated.is_err() {
            // Should the queue still work, the closed entry is in force; if not, the caller knows that from the error.
            let _ = self.update(device, &shut, true);
        }
        updated.and(ready.map(drop))?;
        self.shared.lock().nested.remove(device, nested);
        if nested.is_none() && entry::has_stage_one(&old) && self.features.stalls.possible() {
            // Nothing stalls any more, and nobody will answer what has.
            self.end_stalls(device)?;
        }
        Ok(())
    }

    fn invalidate(&mut self, batch: &[Invalidation]) -> Result<(), IommuError> {
        self.submit(batch).map_err(|incomplete| incomplete.error)
    }

    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        self.shared.submit(batch)
    }

    fn invalidator(&self) -> Option<Arc<dyn Invalidate>> {
        Some(Arc::clone(&self.shared) as Arc<dyn Invalidate>)
    }

    fn drain_faults(&mut self, faults: &mut [Fault]) -> Drained {
        // An error here is the command queue's, which its next batch reports.
        let _ = self.handle_gerror();
        let core = self.shared.lock();
        let index = self.index;
        let decode = |raw| event::decode(index, raw);
        self.events
            .drain(&self.platform, &core.registers, decode, faults)
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
}

impl<P: Platform, M: Mmio> Drop for Smmu<P, M> {
    /// Back to refusing everything by GBPA, which [`Smmu::start`] set. An SMMU that does not acknowledge may still read
    /// its tables and write its queue: their memory is lost then.
    fn drop(&mut self) {
        let mut core = self.shared.lock();
        core.stopped = true;
        let stopped = core
            .registers
            .write_acknowledged(&*self.platform, CR0, CR0ACK, 0);
        if stopped.is_err() {
            self.streams.lose();
            core.queue.lose();
            self.events.lose();
            if let Some(requests) = &mut self.requests {
                requests.lose();
            }
        }
    }
}
