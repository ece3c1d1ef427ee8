//! Shadow tables: a guest's translation and its memory in one table, for hardware that cannot walk both.
//!
//! A shadow belongs to a slice and is filled by the IOMMU that the guest sees, entry by entry, in guest physical addresses:
//! what they lead to is looked up here, so that nothing but the partition's memory can get into it. It has a cache tag of its
//! own, as a table of ours has, and devices are attached to it like to any.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::driver::{Access, HwptFlags, UserData};
use super::hwpt::Paging;
use super::ids::Object;
use super::inner::Inner;
use super::{Error, ioas};
use crate::addr::{Gpa, Hpa, Iova, PAGE_SIZE, Span};

/// What of a mapping a shadow has.
const RIGHTS: Access = Access::READ.union(Access::WRITE);

impl Inner {
    /// An empty shadow in the format of the slice's IOMMU.
    pub(super) fn shadow_alloc(&mut self, viommu: u32) -> Result<u32, Error> {
        let slice = self.ids.viommu(viommu)?;
        let (driver, parent) = (Arc::clone(&slice.driver), slice.parent);
        let ioas = self.ids.paging(parent)?.ioas;
        let id = self.publish_with(|_, _| {
            let table = driver.alloc_table(HwptFlags::empty(), UserData::default())?;
            let format = table.root().format;
            Ok(Object::Paging(Paging {
                ioas,
                table,
                format,
                // A table like any: where devices have PASIDs, any of them may go through it.
                flags: HwptFlags::PASID,
                fault: None,
                tags: Vec::new(),
                dirty: false,
                lost: false,
                shadow: Some(viommu),
            }))
        })?;
        self.ids.grab(ioas);
        self.ids.grab(viommu);
        Ok(id)
    }

    fn shadow(&mut self, id: u32) -> Result<&mut Paging, Error> {
        let paging = self.ids.paging_mut(id)?;
        match paging.shadow {
            Some(_) => Ok(paging),
            None => Err(Error::WrongKind(id)),
        }
    }

    /// Makes the start of `range` of a shadow lead to what the partition has from `to` on, or nowhere: what is so already stays,
    /// and what was otherwise is in no cache when this returns. As much of it as a few tables hold.
    pub(super) fn shadow_set(
        &mut self,
        id: u32,
        range: Span<Iova>,
        to: Option<(Gpa, Access)>,
    ) -> Result<Set, Error> {
        let paging = self.shadow(id)?;
        // What was cleared before does not pile up.
        let freed = paging.table_mut().free();
        let set = self.shadow_put(id, range, to)?;
        Ok(Set {
            freed: freed || set.freed,
            ..set
        })
    }

    fn shadow_put(
        &mut self,
        id: u32,
        range: Span<Iova>,
        to: Option<(Gpa, Access)>,
    ) -> Result<Set, Error> {
        let paging = self.shadow(id)?;
        let (ioas, largest) = (paging.ioas, paging.root().largest);
        let Some((to, access)) = to else {
            return clear(self.shadow(id)?, range);
        };
        let space = self.ids.ioas(ioas)?;
        let (area, hole) = space.area_or_hole(to.0, range.len);
        let Some(area) = area else {
            let hole = Span { len: hole, ..range };
            return clear(self.shadow(id)?, hole);
        };
        let len = range.len.min(area.first + area.len - to.0);
        let rights = access & area.access & RIGHTS;
        if rights.is_empty() {
            return clear(self.shadow(id)?, Span { len, ..range });
        }
        let access = rights | area.access & Access::DEVICE;
        let piece = area.piece(to.0).ok_or(Error::PinFailed)?;
        let len = one_table(range.base, piece.base, len.min(piece.len), largest);
        let span = Span { len, ..range };
        put(self.shadow(id)?, span, piece.base, access)
    }

    /// The first address from `from` on that a shadow has a mapping for.
    pub(super) fn shadow_next(&mut self, id: u32, from: Iova) -> Result<Option<Iova>, Error> {
        Ok(self.shadow(id)?.table_mut().next(from))
    }

    /// Empties a shadow, at once, and frees a few of the tables that held what was there. Whether there were any.
    pub(super) fn shadow_clear(&mut self, id: u32) -> Result<bool, Error> {
        let paging = self.shadow(id)?;
        paging.clear()?;
        Ok(paging.table_mut().free())
    }

