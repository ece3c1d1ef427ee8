//! Which VMIDs of one SMMU are in use.

use crate::id::CacheTag;
use crate::physical::Invalidated;

/// Tags that one allocator hands out at most; 8-bit VMIDs have no more, and partitions are fewer.
const TAGS: usize = 256;

/// Hands out the cache tags of one physical IOMMU, one a slice. A tag is handed out again only after everything under
/// it was invalidated: [`free`](Self::free) wants that stated. Tag 0 is nobody's.
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

    /// Gives `tag` back, under which everything is forgotten. No stream uses it any more.
    pub fn free(&mut self, tag: CacheTag, _forgotten: Invalidated) {
        debug_assert!(tag.0 != 0 && tag.0 < self.limit && self.is_taken(tag.0));
        if let Some(word) = self.taken.get_mut(usize::from(tag.0) / 64)
            && tag.0 != 0
        {
            *word &= !(1 << (tag.0 % 64));
        }
    }

    fn is_taken(&self, tag: u16) -> bool {
        self.taken[usize::from(tag) / 64] >> (tag % 64) & 1 != 0
    }
}
