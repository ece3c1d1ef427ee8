//! Mapping, unmapping and copying: checked as a whole, then put into every table of the space, or into none.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::driver::{Access, Memory, PageTable, Stale};
use super::super::{Error, inner::Inner, room};
use super::{Area, Space};
use crate::addr::{Hpa, Iova, PAGE_SIZE, Span};

/// Part of some memory.
#[derive(Clone, Debug)]
pub(in crate::object) struct Source {
    pub memory: Arc<dyn Memory>,
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub len: u64,
}

/// Maps one contiguous piece, with blocks or without.
pub(super) fn put(
    table: &mut dyn PageTable,
    span: Span<Iova>,
    to: Hpa,
    access: Access,
    huge_pages: bool,
) -> Result<(), Error> {
    if huge_pages {
        return table.map(span, to, access);
    }
    for at in (0..span.len).step_by(PAGE_SIZE as usize) {
        let page = Span {
            base: span.base + at,
            len: PAGE_SIZE,
        };
        table.map(page, to + at, access)?;
    }
    Ok(())
}

impl Inner {
    /// Maps a part of some memory, at `iova` or at one that is chosen, and returns where.
    pub(in crate::object) fn map(
        &mut self,
        ioas: u32,
        iova: Option<u64>,
        source: Source,
        access: Access,
    ) -> Result<u64, Error> {
        check_request(iova, source.len, access)?;
        self.ids.ioas(ioas)?;
        let end = source.offset.checked_add(source.len);
        let end = end.ok_or(Error::Overflow)?;
        if source.len == 0 {
            return Err(Error::Empty);
        }
        if end > source.memory.size() {
            return Err(Error::Invalid(end));
        }
        if access.contains(Access::WRITE) && !source.memory.writable() {
            return Err(Error::PinFailed);
        }
        let mut sources = Vec::new();
        room::reserve(&mut sources, 1)?;
        sources.push(source);
        self.map_all(ioas, iova, sources, access)
    }

    /// Maps what is mapped in `from` once more, and returns where. The memory is shared.
    pub(in crate::object) fn copy(
        &mut self,
        ioas: u32,
        iova: Option<u64>,
        from: u32,
        range: Span<Iova>,
        access: Access,
    ) -> Result<u64, Error> {
        check_request(iova, range.len, access)?;
        if range.len == 0 {
            return Err(Error::Empty);
        }
        let end = range.base.0.checked_add(range.len);
        let end = end.ok_or(Error::Overflow)?;
        let space = self.ids.ioas(from)?;
        let mut sources = Vec::new();
        let mut at = range.base.0;
        while at < end {
            let area = space.area(at).filter(|area| !area.stale);
            let area = area.ok_or(Error::NotMapped(at))?;
            if access.contains(Access::WRITE) && !area.access.contains(Access::WRITE) {
                return Err(Error::NotPermitted);
            }
            let inside = at - area.first;
            room::reserve(&mut sources, 1)?;
            sources.push(Source {
                memory: Arc::clone(&area.memory),
                offset: area.offset + inside,
                len: (area.len - inside).min(end - at),
            });
            at += area.len - inside;
        }
        self.ids.ioas(ioas)?;
        self.map_all(ioas, iova, sources, access)
    }

    /// Maps `sources` one after the other.
    fn map_all(
        &mut self,
        ioas: u32,
        iova: Option<u64>,
        sources: Vec<Source>,
        access: Access,
    ) -> Result<u64, Error> {
        let space = self.ids.ioas_mut(ioas)?;
        let len = sources.iter().map(|source| source.len).sum();
        let first_piece = |source: &Source| source.memory.piece(source.offset);
        let from = sources.first().and_then(first_piece);
        let from = from.ok_or(Error::PinFailed)?.base.0;
        let first = match iova {
            Some(iova) => {
                space.check_fixed(iova, len, from)?;
                iova
            }
            None => space.choose(len, from)?,
        };
        room::reserve(&mut space.areas, sources.len())?;
        let at = space.index(first);
        let mut next = first;
        let mut added = 0;
        let mut result = Ok(());
        for source in sources {
            result = source.memory.pin(source.offset, source.len);
            if result.is_err() {
                break;
            }
            let area = Area {
                first: next,
                len: source.len,
                memory: source.memory,
                offset: source.offset,
                access,
                locks: 0,
                pins: 0,
                stale: false,
            };
            next += area.len;
            space.areas.insert(at + added, area);
            added += 1;
        }
        result = result.and_then(|()| self.fill_areas(ioas, at..at + added));
        match result {
            Ok(()) => Ok(first),
            // Nothing but a hardware failure stops this, and that is the graver one then.
            Err(error) => Err(self
                .remove_areas(ioas, at..at + added)
                .err()
                .unwrap_or(error)),
        }
    }

