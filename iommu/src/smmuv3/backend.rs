//! What IOMMUFD's objects want of an SMMU beyond second stages.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::slice::Slice;
use super::{HW_INFO, Smmu};
use crate::hal::{Mmio, Platform};
use crate::object::Error;
use crate::object::driver::{HwInfo, UserData, ViommuDriver};
use crate::object::room;
use crate::object::unit::{Backend, NestParent};
use crate::physical::Invalidate;

impl<P: Platform + 'static, M: Mmio + 'static> Backend for Smmu<P, M> {
    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error> {
        match kind {
            0 | HW_INFO => Ok(self.identity.hw_info()),
            _ => Err(Error::Unsupported(kind)),
        }
    }

    fn slice(
        &self,
        kind: u32,
        on: &NestParent<'_>,
        data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error> {
        let invalidator = Arc::clone(&self.shared) as Arc<dyn Invalidate>;
        let slice = Slice::new(kind, data, self.features, on.tag, invalidator)?;
        Ok(room::boxed(slice)?)
    }
}
