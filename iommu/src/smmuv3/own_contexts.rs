//! Streams whose first stage is the host's own: a context table for each, and what its entry is.
//!
//! Such a stream's entry names its table from the first context on until the last one is gone, and S1DSS makes descriptor 0
//! that of transactions without a PASID: what changes in between are descriptors, or the table when one descriptor takes
//! the place of another. One that is not valid refuses, with C_BAD_CD (IHI 0070, §7.3.11). A silenced stream's entry says abort, whatever its table has; so does that of one whose
//! device does not forget what it has cached of a context ([`ats`](super::ats)).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::replace;

use super::ats::DeviceCache;
use super::context::{ContextDescriptor, ContextTable, Former};
use super::hitless::{ABORTED, Kind, Update};
use super::shared::Shared;
use super::{Smmu, entry};
use crate::hal::{Mmio, Platform};
use crate::id::DeviceId;
use crate::physical::{
    ContextSetup, HOST, IommuError, StageOneConfig, StageOneTable, StreamConfig,
};

/// One stream's.
pub(super) struct OwnContexts<P: Platform> {
    device: DeviceId,
    table: ContextTable<P>,
    /// PASIDs with a valid descriptor, and the address spaces of these.
    live: Vec<(u32, u16)>,
    /// The SMMU may have read an entry that leads to the table.
    known: bool,
    /// The entry says abort.
    silent: bool,
    /// The device may cache what it is told.
    ats: bool,
}

impl<P: Platform> OwnContexts<P> {
    /// See [`ContextTable::lose`].
    pub(super) fn lose(&mut self) {
        self.table.lose();
    }

    fn config(&self) -> StreamConfig {
        StreamConfig::StageOne {
            tag: HOST,
            stage_one: StageOneConfig {
                ats: self.ats,
                ..self.table.stage_one()
            },
        }
    }

    /// Whether a descriptor other than that of transactions without a PASID is valid.
    fn has_pasids(&self) -> bool {
        self.live.iter().any(|it| it.0 != 0)
    }

    /// Says what the device may cache of its contexts from now on. Invalidations that were sent without knowing it are
    /// complete on return.
    fn announce<M: Mmio>(
        &self,
        shared: &Shared<P, M>,
        contexts: &[(u32, u16)],
    ) -> Result<(), IommuError> {
        if !self.ats {
            return Ok(());
        }
        let mut any = false;
        for (pasid, asid) in contexts {
            let cache = DeviceCache::context(self.device, *pasid, *asid);
            any |= shared.lock().caches.add(cache)?;
        }
        if any { shared.sync() } else { Ok(()) }
    }

    /// Two descriptors that translate differ in two words at least, TTB0 and ASID, and only one can be stored at a time: one
    /// in place of the other needs a copy of the table, to which the entry leads by one store (§3.21.3). Makes it where
    /// that is so. Without memory for it, or if it is too large, transactions in between are refused.
    fn renew<M: Mmio>(
        &mut self,
        shared: &Shared<P, M>,
        pasid: u32,
        descriptor: &ContextDescriptor,
    ) -> Option<Former<P::Buffer>> {
        let old = self.table.read(pasid)?;
        let update = Update::new(&old, &descriptor.0, Kind::ContextDescriptor);
        if update.hitless {
            return None;
        }
        let renewed = self.table.renew(&shared.platform, pasid, &descriptor.0);
        renewed.ok()
    }

    /// Puts a descriptor in its place; an SMMU that uses the table (`live`) has forgotten the old one on return.
    fn put<M: Mmio>(
        &mut self,
        shared: &Shared<P, M>,
        pasid: u32,
        descriptor: &ContextDescriptor,
        live: bool,
    ) -> Result<(), IommuError> {
        let asid = descriptor.asid();
        let was = self.live.iter().position(|it| it.0 == pasid);
        if asid.is_some() && was.is_none() {
            let room = self.live.try_reserve(1);
            room.map_err(|_| IommuError::OutOfMemory)?;
        }
        if let (true, Some(asid)) = (live, asid) {
            self.announce(shared, &[(pasid, asid)])?;
        }
        let result = if live {
            shared.set_context(self.device, &mut self.table, pasid, descriptor)
        } else {
            self.table
                .store(&shared.platform, pasid, &descriptor.0, u8::MAX);
            Ok(())
        };
        // After an error it is not valid.
        let asid = asid.filter(|_| result.is_ok());
        if let Some(was) = was {
            self.live.swap_remove(was);
        }
        self.live.extend(asid.map(|asid| (pasid, asid)));
        result?;
        if self.ats {
            if live && was.is_some() {
                shared.forget_device(self.device, Some(pasid))?;
            }
            let mut core = shared.lock();
            core.caches.retain_context(self.device, pasid, asid);
        }
        Ok(())
    }
}

