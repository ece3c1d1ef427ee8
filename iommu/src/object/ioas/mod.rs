//! I/O address spaces: what is mapped where, and what may not be. `map` changes them, `iova` chooses addresses, `msi`
//! has the doorbells of messages, and `dirty` what devices wrote.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::driver::{Access, Memory, PageTable};
use super::inner::Inner;
use super::{Error, ids::Object, room};
use crate::addr::{Hpa, Iova, PAGE_SIZE, Span};

mod dirty;
mod iova;
mod map;
mod msi;

pub(super) use dirty::Bitmap;
pub(super) use map::Source;
pub(super) use msi::Window;

/// Owner of the reservation of the message window.
pub(super) const WINDOW: u64 = u64::MAX;

/// Part of some memory, at an IOVA.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub first: u64,
    pub len: u64,
    pub memory: Arc<dyn Memory>,
    pub offset: u64,
    pub access: Access,
    /// Hardware queues that read it.
    pub locks: u32,
    /// Pins of access users.
    pub pins: u32,
    /// It is in no table any more, but caches may still hold it.
    pub stale: bool,
}

impl Area {
    pub(super) fn last(&self) -> u64 {
        self.first + (self.len - 1)
    }

    /// The physically contiguous memory at `iova`, which may go on past the area.
    pub(super) fn piece(&self, iova: u64) -> Option<Span<Hpa>> {
        let piece = self.memory.piece(self.offset + (iova - self.first));
        piece.filter(|piece| piece.len > 0)
    }

    /// Calls `with` with each physically contiguous piece of `len` bytes from `iova` on.
    pub(super) fn pieces(
        &self,
        iova: u64,
        len: u64,
        mut with: impl FnMut(Span<Iova>, Hpa) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < len {
            let piece = self.piece(iova + done).ok_or(Error::PinFailed)?;
            let part = piece.len.min(len - done);
            let base = Iova(iova + done);
            with(Span { base, len: part }, piece.base)?;
            done += part;
        }
        Ok(())
    }
}

/// A range that must not be mapped; both ends inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reserved {
    pub first: u64,
    pub last: u64,
    /// Whose: a HWPT's ID (its aperture), a device's ID and PASID (`device::owner`), or [`WINDOW`].
    pub owner: u64,
}

/// An address space.
#[derive(Debug)]
pub(super) struct Space {
    /// By IOVA.
    pub areas: Vec<Area>,
    pub reserved: Vec<Reserved>,
    /// Where automatic IOVAs come from; anywhere if empty. By IOVA, both ends inclusive.
    pub allowed: Vec<(u64, u64)>,
    /// Tables that mirror it.
    pub hwpts: Vec<u32>,
    /// What each mapping has to be a multiple of: 1 until a table or an access user needs more.
    pub alignment: u64,
    pub huge_pages: bool,
    pub window: Option<Window>,
}

impl Space {
    fn new() -> Self {
        Self {
            areas: Vec::new(),
            reserved: Vec::new(),
            allowed: Vec::new(),
            hwpts: Vec::new(),
            alignment: 1,
            huge_pages: true,
            window: None,
        }
    }

    /// Index of the first area that ends at `iova` or later.
    pub(super) fn index(&self, iova: u64) -> usize {
        self.areas.partition_point(|area| area.last() < iova)
    }

    /// The area that contains `iova`.
    pub(super) fn area(&self, iova: u64) -> Option<&Area> {
        let area = self.areas.get(self.index(iova))?;
        (area.first <= iova).then_some(area)
    }

    /// The first area that shares an address with `first..=last`.
    fn overlap(&self, first: u64, last: u64) -> Option<&Area> {
        let area = self.areas.get(self.index(first))?;
        (area.first <= last).then_some(area)
    }

    /// The first reservation in the list that shares an address with `first..=last`.
    fn overlap_reserved(&self, first: u64, last: u64) -> Option<&Reserved> {
        let mut all = self.reserved.iter();
        all.find(|reserved| reserved.first <= last && first <= reserved.last)
    }

    /// Reserves a range, unless it meets a mapping or an allowed range.
    pub(super) fn reserve(&mut self, first: u64, last: u64, owner: u64) -> Result<(), Error> {
        if let Some(area) = self.overlap(first, last) {
            return Err(Error::AddressInUse(area.first.max(first)));
        }
        let mut allowed = self.allowed.iter();
        if let Some(meets) = allowed.find(|range| range.0 <= last && first <= range.1) {
            return Err(Error::AddressInUse(meets.0.max(first)));
        }
        room::reserve(&mut self.reserved, 1)?;
        self.reserved.push(Reserved { first, last, owner });
        Ok(())
    }

