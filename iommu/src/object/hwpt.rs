//! Hardware page tables of ours, filled from an address space.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::driver::{Driver, Flush, Format, HwptFlags, PageTable, Root, Stale, UserData};
use super::ids::{Object, Owner};
use super::inner::Inner;
use super::{Error, room};
use crate::addr::{Iova, Span};
use crate::id::CacheTag;
use crate::physical::IommuError;

/// A tag under which one IOMMU caches a table.
#[derive(Debug)]
pub(super) struct Tagged {
    pub driver: Arc<dyn Driver>,
    pub tag: CacheTag,
    /// A guest's stage 1 is cached under it too: it is a slice's, or a nested table's own.
    pub nested: bool,
    /// Attachments, where it is not nested.
    pub users: u32,
}

/// A table of ours.
#[derive(Debug)]
pub(super) struct Paging {
    pub ioas: u32,
    pub table: Box<dyn PageTable>,
    pub format: Format,
    pub flags: HwptFlags,
    pub fault: Option<u32>,
    /// Every tag under which it is cached anywhere.
    pub tags: Vec<Tagged>,
    pub dirty: bool,
    /// An IOMMU would not forget it: its memory is lost when it goes.
    pub lost: bool,
    /// The slice that fills it, instead of the address space.
    pub shadow: Option<u32>,
}

impl Paging {
    pub(super) fn table_mut(&mut self) -> &mut dyn PageTable {
        &mut *self.table
    }

    pub(super) fn root(&self) -> Root {
        self.table.root()
    }

    pub(super) fn page_size(&self) -> u64 {
        self.table.page_size()
    }

    pub(super) fn walk(&self, iova: Iova) -> Option<crate::addr::Hpa> {
        self.table.walk(iova)
    }

    /// Removes a range from the table and from all caches of it; whether any cache may have had some of it.
    pub(super) fn unmap(&mut self, range: Span<Iova>) -> Result<bool, IommuError> {
        self.remove(|table, flush| table.unmap(range, flush))
    }

    /// Removes everything from the table and from all caches of it. What that leaves is for [`PageTable::free`].
    pub(super) fn clear(&mut self) -> Result<(), IommuError> {
        self.remove(|table, flush| table.clear(flush)).map(drop)
    }

    fn remove(
        &mut self,
        what: impl FnOnce(&mut dyn PageTable, &mut Flush<'_>) -> Result<(), IommuError>,
    ) -> Result<bool, IommuError> {
        let tags = &self.tags;
        let format = self.format;
        let mut told = false;
        let result = what(&mut *self.table, &mut |stale| {
            told = !tags.is_empty();
            flush(tags, format, stale)
        });
        self.lost |= result.is_err();
        result.map(|()| told)
    }

    /// Makes all IOMMUs forget `stale`.
    pub(super) fn flush(&self, stale: Stale) -> Result<(), IommuError> {
        flush(&self.tags, self.format, stale)
    }

    /// Makes all IOMMUs forget all of it.
    pub(super) fn flush_all(&self) -> Result<(), IommuError> {
        let len = 1u64 << self.root().input_bits.min(63);
        let base = Iova(0);
        self.flush(Stale {
            range: Span { base, len },
            leaf: false,
        })
    }

    /// The tag for attachments behind `driver`; taken if there is none yet. Counted.
    pub(super) fn take_tag(&mut self, driver: &Arc<dyn Driver>) -> Result<(), Error> {
        let index = driver.index();
        let mut tags = self.tags.iter_mut();
        if let Some(known) = tags.find(|it| !it.nested && it.driver.index() == index) {
            known.users += 1;
            return Ok(());
        }
        room::reserve(&mut self.tags, 1)?;
        let tag = driver.alloc_tag(self.format)?;
        self.tags.push(Tagged {
            driver: Arc::clone(driver),
            tag,
            nested: false,
            users: 1,
        });
        Ok(())
    }

    /// The tag of attachments behind `driver`.
    pub(super) fn tag(&self, driver: &Arc<dyn Driver>) -> Option<CacheTag> {
        let index = driver.index();
        let mut tags = self.tags.iter();
        tags.find(|it| !it.nested && it.driver.index() == index)
            .map(|it| it.tag)
    }

    /// One attachment behind `driver` less. The tag goes with the last.
    pub(super) fn put_tag(&mut self, driver: &Arc<dyn Driver>) {
        let index = driver.index();
        let mut tags = self.tags.iter();
        let Some(at) = tags.position(|it| !it.nested && it.driver.index() == index) else {
            return;
        };
        self.tags[at].users -= 1;
        if self.tags[at].users == 0 {
            let gone = self.tags.swap_remove(at);
            self.free_tag(&gone.driver, gone.tag);
        }
    }

    /// Takes the tag of a slice or of a nested table out. It is freed by [`free_tag`](Self::free_tag).
    pub(super) fn drop_nested_tag(&mut self, driver: &Arc<dyn Driver>, tag: CacheTag) {
        let index = driver.index();
        self.tags
            .retain(|it| !(it.nested && it.tag == tag && it.driver.index() == index));
        self.free_tag(driver, tag);
    }

    pub(super) fn free_tag(&mut self, driver: &Arc<dyn Driver>, tag: CacheTag) {
        self.lost |= driver.free_tag(tag, self.format).is_err();
    }
}

/// Each IOMMU is told, whatever another answered.
fn flush(tags: &[Tagged], format: Format, stale: Stale) -> Result<(), IommuError> {
    let mut result = Ok(());
    for tagged in tags {
        let one = tagged
            .driver
            .flush(tagged.tag, format, stale, tagged.nested);
        result = result.and(one);
    }
    result
}

impl Inner {
    /// A table that mirrors an address space, made by `driver`.
    pub(super) fn paging_alloc(
        &mut self,
        ioas: u32,
        driver: &Arc<dyn Driver>,
        flags: HwptFlags,
        data: UserData<'_>,
        fault: Option<u32>,
    ) -> Result<u32, Error> {
        self.ids.ioas(ioas)?;
        if flags.contains(HwptFlags::FAULT | HwptFlags::NEST_PARENT) {
            return Err(Error::Unsupported(HwptFlags::FAULT.bits()));
        }
        let fault = self.fault_of(flags, fault)?;
        let id = self.publish_with(|inner, id| {
            let mut table = driver.alloc_table(flags - HwptFlags::FAULT, data)?;
            let placed = inner.mirror(ioas, id, &mut *table);
            if let Err(error) = placed {
                // Nothing has walked it.
                table.retire();
                return Err(error);
            }
            let format = table.root().format;
            Ok(Object::Paging(Paging {
                ioas,
                table,
                format,
                flags,
                fault,
                tags: Vec::new(),
                dirty: false,
                lost: false,
                shadow: None,
            }))
        })?;
        self.ids.grab(ioas);
        if let Some(fault) = fault {
            self.ids.grab(fault);
        }
        Ok(id)
    }

