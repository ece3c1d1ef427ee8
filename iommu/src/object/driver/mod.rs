//! The driver contract: what a physical IOMMU gives the objects, and the memory behind a mapping.
//!
//! All calls come under the lock of one context; drivers are shared by contexts, lock themselves, and never call up.
//! Whatever a driver is told to let through is refused when it returns an error.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::Debug;

use bitflags::bitflags;

use super::Error;
use crate::addr::{Hpa, Iova, Span};
use crate::id::{CacheTag, DeviceId, IommuIndex};
use crate::physical::{FirstStage, IommuError, StageOneConfig};

mod slice;

pub use crate::physical::{Answer, Waiting};
pub use slice::{Entry, EntryRule, Invalidator, ViommuDriver, VirtIds};

bitflags! {
    /// What a mapping allows.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Access: u8 {
        /// Reads.
        const READ = 1;
        /// Writes.
        const WRITE = 2;
        /// The memory is a device's registers.
        const DEVICE = 4;
    }

    /// What a HWPT is for: IOMMU_HWPT_ALLOC's flags.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct HwptFlags: u32 {
        /// vIOMMUs and guest-owned stage 1 may be put on it.
        const NEST_PARENT = 1;
        /// Only devices whose writes can be tracked are attached to it.
        const DIRTY_TRACKING = 2;
        /// Page requests go to a fault queue.
        const FAULT = 4;
        /// It may be attached to a PASID, or beside PASIDs.
        const PASID = 8;
    }
}

/// Memory that can be mapped for DMA. Whoever maps it shares it; it is free when no address space holds it any more.
pub trait Memory: Send + Sync + Debug {
    /// Bytes.
    fn size(&self) -> u64;
    /// Whether devices may write it.
    fn writable(&self) -> bool;
    /// The physically contiguous piece that starts at `offset`, as long as it is; `None` past the end.
    fn piece(&self, offset: u64) -> Option<Span<Hpa>>;
    /// Holds a part of it for DMA.
    ///
    /// # Errors
    /// [`Error::PinFailed`], [`Error::OutOfMemory`].
    fn pin(&self, _offset: u64, _len: u64) -> Result<(), Error> {
        Ok(())
    }
    /// Undoes one [`pin`](Self::pin).
    fn unpin(&self, _offset: u64, _len: u64) {}
}

/// The format of a page table, to find out who else can walk it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Format {
    /// VMSAv8-64 stage 2, 4 KiB granule.
    ArmStageTwo,
    /// VMSAv8-64 stage 1, 4 KiB granule.
    ArmStageOne,
    /// VT-d second stage.
    VtdSecondStage,
    /// VT-d first stage, of four levels.
    VtdFirstStage,
    /// A mock's.
    Mock,
}

/// What a walker has to know of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// Its format.
    pub format: Format,
    /// Its first table.
    pub root: Hpa,
    /// Input address width in bits.
    pub input_bits: u8,
    /// Output address width in bits.
    pub output_bits: u8,
    /// Largest page that it may hold, in bytes.
    pub largest: u64,
    /// Stores are cleaned, so that walkers that do not snoop CPU caches may use it.
    pub cleaned: bool,
}

/// What caches may still hold of a table after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale {
    /// The range that changed.
    pub range: Span<Iova>,
    /// Only last-level entries changed.
    pub leaf: bool,
}

/// What a table calls once to have `Stale` forgotten by all that walk it.
pub type Flush<'a> = dyn FnMut(Stale) -> Result<(), IommuError> + 'a;

