//! The root table and the context tables (VT-d, 3.4.2): their one writer.
//!
//! Closed by default: a bus without a context table, or with an entry never written, is refused and its attempts are
//! recorded. Refused silently is only what somebody asked for.

use alloc::vec::Vec;

use super::entry::ContextEntry;
use super::spec::context::{CONTEXT_BYTES, ROOT, ROOT_BYTES};
use crate::addr::{Hpa, Span};
use crate::hal::{DmaBuffer, Platform};
use crate::held::{Held, span};
use crate::id::DeviceId;
use crate::physical::IommuError;

/// Bytes of a root table, and of a context table.
const TABLE_BYTES: usize = 4096;
const _: () = assert!(ROOT_BYTES << 8 == TABLE_BYTES && CONTEXT_BYTES << 8 == TABLE_BYTES);

pub(super) struct Tables<P: Platform> {
    root: Held<P::Buffer>,
    /// Context tables by bus, in order.
    contexts: Vec<(u8, Held<P::Buffer>)>,
    coherent: bool,
}

impl<P: Platform> Tables<P> {
    pub(super) fn new(platform: &P, coherent: bool) -> Option<Self> {
        let root = platform.allocate(TABLE_BYTES)?;
        if !coherent {
            root.clean(0, TABLE_BYTES);
        }
        platform.write_barrier();
        Some(Self {
            root: Held::new(root),
            contexts: Vec::new(),
            coherent,
        })
    }

    /// Bytes of all tables.
    pub(super) fn bytes(&self) -> u64 {
        ((self.contexts.len() + 1) * TABLE_BYTES) as u64
    }

    /// The root table.
    pub(super) fn root(&self) -> Span<Hpa> {
        span(&*self.root)
    }

    /// Loses the root table instead of freeing it, which the unit goes on to read; with `all`, the others too.
    pub(super) fn lose(&mut self, all: bool) {
        self.root.lose();
        if all {
            self.contexts.iter_mut().for_each(|(_, table)| table.lose());
        }
    }

    /// No bus has contexts any more, once the unit has forgotten them.
    pub(super) fn close(&mut self, platform: &P) {
        for &(bus, _) in &self.contexts {
            self.root.write64(usize::from(bus) * ROOT_BYTES, 0);
        }
        if !self.coherent {
            self.root.clean(0, TABLE_BYTES);
        }
        platform.write_barrier();
    }

    /// Makes sure that `device` has an entry. A new context table needs no invalidation: what is not present is not
    /// cached (6.1, CAP.CM is 0).
    pub(super) fn prepare(&mut self, platform: &P, device: DeviceId) -> Result<(), IommuError> {
        let source = u16::try_from(device.0).map_err(|_| IommuError::NoSuchDevice(device))?;
        let bus = (source >> 8) as u8;
        let Err(place) = self.contexts.binary_search_by_key(&bus, |(at, _)| *at) else {
            return Ok(());
        };
        let room = self.contexts.try_reserve(1);
        room.map_err(|_| IommuError::OutOfMemory)?;
        let table = platform.allocate(TABLE_BYTES);
        let table = table.ok_or(IommuError::OutOfMemory)?;
        if !self.coherent {
            table.clean(0, TABLE_BYTES);
        }
        // The zeroes are visible before the entry that leads to them.
        platform.write_barrier();
        let offset = usize::from(bus) * ROOT_BYTES;
        self.root
            .write64(offset, ROOT::P::SET.value | table.hpa().0);
        if !self.coherent {
            self.root.clean(offset, ROOT_BYTES);
        }
        platform.write_barrier();
        self.contexts.insert(place, (bus, Held::new(table)));
        Ok(())
    }

    /// The table that holds the entry of `device`, and its offset there.
    fn slot(&mut self, device: DeviceId) -> Option<(&mut P::Buffer, usize)> {
        let source = u16::try_from(device.0).ok()?;
        let bus = (source >> 8) as u8;
        let place = self.contexts.binary_search_by_key(&bus, |(at, _)| *at);
        let (_, table) = &mut self.contexts[place.ok()?];
        Some((&mut **table, usize::from(source & 0xff) * CONTEXT_BYTES))
    }

    /// The entry of a device as it is in memory.
    pub(super) fn read(&mut self, device: DeviceId) -> Option<ContextEntry> {
        let (table, offset) = self.slot(device)?;
        Some(ContextEntry([
            table.read64(offset),
            table.read64(offset + 8),
        ]))
    }

    /// Stores an entry; visible to the unit on return. A present one is never changed but to one that is not: P goes
    /// first, and comes last.
    pub(super) fn store(&mut self, platform: &P, device: DeviceId, entry: ContextEntry) {
        let coherent = self.coherent;
        let Some((table, offset)) = self.slot(device) else {
            return;
        };
        let [first, second] = entry.0;
        let order = match entry.is_present() {
            true => [(8, second), (0, first)],
            false => [(0, first), (8, second)],
        };
        for (word, value) in order {
            if table.read64(offset + word) != value {
                table.write64(offset + word, value);
                if !coherent {
                    table.clean(offset, CONTEXT_BYTES);
                }
                platform.write_barrier();
            }
        }
    }
}
