//! Which VMIDs of one SMMU are in use.

use crate::id::CacheTag;
use crate::physical::{Invalidation, IommuError, PhysicalIommu};

/// Tags that one allocator hands out at most; 8-bit VMIDs have no more, and partitions are fewer.
const TAGS: usize = 256;

/// Hands out the cache tags of one physical IOMMU, one a slice. A tag is handed out again only after everything under
/// it was invalidated: [`free`](Self::free) does that itself. Tag 0 is nobody's.
#[derive(Debug)]
pub struct CacheTagAllocator {
    taken: [u64; TAGS / 64],
    limit: u16,
}

impl CacheTagAllocator {
    /// For an IOMMU with tags of `bits` bits (`Caps::cache_tag_bits`).
    pub const fn new(bits: u8) -> Self {
        Self {
            taken: [1, 0, 0, 0],
            limit: if bits < 8 { 1 << bits } else { TAGS as u16 },
        }
    }

    /// A tag that nobody has, or `None` where all are taken.
    pub fn allocate(&mut self) -> Option<CacheTag> {
        let tag = (0..self.limit).find(|tag| !self.is_taken(*tag))?;
        self.taken[usize::from(tag) / 64] |= 1 << (tag % 64);
        Some(CacheTag(tag))
    }

    /// Gives `tag` back, once `iommu` has forgotten everything under it. No stream may use it any more.
    ///
    /// # Errors
    /// That of the invalidation; the tag stays taken then.
    pub fn free(
        &mut self,
        tag: CacheTag,
        iommu: &mut (impl PhysicalIommu + ?Sized),
    ) -> Result<(), IommuError> {
        debug_assert!(tag.0 != 0 && tag.0 < self.limit && self.is_taken(tag.0));
        iommu.invalidate(&[Invalidation::Tag(tag)])?;
        if let Some(word) = self.taken.get_mut(usize::from(tag.0) / 64)
            && tag.0 != 0
        {
            *word &= !(1 << (tag.0 % 64));
        }
        Ok(())
    }

    fn is_taken(&self, tag: u16) -> bool {
        self.taken[usize::from(tag) / 64] >> (tag % 64) & 1 != 0
    }
}
