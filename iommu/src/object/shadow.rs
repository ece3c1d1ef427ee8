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
use crate::addr::{Gpa, Hpa, Iova, Span};

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

    /// Makes `range` of a shadow lead to what the partition has from `to` on, or nowhere: what is so already stays, and what
    /// was otherwise is in no cache when this returns.
    pub(super) fn shadow_set(
        &mut self,
        id: u32,
        range: Span<Iova>,
        to: Option<(Gpa, Access)>,
    ) -> Result<(), Error> {
        let ioas = self.shadow(id)?.ioas;
        let Some((to, access)) = to else {
            return Ok(self.shadow(id)?.unmap(range)?);
        };
        let mut done = 0;
        while done < range.len {
            let (at, left) = (to.0.saturating_add(done), range.len - done);
            let base = range.base + done;
            let space = self.ids.ioas(ioas)?;
            let (area, hole) = space.area_or_hole(at, left);
            let Some(area) = area else {
                self.shadow(id)?.unmap(Span { base, len: hole })?;
                done += hole;
                continue;
            };
            let len = left.min(area.first + area.len - at);
            let rights = access & area.access & RIGHTS;
            let access = rights | area.access & Access::DEVICE;
            let paging = self.shadow(id)?;
            if rights.is_empty() {
                paging.unmap(Span { base, len })?;
            } else {
                area.pieces(at, len, |piece, hpa| {
                    let base = base + (piece.base.0 - at);
                    let span = Span {
                        base,
                        len: piece.len,
                    };
                    put(paging, span, hpa, access)
                })?;
            }
            done += len;
        }
        Ok(())
    }

    /// The first address from `from` on that a shadow has a mapping for.
    pub(super) fn shadow_next(&mut self, id: u32, from: Iova) -> Result<Option<Iova>, Error> {
        Ok(self.shadow(id)?.table_mut().next(from))
    }

    /// Empties the shadows of an address space: what they were made of has changed.
    pub(super) fn empty_shadows(&mut self, ioas: u32) -> Result<(), Error> {
        let mut result = Ok(());
        for id in 1..=self.ids.highest() {
            let Ok(paging) = self.ids.paging_mut(id) else {
                continue;
            };
            if paging.ioas == ioas && paging.shadow.is_some() {
                result = result.and(paging.unmap_all());
            }
        }
        Ok(result?)
    }
}

/// Maps one contiguous piece, and leaves what is there already.
fn put(paging: &mut Paging, span: Span<Iova>, to: Hpa, access: Access) -> Result<(), Error> {
    let (mut at, end) = (span.base.0, span.base.0 + span.len);
    while at < end {
        let rest = Span {
            base: Iova(at),
            len: end - at,
        };
        let output = |iova: u64| to + (iova - span.base.0);
        let table = paging.table_mut();
        let taken = match table.map(rest, output(at), access) {
            Err(Error::Occupied(taken)) => taken.max(at),
            result => return result,
        };
        if taken > at {
            let len = taken - at;
            table.map(Span { len, ..rest }, output(at), access)?;
        }
        // What stays, or what goes, as far as that goes: it is forgotten at once.
        let mut last = taken;
        let mut stays = None;
        while last < end
            && let Some((leaf, hpa, rights)) = table.leaf(Iova(last))
        {
            let same = hpa == output(last) && rights == access & RIGHTS;
            if *stays.get_or_insert(same) != same {
                break;
            }
            last = end.min(leaf.base.0 + leaf.len);
        }
        match stays {
            Some(true) => at = last,
            Some(false) => {
                let base = Iova(taken);
                let len = last - taken;
                paging.unmap(Span { base, len })?;
                at = taken;
            }
            None => return Err(Error::Occupied(taken)),
        }
    }
    Ok(())
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
