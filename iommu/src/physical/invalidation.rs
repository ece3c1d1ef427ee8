//! What has to leave the caches of an IOMMU, and who sees to it.

use super::{Granule, IommuError};
use crate::addr::{Iova, Span};
use crate::id::{CacheTag, DeviceId};

/// Tag of the first-stage tables that the host owns: no slice has it, and their address spaces keep them apart.
pub const HOST: CacheTag = CacheTag(0);

/// What has to leave the caches of the IOMMU. Order within a batch is not significant, but that device caches come after
/// what they would fetch again; all of it is complete when
/// [`PhysicalIommu::invalidate`](super::PhysicalIommu::invalidate) returns `Ok`.
///
/// What leaves a table of ours also leaves the caches of devices that have ATS on with it, without being named; of a guest's
/// first stage nothing does but by name. For a device that does not answer see [`IommuError::DeviceTlb`].
///
/// A second-stage range also takes what was combined from both stages, wherever a first stage may have been in use under
/// the tag since the tag was last invalidated as a whole; the driver sees to that itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Invalidation {
    /// Everything of one slice.
    Tag(CacheTag),
    /// Second-stage leaves of a range.
    StageTwoRange {
        /// The slice's tag.
        tag: CacheTag,
        /// The range, in the second stage's input space.
        range: Span<Iova>,
        /// Whether only last-level entries changed.
        leaf: bool,
    },
    /// Everything that a first stage took part in, under one tag.
    StageOne(CacheTag),
    /// Everything of one address space of a first stage but its global entries.
    AddressSpace {
        /// The slice's tag.
        tag: CacheTag,
        /// The guest's own.
        asid: u16,
    },
    /// Whatever entry translates one address, of any size.
    StageOneAddress {
        /// The slice's tag.
        tag: CacheTag,
        /// `None` for every address space.
        asid: Option<u16>,
        /// Any address that the entry translates.
        address: Iova,
        /// Whether only last-level entries changed.
        leaf: bool,
    },
    /// First-stage entries of a range.
    StageOneRange {
        /// The slice's tag.
        tag: CacheTag,
        /// `None` for every address space.
        asid: Option<u16>,
        /// The range. Rounded outwards to the granule.
        range: Span<Iova>,
        /// The first stage's.
        granule: Granule,
        /// Level of the entries (1, 2, 3); 0 where it is not known.
        level: u8,
        /// Whether only last-level entries changed.
        leaf: bool,
    },
    /// One context of a device.
    Context {
        /// The device.
        device: DeviceId,
        /// Its PASID.
        pasid: u32,
        /// Not the table that leads to it.
        leaf: bool,
    },
    /// Every context of a device.
    Contexts(DeviceId),
    /// The entry of a device and all that hangs on it.
    Device(DeviceId),
    /// What the device itself caches (ATS).
    DeviceTlb {
        /// The device.
        device: DeviceId,
        /// `None` for transactions without PASID.
        pasid: Option<u32>,
        /// The range, of whole 4 KiB pages; `None` for everything. Widened to a power of two, naturally aligned.
        range: Option<Span<Iova>>,
    },
    /// What the device itself caches (ATS) of every PASID.
    DeviceTlbOfPasids {
        /// The device.
        device: DeviceId,
        /// As with `DeviceTlb`.
        range: Option<Span<Iova>>,
    },
}

/// A batch that was not completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incomplete {
    /// So many entries from the start of the batch are complete in hardware. The one after them is not known to be; later
    /// ones may or may not have taken effect.
    pub complete: usize,
    /// Why.
    pub error: IommuError,
}

/// Invalidation by several CPUs at once: nobody waits for the commands of another, only for their own.
pub trait Invalidate: Send + Sync {
    /// As [`PhysicalIommu::submit`](super::PhysicalIommu::submit).
    ///
    /// # Errors
    /// [`Incomplete`].
    fn submit(&self, batch: &[Invalidation]) -> Result<(), Incomplete>;
    /// One device more may be given a first stage of a guest's under `tag`: what that takes is set aside and announced, so
    /// that [`PhysicalIommu::attach`](super::PhysicalIommu::attach) needs no memory for it.
    ///
    /// # Errors
    /// [`IommuError::OutOfMemory`]; those of the hardware.
    fn expect_nested(&self, _tag: CacheTag) -> Result<(), IommuError> {
        Ok(())
    }
    /// Undoes one [`expect_nested`](Self::expect_nested).
    fn expect_no_more(&self, _tag: CacheTag) {}
    /// Whether there is [`send`](Self::send).
    fn is_native(&self) -> bool {
        false
    }
    /// Invalidation in the hardware's own words, for a driver of its own that has checked and rewritten what a guest said:
    /// as it was asked for, without a detour by [`Invalidation`]. As [`submit`](Self::submit), of commands of 16 bytes, and
    /// one more at their end that the hardware has nothing left to do after. All of them invalidate a first stage, what is
    /// cached of it together with a second stage, or contexts, and the hardware has all of them. `whole`: all of the first
    /// stage under this tag is among them.
    ///
    /// # Errors
    /// [`Incomplete`]; [`IommuError::Unsupported`] where there is no such way.
    fn send(&self, _commands: &[[u64; 2]], _whole: Option<CacheTag>) -> Result<(), Incomplete> {
        Err(Incomplete {
            complete: 0,
            error: IommuError::Unsupported,
        })
    }
}

/// The caller's word that what was named has left every cache of every walker, and that this was complete before:
/// [`PhysicalIommu::invalidate`](super::PhysicalIommu::invalidate) returned `Ok`, or the TLBI was followed by its DSB.
#[must_use]
#[derive(Debug)]
pub struct Invalidated(());

impl Invalidated {
    /// States it. One invalidation can stand for a whole batch: take one value for each thing it covers.
    pub fn complete() -> Self {
        Self(())
    }
}