/// A page table that the objects fill from an address space.
pub trait PageTable: Send + Debug {
    /// What a walker needs. From here on the table may be in use.
    fn root(&self) -> Root;
    /// The smallest page, in bytes.
    fn page_size(&self) -> u64;
    /// Maps a range of whole pages, by the largest blocks that fit.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Invalid`]. Nothing has changed then.
    fn map(&mut self, range: Span<Iova>, to: Hpa, access: Access) -> Result<(), Error>;
    /// From here on what may not be written is not mapped: [`Error::Access`]. Only asked of tables that nothing is mapped in.
    fn refuse_read_only(&mut self);
    /// Removes whatever is mapped in `range`, calls `flush` if caches may hold any of it, and then frees what it cut.
    ///
    /// # Errors
    /// That of `flush`. The range is not mapped then, and its tables are lost.
    fn unmap(&mut self, range: Span<Iova>, flush: &mut Flush<'_>) -> Result<(), IommuError>;
    /// Removes all that is mapped, by the entries of its first table, calls `flush` if caches may hold any of it, and leaves the
    /// tables that it cut off to [`free`](Self::free).
    ///
    /// # Errors
    /// As with [`unmap`](Self::unmap).
    fn clear(&mut self, flush: &mut Flush<'_>) -> Result<(), IommuError>;
    /// Frees a few of the tables that [`clear`](Self::clear) cut off. Whether there were any.
    fn free(&mut self) -> bool;
    /// Where `iova` goes.
    fn walk(&self, iova: Iova) -> Option<Hpa>;
    /// The page or block that `iova` is in.
    fn leaf(&self, iova: Iova) -> Option<Span<Iova>>;
    /// Whether `range` starts with a page or block that leads to `to` with `access`, and how far what follows it in the same table
    /// is alike: as [`table::PageTable::agrees`](crate::table::PageTable::agrees).
    fn agrees(&self, range: Span<Iova>, to: Hpa, access: Access) -> Option<(bool, Iova)>;
    /// The first address from `from` on that is mapped.
    fn next(&self, from: Iova) -> Option<Iova>;
    /// Leaves stored so far, cleared ones included.
    fn stores(&self) -> u64;
    /// Bytes of its tables.
    fn bytes(&self) -> u64;
    /// Starts (with every bit clear) or stops noting writes.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    fn set_dirty_tracking(&mut self, _on: bool) -> Result<(), Error> {
        Err(Error::Unsupported(HwptFlags::DIRTY_TRACKING.bits()))
    }
    /// Calls `dirty` with each page of `range` that was written since the last clearing; clears if asked to.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; [`Error::NotMapped`] at a hole.
    fn read_dirty(
        &mut self,
        _range: Span<Iova>,
        _clear: bool,
        _dirty: &mut dyn FnMut(Span<Iova>),
    ) -> Result<(), Error> {
        Err(Error::Unsupported(HwptFlags::DIRTY_TRACKING.bits()))
    }
    /// Nothing walks it any more, and no cache holds any of it: its memory is free. Merely dropped, it is lost.
    fn retire(&mut self);
}

/// A guest-owned stage 1, checked and canonical.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StageOne {
    /// Every transaction is refused, and the guest is told: its entry is not valid.
    Refuse,
    /// Every transaction is refused without a word.
    Abort,
    /// Guest physical addresses, straight into the second stage.
    Bypass,
    /// Through the guest's tables.
    Translate(StageOneConfig),
    /// Through a table of the guest's that the entry names itself.
    Table(FirstStage),
}

/// Data in a driver's own format, as a caller outside sent it. `kind` 0 with no bytes is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UserData<'a> {
    /// What it is.
    pub kind: u32,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What the DMA of a stream goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Nobody's: every transaction is refused, and recorded.
    Refuse,
    /// Nothing: every transaction is refused without a record.
    Abort,
    /// A table of ours.
    Paging {
        /// Tag of what is cached of it.
        tag: CacheTag,
        /// The table.
        root: Root,
    },
    /// A guest's stage 1 on a table of ours.
    Nested {
        /// Tag of what is cached of both; the slice's where there is one.
        tag: CacheTag,
        /// The nest parent.
        parent: Root,
        /// The guest's part.
        stage_one: StageOne,
        /// What the guest calls the device.
        virt_id: Option<u64>,
    },
}

/// Who sends what goes through a [`Target`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requester {
    /// Its identity at the IOMMU.
    pub stream: DeviceId,
    /// Bits of its PASIDs; 0 for none.
    pub pasid_bits: u8,
    /// What it says to be translated may be believed (ATS), where its target has that.
    pub ats: bool,
}

/// What the hardware is, in its own words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HwInfo {
    /// Type of `words`; never 0.
    pub kind: u32,
    /// The description.
    pub words: [u64; 5],
    /// Bytes of it that count.
    pub len: usize,
    /// Writes can be tracked.
    pub dirty_tracking: bool,
}

