//! Which commands an invalidation needs.

use super::command::{Command, Contexts, Pages, Translations};
use super::probe::Features;
use super::users::{User, Users};
use crate::addr::{Iova, Span};
use crate::id::CacheTag;
use crate::physical::{Invalidation, IommuError};

/// A page.
const PAGE_LOG2: u8 = 12;

/// What of a domain an entry takes by PASID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ByPasid {
    tag: CacheTag,
    pages: Option<Pages>,
}

/// The command that does `entry` but for what is by PASID, and that.
///
/// # Errors
/// [`IommuError::Unsupported`] for what needs other hardware.
fn parts(
    entry: &Invalidation,
    features: &Features,
) -> Result<(Option<Command>, Option<ByPasid>), IommuError> {
    let whole = |tag| ByPasid { tag, pages: None };
    Ok(match *entry {
        // Of what has a first stage alone, nothing is forgotten by domain.
        Invalidation::Tag(tag) => (
            Some(Command::Translations(Translations::Domain(tag))),
            Some(whole(tag)),
        ),
        // 6.5.2.3: what is cached of both stages goes with the domain, whatever the pages.
        Invalidation::StageTwoRange { tag, range, leaf } => {
            let pages = pages(range, leaf, features);
            let which = match pages {
                Some(pages) => Translations::Pages { domain: tag, pages },
                None => Translations::Domain(tag),
            };
            (Some(Command::Translations(which)), None)
        }
        Invalidation::StageOne(tag) if features.first_stage => (None, Some(whole(tag))),
        Invalidation::StageOneRange {
            tag,
            asid: None,
            range,
            leaf,
            ..
        } if features.first_stage => {
            let pages = pages(range, leaf, features);
            (None, Some(ByPasid { tag, pages }))
        }
        // The domain of its entry is not known here: all of the cache is within what may be forgotten.
        Invalidation::Device(_) => (Some(Command::Contexts(Contexts::All)), None),
        _ => return Err(IommuError::Unsupported),
    })
}

/// Whether there are commands for an entry.
///
/// # Errors
/// [`IommuError::Unsupported`].
pub(super) fn check(entry: &Invalidation, features: &Features) -> Result<(), IommuError> {
    parts(entry, features).map(drop)
}

/// What of a domain devices may have cached that goes with `entry`: all of it, or pages where no first stage is in between.
fn of_devices(
    entry: &Invalidation,
    features: &Features,
) -> Option<(CacheTag, bool, Option<Pages>)> {
    match *entry {
        Invalidation::Tag(tag) | Invalidation::StageOne(tag) => Some((tag, true, None)),
        Invalidation::StageTwoRange { tag, range, leaf } => {
            Some((tag, true, pages(range, leaf, features)))
        }
        Invalidation::StageOneRange {
            tag, range, leaf, ..
        } => Some((tag, false, pages(range, leaf, features))),
        _ => None,
    }
}

/// The commands of a batch: those of its entries, then what devices have cached of that (6.5.2.5).
pub(super) struct Program<'a> {
    entries: &'a [Invalidation],
    users: &'a Users,
    features: &'a Features,
    /// Entries begun.
    begun: usize,
    by_pasid: Option<ByPasid>,
    last: Option<u32>,
    /// Entries whose devices were told.
    told: usize,
    last_device: Option<User>,
}

impl<'a> Program<'a> {
    /// `entries` that [`check`] is content with.
    pub(super) fn new(
        entries: &'a [Invalidation],
        users: &'a Users,
        features: &'a Features,
    ) -> Self {
        Self {
            entries,
            users,
            features,
            begun: 0,
            by_pasid: None,
            last: None,
            told: 0,
            last_device: None,
        }
    }

    /// How many entries are complete where only so many commands are.
    pub(super) fn entries_in(mut self, commands: usize) -> usize {
        for _ in 0..commands {
            self.next();
        }
        let (begun, told) = (self.begun, self.told);
        match self.next() {
            None => self.entries.len(),
            // One of the devices' parts.
            Some(_) if begun == self.begun && self.by_pasid.is_none() => told.max(self.told),
            Some(_) => {
                let caching = self.entries.iter().position(|entry| {
                    let of = of_devices(entry, self.features);
                    of.is_some_and(|(tag, ..)| self.users.next_caching(tag, None).is_some())
                });
                caching.map_or(self.begun - 1, |at| at.min(self.begun - 1))
            }
        }
    }

    fn of_entries(&mut self) -> Option<Command> {
        loop {
            if let Some(ByPasid { tag, pages }) = self.by_pasid {
                self.last = self.users.next(tag, self.last);
                match self.last {
                    Some(pasid) => return Some(Command::FirstStage(tag, pasid, pages)),
                    None => self.by_pasid = None,
                }
            }
            let entry = self.entries.get(self.begun)?;
            self.begun += 1;
            let (command, by_pasid) = parts(entry, self.features).ok()?;
            self.by_pasid = by_pasid;
            self.last = None;
            if command.is_some() {
                return command;
            }
        }
    }

    fn of_devices(&mut self) -> Option<Command> {
        loop {
            let entry = self.entries.get(self.told)?;
            if let Some((tag, second, pages)) = of_devices(entry, self.features) {
                self.last_device = self.users.next_caching(tag, self.last_device);
                if let Some(user) = self.last_device {
                    // Which of a first stage's addresses lead to what is gone of the second is not known.
                    let pages = pages.filter(|_| !(second && user.first));
                    return Some(Command::DeviceTlb(user.device, user.pasid, pages));
                }
            }
            self.told += 1;
            self.last_device = None;
        }
    }
}

impl Iterator for Program<'_> {
    type Item = Command;

    fn next(&mut self) -> Option<Command> {
        self.of_entries().or_else(|| self.of_devices())
    }
}

/// The smallest naturally aligned block of pages around `range`; `None` where the unit has none so large (6.5.2.3).
fn pages(range: Span<Iova>, leaf: bool, features: &Features) -> Option<Pages> {
    let most = features.page_mask?;
    if range.len == 0 {
        return None;
    }
    let (first, last) = (range.base.0, range.base.0 + (range.len - 1));
    let bits = (64 - (first ^ last).leading_zeros()).max(PAGE_LOG2.into()) as u8;
    let log2 = bits - PAGE_LOG2;
    let fits = log2 <= most;
    fits.then(|| Pages {
        first: Iova(first >> bits << bits),
        log2,
        leaf,
    })
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
        let pages = pages(range, true, &features(mask))?;
        Some((pages.first.0, pages.log2))
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
