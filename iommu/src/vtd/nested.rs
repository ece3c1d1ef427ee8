//! A guest's first stage as IOMMUFD says it (Linux, include/uapi/linux/iommufd.h), checked and made canonical, and what a guest
//! invalidates of one.
//!
//! | type | what |
//! |---|---|
//! | [`STAGE_ONE`] | struct iommu_hwpt_vtd_s1, 24 bytes: flags, root, address width |
//! | [`INVALIDATE`] | struct iommu_hwpt_vtd_s1_invalidate, 24 bytes: address, pages, flags |
//!
//! Bits that neither has are refused, where Linux looks away. Each first stage has a domain of its own: a unit tells what it
//! caches of them apart by domain and PASID (VT-d, 6.2.1), and requests without PASID all have one.

use alloc::sync::Arc;
use core::fmt;

use super::entry::first_words;
use super::probe::Features;
use crate::addr::{Iova, Span};
use crate::id::CacheTag;
use crate::object::Error;
use crate::object::driver::{Entry, EntryRule, Invalidator, UserData, VirtIds};
use crate::physical::{FirstStage, Granule, Incomplete, Invalidate, Invalidation};

/// IOMMU_HWPT_DATA_VTD_S1.
pub const STAGE_ONE: u32 = 1;
/// IOMMU_HWPT_INVALIDATE_DATA_VTD_S1.
pub const INVALIDATE: u32 = 0;
/// Bytes of a first stage.
const STAGE_ONE_BYTES: usize = 24;
/// Bytes of an invalidation.
const ENTRY_BYTES: usize = 24;
const PAGE: u64 = 4096;

/// IOMMU_VTD_S1_*.
mod flags {
    pub const SUPERVISOR: u64 = 1;
    pub const EXTENDED_ACCESSED: u64 = 2;
    pub const WRITE_PROTECT: u64 = 4;
    pub const ALL: u64 = SUPERVISOR | EXTENDED_ACCESSED | WRITE_PROTECT;
    /// IOMMU_VTD_INV_FLAGS_LEAF.
    pub const LEAF: u64 = 1;
}

/// What guests' first stages on one nest parent have to keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub features: Features,
    /// There are any.
    pub nests: bool,
    /// Bits of input of the nest parent.
    pub bits: u8,
}

impl Rules {
    /// Reads a first stage.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there are none; [`Error::DataType`], [`Error::DataLength`];
    /// [`Error::IllegalStageOne`].
    pub(super) fn decode(&self, data: UserData<'_>) -> Result<FirstStage, Error> {
        if !self.nests {
            return Err(Error::Unsupported(data.kind));
        }
        if data.kind != STAGE_ONE {
            return Err(Error::DataType(data.kind));
        }
        let (words, rest) = data.bytes.as_chunks::<8>();
        let &[flags, root, width] = words else {
            return Err(Error::DataLength(data.bytes.len()));
        };
        if !rest.is_empty() {
            return Err(Error::DataLength(STAGE_ONE_BYTES + rest.len()));
        }
        let [flags, root, width] = [flags, root, width].map(u64::from_le_bytes);
        // The upper half of the width's word is reserved.
        let width = u8::try_from(width).map_err(|_| Error::IllegalStageOne)?;
        if flags & !flags::ALL != 0 {
            return Err(Error::IllegalStageOne);
        }
        let supervisor = flags & flags::SUPERVISOR != 0;
        let first = FirstStage {
            root,
            input_bits: width,
            supervisor,
            // For privileged writes, which there are none of without the other.
            write_protect: supervisor && flags & flags::WRITE_PROTECT != 0,
            extended_accessed: flags & flags::EXTENDED_ACCESSED != 0,
            ats: false,
        };
        self.check(&first)?;
        Ok(first)
    }

    /// # Errors
    /// [`Error::Unsupported`], [`Error::IllegalStageOne`].
    pub(super) fn check(&self, first: &FirstStage) -> Result<(), Error> {
        if !self.nests {
            return Err(Error::Unsupported(STAGE_ONE));
        }
        let inside = first.root >> self.bits.min(63) == 0;
        match first_words(first, &self.features) {
            Ok(_) if inside => Ok(()),
            _ => Err(Error::IllegalStageOne),
        }
    }
}

/// Takes invalidations of the first stage under one tag.
pub(super) struct NestedTable {
    tag: CacheTag,
    invalidator: Arc<dyn Invalidate>,
}

impl NestedTable {
    pub(super) fn new(tag: CacheTag, invalidator: Arc<dyn Invalidate>) -> Self {
        Self { tag, invalidator }
    }
}

impl fmt::Debug for NestedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NestedTable").field(&self.tag).finish()
    }
}

/// What an entry asks for, of the first stage under `tag`.
///
/// # Errors
/// [`Error::Unsupported`] for flags that there are not; [`Error::Misaligned`]; [`Error::Invalid`] for no pages, or all of them
/// from elsewhere than 0.
fn decode(entry: &Entry, tag: CacheTag) -> Result<Invalidation, Error> {
    let [address, pages, flags, _] = *entry;
    if flags & !flags::LEAF != 0 {
        return Err(Error::Unsupported(flags as u32));
    }
    if !address.is_multiple_of(PAGE) {
        return Err(Error::Misaligned(address));
    }
    match pages {
        u64::MAX if address == 0 => return Ok(Invalidation::StageOne(tag)),
        0 | u64::MAX => return Err(Error::Invalid(pages)),
        _ => {}
    }
    // A range does not go on at 0; the last byte of all is in the page before it.
    let len = pages.saturating_mul(PAGE).min(u64::MAX - address);
    Ok(Invalidation::StageOneRange {
        tag,
        asid: None,
        range: Span {
            base: Iova(address),
            len,
        },
        granule: Granule::Size4K,
        level: 0,
        leaf: flags & flags::LEAF != 0,
    })
}

impl Invalidator for NestedTable {
    fn entry_rule(&self, kind: u32) -> Option<EntryRule> {
        (kind == INVALIDATE).then_some(EntryRule {
            len: ENTRY_BYTES,
            extend: false,
        })
    }

    fn decode(
        &self,
        _kind: u32,
        entry: &Entry,
        _devices: &VirtIds<'_>,
    ) -> Result<Invalidation, Error> {
        decode(entry, self.tag)
    }

    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        self.invalidator.submit(batch)
    }
}
