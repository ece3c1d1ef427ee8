//! The one seam to a physical IOMMU, and the values that cross it.

use alloc::sync::Arc;

use crate::addr::{Hpa, Iova, Span};
use crate::fault::Fault;
use crate::id::{CacheTag, DeviceId, IommuIndex};

/// What one physical IOMMU can do, frozen when it was probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Output address width in bits.
    pub output_bits: u8,
    /// Bits of a device identity (StreamID, source ID).
    pub device_id_bits: u8,
    /// Bits of a cache tag.
    pub cache_tag_bits: u8,
    /// Guest-owned stage 1 on our stage 2.
    pub nested: bool,
    /// Table walks snoop CPU caches; without it every table store is cleaned.
    pub coherent: bool,
    /// Range invalidation by one command.
    pub range_invalidation: bool,
    /// Bits of the address space of a first-stage table of the host's; 0 where it has none.
    pub address_space_bits: u8,
    /// Bits of a PASID at most.
    pub pasid_bits: u8,
    /// Devices may cache translations (ATS).
    pub ats: bool,
}

/// A second-stage table as a device entry needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageTwo {
    /// The slice's tag.
    pub tag: CacheTag,
    /// Root table.
    pub root: Hpa,
    /// Input address width in bits.
    pub input_bits: u8,
    /// ATS is on: the device may cache what it is told, and is told when that is gone. With a first stage on it, that one's
    /// `ats` counts.
    pub ats: bool,
}

/// A first stage as a device entry needs it, field by field: what a guest asked for, canonicalised, or the host's own.
/// The values are those of the architecture's entry; a driver checks them against its hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageOneConfig {
    /// Format of the context table: one descriptor or a linear table (0), two levels of 4 KiB (1), of 64 KiB (2) leaves.
    pub format: u8,
    /// Address of the context table: an IPA under a second stage, a host physical address without one.
    pub contexts: u64,
    /// log2 of the number of contexts.
    pub contexts_log2: u8,
    /// What a transaction without a PASID does where there are several contexts: aborts (0), bypasses (1), uses context
    /// 0 (2).
    pub default_context: u8,
    /// Inner cacheability of context fetches.
    pub inner: u8,
    /// Outer cacheability of context fetches.
    pub outer: u8,
    /// Shareability of context fetches.
    pub shareability: u8,
    /// Faults never stall, whatever a context says.
    pub no_stall: bool,
    /// ATS is on. The host's decision, never copied from a guest: what the device says to be translated is believed. A
    /// guest whose stage 1 this is tells the device itself what to forget of that.
    pub ats: bool,
}

/// A first stage whose table the device's entry names itself (VT-d, 9.6), field by field: a guest's, canonicalised, or the
/// host's own. A driver checks them against its hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FirstStage {
    /// Root table: a guest physical address on a second stage, a host physical address without one.
    pub root: u64,
    /// Input address width in bits: 48 or 57.
    pub input_bits: u8,
    /// Privileged requests are allowed (SRE).
    pub supervisor: bool,
    /// Privileged writes obey R/W too (WPE).
    pub write_protect: bool,
    /// Extended accessed flags are set (EAFE).
    pub extended_accessed: bool,
    /// ATS is on, as with [`StageOneConfig::ats`].
    pub ats: bool,
}

/// A first-stage table of the host's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageOneTable {
    /// Its address space.
    pub asid: u16,
    /// Root table.
    pub root: Hpa,
    /// Input address width in bits.
    pub input_bits: u8,
    /// Its granule.
    pub granule: Granule,
    /// Memory attributes that its leaves index (MAIR).
    pub attributes: u64,
}

/// How a device uses first-stage tables of the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextSetup {
    /// Bits of its PASIDs.
    pub pasid_bits: u8,
    /// ATS is on, as with [`StageTwo::ats`].
    pub ats: bool,
}

/// What a device's DMA goes through. A driver never parses a guest's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StreamConfig {
    /// Nobody's: every transaction is refused, and recorded as one of a device without an entry.
    Refuse,
    /// Every transaction is refused without a record, as a guest asked for or because there were too many.
    Abort,
    /// Our second stage only.
    StageTwo(StageTwo),
    /// A first stage whose tables are in host physical memory: only for tables that the host itself writes.
    StageOne {
        /// Tag of its cache entries.
        tag: CacheTag,
        /// The first stage.
        stage_one: StageOneConfig,
    },
    /// A first stage of the guest's on our second stage.
    Nested {
        /// Ours.
        stage_two: StageTwo,
        /// The guest's.
        stage_one: StageOneConfig,
    },
    /// A first stage that the entry names, of the host's own. Nothing else has the tag.
    FirstStage {
        /// Tag of its cache entries.
        tag: CacheTag,
        /// The first stage.
        first: FirstStage,
    },
    /// A first stage that the entry names, of the guest's, on our second stage. No other first stage has the tag, as what is
    /// cached of two would not be told apart.
    FirstOnSecond {
        /// Ours; its tag is for what is cached of both.
        second: StageTwo,
        /// The guest's.
        first: FirstStage,
    },
}

