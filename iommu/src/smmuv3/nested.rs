//! Which tags have a stage 1 of a guest's in use, and which streams.
//!
//! CMD_TLBI_S2_IPA removes entries of stage 2 alone; what was combined from both stages stays (§3.17, §4.4.3.1), and so does
//! what the walk of stage 1 left behind. So where there may be such entries, an invalidation of stage 2 goes on with
//! CMD_TLBI_NH_ALL for the tag, after a CMD_SYNC: without it, a walk in between could combine anew with what was not gone
//! yet.

use alloc::vec::Vec;

use crate::id::{CacheTag, DeviceId};
use crate::physical::IommuError;

/// A place in the order of what [`NestedStreams::next`] goes through.
pub(super) type Place = (CacheTag, Option<DeviceId>);

#[derive(Default, Debug)]
pub(super) struct NestedStreams {
    /// Tags with entries that a stage 1 took part in, maybe.
    tags: Vec<CacheTag>,
    /// Streams that have one now.
    streams: Vec<(CacheTag, DeviceId)>,
    /// Tags of streams that may have one, one for each. They count as tags with a stage 1, and there is room for them all.
    expected: Vec<CacheTag>,
}

impl NestedStreams {
    /// One stream more may have a stage 1 under `tag`: its first one takes no memory, and the tag is not new then. Whether it
    /// is new here.
    pub(super) fn expect(&mut self, tag: CacheTag) -> Result<bool, IommuError> {
        let new = !self.holds(tag);
        let room = self.expected.try_reserve(1).is_ok()
            && self.streams.try_reserve(self.expected.len() + 1).is_ok()
            && self.tags.try_reserve(usize::from(new)).is_ok();
        if !room {
            return Err(IommuError::OutOfMemory);
        }
        self.expected.push(tag);
        if new {
            self.tags.push(tag);
        }
        Ok(new)
    }

    /// One stream less.
    pub(super) fn expect_no_more(&mut self, tag: CacheTag) {
        if let Some(at) = self.expected.iter().position(|other| *other == tag) {
            self.expected.swap_remove(at);
        }
    }

    /// `device` is about to use a stage 1 under `tag`. Whether the tag is new here.
    pub(super) fn add(&mut self, tag: CacheTag, device: DeviceId) -> Result<bool, IommuError> {
        let (known, new) = (self.streams.contains(&(tag, device)), !self.holds(tag));
        let room = (known || self.streams.try_reserve(1).is_ok())
            && (!new || self.tags.try_reserve(1).is_ok());
        if !room {
            return Err(IommuError::OutOfMemory);
        }
        if !known {
            self.streams.push((tag, device));
        }
        if new {
            self.tags.push(tag);
        }
        Ok(new)
    }

    /// `device` uses no stage 1 any more but that under `kept`.
    pub(super) fn remove(&mut self, device: DeviceId, kept: Option<CacheTag>) {
        self.streams
            .retain(|(tag, other)| *other != device || Some(*tag) == kept);
    }

    /// Everything combined under `tag` is gone.
    pub(super) fn forgotten(&mut self, tag: CacheTag) {
        let used = self.streams.iter().any(|(other, _)| *other == tag);
        if !used && !self.expected.contains(&tag) {
            self.tags.retain(|other| *other != tag);
        }
    }

    /// Whether there may be combined entries under `tag`.
    pub(super) fn holds(&self, tag: CacheTag) -> bool {
        self.tags.contains(&tag)
    }

    /// What comes after `last` among the tags that are `wanted`, each followed by its streams.
    pub(super) fn next(
        &self,
        last: Option<Place>,
        wanted: impl Fn(CacheTag) -> bool,
    ) -> Option<Place> {
        let tags = self.tags.iter().map(|tag| (*tag, None));
        let streams = self
            .streams
            .iter()
            .map(|(tag, device)| (*tag, Some(*device)));
        tags.chain(streams)
            .filter(|place| last.is_none_or(|last| *place > last) && wanted(place.0))
            .min()
    }
}
