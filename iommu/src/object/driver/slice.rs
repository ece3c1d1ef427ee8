//! What the driver of a slice gives: stages 1, invalidations, names, events and hardware queues.

use alloc::boxed::Box;
use core::fmt::Debug;

use super::super::Error;
use super::{HwptFlags, StageOne, UserData};
use crate::addr::Hpa;
use crate::fault::Fault;
use crate::id::{CacheTag, DeviceId};
use crate::physical::{Incomplete, Invalidation};

/// An invalidation entry, zero-extended.
pub type Entry = [u64; 4];

/// How long the entries of one type are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRule {
    /// Bytes of a whole one, at most those of an [`Entry`].
    pub len: usize,
    /// Shorter ones are zero-extended and longer ones may have a zero tail; else only `len` will do.
    pub extend: bool,
}

/// The devices of a slice, by the guest's names.
pub struct VirtIds<'a>(pub(in crate::object) &'a [super::super::viommu::Named]);

impl VirtIds<'_> {
    /// The stream that the guest calls `virt_id`.
    pub fn stream(&self, virt_id: u64) -> Option<DeviceId> {
        let at = self.0.binary_search_by_key(&virt_id, |named| named.virt_id);
        at.ok().map(|at| self.0[at].stream)
    }
}

/// Takes a guest's invalidations. The objects go through the array, so that the count of entries is exact on every
/// backend: an entry that [`decode`](Self::decode) refuses stops the array after all before it were submitted.
pub trait Invalidator: Send + Debug {
    /// The entries of type `kind`; `None` if there is no such type.
    fn entry_rule(&self, kind: u32) -> Option<EntryRule>;
    /// Checks one entry and makes it the host's: our tag, our stream.
    ///
    /// # Errors
    /// [`Error::IllegalEntry`] and what else the driver has for it.
    fn decode(
        &self,
        kind: u32,
        entry: &Entry,
        devices: &VirtIds<'_>,
    ) -> Result<Invalidation, Error>;
    /// Issues them, and returns when all of them are complete in the hardware.
    ///
    /// # Errors
    /// How many are complete for certain, and why no more.
    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete>;
    /// Does what the other two do for all of `entries`, where it has a shorter way for each of them; `None`, and nothing
    /// has happened, where it has not.
    fn pass(
        &mut self,
        _kind: u32,
        _entries: &[Entry],
        _devices: &VirtIds<'_>,
    ) -> Option<Result<(), Incomplete>> {
        None
    }
}

/// One slice, at its driver.
pub trait ViommuDriver: Invalidator {
    /// Checks a guest's stage 1 and makes it canonical.
    ///
    /// # Errors
    /// [`Error::IllegalStageOne`]; [`Error::Unsupported`] where there is none; the data rules.
    fn decode_nested(&mut self, flags: HwptFlags, data: UserData<'_>) -> Result<StageOne, Error>;
    /// Checks a stage 1 that a trusted caller has decoded.
    ///
    /// # Errors
    /// [`Error::IllegalStageOne`]; [`Error::Unsupported`].
    fn check_nested(&mut self, stage_one: &StageOne) -> Result<(), Error>;
    /// Whether a [`StageOne::Table`] needs a tag of its own, as the hardware does not tell what it caches of two apart
    /// otherwise. It has an [`Invalidator`] of its own then.
    fn has_own_tags(&self) -> bool {
        false
    }
    /// Takes invalidations of the stage 1 under `tag`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Unsupported`] where there are no tags of their own.
    fn invalidator(&self, _tag: CacheTag) -> Result<Box<dyn Invalidator>, Error> {
        Err(Error::Unsupported(0))
    }
    /// A device gets a name in the slice.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a device with a number of streams that will not do; [`Error::Invalid`] for the name;
    /// [`Error::NoSpace`].
    fn vdevice(&mut self, _streams: &[DeviceId], _virt_id: u64) -> Result<(), Error> {
        Ok(())
    }
    /// The name is gone.
    fn vdevice_gone(&mut self, _streams: &[DeviceId], _virt_id: u64) {}
    /// Whether there are events of this type.
    fn has_events(&self, kind: u32) -> bool;
    /// The event that the guest sees, and its type, if the fault is one for the guest at all.
    fn event(&self, fault: &Fault, virt_id: u64) -> Option<(u32, Entry)>;
    /// Whether there are hardware queues of this type.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    fn has_queues(&self, kind: u32) -> Result<(), Error> {
        Err(Error::Unsupported(kind))
    }
    /// The hardware reads a guest queue from `base` on from now. Returns the index of a queue that has to stay as long
    /// as this one.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::Invalid`], [`Error::Exists`], [`Error::QueueOrder`].
    fn hw_queue(
        &mut self,
        kind: u32,
        _index: u32,
        _base: Hpa,
        _len: u64,
    ) -> Result<Option<u32>, Error> {
        Err(Error::Unsupported(kind))
    }
    /// The hardware stops reading the queue; complete on return.
    fn hw_queue_gone(&mut self, _kind: u32, _index: u32) {}
    /// The slice goes. Its streams use something else already; the tag is freed after this.
    fn destroy(&mut self) {}
}