    /// Puts areas into each table of the space; the caller removes them after an error.
    fn fill_areas(&mut self, ioas: u32, areas: core::ops::Range<usize>) -> Result<(), Error> {
        let hwpts = self.ids.ioas(ioas)?.hwpts.len();
        for which in 0..hwpts {
            for index in areas.clone() {
                let space = self.ids.ioas(ioas)?;
                let area = space.areas[index].clone();
                let huge_pages = space.huge_pages;
                let hwpt = space.hwpts[which];
                let table = self.ids.paging_mut(hwpt)?.table_mut();
                area.pieces(area.first, area.len, |span, hpa| {
                    put(table, span, hpa, area.access, huge_pages)
                })?;
            }
        }
        Ok(())
    }

    /// Takes areas out of each table and out of the space. After an error they stay in the space, stale.
    fn remove_areas(&mut self, ioas: u32, areas: core::ops::Range<usize>) -> Result<(), Error> {
        let mut start = areas.start;
        let mut end = areas.end;
        while start < end {
            let run = self.run(ioas, start..end)?;
            self.remove_run(ioas, run.clone())?;
            end -= run.len();
            start = run.start;
        }
        Ok(())
    }

    /// The first areas of the range without a hole between them.
    fn run(
        &self,
        ioas: u32,
        areas: core::ops::Range<usize>,
    ) -> Result<core::ops::Range<usize>, Error> {
        let list = &self.ids.ioas(ioas)?.areas[areas.clone()];
        let whole = list.windows(2);
        let count = whole.take_while(|pair| pair[0].last() + 1 == pair[1].first);
        Ok(areas.start..areas.start + 1 + count.count())
    }

    fn remove_run(&mut self, ioas: u32, run: core::ops::Range<usize>) -> Result<(), Error> {
        let space = self.ids.ioas(ioas)?;
        let list = &space.areas[run.clone()];
        let (Some(head), Some(tail)) = (list.first(), list.last()) else {
            return Ok(());
        };
        let base = Iova(head.first);
        let len = tail.last() - head.first + 1;
        let range = Span { base, len };
        let stale = list.iter().any(|area| area.stale);
        let mut result = Ok(());
        for which in 0..space.hwpts.len() {
            let hwpt = self.ids.ioas(ioas)?.hwpts[which];
            let hwpt = self.ids.paging_mut(hwpt)?;
            let mut one = hwpt.unmap(range).map(drop);
            if stale {
                let all = Stale { range, leaf: false };
                one = one.and(hwpt.flush(all));
            }
            result = result.and(one);
        }
        let result = result.map_err(Error::from).and(self.empty_shadows(ioas));
        let space = self.ids.ioas_mut(ioas)?;
        if let Err(error) = result {
            for area in &mut space.areas[run] {
                area.stale = true;
            }
            return Err(error);
        }
        for area in space.areas.drain(run) {
            area.memory.unpin(area.offset, area.len);
        }
        Ok(())
    }

    /// Unmaps all areas inside the range, and returns their bytes. Base 0 and length 2^64 - 1 is everything, be it nothing.
    pub(in crate::object) fn unmap(
        &mut self,
        ioas: u32,
        iova: u64,
        len: u64,
    ) -> Result<u64, Error> {
        let all = iova == 0 && len == u64::MAX;
        if !all && (iova == u64::MAX || len == u64::MAX) {
            return Err(Error::Overflow);
        }
        if len == 0 {
            return Err(Error::Empty);
        }
        let last = iova.checked_add(len - 1).ok_or(Error::Overflow)?;
        let space = self.ids.ioas(ioas)?;
        let start = space.index(iova);
        let rest = &space.areas[start..];
        let count = rest.partition_point(|area| area.first <= last);
        let list = &rest[..count];
        if list.is_empty() && !all {
            return Err(Error::NotMapped(iova));
        }
        let cut = |area: &&Area| area.first < iova || area.last() > last;
        if let Some(area) = list.iter().find(cut) {
            return Err(Error::CutsArea(area.first));
        }
        if let Some(area) = list.iter().find(|area| area.locks > 0) {
            return Err(Error::AreaLocked(area.first));
        }
        if let Some(area) = list.iter().find(|area| area.pins > 0) {
            let first = area.first;
            self.ask_to_unpin(ioas, iova, last);
            return Err(Error::Pinned(first));
        }
        let bytes = list.iter().map(|area| area.len).sum();
        self.remove_areas(ioas, start..start + count)?;
        Ok(bytes)
    }

    /// The address space goes: nothing uses it any more.
    pub(in crate::object) fn ioas_destroyed(space: Space) {
        for area in space.areas {
            area.memory.unpin(area.offset, area.len);
        }
    }
}

/// What is checked before anything is looked up.
fn check_request(iova: Option<u64>, len: u64, access: Access) -> Result<(), Error> {
    if iova == Some(u64::MAX) || len == u64::MAX {
        return Err(Error::Overflow);
    }
    if !access.intersects(Access::READ | Access::WRITE) {
        return Err(Error::Access);
    }
    Ok(())
}
