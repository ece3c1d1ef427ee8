//! The root table and the context tables (VT-d, 3.4.2): their one writer.
//!
//! Closed by default: a bus without a context table, or with an entry never written, is refused and its attempts are
//! recorded. Refused silently is only what somebody asked for.

use alloc::vec::Vec;

use super::entry::ContextEntry;
use super::spec::context::{CONTEXT_BYTES, ROOT, ROOT_BYTES, SCALABLE_CONTEXT_BYTES};
use crate::addr::{Hpa, Span};
use crate::hal::{DmaBuffer, Platform};
use crate::held::{Held, span};
use crate::id::DeviceId;
use crate::physical::IommuError;

/// Bytes of a root table, and of a context table.
pub(super) const TABLE_BYTES: usize = 4096;
const _: () = assert!(ROOT_BYTES << 8 == TABLE_BYTES && CONTEXT_BYTES << 8 == TABLE_BYTES);
const _: () = assert!(SCALABLE_CONTEXT_BYTES << 7 == TABLE_BYTES);

pub(super) struct Tables<P: Platform> {
    root: Held<P::Buffer>,
    /// Context tables in order: by bus, or by half of a bus in scalable mode.
    contexts: Vec<(u16, Held<P::Buffer>)>,
    scalable: bool,
    coherent: bool,
}

/// Where the root table leads to a context table: in scalable mode a word for each half of a bus (9.2).
fn root_offset(index: u16, scalable: bool) -> usize {
    let stride = if scalable { ROOT_BYTES / 2 } else { ROOT_BYTES };
    usize::from(index) * stride
}

pub(super) fn source_of(device: DeviceId) -> Result<u16, IommuError> {
    u16::try_from(device.0).map_err(|_| IommuError::NoSuchDevice(device))
}

impl<P: Platform> Tables<P> {
    pub(super) fn new(platform: &P, scalable: bool, coherent: bool) -> Option<Self> {
        let root = platform.allocate(TABLE_BYTES)?;
        if !coherent {
            root.clean(0, TABLE_BYTES);
        }
        platform.write_barrier();
        Some(Self {
            root: Held::new(root),
            contexts: Vec::new(),
            scalable,
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
        for &(index, _) in &self.contexts {
            let offset = root_offset(index, self.scalable);
            self.root.write64(offset, 0);
        }
        if !self.coherent {
            self.root.clean(0, TABLE_BYTES);
        }
        platform.write_barrier();
    }

    /// Makes sure that `device` has an entry. A new context table needs no invalidation: what is not present is not
    /// cached (6.1, CAP.CM is 0).
    pub(super) fn prepare(&mut self, platform: &P, device: DeviceId) -> Result<(), IommuError> {
        let index = self.index(source_of(device)?);
        let Err(place) = self.contexts.binary_search_by_key(&index, |(at, _)| *at) else {
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
        let offset = root_offset(index, self.scalable);
        self.root
            .write64(offset, ROOT::P::SET.value | table.hpa().0);
        if !self.coherent {
            self.root.clean(offset, 8);
        }
        platform.write_barrier();
        self.contexts.insert(place, (index, Held::new(table)));
        Ok(())
    }

    /// The context table of a source.
    fn index(&self, source: u16) -> u16 {
        source >> if self.scalable { 7 } else { 8 }
    }

    /// The table that holds the entry of `device`, and its offset there.
    fn slot(&mut self, device: DeviceId) -> Option<(&mut P::Buffer, usize)> {
        let source = source_of(device).ok()?;
        let index = self.index(source);
        let place = self.contexts.binary_search_by_key(&index, |(at, _)| *at);
        let (_, table) = &mut self.contexts[place.ok()?];
        let offset = match self.scalable {
            true => usize::from(source & 0x7f) * SCALABLE_CONTEXT_BYTES,
            false => usize::from(source & 0xff) * CONTEXT_BYTES,
        };
        Some((&mut **table, offset))
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
