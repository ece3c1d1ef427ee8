//! Slices: one physical IOMMU for one VM. Each owns its cache tag, so that one nest parent serves slices of several
//! IOMMUs, and two slices of one VM do not share a space of guest tags.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::driver::{Driver, Entry, HwptFlags, Invalidator, UserData, ViommuDriver, VirtIds};
use super::hwpt::Tagged;
use super::ids::Object;
use super::inner::Inner;
use super::{Error, room};
use crate::id::{CacheTag, DeviceId};
use crate::physical::{Invalidation, IommuError};

/// Entries that are submitted at once. The array of a guest may be longer.
pub const BATCH: usize = 63;
/// Entries of one array at most.
pub const MAX_ENTRIES: usize = 1 << 19;
/// Bytes of one entry at most.
pub const MAX_ENTRY_LEN: usize = 4096;

/// A device's name in a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub virt_id: u64,
    pub vdevice: u32,
    /// Its first stream; a driver that has more refuses the vDEVICE or knows them.
    pub stream: DeviceId,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Slice {
    pub driver: Arc<dyn Driver>,
    pub ops: Box<dyn ViommuDriver>,
    pub parent: u32,
    pub tag: CacheTag,
    /// By name.
    pub names: Vec<Named>,
    /// Event queues by type.
    pub events: Vec<(u32, u32)>,
    /// Hardware queues: type, index, object.
    pub queues: Vec<(u32, u32, u32)>,
}

/// How far a guest's array of invalidations came. Every entry counted has its effect complete in the hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Entries from the first on that are complete.
    pub complete: usize,
    /// What stopped the next one.
    pub result: Result<(), Error>,
}

impl Progress {
    pub(super) fn refused(error: Error) -> Self {
        Self {
            complete: 0,
            result: Err(error),
        }
    }
}

/// The entries of an array.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entries<'a> {
    /// As a caller outside sent them: `entry_len` bytes each.
    Bytes {
        bytes: &'a [u8],
        entry_len: usize,
        count: usize,
    },
    /// Decoded as far as words.
    Words(&'a [Entry]),
}

impl Entries<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Bytes { count, .. } => *count,
            Self::Words(words) => words.len(),
        }
    }

    /// Entry `at`, of which the first `len` bytes count.
    fn get(&self, at: usize, len: usize) -> Entry {
        match self {
            Self::Words(words) => words[at],
            Self::Bytes {
                bytes, entry_len, ..
            } => {
                let entry = &bytes[at * entry_len..][..len.min(*entry_len)];
                let mut words = [0; 4];
                for (word, bytes) in words.iter_mut().zip(entry.chunks(8)) {
                    let mut whole = [0; 8];
                    whole[..bytes.len()].copy_from_slice(bytes);
                    *word = u64::from_le_bytes(whole);
                }
                words
            }
        }
    }

    /// The rules of the array as a whole, before any entry is looked at.
    fn check(&self, rule: super::driver::EntryRule) -> Result<(), Error> {
        let Self::Bytes {
            bytes,
            entry_len,
            count,
        } = *self
        else {
            return Ok(());
        };
        if count == 0 {
            return Ok(());
        }
        if entry_len != rule.len && !rule.extend {
            return Err(Error::DataLength(entry_len));
        }
        if bytes.len() / entry_len < count {
            return Err(Error::PinFailed);
        }
        let mut entries = bytes.chunks_exact(entry_len).take(count);
        let tail = |entry: &[u8]| entry.iter().skip(rule.len).any(|byte| *byte != 0);
        if entries.any(tail) {
            return Err(Error::TooBig(entry_len));
        }
        Ok(())
    }
}

/// Takes an array through its driver, in order, up to the first entry that fails.
fn invalidate(
    driver: &mut (impl Invalidator + ?Sized),
    names: &[Named],
    kind: u32,
    entries: Entries<'_>,
) -> Progress {
    let Entries::Words(words) = entries else {
        return one_by_one(driver, names, kind, entries);
    };
    match driver.pass(kind, words, &VirtIds(names)) {
        None => one_by_one(driver, names, kind, entries),
        Some(Ok(())) => Progress {
            complete: words.len(),
            result: Ok(()),
        },
        Some(Err(partial)) => Progress {
            complete: partial.complete.min(words.len()),
            result: Err(partial.error.into()),
        },
    }
}

