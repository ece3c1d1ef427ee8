//! PASID directories and tables of scalable mode (VT-d, 3.4.3): their one writer.
//!
//! Each source has a directory of one page, which is good for [`PASID_BITS`] bits of PASIDs, and tables where PASIDs are used.
//! An entry of 64 bytes is not stored at once: one that is not present becomes present by its last store, and one in place of
//! another goes into a copy of its table, to which the directory leads by one store. There is one page for copies: the table
//! that was copied is that page next time.

use alloc::vec::Vec;

use super::entry::PasidEntry;
use super::spec::pasid::{DIRECTORY, DIRECTORY_BYTES, PASID_BYTES, PASID0, TABLE_LOG2};
use super::tables::{TABLE_BYTES, source_of};
use crate::addr::Hpa;
use crate::hal::{DmaBuffer, Platform};
use crate::held::Held;
use crate::id::DeviceId;
use crate::physical::IommuError;

/// Bits of PASIDs that a directory of one page is good for.
pub(super) const PASID_BITS: u8 = (TABLE_BYTES / DIRECTORY_BYTES).ilog2() as u8 + TABLE_LOG2;
const _: () = assert!(PASID_BYTES << TABLE_LOG2 == TABLE_BYTES);

/// The PASIDs of one source.
struct Space<B> {
    source: u16,
    directory: Held<B>,
    /// By their places in the directory.
    tables: Vec<(u16, Held<B>)>,
    /// Entries that are present.
    present: u32,
}

impl<B: DmaBuffer> Space<B> {
    /// The table that has the entry of `pasid`, and the offset there.
    fn slot(&self, pasid: u32) -> Option<(usize, usize)> {
        let place = self.place(pasid).ok()?;
        let entry = pasid as usize & ((1 << TABLE_LOG2) - 1);
        Some((place, entry * PASID_BYTES))
    }

    fn place(&self, pasid: u32) -> Result<usize, usize> {
        let index = (pasid >> TABLE_LOG2) as u16;
        self.tables.binary_search_by_key(&index, |(at, _)| *at)
    }
}

fn read<B: DmaBuffer>(table: &B, offset: usize) -> PasidEntry {
    PasidEntry(core::array::from_fn(|word| table.read64(offset + word * 8)))
}

/// All of them.
pub(super) struct PasidTables<P: Platform> {
    /// By source.
    spaces: Vec<Space<P::Buffer>>,
    /// The page for a copy.
    spare: Option<Held<P::Buffer>>,
    coherent: bool,
}

impl<P: Platform> PasidTables<P> {
    pub(super) fn new(coherent: bool) -> Self {
        Self {
            spaces: Vec::new(),
            spare: None,
            coherent,
        }
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        let spaces = self.spaces.iter().map(|space| space.tables.len() + 1);
        ((spaces.sum::<usize>() + usize::from(self.spare.is_some())) * TABLE_BYTES) as u64
    }

    /// Loses them instead of freeing them.
    pub(super) fn lose(&mut self) {
        for space in &mut self.spaces {
            space.directory.lose();
            space.tables.iter_mut().for_each(|(_, table)| table.lose());
        }
    }

    fn find(&self, device: DeviceId) -> Option<usize> {
        let source = source_of(device).ok()?;
        let place = self
            .spaces
            .binary_search_by_key(&source, |space| space.source);
        place.ok()
    }

    fn page(&self, platform: &P) -> Result<Held<P::Buffer>, IommuError> {
        let page = platform.allocate(TABLE_BYTES);
        let page = page.ok_or(IommuError::OutOfMemory)?;
        if !self.coherent {
            page.clean(0, TABLE_BYTES);
        }
        Ok(Held::new(page))
    }

    /// Makes sure that there is a place for an entry. What is new needs no invalidation: what is not present is not cached
    /// (6.1, CAP.CM is 0).
    pub(super) fn prepare(
        &mut self,
        platform: &P,
        device: DeviceId,
        pasid: u32,
    ) -> Result<(), IommuError> {
        let no_room = |_| IommuError::OutOfMemory;
        let source = source_of(device)?;
        if self.spare.is_none() {
            self.spare = Some(self.page(platform)?);
        }
        let found = self
            .spaces
            .binary_search_by_key(&source, |space| space.source);
        let at = match found {
            Ok(at) => at,
            Err(at) => {
                let directory = self.page(platform)?;
                self.spaces.try_reserve(1).map_err(no_room)?;
                let space = Space {
                    source,
                    directory,
                    tables: Vec::new(),
                    present: 0,
                };
                self.spaces.insert(at, space);
                at
            }
        };
        let Err(place) = self.spaces[at].place(pasid) else {
            return Ok(());
        };
        let table = self.page(platform)?;
        let space = &mut self.spaces[at];
        space.tables.try_reserve(1).map_err(no_room)?;
        let index = (pasid >> TABLE_LOG2) as u16;
        let to = table.hpa();
        space.tables.insert(place, (index, table));
        platform.write_barrier();
        self.lead(platform, at, index, to);
        Ok(())
    }