    /// Empties the shadows of an address space, each at once: what they were made of has changed. Their tables are freed later.
    pub(super) fn empty_shadows(&mut self, ioas: u32) -> Result<(), Error> {
        let mut result = Ok(());
        for id in 1..=self.ids.highest() {
            let Ok(paging) = self.ids.paging_mut(id) else {
                continue;
            };
            if paging.ioas == ioas && paging.shadow.is_some() {
                result = result.and(paging.clear());
            }
        }
        Ok(result?)
    }
}

/// What a call has done of what was asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Set {
    /// Bytes from the start. None where so much had to go first that what takes its place is for the next call.
    pub bytes: u64,
    /// Whether there was anything to do but to look.
    pub changed: bool,
    /// Bytes of tables that it has more than before.
    pub new_tables: u64,
    /// Whether caches had to forget something: that is waited for.
    pub forgot: bool,
    /// Whether a few tables were freed.
    pub freed: bool,
}

/// What is emptied at once at most: the pages that a few tables map.
const WINDOW: u64 = 16 << 20;

/// What goes takes long from this on: pages that a block takes the place of.
const LONG: u64 = 1 << 20;

/// Empties the start of a range.
fn clear(paging: &mut Paging, range: Span<Iova>) -> Result<Set, Error> {
    let end = range.base + range.len;
    let mapped = paging.table_mut().next(range.base);
    let Some(base) = mapped.filter(|mapped| *mapped < end) else {
        return Ok(Set {
            bytes: range.len,
            ..Set::default()
        });
    };
    let upto = end.min(base.align_down(WINDOW) + WINDOW);
    let len = upto.0 - base.0;
    let before = paging.table.bytes();
    Ok(Set {
        bytes: upto.0 - range.base.0,
        changed: true,
        forgot: paging.unmap(Span { base, len })?,
        freed: paging.table.bytes() < before,
        ..Set::default()
    })
}

/// How much of `len` bytes from `at` to `to` is in one table, with the largest leaves that there may be for its start.
fn one_table(at: Iova, to: Hpa, len: u64, largest: u64) -> u64 {
    const ENTRIES: u64 = 512;
    let fits = |size: &u64| *size <= largest.min(len) && (at.0 | to.0) & (size - 1) == 0;
    let size = [1 << 30, 1 << 21].into_iter().find(fits);
    let size = size.unwrap_or(PAGE_SIZE);
    let table = size * ENTRIES;
    let whole = len & !(size - 1);
    whole.min(table - (at.0 & (table - 1)))
}

/// Maps the start of one contiguous piece, which is in one table, and leaves what is there already.
fn put(paging: &mut Paging, span: Span<Iova>, to: Hpa, access: Access) -> Result<Set, Error> {
    let (base, end) = (span.base, span.base + span.len);
    let (mut len, mut forgot) = (span.len, false);
    match paging.table_mut().agrees(span, to, access) {
        Some((true, same)) => {
            return Ok(Set {
                bytes: same.min(end).0 - base.0,
                ..Set::default()
            });
        }
        Some((false, other)) => {
            len = other.min(end).0 - base.0;
            forgot = paging.unmap(Span { base, len })?;
            if len >= LONG {
                return Ok(Set {
                    changed: true,
                    forgot,
                    ..Set::default()
                });
            }
        }
        None => {}
    }
    let table = paging.table_mut();
    let before = table.bytes();
    match table.map(Span { base, len }, to, access) {
        Err(Error::Occupied(taken)) if taken > base.0 => {
            len = taken - base.0;
            table.map(Span { base, len }, to, access)?;
        }
        result => result?,
    }
    Ok(Set {
        bytes: len,
        changed: true,
        new_tables: table.bytes().saturating_sub(before),
        forgot,
        freed: false,
    })
}

impl ioas::Space {
    /// The area at `at`, or how many of the `len` bytes there are before the next one.
    fn area_or_hole(&self, at: u64, len: u64) -> (Option<ioas::Area>, u64) {
        let found = self.areas[self.index(at)..].iter().find(|area| !area.stale);
        match found {
            Some(area) if area.first <= at => (Some(area.clone()), 0),
            Some(area) => (None, len.min(area.first - at)),
            None => (None, len),
        }
    }
}