/// As [`invalidate`], without the short way.
#[inline(never)]
fn one_by_one(
    driver: &mut (impl Invalidator + ?Sized),
    names: &[Named],
    kind: u32,
    entries: Entries<'_>,
) -> Progress {
    let Some(rule) = driver.entry_rule(kind) else {
        return Progress::refused(Error::DataType(kind));
    };
    if let Err(error) = entries.check(rule) {
        return Progress::refused(error);
    }
    let mut complete = 0;
    let mut result = Ok(());
    while complete < entries.count() && result.is_ok() {
        let mut batch = [Invalidation::Tag(CacheTag(0)); BATCH];
        let mut filled = 0;
        while filled < BATCH && complete + filled < entries.count() {
            let entry = entries.get(complete + filled, rule.len);
            match driver.decode(kind, &entry, &VirtIds(names)) {
                Ok(invalidation) => batch[filled] = invalidation,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            filled += 1;
        }
        // What came before a bad entry is done before the entry is reported.
        if filled > 0
            && let Err(partial) = driver.submit(&batch[..filled])
        {
            return Progress {
                complete: complete + partial.complete.min(filled),
                result: Err(partial.error.into()),
            };
        }
        complete += filled;
    }
    Progress { complete, result }
}

impl Inner {
    /// A slice of `driver`'s IOMMU on a nest parent.
    pub(super) fn viommu_alloc(
        &mut self,
        parent: u32,
        driver: &Arc<dyn Driver>,
        kind: u32,
        data: UserData<'_>,
    ) -> Result<u32, Error> {
        if kind == 0 {
            return Err(Error::Unsupported(kind));
        }
        let paging = self.ids.paging(parent)?;
        if !paging.flags.contains(HwptFlags::NEST_PARENT) {
            return Err(Error::NotNestParent(parent));
        }
        let root = paging.root();
        driver.accepts(&root)?;
        let id = self.publish_with(|inner, _| {
            let paging = inner.ids.paging_mut(parent)?;
            room::reserve(&mut paging.tags, 1)?;
            let tag = driver.alloc_tag(root.format)?;
            paging.tags.push(Tagged {
                driver: Arc::clone(driver),
                tag,
                nested: true,
                users: 1,
            });
            let ops = match driver.alloc_viommu(kind, &root, tag, data) {
                Ok(ops) => ops,
                Err(error) => {
                    paging.drop_nested_tag(driver, tag);
                    return Err(error);
                }
            };
            Ok(Object::Viommu(Slice {
                driver: Arc::clone(driver),
                ops,
                parent,
                tag,
                names: Vec::new(),
                events: Vec::new(),
                queues: Vec::new(),
            }))
        })?;
        self.ids.grab(parent);
        Ok(id)
    }

    pub(super) fn viommu_destroyed(&mut self, mut slice: Slice) {
        slice.ops.destroy();
        if let Ok(parent) = self.ids.paging_mut(slice.parent) {
            parent.drop_nested_tag(&slice.driver, slice.tag);
        }
        self.put(slice.parent);
    }

    /// A guest's invalidations, through the slice or through a table without one.
    #[inline(always)]
    pub(super) fn invalidate(&mut self, id: u32, kind: u32, entries: Entries<'_>) -> Progress {
        let progress = self.take_entries(id, kind, entries);
        // What its guest does not hear from, it is refused: others wait for it too.
        if let Err(Error::Hardware(IommuError::DeviceTlb(stream))) = progress.result {
            match self.ids.entry(id).map(|entry| &entry.object) {
                Ok(Object::Viommu(slice)) => slice.driver.contain(stream),
                Ok(Object::Nested(nested)) => nested.driver.contain(stream),
                _ => {}
            }
        }
        progress
    }

    fn take_entries(&mut self, id: u32, kind: u32, entries: Entries<'_>) -> Progress {
        let object = match self.ids.entry_mut(id) {
            Ok(entry) => &mut entry.object,
            Err(error) => return Progress::refused(error),
        };
        match object {
            Object::Viommu(slice) => invalidate(&mut *slice.ops, &slice.names, kind, entries),
            Object::Nested(nested) => match &mut nested.invalidator {
                Some(invalidator) => invalidate(&mut **invalidator, &[], kind, entries),
                None => Progress::refused(Error::Unsupported(kind)),
            },
            _ => Progress::refused(Error::WrongKind(id)),
        }
    }
}
