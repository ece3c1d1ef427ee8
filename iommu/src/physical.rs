//! The one seam to a physical IOMMU, and the values that cross it.

use crate::addr::{Hpa, Iova, Span};
use crate::fault::Fault;
use crate::id::{CacheTag, DeviceId};

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
}

/// What a device's DMA goes through. A driver never parses a guest's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StreamConfig {
    /// Every transaction is aborted.
    Abort,
    /// Our second stage only.
    StageTwo(StageTwo),
}

/// What has to leave the caches of the IOMMU. Order within a batch is not significant; all of it is complete when
/// [`PhysicalIommu::invalidate`] returns `Ok`.
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
}

/// Why an operation on the hardware failed. The stream in question is in abort when this is returned.
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
    /// Registers read as all ones: the hardware is not there any more.
    Gone,
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
    /// Removes from the caches of the hardware; complete on return.
    fn invalidate(&mut self, batch: &[Invalidation]) -> Result<(), IommuError>;
    /// Fills `faults` with the oldest events and returns how many, and how many were lost since the last call.
    fn drain_faults(&mut self, faults: &mut [Fault]) -> Drained;
    /// Acknowledges the errors of the hardware itself, after its error interrupt, and gets it going again.
    fn serve_errors(&mut self) -> Result<HardwareErrors, IommuError>;
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
