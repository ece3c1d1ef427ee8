//! What IOMMUFD's objects want of a unit beyond second stages.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::Vtd;
use super::nested::{NestedTable, Rules};
use super::slice::Slice;
use crate::hal::{Mmio, Platform};
use crate::object::driver::{HwInfo, Invalidator, StageOne, UserData, ViommuDriver};
use crate::object::unit::{Backend, NestParent};
use crate::object::{Error, room};

/// IOMMU_HW_INFO_TYPE_INTEL_VTD (Linux, include/uapi/linux/iommufd.h).
pub const HW_INFO: u32 = 1;
/// IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17: nest parents have nothing that is read-only. Linux 7.3 says so of every unit, as no
/// register does of those that have it; here it is of every one that nests.
const NO_READ_ONLY_PARENTS: u64 = 1;
/// Bytes of struct iommu_hw_info_vtd.
const HW_INFO_BYTES: usize = 24;

impl<P: Platform + 'static, M: Mmio + 'static> Backend for Vtd<P, M> {
    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error> {
        let (cap, ecap) = self.capabilities;
        let flags = match self.nests() {
            true => NO_READ_ONLY_PARENTS,
            false => 0,
        };
        match kind {
            // Flags and a reserved word, then the registers.
            0 | HW_INFO => Ok(HwInfo {
                kind: HW_INFO,
                words: [flags, cap, ecap, 0, 0],
                len: HW_INFO_BYTES,
                dirty_tracking: false,
            }),
            _ => Err(Error::Unsupported(kind)),
        }
    }

    fn slice(
        &self,
        kind: u32,
        on: &NestParent<'_>,
        data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error> {
        let rules = self.rules(on);
        let invalidator = Arc::clone(&on.invalidator);
        Ok(room::boxed(Slice::new(kind, data, rules, invalidator)?)?)
    }

    fn nested(
        &self,
        on: &NestParent<'_>,
        data: UserData<'_>,
    ) -> Result<(StageOne, Box<dyn Invalidator>), Error> {
        let first = self.rules(on).decode(data)?;
        let table = NestedTable::new(on.tag, Arc::clone(&on.invalidator));
        Ok((StageOne::Table(first), room::boxed(table)?))
    }
}

impl<P: Platform, M: Mmio> Vtd<P, M> {
    /// Whether guests' first stages go on second stages of ours.
    fn nests(&self) -> bool {
        self.scalable && self.features.nested
    }

    /// What a guest's first stage on a nest parent has to keep to.
    fn rules(&self, on: &NestParent<'_>) -> Rules {
        Rules {
            features: self.features,
            nests: self.nests(),
            bits: on.root.input_bits,
        }
    }
}
