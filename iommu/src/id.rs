//! Identities: of DMA masters at one IOMMU, as the machine and as a guest see them.

use core::fmt;

/// Index of one physical IOMMU of the machine, in the order firmware lists them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IommuIndex(pub u8);

/// Physical identity of a DMA master at one IOMMU: StreamID (SMMU) or source ID (VT-d).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u32);

/// The identity that a guest uses for a device: vSID or vRID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VirtDeviceId(pub u32);

/// A slice's tag in the caches of its IOMMU: VMID (SMMU) or domain ID (VT-d).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CacheTag(pub u16);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
