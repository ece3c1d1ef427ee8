//! Which commands an invalidation needs.

use super::command::{Command, Contexts, Translations};
use super::probe::Features;
use crate::addr::{Iova, Span};
use crate::id::CacheTag;
use crate::physical::{Invalidation, IommuError};

/// A page.
const PAGE_LOG2: u8 = 12;

/// The one command that does `entry`.
///
/// # Errors
/// [`IommuError::Unsupported`] for what needs a first stage or a device TLB.
pub(super) fn command(entry: &Invalidation, features: &Features) -> Result<Command, IommuError> {
    Ok(match *entry {
        Invalidation::Tag(tag) => Command::Translations(Translations::Domain(tag)),
        Invalidation::StageTwoRange { tag, range, leaf } => {
            Command::Translations(pages(tag, range, leaf, features))
        }
        // The domain of its entry is not known here: all of the cache is within what may be forgotten.
        Invalidation::Device(_) => Command::Contexts(Contexts::All),
        _ => return Err(IommuError::Unsupported),
    })
}

/// The smallest naturally aligned block of pages around `range`, or the domain where the unit has none so large (6.5.2.3).
fn pages(domain: CacheTag, range: Span<Iova>, leaf: bool, features: &Features) -> Translations {
    let all = Translations::Domain(domain);
    let Some(most) = features.page_mask else {
        return all;
    };
    if range.len == 0 {
        return all;
    }
    let (first, last) = (range.base.0, range.base.0 + (range.len - 1));
    let bits = (64 - (first ^ last).leading_zeros()).max(PAGE_LOG2.into()) as u8;
    let log2 = bits - PAGE_LOG2;
    if log2 > most {
        return all;
    }
    Translations::Pages {
        domain,
        first: Iova(first >> bits << bits),
        log2,
        leaf,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(page_mask: Option<u8>) -> Features {
        let features = Features::of(0x00d2_008c_222f_0606, 0x00f0_0f4a, 39).unwrap();
        Features {
            page_mask,
            ..features
        }
    }

    fn block(first: u64, len: u64, mask: Option<u8>) -> Option<(u64, u8)> {
        let range = Span::<Iova>::new(Iova(first), len).unwrap();
        match pages(CacheTag(3), range, true, &features(mask)) {
            Translations::Pages { first, log2, .. } => Some((first.0, log2)),
            _ => None,
        }
    }

    #[test]
    fn the_block_is_the_smallest_that_holds_the_range() {
        assert_eq!(block(0x1000, 0x1000, Some(18)), Some((0x1000, 0)));
        assert_eq!(block(0x1000, 0x2000, Some(18)), Some((0, 2)));
        assert_eq!(block(0x2000, 0x2000, Some(18)), Some((0x2000, 1)));
        assert_eq!(block(0x1fff, 2, Some(18)), Some((0, 2)));
        assert_eq!(block(0, 1 << 30, Some(18)), Some((0, 18)));
        assert_eq!(block(0, (1 << 30) + 1, Some(18)), None);
        assert_eq!(
            block(0x3f_f000, 0x2000, Some(9)),
            None,
            "two blocks of 2 MiB"
        );
        assert_eq!(block(0x1000, 0x1000, None), None);
    }

    /// Every range within 64 pages, against the definition.
    #[test]
    fn no_page_of_a_range_is_outside_its_block() {
        for first in 0..64 {
            for count in 1..=64 - first {
                let (base, log2) = block(first << 12, count << 12, Some(18)).unwrap();
                assert!(base.is_multiple_of(1 << (12 + log2)));
                assert!(base <= first << 12 && (first + count) << 12 <= base + (4096 << log2));
                if log2 > 0 {
                    let half = 4096 << (log2 - 1);
                    let middle = base + half;
                    assert!(first << 12 < middle && middle < (first + count) << 12);
                }
            }
        }
    }
}