    /// The fault queue that a HWPT's flags ask for.
    pub(super) fn fault_of(
        &self,
        flags: HwptFlags,
        fault: Option<u32>,
    ) -> Result<Option<u32>, Error> {
        if !flags.contains(HwptFlags::FAULT) {
            return Ok(None);
        }
        let fault = fault.unwrap_or(0);
        self.ids.fault_queue(fault)?;
        Ok(Some(fault))
    }

    /// Fills a new table, and makes the address space keep to what it can hold.
    fn mirror(&mut self, ioas: u32, id: u32, table: &mut dyn PageTable) -> Result<(), Error> {
        let space = self.ids.ioas_mut(ioas)?;
        let alignment = space.raised(table.page_size())?;
        room::reserve(&mut space.hwpts, 1)?;
        let root = table.root();
        if root.input_bits < 64 {
            space.reserve(1 << root.input_bits, u64::MAX, id.into())?;
        }
        if let Err(error) = space.fill(table) {
            space.unreserve(id.into());
            return Err(error);
        }
        space.hwpts.push(id);
        space.alignment = alignment;
        Ok(())
    }

    /// A table that exists for as long as something is attached to it.
    pub(super) fn auto_paging(
        &mut self,
        ioas: u32,
        driver: &Arc<dyn Driver>,
    ) -> Result<u32, Error> {
        let id = self.paging_alloc(ioas, driver, HwptFlags::empty(), UserData::default(), None)?;
        self.ids.entry_mut(id)?.owner = Owner::Uses;
        Ok(id)
    }

    /// Whether a HWPT was made by an attachment.
    pub(super) fn is_auto(&self, id: u32) -> bool {
        let entry = self.ids.entry(id);
        entry.is_ok_and(|entry| entry.owner == Owner::Uses && entry.handles == 0)
    }

    pub(super) fn paging_destroyed(&mut self, id: u32, mut hwpt: Paging) {
        if let Ok(space) = self.ids.ioas_mut(hwpt.ioas) {
            space.hwpts.retain(|it| *it != id);
            space.unreserve(id.into());
        }
        self.settle_alignment(hwpt.ioas);
        if !hwpt.lost {
            hwpt.table.retire();
        }
        drop(hwpt.table);
        self.put(hwpt.ioas);
        if let Some(fault) = hwpt.fault {
            self.put(fault);
        }
        if let Some(viommu) = hwpt.shadow {
            self.put(viommu);
        }
    }
}