impl<P: Platform, M: Mmio> Smmu<P, M> {
    fn own(&self, device: DeviceId) -> Result<usize, usize> {
        self.contexts.binary_search_by_key(&device, |it| it.device)
    }

    /// Whether the entry of `device` leads to the table that it has at `at`.
    fn is_live(&mut self, device: DeviceId, at: usize) -> bool {
        let words = self.streams.read(device);
        let base = self.contexts[at].table.stage_one().contexts;
        words.is_some_and(|words| {
            entry::has_stage_one(&words) && entry::context_table(&words) == base
        })
    }

    /// Lets the entry of the stream lead to its table.
    fn lead(&mut self, at: usize) -> Result<(), IommuError> {
        let own = &mut self.contexts[at];
        let (device, config) = (own.device, own.config());
        let linked = self.streams.prepare(&self.platform, device)?;
        let own = &mut self.contexts[at];
        own.announce(&self.shared, &own.live)?;
        own.known = true;
        self.configure_entry(device, config, linked)
    }

    /// A device that goes on using what it has cached is refused everything.
    fn contain(&mut self, at: usize, put: Result<(), IommuError>) -> Result<(), IommuError> {
        if matches!(put, Err(IommuError::DeviceTlb(_))) {
            self.contexts[at].silent = true;
            self.leave(at, StreamConfig::Abort)?;
        }
        put
    }

    /// Puts an entry in force that does not lead to the stream's table, whose descriptor 0 goes in any case.
    fn leave(&mut self, at: usize, config: StreamConfig) -> Result<(), IommuError> {
        let shared = Arc::clone(&self.shared);
        let own = &self.contexts[at];
        let unknown = config == StreamConfig::Refuse && !own.known;
        let result = match unknown && self.streams.read(own.device).is_none() {
            // There is no entry.
            true => Ok(()),
            false => self.configure(own.device, config),
        };
        // One that serves nothing was told nothing.
        let told = result.is_ok() && !shared.lock().stopped;
        let own = &mut self.contexts[at];
        own.known &= !told;
        own.put(&shared, 0, &ContextDescriptor::invalid(), false)?;
        if own.live.is_empty() && !own.known {
            self.contexts.remove(at);
        }
        result
    }

    /// See [`PhysicalIommu::attach`](crate::physical::PhysicalIommu::attach): what of it is the matter of a stream that
    /// has contexts.
    pub(super) fn configure_whole(
        &mut self,
        device: DeviceId,
        config: StreamConfig,
    ) -> Result<(), IommuError> {
        if let StreamConfig::StageOne { stage_one, .. } = &config
            && stage_one.ats
        {
            // Whose the table is, is not known: nobody would tell the device.
            self.configure_whole(device, StreamConfig::Refuse)?;
            return Err(IommuError::Unsupported);
        }
        let Ok(at) = self.own(device) else {
            return self.configure(device, config);
        };
        let pasids = self.contexts[at].has_pasids();
        self.contexts[at].silent = config == StreamConfig::Abort;
        match config {
            StreamConfig::Refuse if pasids => {
                let live = self.is_live(device, at);
                let shared = Arc::clone(&self.shared);
                let own = &mut self.contexts[at];
                let put = own.put(&shared, 0, &ContextDescriptor::invalid(), live);
                self.contain(at, put)?;
                if live { Ok(()) } else { self.lead(at) }
            }
            StreamConfig::Refuse | StreamConfig::Abort => self.leave(at, config),
            // Its PASIDs would be lost, or go through what is not theirs.
            _ if pasids => {
                self.configure_whole(device, StreamConfig::Refuse)?;
                Err(IommuError::Unsupported)
            }
            _ => self.leave(at, config),
        }
    }

    /// See [`PhysicalIommu::attach_context`](crate::physical::PhysicalIommu::attach_context).
    pub(super) fn configure_context(
        &mut self,
        device: DeviceId,
        pasid: u32,
        with: ContextSetup,
        table: Option<&StageOneTable>,
    ) -> Result<(), IommuError> {
        let descriptor = match table {
            Some(table) => ContextDescriptor::new(table, &self.features),
            None => return self.close_context(device, pasid),
        };
        let opened =
            descriptor.and_then(|descriptor| self.open_context(device, pasid, with, &descriptor));
        if opened.is_err() {
            // Should the queue not work, the caller knows that from the error.
            let _ = self.close_context(device, pasid);
        }
        opened
    }