    /// Drops all reservations of `owner`.
    pub(super) fn unreserve(&mut self, owner: u64) {
        self.reserved.retain(|reserved| reserved.owner != owner);
    }

    /// The alignment with one more user that needs `needed`.
    pub(super) fn raised(&self, needed: u64) -> Result<u64, Error> {
        let alignment = self.alignment.max(needed);
        if alignment > PAGE_SIZE {
            return Err(Error::Invalid(alignment));
        }
        let mask = alignment - 1;
        let bad = |area: &&Area| {
            (area.first | area.len | area.offset) & mask != 0 && alignment > self.alignment
        };
        match self.areas.iter().find(bad) {
            Some(area) => Err(Error::AddressInUse(area.first)),
            None => Ok(alignment),
        }
    }

    /// Puts all areas and doorbells into an empty table.
    pub(super) fn fill(&self, table: &mut dyn PageTable) -> Result<(), Error> {
        for area in self.areas.iter().filter(|area| !area.stale) {
            area.pieces(area.first, area.len, |span, hpa| {
                map::put(table, span, hpa, area.access, self.huge_pages)
            })?;
        }
        let Some(window) = &self.window else {
            return Ok(());
        };
        for (index, page) in window.pages.iter().enumerate() {
            table.map(window.span(index), *page, msi::ACCESS)?;
        }
        Ok(())
    }
}

impl Inner {
    /// A new address space.
    pub(super) fn ioas_alloc(&mut self) -> Result<u32, Error> {
        let id = self.reserve_id()?;
        self.ids.publish(id, Object::Ioas(Space::new()));
        Ok(id)
    }

    /// Replaces the list of allowed ranges; both ends inclusive.
    pub(super) fn allow_iovas(&mut self, ioas: u32, ranges: &[(u64, u64)]) -> Result<(), Error> {
        let space = self.ids.ioas_mut(ioas)?;
        let mut list = room::copy(ranges)?;
        if let Some(bad) = list.iter().find(|range| range.0 >= range.1) {
            return Err(Error::Invalid(bad.0));
        }
        list.sort_unstable();
        if let Some(bad) = list.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            return Err(Error::Invalid(bad[1].0));
        }
        for range in &list {
            if let Some(meets) = space.overlap_reserved(range.0, range.1) {
                return Err(Error::AddressInUse(meets.first.max(range.0)));
            }
        }
        space.allowed = list;
        Ok(())
    }

    /// Whether tables of this space use blocks.
    pub(super) fn huge_pages(&self, ioas: u32) -> Result<bool, Error> {
        Ok(self.ids.ioas(ioas)?.huge_pages)
    }

    /// Lets tables of this space use blocks, or not.
    pub(super) fn set_huge_pages(&mut self, ioas: u32, on: bool) -> Result<(), Error> {
        let space = self.ids.ioas_mut(ioas)?;
        if on == space.huge_pages {
            return Ok(());
        }
        if !on {
            if !space.hwpts.is_empty() && !space.areas.is_empty() {
                return Err(Error::Invalid(0));
            }
            space.alignment = space.raised(PAGE_SIZE)?;
        }
        space.huge_pages = on;
        self.settle_alignment(ioas);
        Ok(())
    }

    /// The alignment after somebody who needed one is gone.
    pub(super) fn settle_alignment(&mut self, ioas: u32) {
        let Ok(space) = self.ids.ioas(ioas) else {
            return;
        };
        let tables = space
            .hwpts
            .iter()
            .filter_map(|id| self.ids.paging(*id).ok());
        let needed = tables.map(|hwpt| hwpt.page_size()).max().unwrap_or(1);
        let accesses = self
            .ids
            .live()
            .filter_map(|(_, entry)| match &entry.object {
                Object::Access(pins) if pins.ioas == ioas => Some(PAGE_SIZE),
                _ => None,
            });
        let needed = needed.max(accesses.max().unwrap_or(1));
        let plain = if space.huge_pages { 1 } else { PAGE_SIZE };
        if let Ok(space) = self.ids.ioas_mut(ioas) {
            space.alignment = needed.max(plain);
        }
    }
}
