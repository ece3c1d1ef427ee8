//! Arm SMMUv3 (IHI 0070): the physical driver.
//!
//! [`deny_all`] is the first thing that happens to an SMMU: three register accesses, no memory. [`Smmu::start`] comes
//! later, probes, allocates, and turns translation on with a stream table in which every stream is refused. A stream
//! passes only between [`PhysicalIommu::attach`] with a stage 2 and the next one with `Refuse` or `Abort`. If the driver
//! is dropped, or a step of the start fails, the SMMU is back at refusing everything.
//!
//! Files: `spec/` has the layouts; `start` turns it on and off, `lost` once more; `identity` the ID registers, `probe` and
//! `errata` what they stand for; `entry`, `guest_entry` and `context` build entries, `hitless` says how one becomes
//! another; `own_contexts` has the tables of streams whose first stage is the host's; `command` builds commands, `cover` and `invalidation` choose them, `program` puts a batch together;
//! `stream_table`, `command_queue` and `record_queue` are the one writer or reader of each; `shared` is what several CPUs
//! use at once, `nested` what they know of each other; `event` is pure; `slice/` is what a guest may say and hear,
//! `backend` what the objects want of the driver; `quirks` says where the emulator differs; `tags` keeps the VMIDs, `ats` what devices have cached.
//!
//! The owner wires two interrupts, both edge-triggered: the event queue's calls [`PhysicalIommu::drain_faults`] until
//! there is no `more`, the global error's calls [`Smmu::handle_gerror`]. Neither comes from an SMMU that lost its state:
//! [`PhysicalIommu::check`] is for a timer.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::fault::Fault;
use crate::hal::{Mmio, Platform};
use crate::id::{CacheTag, DeviceId, IommuIndex};
use crate::physical::{
    Answer, Caps, ContextSetup, Drained, HardwareErrors, Incomplete, Invalidate, Invalidation,
    IommuError, PhysicalIommu, PriRequest, StreamConfig, Waiting,
};
use ats::DeviceCache;
use command::Command;
use entry::StreamTableEntry as Entry;
use hitless::{ABORTED, INVALID, Kind, Update};
use own_contexts::OwnContexts;
use record_queue::RecordQueue;
use shared::Shared;
use spec::event::EVENT_WORDS;
use spec::page_request::PAGE_REQUEST_WORDS;
use stream_table::StreamTable;

mod answers;
mod ats;
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
pub(crate) mod hitless;
mod identity;
mod invalidation;
mod lost;
mod nested;
mod own_contexts;
mod probe;
mod program;
mod quirks;
mod record_queue;
mod registers;
pub mod ring;
mod shared;
pub mod slice;
pub mod spec;
mod start;
pub(crate) mod stream_table;
mod tags;
mod view;

pub use crate::physical::StageOneTable;
pub use answers::decode_request;
pub use context::{ContextDescriptor, ContextTable};
pub use deny::deny_all;
pub use entry::StreamTableEntry;
pub use global_error::GlobalErrors;
pub use guest_entry::{GuestEntry, IllegalEntry};
pub use identity::{HW_INFO, Identity, Offer};
pub use probe::{Features, Stalls};
pub use start::StartError;
pub use tags::CacheTagAllocator;
pub use view::{Counters, Layout};

/// One SMMU that refuses or translates.
pub struct Smmu<P: Platform, M: Mmio> {
    index: IommuIndex,
    platform: Arc<P>,
    shared: Arc<Shared<P, M>>,
    identity: Identity,
    features: Features,
    streams: StreamTable<P>,
    /// Of streams whose first stage is the host's, in order.
    contexts: Vec<OwnContexts<P>>,
    events: RecordQueue<P, EVENT_WORDS>,
    /// Page requests, where there are any.
    requests: Option<RecordQueue<P, PAGE_REQUEST_WORDS>>,
    /// CR0 as it was written last.
    control: u32,
}

impl<P: Platform, M: Mmio> Smmu<P, M> {
    /// Puts `descriptor` in force for `substream` of `device`, whose entry names `table`: hitless where the architecture
    /// allows ([`hitless`]). TLB entries under its ASID go when their owner invalidates them.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for a substream that the table does not have, [`IommuError::OutOfMemory`]; those of the
    /// command queue. The substream is refused then, as far as the SMMU can be told.
    pub fn set_context(
        &mut self,
        device: DeviceId,
        table: &mut ContextTable<P>,
        substream: u32,
        descriptor: &ContextDescriptor,
    ) -> Result<(), IommuError> {
        if !table.holds(substream) {
            return Err(IommuError::Unsupported);
        }
        if table.prepare(&self.platform, substream)? {
            self.shared.forget_context(device, substream, false)?;
        }
        self.shared
            .set_context(device, table, substream, descriptor)
    }

    fn forget_entry(&self, device: DeviceId, leaf: bool) -> Result<(), IommuError> {
        self.shared.tell_one(Command::cfgi_ste(device, leaf))
    }

    /// Says that `device` is about to use a stage 1 under `tag`, and to cache what it is told. Invalidations that were sent
    /// without knowing it are complete on return ([`nested`], [`ats`]).
    fn announce(
        &self,
        device: DeviceId,
        nested: Option<CacheTag>,
        cache: Option<DeviceCache>,
    ) -> Result<(), IommuError> {
        let mut core = self.shared.lock();
        let new = nested.map_or(Ok(false), |tag| core.nested.add(tag, device))?;
        let also = cache.map_or(Ok(false), |cache| core.caches.add(cache))?;
        drop(core);
        if new || also {
            self.shared.sync()
        } else {
            Ok(())
        }
    }