/// Granule of a first stage, which its range invalidations are counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granule {
    /// 4 KiB.
    Size4K,
    /// 16 KiB.
    Size16K,
    /// 64 KiB.
    Size64K,
}

impl Granule {
    /// log2 of its bytes.
    pub const fn log2(self) -> u8 {
        match self {
            Self::Size4K => 12,
            Self::Size16K => 14,
            Self::Size64K => 16,
        }
    }
}

/// Tag of the first-stage tables that the host owns: no slice has it, and their address spaces keep them apart.
pub const HOST: CacheTag = CacheTag(0);

/// What has to leave the caches of the IOMMU. Order within a batch is not significant, but that device caches come after
/// what they would fetch again; all of it is complete when
/// [`PhysicalIommu::invalidate`] returns `Ok`.
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

/// One page that a device asks for, and waits for (PCIe PRI).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PriRequest {
    /// Where it was seen.
    pub iommu: IommuIndex,
    /// Who asks.
    pub device: DeviceId,
    /// PASID, if the request had one.
    pub pasid: Option<u32>,
    /// Address of the page.
    pub address: Iova,
    /// The device's number for the group of requests that this is of.
    pub group: u16,
    /// Nothing of the group comes after it.
    pub last: bool,
    /// Reads are asked for.
    pub read: bool,
    /// Writes are asked for.
    pub write: bool,
    /// Instruction fetches are asked for.
    pub execute: bool,
    /// By privileged code.
    pub privileged: bool,
}

impl PriRequest {
    /// Asks for nothing: the device has stopped using the PASID, and no answer is expected (PCIe, Stop Marker).
    pub const fn is_stop_marker(&self) -> bool {
        self.pasid.is_some() && self.last && !self.read && !self.write
    }
}

/// What of a device waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// A transaction, stalled under this tag.
    Stall(u16),
    /// A group of page requests.
    Pages {
        /// PASID, if the requests had one.
        pasid: Option<u32>,
        /// The device's number for the group.
        group: u16,
    },
}

/// The answer to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Try again: the page is there now.
    Success,
    /// The access was wrong.
    Invalid,
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
    /// As [`PhysicalIommu::submit`].
    ///
    /// # Errors
    /// [`Incomplete`].
    fn submit(&self, batch: &[Invalidation]) -> Result<(), Incomplete>;
    /// One device more may be given a first stage of a guest's under `tag`: what that takes is set aside and announced, so
    /// that [`PhysicalIommu::attach`] needs no memory for it.
    ///
    /// # Errors
    /// [`IommuError::OutOfMemory`]; those of the hardware.
    fn expect_nested(&self, _tag: CacheTag) -> Result<(), IommuError> {
        Ok(())
    }
    /// Undoes one [`expect_nested`](Self::expect_nested).
    fn expect_no_more(&self, _tag: CacheTag) {}
    /// The short way, if there is one.
    fn native(&self) -> Option<&dyn Native> {
        None
    }
}

/// Invalidation in the hardware's own words, for a driver of its own that has checked and rewritten what a guest said:
/// as it was asked for, without a detour by [`Invalidation`].
pub trait Native: Send + Sync {
    /// As [`Invalidate::submit`], of commands of 16 bytes, with one place more at their end for the driver's own. All of them
    /// invalidate a first stage, what is cached of it together with a second stage, or contexts, and the hardware has all of
    /// them. `whole`: all of the first stage under this tag is among them.
    ///
    /// # Errors
    /// [`Incomplete`].
    fn send(&self, commands: &mut [[u64; 2]], whole: Option<CacheTag>) -> Result<(), Incomplete>;
}

/// Why an operation on the hardware failed. The stream in question is refused when this is returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IommuError {
    /// The hardware did not answer within the deadline.
    Timeout,
    /// No memory for a table.
    OutOfMemory,
    /// No such device identity at this IOMMU.
    NoSuchDevice(DeviceId),
    /// The configuration needs what the hardware lacks.
    Unsupported,
    /// The hardware refused a command of ours; the architecture's own code.
    Command(u8),
    /// This device did not say in time that it has forgotten what it was told to (ATS), and goes on as it was: it may still
    /// reach what is gone. What came before it in a batch is complete.
    DeviceTlb(DeviceId),
    /// Registers read as all ones: the hardware is not there any more.
    Gone,
    /// The hardware has stopped serving and refuses all DMA, or its driver was dropped.
    Stopped,
}

impl core::fmt::Display for IommuError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::Timeout => ("no answer in time", None),
            Self::OutOfMemory => ("out of memory", None),
            Self::NoSuchDevice(device) => ("no device", Some(device.0.into())),
            Self::Unsupported => ("not supported", None),
            Self::Command(code) => ("refused a command, code", Some(code.into())),
            Self::DeviceTlb(device) => ("no answer to ATC_INV of device", Some(device.0.into())),
            Self::Gone => ("not there any more", None),
            Self::Stopped => ("stopped, and refuses all dma", None),
        };
        crate::text::write(f, what, value)
    }
}