/// One physical IOMMU, as the objects drive it.
pub trait Driver: Send + Sync + Debug {
    /// Which one.
    fn index(&self) -> IommuIndex;
    /// What it is. `kind` 0 is the driver's default.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that is not its own.
    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error>;
    /// The whole of `group` is for `owner`'s DMA from now on; counted.
    ///
    /// # Errors
    /// [`Error::GroupOwned`].
    fn claim_group(&self, group: u32, owner: usize) -> Result<(), Error>;
    /// Undoes one [`claim_group`](Self::claim_group).
    fn release_group(&self, group: u32, owner: usize);
    /// A new empty table. [`HwptFlags::FAULT`] is not passed on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a set of flags or data that it does not have; [`Error::OutOfMemory`].
    fn alloc_table(
        &self,
        flags: HwptFlags,
        data: UserData<'_>,
    ) -> Result<Box<dyn PageTable>, Error>;
    /// Whether this IOMMU can walk that table, whoever made it.
    ///
    /// # Errors
    /// [`Error::Incompatible`].
    fn accepts(&self, root: &Root) -> Result<(), Error>;
    /// A tag that nobody has, for what is cached of a table of `format`. Formats may have tags of different kinds, so that
    /// equal numbers mean different things.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    fn alloc_tag(&self, format: Format) -> Result<CacheTag, Error>;
    /// Forgets everything under `tag`, then gives it back. No stream uses it any more.
    ///
    /// # Errors
    /// That of the hardware; the tag stays taken for good then.
    fn free_tag(&self, tag: CacheTag, format: Format) -> Result<(), IommuError>;
    /// Forgets `stale` of a table of `format` under `tag`. `nested`: guests' stages 1 are on it, so that whatever was
    /// cached of both goes too, and device TLBs behind it.
    ///
    /// # Errors
    /// That of the hardware.
    fn flush(
        &self,
        tag: CacheTag,
        format: Format,
        stale: Stale,
        nested: bool,
    ) -> Result<(), IommuError>;
    /// Puts `target` in force for a requester and PASID (0: requests without one), hitless where the hardware can.
    /// [`Target::Abort`] without a PASID is for all of its requests, until another target takes its place.
    ///
    /// # Errors
    /// [`Error::Incompatible`], [`Error::Unsupported`], that of the hardware. What was to go through it is refused then.
    fn attach(&self, from: &Requester, pasid: u32, target: &Target) -> Result<(), Error>;
    /// A slice of this IOMMU for a VM, on the table `parent` with the slice's own `tag`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that this IOMMU does not have; the data rules of [`UserData`].
    fn alloc_viommu(
        &self,
        kind: u32,
        parent: &Root,
        tag: CacheTag,
        data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error>;
    /// A guest's stage 1 directly on a nest parent, without a slice, where the hardware has that.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; the data rules.
    fn alloc_nested(
        &self,
        _parent: &Root,
        _tag: CacheTag,
        _data: UserData<'_>,
    ) -> Result<(StageOne, Box<dyn Invalidator>), Error> {
        Err(Error::Unsupported(0))
    }
    /// Refuses all requests of a stream that does not forget what it was told to, as [`Target::Abort`] does.
    fn contain(&self, _stream: DeviceId) {}
    /// Whether all requests of a stream are refused since it did not forget what it was told to.
    fn is_contained(&self, _stream: DeviceId) -> bool {
        false
    }
    /// Answers what of a stream waits.
    ///
    /// # Errors
    /// That of the hardware.
    fn respond(&self, stream: DeviceId, waiting: Waiting, answer: Answer)
    -> Result<(), IommuError>;
}

/// A reserved range of a device: both ends inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservedRegion {
    /// First IOVA.
    pub first: u64,
    /// Last IOVA.
    pub last: u64,
    /// Why.
    pub kind: ReservedKind,
}

/// Why a range is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReservedKind {
    /// Has to be mapped one to one.
    Direct,
    /// As `Direct`, until a driver takes the device.
    DirectRelaxable,
    /// Does not reach the IOMMU.
    Reserved,
    /// Message doorbell of the hardware, not translated.
    Msi,
    /// Where message doorbells are mapped, unless the address space has chosen a window.
    SoftwareMsi,
}

/// What is known of a device when it is bound.
#[derive(Clone, Debug)]
pub struct DeviceInfo<'a> {
    /// The IOMMU that it is behind.
    pub driver: Arc<dyn Driver>,
    /// Its identities there.
    pub streams: &'a [DeviceId],
    /// Devices that are not isolated from each other have the same group.
    pub group: u32,
    /// Bits of a PASID; 0 for none.
    pub pasid_bits: u8,
    /// IOVAs that it cannot use.
    pub reserved: &'a [ReservedRegion],
    /// Its owner trusts what it says to be translated already (ATS): where its IOMMU has that, its requests may reach
    /// memory without being checked. The same for all that share a stream.
    pub ats: bool,
    /// Its DMA snoops CPU caches.
    pub coherent: bool,
    /// It cannot send another's messages.
    pub isolated_messages: bool,
    /// Page requests are shared with other functions, which may be another's.
    pub shares_page_requests: bool,
}
