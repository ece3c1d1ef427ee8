//! Requests about address spaces.

use alloc::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::layout::{
    Destroy, IoasAlloc, IoasAllowIovas, IoasChangeProcess, IoasCopy, IoasIovaRanges, IoasMap,
    IoasMapFile, IoasNoiommuGetPa, IoasUnmap, IommuOption, IovaRange, VfioIoas,
};
use super::{Call, Request, filled, zero};
use crate::object::Errno;
use crate::object::by_id::MapRequest;
use crate::object::driver::Memory;

/// Ranges of one array at most.
const RANGES: usize = 4096;
/// IOMMU_OPTION's operations.
const SET: u16 = 0;
const GET: u16 = 1;
/// IOMMU_VFIO_IOAS's operations.
const VFIO_GET: u16 = 0;
const VFIO_SET: u16 = 1;
const VFIO_CLEAR: u16 = 2;

impl Request for Destroy {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        Ok(call.context.by_id().destroy(self.id.get())?)
    }
}

impl Request for IoasAlloc {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let id = call.context.by_id().ioas_alloc(self.flags.get())?;
        self.out_ioas_id.set(id);
        Ok(())
    }
}

impl Request for IoasAllowIovas {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        zero(self.reserved)?;
        call.has_ioas(self.ioas_id.get())?;
        let count = self.num_iovas.get() as usize;
        if count > RANGES {
            return Err(Errno::ENOMEM);
        }
        let mut entries = filled(IovaRange::new_zeroed(), count)?;
        call.read(self.allowed_iovas.get(), entries.as_mut_bytes())?;
        let mut ranges = filled((0, 0), count)?;
        for (range, entry) in ranges.iter_mut().zip(&entries) {
            *range = (entry.start.get(), entry.last.get());
        }
        let by_id = call.context.by_id();
        Ok(by_id.ioas_allow_iovas(self.ioas_id.get(), 0, &ranges)?)
    }
}

impl Request for IoasIovaRanges {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let by_id = call.context.by_id();
        let capacity = self.num_iovas.get() as usize;
        let mut ranges = filled((0, 0), capacity.min(RANGES))?;
        let (ioas, reserved) = (self.ioas_id.get(), self.reserved.get());
        let (alignment, total) = by_id.ioas_iova_ranges(ioas, reserved, &mut ranges)?;
        let mut entries = filled(IovaRange::new_zeroed(), total.min(ranges.len()))?;
        for (entry, (start, last)) in entries.iter_mut().zip(ranges) {
            entry.start.set(start);
            entry.last.set(last);
        }
        call.write(self.allowed_iovas.get(), entries.as_bytes())?;
        self.out_iova_alignment.set(alignment);
        self.num_iovas.set(total as u32);
        if total > entries.len() {
            return Err(Errno::EMSGSIZE);
        }
        Ok(())
    }

    fn returns(errno: Errno) -> bool {
        errno == Errno::EMSGSIZE
    }
}

impl Request for IoasMap {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let request = MapRequest {
            flags: self.flags.get(),
            ioas: self.ioas_id.get(),
            reserved: self.reserved.get(),
            length: self.length.get(),
            iova: self.iova.get(),
        };
        let (at, len) = (self.user_va.get(), request.length);
        call.check_map(&request, at)?;
        let (memory, offset) = call.caller.memory(at, len)?;
        self.iova.set(call.map(&request, memory, offset)?);
        Ok(())
    }
}

impl Request for IoasMapFile {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let request = MapRequest {
            flags: self.flags.get(),
            ioas: self.ioas_id.get(),
            reserved: 0,
            length: self.length.get(),
            iova: self.iova.get(),
        };
        let start = self.start.get();
        call.check_map(&request, start)?;
        let memory = call.caller.file(self.fd.get())?;
        self.iova.set(call.map(&request, memory, start)?);
        Ok(())
    }
}

impl Request for IoasCopy {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let request = MapRequest {
            flags: self.flags.get(),
            ioas: self.dst_ioas_id.get(),
            reserved: 0,
            length: self.length.get(),
            iova: self.dst_iova.get(),
        };
        let (from, from_iova) = (self.src_ioas_id.get(), self.src_iova.get());
        let by_id = call.context.by_id();
        self.dst_iova
            .set(by_id.ioas_copy(&request, from, from_iova)?);
        Ok(())
    }
}

impl Request for IoasUnmap {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let (ioas, iova, length) = (self.ioas_id.get(), self.iova.get(), self.length.get());
        let by_id = call.context.by_id();
        self.length.set(by_id.ioas_unmap(ioas, iova, length)?);
        Ok(())
    }
}

impl Request for IommuOption {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let set = match self.op.get() {
            SET => Some(self.val64.get()),
            GET => None,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let (option, object) = (self.option_id.get(), self.object_id.get());
        let by_id = call.context.by_id();
        let value = by_id.option(option, object, self.reserved.get(), set)?;
        self.val64.set(value);
        Ok(())
    }
}

/// There is no VFIO container, so there is never an address space of one.
impl Request for VfioIoas {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        zero(self.reserved.get())?;
        match self.op.get() {
            VFIO_GET => Err(Errno::ENODEV),
            VFIO_SET => {
                call.has_ioas(self.ioas_id.get())?;
                Err(Errno::EOPNOTSUPP)
            }
            VFIO_CLEAR => Ok(()),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// Memory is nobody's process's here.
impl Request for IoasChangeProcess {
    fn run(&mut self, _call: &mut Call<'_>) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
}

/// No caller may know where its memory is.
impl Request for IoasNoiommuGetPa {
    fn run(&mut self, _call: &mut Call<'_>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
}

impl Call<'_> {
    fn has_ioas(&self, ioas: u32) -> Result<(), Errno> {
        let ranges = self.context.by_id().ioas_iova_ranges(ioas, 0, &mut []);
        Ok(ranges.map(drop)?)
    }

    /// What comes before the memory is looked for.
    fn check_map(&self, request: &MapRequest, at: u64) -> Result<(), Errno> {
        request.check()?;
        self.has_ioas(request.ioas)?;
        if at.checked_add(request.length).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        if request.length == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    fn map(
        &self,
        request: &MapRequest,
        memory: Arc<dyn Memory>,
        offset: u64,
    ) -> Result<u64, Errno> {
        let by_id = self.context.by_id();
        Ok(by_id.ioas_map(request, memory, offset)?)
    }
}
