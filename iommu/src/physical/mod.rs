//! The one seam to a physical IOMMU, and the values that cross it.

use alloc::sync::Arc;

use crate::addr::Iova;
use crate::fault::Fault;
use crate::id::{DeviceId, IommuIndex};

mod invalidation;
mod stage;

pub use invalidation::{HOST, Incomplete, Invalidate, Invalidated, Invalidation};
pub use stage::{
    ContextSetup, FirstStage, Granule, StageOneConfig, StageOneTable, StageTwo, StreamConfig,
};

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

impl core::error::Error for IommuError {}

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