    /// Goes through the steps of an update of what is there; an SMMU has forgotten the entry after each. One that changes
    /// nothing is forgotten once nevertheless: an earlier attempt to be heard may have failed. `linked`: there is a new
    /// level 2 table.
    fn update(
        &mut self,
        device: DeviceId,
        update: &Update,
        mut linked: bool,
    ) -> Result<(), IommuError> {
        let mut told = false;
        for (image, changes) in update.steps() {
            self.streams.store(&self.platform, device, image, changes);
            self.forget_entry(device, !linked)?;
            (linked, told) = (false, true);
        }
        if told {
            Ok(())
        } else {
            self.forget_entry(device, !linked)
        }
    }

    /// See [`PhysicalIommu::attach`].
    fn configure(&mut self, device: DeviceId, config: StreamConfig) -> Result<(), IommuError> {
        let linked = self.streams.prepare(&self.platform, device)?;
        self.configure_entry(device, config, linked)
    }

    /// The same for an entry that is there. `linked`: there is a new level 2 table.
    fn configure_entry(
        &mut self,
        device: DeviceId,
        config: StreamConfig,
        linked: bool,
    ) -> Result<(), IommuError> {
        let Some(old) = self.streams.read(device) else {
            return Err(IommuError::NoSuchDevice(device));
        };
        let closes = matches!(config, StreamConfig::Refuse | StreamConfig::Abort);
        let word = match config {
            StreamConfig::Abort => ABORTED,
            _ => INVALID,
        };
        let shut = || Update::close(&old, word);
        let entry = Entry::new(config, &self.features);
        let nested = match config {
            StreamConfig::Nested { stage_two, .. } => Some(stage_two.tag),
            _ => None,
        };
        if self.shared.lock().stopped {
            // The SMMU refuses all DMA and answers nothing.
            for (image, changes) in shut().steps() {
                self.streams.store(&self.platform, device, image, changes);
            }
            return closes.then_some(()).ok_or(IommuError::Stopped);
        }
        let had_ats = entry::has_ats(&old);
        let cache = DeviceCache::of(&config, device);
        let will_have_ats = matches!(&entry, Ok(entry) if entry::has_ats(&entry.0));
        let ready = entry.as_ref().map_err(|error| *error).and_then(|_| {
            self.announce(device, nested, cache)?;
            if will_have_ats && !had_ats {
                // A cache that is not empty is believed from now on.
                self.shared.forget_device(device, None)?;
            }
            Ok(())
        });
        let has_ats = will_have_ats && ready.is_ok();
        let update = match &entry {
            Ok(entry) if ready.is_ok() && !closes => {
                Update::new(&old, &entry.0, Kind::StreamTableEntry)
            }
            _ => shut(),
        };
        let updated = self.update(device, &update, linked);
        if updated.is_err() {
            let now = self.streams.read(device).unwrap_or(old);
            // Should the queue still work, the closed entry is in force; if not, the caller knows that from the error.
            let _ = self.update(device, &Update::close(&now, word), true);
        }
        updated?;
        let mut result = ready;
        if had_ats {
            // With ATS off from here on, it does not matter what the device says.
            let forgotten = self.shared.forget_device(device, None);
            if has_ats && forgotten.is_err() {
                let now = self.streams.read(device).unwrap_or_default();
                self.update(device, &Update::close(&now, INVALID), true)?;
                result = forgotten;
            }
        }
        let contexts = matches!(config, StreamConfig::StageOne { .. });
        let keep = |it: &DeviceCache| Some(*it) == cache || contexts && it.is_context();
        let open = result.is_ok();
        let mut core = self.shared.lock();
        core.caches.retain(device, |it| open && keep(it));
        core.nested.remove(device, nested);
        drop(core);
        result?;
        if nested.is_none() && entry::has_stage_one(&old) && self.features.stalls.possible() {
            // Nothing stalls any more, and nobody will answer what has.
            self.end_stalls(device)?;
        }
        Ok(())
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
            address_space_bits: match (self.features.stage_one, self.features.asid16) {
                (false, _) => 0,
                (true, false) => 8,
                (true, true) => 16,
            },
            pasid_bits: self.features.substream_bits,
            ats: self.features.ats,
        }
    }

    /// Hitless where the architecture allows, through abort where it does not ([`hitless`]); from an entry to none by one
    /// store. TLB entries are under the tag: they go when their owner invalidates it.
    fn attach(&mut self, device: DeviceId, config: StreamConfig) -> Result<(), IommuError> {
        match self.configure_whole(device, config) {
            // What it was told before, it has again; this not.
            Err(IommuError::Timeout) if self.check_state() == Ok(true) => {
                self.configure_whole(device, config)
            }
            result => result,
        }
    }

    fn attach_context(
        &mut self,
        device: DeviceId,
        pasid: u32,
        with: ContextSetup,
        table: Option<&StageOneTable>,
    ) -> Result<(), IommuError> {
        match self.configure_context(device, pasid, with, table) {
            Err(IommuError::Timeout) if self.check_state() == Ok(true) => {
                self.configure_context(device, pasid, with, table)
            }
            result => result,
        }
    }

    fn check(&mut self) -> Result<bool, IommuError> {
        self.check_state()
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
