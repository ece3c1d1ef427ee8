//! What devices wrote.

use super::super::driver::Stale;
use super::super::{Error, inner::Inner};
use crate::addr::{Iova, Span};

/// Where the bits of [`Inner::read_dirty`] go.
pub(in crate::object) struct Bitmap<'a> {
    /// Bit n of word n / 64 is page n of the range. Bits are only set.
    pub words: &'a mut [u64],
    /// Bytes a bit stands for; a power of two.
    pub page_size: u64,
}

impl Inner {
    /// Starts noting writes, with nothing noted yet, or stops.
    pub(in crate::object) fn set_dirty_tracking(
        &mut self,
        hwpt: u32,
        on: bool,
    ) -> Result<(), Error> {
        let paging = self.ids.paging_mut(hwpt)?;
        paging.table_mut().set_dirty_tracking(on)?;
        paging.dirty = on;
        paging.flush_all()?;
        Ok(())
    }

    /// Sets the bits of the pages that were written since they were last cleared, and clears them unless told not to.
    pub(in crate::object) fn read_dirty(
        &mut self,
        hwpt: u32,
        range: Span<Iova>,
        clear: bool,
        bitmap: &mut Bitmap<'_>,
    ) -> Result<(), Error> {
        let paging = self.ids.paging(hwpt)?;
        let space = self.ids.ioas(paging.ioas)?;
        let page_size = bitmap.page_size;
        if range.len == 0 {
            return Err(Error::Empty);
        }
        if !page_size.is_power_of_two() {
            return Err(Error::Invalid(page_size));
        }
        let first = range.base.0;
        let end = first.checked_add(range.len).ok_or(Error::Overflow)?;
        let mask = (space.alignment - 1) | (page_size - 1);
        if let Some(bad) = [first, end].into_iter().find(|it| it & mask != 0) {
            return Err(Error::Misaligned(bad));
        }
        let bits = range.len / page_size;
        if bits.div_ceil(64) > bitmap.words.len() as u64 {
            return Err(Error::MessageSize(bits.div_ceil(64) as usize * 8));
        }
        // A hole is found before any bit is cleared.
        let mut at = first;
        while at < end {
            let area = space.area(at).ok_or(Error::NotMapped(at))?;
            at = area.last().saturating_add(1);
        }
        let paging = self.ids.paging_mut(hwpt)?;
        paging.table_mut().read_dirty(range, clear, &mut |page| {
            let low = page.base.0.max(first) - first;
            let high = (page.base.0 + (page.len - 1)).min(end - 1) - first;
            for bit in low / page_size..=high / page_size {
                bitmap.words[bit as usize / 64] |= 1 << (bit % 64);
            }
        })?;
        if clear {
            paging.flush(Stale { range, leaf: true })?;
        }
        Ok(())
    }
}
