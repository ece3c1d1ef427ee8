//! What IOMMUFD's objects want of a unit beyond second stages.

use alloc::boxed::Box;

use super::Vtd;
use super::slice::Slice;
use crate::hal::{Mmio, Platform};
use crate::id::CacheTag;
use crate::object::driver::{HwInfo, UserData, ViommuDriver};
use crate::object::unit::Backend;
use crate::object::{Error, room};

/// IOMMU_HW_INFO_TYPE_INTEL_VTD (Linux, include/uapi/linux/iommufd.h).
pub const HW_INFO: u32 = 1;
/// Bytes of struct iommu_hw_info_vtd.
const HW_INFO_BYTES: usize = 24;

impl<P: Platform + 'static, M: Mmio + 'static> Backend for Vtd<P, M> {
    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error> {
        let (cap, ecap) = self.capabilities;
        match kind {
            // Flags and a reserved word, then the registers.
            0 | HW_INFO => Ok(HwInfo {
                kind: HW_INFO,
                words: [0, cap, ecap, 0, 0],
                len: HW_INFO_BYTES,
                dirty_tracking: false,
            }),
            _ => Err(Error::Unsupported(kind)),
        }
    }

    fn slice(
        &self,
        kind: u32,
        _tag: CacheTag,
        data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error> {
        Ok(room::boxed(Slice::new(kind, data)?)?)
    }
}