    fn open_context(
        &mut self,
        device: DeviceId,
        pasid: u32,
        with: ContextSetup,
        descriptor: &ContextDescriptor,
    ) -> Result<(), IommuError> {
        let at = self.contexts_of(device, pasid, with)?;
        let live = self.is_live(device, at);
        let shared = Arc::clone(&self.shared);
        let own = &mut self.contexts[at];
        let linked = own.table.prepare(&shared.platform, pasid)?;
        if live && linked {
            // §4.3.3: the level 1 descriptor may be cached as it was.
            shared.forget_context(device, pasid, false)?;
        }
        if live && let Some(former) = own.renew(&shared, pasid, descriptor) {
            let switched = self.switch(at, pasid, descriptor, former);
            return self.contain(at, switched);
        }
        let put = own.put(&shared, pasid, descriptor, live);
        self.contain(at, put)?;
        let own = &mut self.contexts[at];
        own.silent &= pasid != 0;
        if live || own.silent {
            Ok(())
        } else {
            self.lead(at)
        }
    }

    /// Lets the entry lead to the copy of the table that [`OwnContexts::renew`] made. After an error the entry is closed, or
    /// leads to a table that it led to.
    fn switch(
        &mut self,
        at: usize,
        pasid: u32,
        descriptor: &ContextDescriptor,
        former: Former<P::Buffer>,
    ) -> Result<(), IommuError> {
        let own = &mut self.contexts[at];
        let (device, asid) = (own.device, descriptor.asid());
        let was = own.live.iter_mut().find(|it| it.0 == pasid);
        let old = was.and_then(|it| Some(replace(&mut it.1, asid?)));
        let led = self.lead(at);
        if led.is_ok() {
            // The device has forgotten everything, if it caches.
            let mut core = self.shared.lock();
            core.caches.retain_context(device, pasid, asid);
            return Ok(());
        }
        if self.is_live(device, at) {
            // The copy is in force, and the table that it stood in for is forgotten.
            return led;
        }
        let words = self.streams.read(device).unwrap_or_default();
        let own = &mut self.contexts[at];
        if entry::has_stage_one(&words) {
            // Nothing was stored yet.
            own.table.restore(former);
            let now = own.live.iter_mut().find(|it| it.0 == pasid);
            if let (Some(now), Some(old)) = (now, old) {
                now.1 = old;
            }
        } else if !matches!(led, Err(IommuError::DeviceTlb(_))) {
            // Nobody knows whether it was heard that the entry is closed.
            former.lose();
        }
        led
    }

    /// The contexts of a stream, made if it may have some.
    fn contexts_of(
        &mut self,
        device: DeviceId,
        pasid: u32,
        with: ContextSetup,
    ) -> Result<usize, IommuError> {
        let at = match self.own(device) {
            Ok(at) => at,
            Err(at) => {
                // Where there is no entry yet, it says nothing.
                let words = self.streams.read(device).unwrap_or_default();
                if pasid != 0 && entry::translates(&words) {
                    return Err(IommuError::Unsupported);
                }
                let log2 = with.pasid_bits.min(self.features.substream_bits);
                let contexts = &mut self.contexts;
                contexts
                    .try_reserve(1)
                    .map_err(|_| IommuError::OutOfMemory)?;
                let table = ContextTable::new(&*self.platform, log2, &self.features)?;
                let own = OwnContexts {
                    device,
                    table,
                    live: Vec::new(),
                    known: false,
                    silent: words[0] == ABORTED,
                    ats: with.ats,
                };
                contexts.insert(at, own);
                at
            }
        };
        if self.contexts[at].table.holds(pasid) {
            Ok(at)
        } else {
            Err(IommuError::Unsupported)
        }
    }

    fn close_context(&mut self, device: DeviceId, pasid: u32) -> Result<(), IommuError> {
        if pasid == 0 {
            return self.configure_whole(device, StreamConfig::Refuse);
        }
        let Ok(at) = self.own(device) else {
            return Ok(());
        };
        let live = self.is_live(device, at);
        let shared = Arc::clone(&self.shared);
        let own = &mut self.contexts[at];
        let last = own.live.iter().all(|it| it.0 == pasid);
        let gone = own.put(&shared, pasid, &ContextDescriptor::invalid(), live && !last);
        match (last, own.silent) {
            (true, false) => self.leave(at, StreamConfig::Refuse),
            (true, true) => self.leave(at, StreamConfig::Abort),
            (false, _) => self.contain(at, gone),
        }
    }
}