    /// Has a directory lead to a table.
    fn lead(&mut self, platform: &P, space: usize, index: u16, to: Hpa) {
        let directory = &mut self.spaces[space].directory;
        let offset = usize::from(index) * DIRECTORY_BYTES;
        directory.write64(offset, DIRECTORY::P::SET.value | to.0);
        if !self.coherent {
            directory.clean(offset, DIRECTORY_BYTES);
        }
        platform.write_barrier();
    }

    /// The directory of a source.
    pub(super) fn directory(&self, device: DeviceId) -> Option<Hpa> {
        Some(self.spaces[self.find(device)?].directory.hpa())
    }

    /// An entry as it is in memory.
    pub(super) fn read(&self, device: DeviceId, pasid: u32) -> Option<PasidEntry> {
        let space = &self.spaces[self.find(device)?];
        let (place, offset) = space.slot(pasid)?;
        Some(read(&*space.tables[place].1, offset))
    }

    /// Whether any PASID of a source passes.
    pub(super) fn any(&self, device: DeviceId) -> bool {
        self.find(device)
            .is_some_and(|at| self.spaces[at].present != 0)
    }

    /// The first entry of a source from `from` on that is present.
    pub(super) fn next(&self, device: DeviceId, from: u32) -> Option<(u32, PasidEntry)> {
        let space = &self.spaces[self.find(device)?];
        let first = (from >> TABLE_LOG2) as u16;
        for (index, table) in space.tables.iter().filter(|(index, _)| *index >= first) {
            let base = u32::from(*index) << TABLE_LOG2;
            for pasid in (base..base + (1 << TABLE_LOG2)).filter(|pasid| *pasid >= from) {
                let offset = (pasid - base) as usize * PASID_BYTES;
                if table.read64(offset) & PASID0::P::SET.value != 0 {
                    return Some((pasid, read(&**table, offset)));
                }
            }
        }
        None
    }

    /// Stores an entry where there is none that is present, or one that is not; visible to the unit on return. P goes first,
    /// and comes last.
    pub(super) fn store(&mut self, platform: &P, device: DeviceId, pasid: u32, entry: &PasidEntry) {
        let coherent = self.coherent;
        let Some(at) = self.find(device) else {
            return;
        };
        let space = &mut self.spaces[at];
        let Some((place, offset)) = space.slot(pasid) else {
            return;
        };
        let table = &mut *space.tables[place].1;
        let was = table.read64(offset) & PASID0::P::SET.value != 0;
        space.present -= u32::from(was);
        space.present += u32::from(entry.is_present());
        let [first, rest @ ..] = entry.0;
        let mut part = |from: usize, words: &[u64]| {
            for (word, value) in (from..).zip(words) {
                table.write64(offset + word * 8, *value);
            }
            if !coherent {
                table.clean(offset, PASID_BYTES);
            }
            platform.write_barrier();
        };
        if entry.is_present() {
            part(1, &rest);
            part(0, &[first]);
        } else {
            part(0, &[first]);
            part(1, &rest);
        }
    }

    /// Puts a present entry in place of a present one by one store, where there is a page for a copy. The unit may go on using
    /// the table as it was until [`settle`](Self::settle) is told that it does not.
    pub(super) fn replace(
        &mut self,
        platform: &P,
        device: DeviceId,
        pasid: u32,
        entry: &PasidEntry,
    ) -> bool {
        let Some(at) = self.find(device) else {
            return false;
        };
        let Some((place, offset)) = self.spaces[at].slot(pasid) else {
            return false;
        };
        let Some(mut copy) = self.spare.take() else {
            return false;
        };
        let (index, table) = &mut self.spaces[at].tables[place];
        for word in (0..TABLE_BYTES).step_by(8) {
            let value = match word.checked_sub(offset) {
                Some(inside) if inside < PASID_BYTES => entry.0[inside / 8],
                _ => table.read64(word),
            };
            copy.write64(word, value);
        }
        if !self.coherent {
            copy.clean(0, TABLE_BYTES);
        }
        platform.write_barrier();
        let (index, to) = (*index, copy.hpa());
        self.spare = Some(core::mem::replace(table, copy));
        self.lead(platform, at, index, to);
        true
    }

    /// The unit has forgotten the table as it was before [`replace`](Self::replace), or may not have: its page is lost then.
    pub(super) fn settle(&mut self, forgotten: bool) {
        if !forgotten && let Some(mut table) = self.spare.take() {
            table.lose();
        }
    }
}
