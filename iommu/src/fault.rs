//! One decoded physical event, before anybody decides whose it is.

use crate::addr::{Gpa, Iova};
use crate::id::{DeviceId, IommuIndex};

/// Why an IOMMU refused or could not serve a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FaultReason {
    /// The device has no entry, or one that says abort (SMMU C_BAD_STREAMID, C_BAD_STE; VT-d 1, 2, 3).
    BadDeviceEntry,
    /// The guest's own context is malformed (SMMU C_BAD_CD, C_BAD_SUBSTREAMID).
    BadContext,
    /// No mapping for the address.
    Translation,
    /// Input or output address out of range.
    AddressSize,
    /// Access flag clear.
    AccessFlag,
    /// Mapped, but not for this kind of access.
    Permission,
    /// An entry or table could not be read (external abort on a fetch or walk).
    FetchAbort,
    /// The device used a form of request that is not enabled for it (ATS, unsupported upstream transaction).
    Unsupported,
    /// Anything else; the architecture's own event or fault number.
    Other(u8),
}

/// Which stage of translation refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Not a matter of translation (configuration faults).
    None,
    /// Guest-owned stage 1 / first stage.
    One,
    /// Our stage 2 / second stage.
    Two,
}

/// One event of one physical IOMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where it was seen.
    pub iommu: IommuIndex,
    /// The master that sent the transaction.
    pub device: DeviceId,
    /// PASID / substream, if the transaction had one.
    pub pasid: Option<u32>,
    /// Why.
    pub reason: FaultReason,
    /// Which stage.
    pub stage: Stage,
    /// Address of the transaction, if the event has one.
    pub iova: Option<Iova>,
    /// Stage-2 input address, for stage-2 faults; low 12 bits are not significant.
    pub ipa: Option<Gpa>,
    /// Whether the transaction was a write.
    pub write: bool,
    /// Whether it was privileged, where the event says so.
    pub privileged: bool,
    /// Whether it was an instruction fetch, where the event says so.
    pub instruction: bool,
    /// Whether the transaction is stalled and waits for a response.
    pub stalled: bool,
    /// Stall tag, where `stalled`.
    pub tag: u16,
    /// The record as the hardware wrote it, for a monitor; never shown to a guest as it is.
    pub raw: [u64; 4],
}
