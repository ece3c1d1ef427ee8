//! Requests with more fields than arguments.

use crate::object::Error;
use crate::object::driver::{Access, UserData};

/// IOMMU_IOAS_MAP's flags.
const FIXED_IOVA: u32 = 1;
const WRITEABLE: u32 = 2;
const READABLE: u32 = 4;

/// IOMMU_IOAS_MAP and IOMMU_IOAS_COPY, but for the source.
#[derive(Clone, Copy, Debug, Default)]
pub struct MapRequest {
    /// 1 fixed IOVA, 2 writeable, 4 readable.
    pub flags: u32,
    /// Where to.
    pub ioas: u32,
    /// Has to be 0.
    pub reserved: u32,
    /// In bytes.
    pub length: u64,
    /// Where, with a fixed IOVA.
    pub iova: u64,
}

impl MapRequest {
    /// What comes before any object is looked at.
    pub(crate) fn check(&self) -> Result<(Option<u64>, Access), Error> {
        let unknown = self.flags & !(FIXED_IOVA | WRITEABLE | READABLE);
        if unknown != 0 {
            return Err(Error::Unsupported(unknown));
        }
        super::zero(self.reserved)?;
        // Also where it is an output.
        if self.iova == u64::MAX || self.length == u64::MAX {
            return Err(Error::Overflow);
        }
        if self.flags & (WRITEABLE | READABLE) == 0 {
            return Err(Error::Access);
        }
        let mut access = Access::empty();
        access.set(Access::READ, self.flags & READABLE != 0);
        access.set(Access::WRITE, self.flags & WRITEABLE != 0);
        let iova = (self.flags & FIXED_IOVA != 0).then_some(self.iova);
        Ok((iova, access))
    }
}

/// IOMMU_HWPT_ALLOC.
#[derive(Clone, Copy, Debug, Default)]
pub struct HwptRequest<'a> {
    /// [`HwptFlags`](crate::object::driver::HwptFlags).
    pub flags: u32,
    /// Names the IOMMU.
    pub device: u32,
    /// An IOAS, a nest parent or a vIOMMU.
    pub pt: u32,
    /// Has to be 0.
    pub reserved: u32,
    /// In the driver's format.
    pub data: UserData<'a>,
    /// The fault queue, with [`HwptFlags::FAULT`](crate::object::driver::HwptFlags::FAULT).
    pub fault: u32,
    /// Has to be 0.
    pub reserved2: u32,
}

/// IOMMU_HWPT_INVALIDATE.
#[derive(Clone, Copy, Debug, Default)]
pub struct InvalidateRequest<'a> {
    /// A nested HWPT or a vIOMMU.
    pub id: u32,
    /// The array.
    pub bytes: &'a [u8],
    /// Of the entries.
    pub data_type: u32,
    /// Bytes of an entry.
    pub entry_len: u32,
    /// Entries.
    pub entry_num: u32,
    /// Has to be 0.
    pub reserved: u32,
}