/// The caller's word that what was named has left every cache of every walker, and that this was complete before:
/// [`PhysicalIommu::invalidate`] returned `Ok`, or the TLBI was followed by its DSB.
#[must_use]
#[derive(Debug)]
pub struct Invalidated(());

impl Invalidated {
    /// States it. One invalidation can stand for a whole batch: take one value for each thing it covers.
    pub fn complete() -> Self {
        Self(())
    }
}

/// One physical IOMMU.
pub trait PhysicalIommu: Send {
    /// What it can do.
    fn caps(&self) -> Caps;
    /// Puts `config` in force for `device`. When it returns, no transaction that starts later uses the old one.
    fn attach(&mut self, device: DeviceId, config: StreamConfig) -> Result<(), IommuError>;
    /// Puts a first-stage table of the host's in force for what `device` sends with `pasid`; 0 is without one, `None`
    /// refuses. `with` is the same on each call. PASIDs go on as they are when
    /// [`attach`](Self::attach) refuses what comes without one; after [`StreamConfig::Abort`] everything is refused until
    /// what comes without a PASID is told otherwise. When this returns, no transaction that starts later uses the old
    /// table. Addresses are tagged by [`HOST`] and the table's address space.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where there is no such PASID, no such first stage, or where the device as a whole goes
    /// through a second stage or a guest's first; [`IommuError::DeviceTlb`], with the device refused as a whole; those of
    /// the hardware. The PASID is refused then.
    fn attach_context(
        &mut self,
        _device: DeviceId,
        _pasid: u32,
        _with: ContextSetup,
        _table: Option<&StageOneTable>,
    ) -> Result<(), IommuError> {
        Err(IommuError::Unsupported)
    }
    /// Puts `config` in force for what `device` sends with `pasid`, which is not 0, where each PASID goes through a table of
    /// its own kind. PASIDs are refused where nobody said otherwise. They go on as they are when [`attach`](Self::attach)
    /// changes what comes without one; after [`StreamConfig::Abort`] everything is refused until what comes without a PASID
    /// is told otherwise. When this returns, no transaction that starts later uses the old one.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where there is no such PASID, or no such table; those of the hardware. The PASID is
    /// refused then.
    fn attach_pasid(
        &mut self,
        _device: DeviceId,
        _pasid: u32,
        _config: StreamConfig,
    ) -> Result<(), IommuError> {
        Err(IommuError::Unsupported)
    }
    /// Removes from the caches of the hardware; complete on return.
    fn invalidate(&mut self, batch: &[Invalidation]) -> Result<(), IommuError>;
    /// As [`invalidate`](Self::invalidate), and says how far it came.
    ///
    /// # Errors
    /// [`Incomplete`].
    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        self.invalidate(batch)
            .map_err(|error| Incomplete { complete: 0, error })
    }
    /// For CPUs that invalidate without owning this; `None` where there is no such way.
    fn invalidator(&self) -> Option<Arc<dyn Invalidate>> {
        None
    }
    /// Fills `faults` with the oldest events and returns how many, and how many were lost since the last call.
    fn drain_faults(&mut self, faults: &mut [Fault]) -> Drained;
    /// Fills `requests` with the oldest page requests, as [`drain_faults`](Self::drain_faults) does. After a loss, groups
    /// that are not complete never will be.
    fn drain_requests(&mut self, _requests: &mut [PriRequest]) -> Drained {
        Drained::default()
    }
    /// Answers what waits; complete on return. What waits no more is not changed by it.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where nothing can wait; those of the hardware.
    fn respond(
        &mut self,
        _device: DeviceId,
        _waiting: Waiting,
        _answer: Answer,
    ) -> Result<(), IommuError> {
        Err(IommuError::Unsupported)
    }
    /// Acknowledges the errors of the hardware itself, after its error interrupt, and gets it going again.
    fn serve_errors(&mut self) -> Result<HardwareErrors, IommuError>;
    /// Looks whether the hardware still has what it was told. One that lost its state refuses all DMA from here on, then
    /// is what it was before: `true`. What the devices did meanwhile is not known.
    ///
    /// # Errors
    /// [`IommuError::Stopped`]: it does not take its state back, and refuses all DMA. Any other: it could not even be
    /// told to refuse.
    fn check(&mut self) -> Result<bool, IommuError> {
        Ok(false)
    }
}

/// Errors of the hardware itself, acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardwareErrors {
    /// Event records were lost; the next [`PhysicalIommu::drain_faults`] says so too.
    pub records_lost: bool,
    /// A command was refused.
    pub command: bool,
    /// It has stopped serving, and refuses all DMA.
    pub stopped: bool,
    /// The architecture's own bits.
    pub raw: u32,
}

/// What one call to [`PhysicalIommu::drain_faults`] brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drained {
    /// Faults written to the slice.
    pub count: usize,
    /// The hardware dropped at least one record since the last call.
    pub lost: bool,
    /// There is more to read.
    pub more: bool,
}
