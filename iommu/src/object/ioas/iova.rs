//! Which IOVAs are free: what may be mapped, and where an automatic mapping goes.

use super::super::{Error, inner::Inner};
use super::Space;
use crate::addr::PAGE_SIZE;

/// The largest block of any table, which is what an automatic IOVA is aligned to at most.
const LARGEST_BLOCK: u64 = 1 << 30;

impl Space {
    /// Checks that `iova` can be mapped for `len` bytes, which come from the physical address `from`.
    pub(super) fn check_fixed(&self, iova: u64, len: u64, from: u64) -> Result<(), Error> {
        let mask = self.alignment - 1;
        if let Some(bad) = [len, iova, from].into_iter().find(|it| it & mask != 0) {
            return Err(Error::Misaligned(bad));
        }
        let last = iova.checked_add(len - 1).ok_or(Error::Overflow)?;
        if iova.checked_add(len).is_none() {
            return Err(Error::Overflow);
        }
        if let Some(reserved) = self.overlap_reserved(iova, last) {
            return Err(Error::InReserved(reserved.first.max(iova)));
        }
        match self.overlap(iova, last) {
            Some(area) => Err(Error::Occupied(area.first.max(iova))),
            None => Ok(()),
        }
    }

    /// The lowest free IOVA for `len` bytes from the physical address `from`, such that the largest blocks fit.
    pub(super) fn choose(&self, len: u64, from: u64) -> Result<u64, Error> {
        if len & (self.alignment - 1) != 0 {
            return Err(Error::Misaligned(len));
        }
        if len >= u64::MAX / 2 {
            return Err(Error::Overflow);
        }
        let of_source = match from {
            0 => LARGEST_BLOCK,
            from => 1 << from.trailing_zeros().min(30),
        };
        let align = len.next_power_of_two().min(of_source).min(LARGEST_BLOCK);
        if align < self.alignment && from & (self.alignment - 1) != 0 {
            return Err(Error::Misaligned(from));
        }
        let modulus = align.max(PAGE_SIZE);
        let residue = from & (PAGE_SIZE - 1);
        let anywhere = [(PAGE_SIZE, u64::MAX - PAGE_SIZE)];
        let windows = match self.allowed.as_slice() {
            [] => &anywhere[..],
            allowed => allowed,
        };
        let fits = |window: &(u64, u64)| self.first_fit(*window, len, modulus, residue);
        windows.iter().find_map(fits).ok_or(Error::NoSpace)
    }

    /// The lowest free IOVA in a window; never 0.
    fn first_fit(&self, window: (u64, u64), len: u64, modulus: u64, residue: u64) -> Option<u64> {
        let mut at = window.0.max(1);
        loop {
            // The next address that is `residue` past a multiple.
            let base = at
                .saturating_sub(residue)
                .checked_next_multiple_of(modulus)?;
            let first = base.checked_add(residue)?;
            let last = first.checked_add(len - 1)?;
            if last > window.1 {
                return None;
            }
            let area = self.overlap(first, last).map(|area| area.last());
            let reserved = self.overlap_reserved(first, last).map(|it| it.last);
            match area.max(reserved) {
                Some(end) => at = end.checked_add(1)?,
                None => return Some(first),
            }
        }
    }

    /// Fills `ranges` with what is not reserved, both ends inclusive, lowest first, and returns how many there are.
    pub(super) fn unreserved(&self, ranges: &mut [(u64, u64)]) -> usize {
        let mut count = 0;
        let mut put = |range| {
            if let Some(slot) = ranges.get_mut(count) {
                *slot = range;
            }
            count += 1;
        };
        let mut at = 0u64;
        loop {
            // Reservations may overlap and are in no order: find what covers `at`, else the next that starts.
            let cover = self.reserved.iter();
            let cover = cover.filter(|it| it.first <= at && at <= it.last);
            if let Some(last) = cover.map(|it| it.last).max() {
                match last.checked_add(1) {
                    Some(next) => at = next,
                    None => return count,
                }
                continue;
            }
            let next = self.reserved.iter().map(|it| it.first);
            match next.filter(|first| *first > at).min() {
                Some(next) => {
                    put((at, next - 1));
                    at = next;
                }
                None => {
                    put((at, u64::MAX));
                    return count;
                }
            }
        }
    }
}

impl Inner {
    /// What can be mapped in this space: fills `ranges` and returns the alignment and the number of ranges.
    pub(in crate::object) fn iova_ranges(
        &self,
        ioas: u32,
        ranges: &mut [(u64, u64)],
    ) -> Result<(u64, usize), Error> {
        let space = self.ids.ioas(ioas)?;
        Ok((space.alignment, space.unreserved(ranges)))
    }
}
