//! The objects by bare IDs, for an outer ABI: IOMMUFD's requests with every field decoded, reserved words included.
//!
//! Objects made here belong to their ID: they go by [`ById::destroy`], and with the context. Devices and access users
//! come from inside ([`Context::bind`](super::Context::bind)) and do not go that way. An open event queue
//! ([`ById::veventq_alloc`], [`ById::fault_queue_alloc`]) is a handle beside the ID, and keeps the object.

use alloc::sync::Arc;

use super::driver::{Driver, HwInfo, HwptFlags, Memory, UserData};
use super::handle::{self, FaultQueue, Veventq};
use super::ids::Object;
use super::inner::Inner;
use super::ioas::{Bitmap, Source};
use super::nested::{Parent, StageOneSource};
use super::viommu::{Entries, MAX_ENTRIES, MAX_ENTRY_LEN, Progress};
use super::{Error, Shared};
use crate::addr::{Gpa, Iova, Span};
pub use request::{HwptRequest, InvalidateRequest, MapRequest};

mod request;

/// See the module's description.
#[derive(Debug)]
pub struct ById<'a> {
    shared: &'a Shared,
}

fn zero(word: u32) -> Result<(), Error> {
    if word == 0 {
        Ok(())
    } else {
        Err(Error::ReservedWord(word))
    }
}

fn no_flags(flags: u32) -> Result<(), Error> {
    if flags == 0 {
        Ok(())
    } else {
        Err(Error::Unsupported(flags))
    }
}

/// Each refuses a reserved word or a flag that it does not know, and an ID that is not there, before all else.
impl<'a> ById<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared }
    }

    fn with<R>(&self, operation: impl FnOnce(&mut Inner) -> R) -> R {
        operation(&mut self.shared.lock())
    }

    /// Ends an object.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`]; [`Error::InUse`].
    pub fn destroy(&self, id: u32) -> Result<(), Error> {
        self.with(|inner| inner.destroy(id))
    }

    /// A new address space.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for any flag.
    pub fn ioas_alloc(&self, flags: u32) -> Result<u32, Error> {
        no_flags(flags)?;
        self.with(Inner::ioas_alloc)
    }

    /// Replaces the list of allowed ranges.
    ///
    /// # Errors
    /// As [`Ioas::allow`](super::Ioas::allow).
    pub fn ioas_allow_iovas(
        &self,
        ioas: u32,
        reserved: u32,
        ranges: &[(u64, u64)],
    ) -> Result<(), Error> {
        zero(reserved)?;
        self.with(|inner| inner.allow_iovas(ioas, ranges))
    }

    /// What can be mapped: the alignment and the number of ranges, of which as many as fit are in `ranges`. A number
    /// above the length of `ranges` is `EMSGSIZE` to a caller outside, which gets the number all the same.
    ///
    /// # Errors
    /// None beyond those of all.
    pub fn ioas_iova_ranges(
        &self,
        ioas: u32,
        reserved: u32,
        ranges: &mut [(u64, u64)],
    ) -> Result<(u64, usize), Error> {
        zero(reserved)?;
        self.with(|inner| inner.iova_ranges(ioas, ranges))
    }

    /// Maps memory, and returns where.
    ///
    /// # Errors
    /// As [`Ioas::map`](super::Ioas::map).
    pub fn ioas_map(
        &self,
        request: &MapRequest,
        memory: Arc<dyn Memory>,
        offset: u64,
    ) -> Result<u64, Error> {
        let (iova, access) = request.check()?;
        let source = Source {
            memory,
            offset,
            len: request.length,
        };
        self.with(|inner| inner.map(request.ioas, iova, source, access))
    }

    /// Maps what is mapped elsewhere, and returns where.
    ///
    /// # Errors
    /// As [`Ioas::copy`](super::Ioas::copy).
    pub fn ioas_copy(&self, request: &MapRequest, from: u32, from_iova: u64) -> Result<u64, Error> {
        let (iova, access) = request.check()?;
        let range = Span {
            base: Iova(from_iova),
            len: request.length,
        };
        self.with(|inner| inner.copy(request.ioas, iova, from, range, access))
    }

    /// Unmaps, and returns the bytes.
    ///
    /// # Errors
    /// As [`Ioas::unmap`](super::Ioas::unmap).
    pub fn ioas_unmap(&self, ioas: u32, iova: u64, length: u64) -> Result<u64, Error> {
        self.with(|inner| inner.unmap(ioas, iova, length))
    }

    /// IOMMU_OPTION: sets (`Some`) or gets an option, and returns its value. Option 1 is huge pages of an IOAS.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for others (no memory limit is a mode here); [`Error::Invalid`];
    /// [`Error::AddressInUse`].
    pub fn option(
        &self,
        option: u32,
        object: u32,
        reserved: u16,
        set: Option<u64>,
    ) -> Result<u64, Error> {
        zero(reserved.into())?;
        if option != 1 {
            return Err(Error::Unsupported(option));
        }
        self.with(|inner| {
            let old = inner.huge_pages(object)?;
            match set {
                None => Ok(old.into()),
                Some(value @ 0..=1) => {
                    inner.set_huge_pages(object, value == 1)?;
                    Ok(value)
                }
                Some(value) => Err(Error::Invalid(value)),
            }
        })
    }

    /// A table of ours, or a guest's stage 1.
    ///
    /// # Errors
    /// [`Error::DataLength`] for data without a type, or a type without data; an unknown `pt` is
    /// [`Error::WrongKind`]; as [`Ioas::paging`](super::Ioas::paging) and
    /// [`Viommu::nested_from`](super::Viommu::nested_from).
    pub fn hwpt_alloc(&self, request: &HwptRequest<'_>) -> Result<u32, Error> {
        zero(request.reserved)?;
        zero(request.reserved2)?;
        if (request.data.kind == 0) != request.data.bytes.is_empty() {
            return Err(Error::DataLength(request.data.bytes.len()));
        }
        self.with(|inner| {
            let driver = driver_of(inner, request.device)?;
            let pt = inner.ids.entry(request.pt);
            let pt = pt.map_err(|_| Error::WrongKind(request.pt))?;
            let flags = HwptFlags::from_bits(request.flags);
            let flags = flags.ok_or(Error::Unsupported(request.flags));
            let fault = Some(request.fault);
            let source = StageOneSource::Data(request.data);
            match pt.object {
                Object::Ioas(_) => {
                    inner.paging_alloc(request.pt, &driver, flags?, request.data, fault)
                }
                Object::Paging(_) => {
                    let parent = Parent::Paging(request.pt);
                    inner.nested_alloc(parent, &driver, flags?, source, fault)
                }
                Object::Viommu(_) => {
                    let parent = Parent::Viommu(request.pt);
                    inner.nested_alloc(parent, &driver, flags?, source, fault)
                }
                _ => Err(Error::WrongKind(request.pt)),
            }
        })
    }

    /// What the hardware in front of a device is, and the bits of a PASID. `kind` counts only with flag 1.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn hw_info(
        &self,
        flags: u32,
        device: u32,
        kind: u32,
        reserved: [u8; 3],
    ) -> Result<(HwInfo, u8), Error> {
        no_flags(flags & !1)?;
        for byte in reserved {
            zero(byte.into())?;
        }
        let kind = if flags & 1 != 0 { kind } else { 0 };
        self.with(|inner| inner.hw_info(device, kind))
    }

    /// Starts (flag 1) or stops noting writes.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn set_dirty_tracking(&self, flags: u32, hwpt: u32, reserved: u32) -> Result<(), Error> {
        no_flags(flags & !1)?;
        zero(reserved)?;
        self.with(|inner| inner.set_dirty_tracking(hwpt, flags & 1 != 0))
    }

    /// Reads, and (without flag 1) clears, what was noted.
    ///
    /// # Errors
    /// As [`HwptPaging::read_dirty`](super::HwptPaging::read_dirty).
    pub fn get_dirty_bitmap(
        &self,
        (flags, hwpt, reserved): (u32, u32, u32),
        range: Span<Iova>,
        page_size: u64,
        words: &mut [u64],
    ) -> Result<(), Error> {
        no_flags(flags & !1)?;
        zero(reserved)?;
        let mut bitmap = Bitmap { words, page_size };
        self.with(|inner| inner.read_dirty(hwpt, range, flags & 1 == 0, &mut bitmap))
    }

    /// A guest's invalidations. The count is of entries whose effect is complete, whatever the result is.
    pub fn hwpt_invalidate(&self, request: &InvalidateRequest<'_>) -> Progress {
        if let Err(error) = zero(request.reserved) {
            return Progress::refused(error);
        }
        let (count, entry_len) = (request.entry_num as usize, request.entry_len as usize);
        if count > 0 {
            let bad = [
                (request.bytes.is_empty(), 0),
                (entry_len == 0 || entry_len > MAX_ENTRY_LEN, entry_len),
                (count > MAX_ENTRIES, count),
            ];
            if let Some((_, bad)) = bad.into_iter().find(|(is_bad, _)| *is_bad) {
                return Progress::refused(Error::Invalid(bad as u64));
            }
        }
        let entries = Entries::Bytes {
            bytes: request.bytes,
            entry_len,
            count,
        };
        self.with(|inner| inner.invalidate(request.id, request.data_type, entries))
    }

    /// A fault queue, open.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for any flag; [`Error::Invalid`] for the depth, which the ABI does not have.
    pub fn fault_queue_alloc(&self, flags: u32, depth: u32) -> Result<FaultQueue, Error> {
        no_flags(flags)?;
        handle::open(self.shared, |inner| inner.fault_queue_alloc(depth)).map(FaultQueue)
    }

    /// A slice.
    ///
    /// # Errors
    /// As [`HwptPaging::viommu`](super::HwptPaging::viommu).
    pub fn viommu_alloc(
        &self,
        (flags, reserved): (u32, u32),
        kind: u32,
        device: u32,
        hwpt: u32,
        bytes: &[u8],
    ) -> Result<u32, Error> {
        no_flags(flags)?;
        zero(reserved)?;
        if kind == 0 {
            return Err(Error::Unsupported(kind));
        }
        self.with(|inner| {
            let driver = driver_of(inner, device)?;
            inner.viommu_alloc(hwpt, &driver, kind, UserData { kind, bytes })
        })
    }

    /// A device's name in a slice.
    ///
    /// # Errors
    /// As [`Viommu::vdevice`](super::Viommu::vdevice).
    pub fn vdevice_alloc(&self, viommu: u32, device: u32, virt_id: u64) -> Result<u32, Error> {
        self.with(|inner| inner.vdevice_alloc(viommu, device, virt_id))
    }

    /// An event queue, open.
    ///
    /// # Errors
    /// As [`Viommu::veventq`](super::Viommu::veventq).
    pub fn veventq_alloc(
        &self,
        (flags, reserved): (u32, u32),
        viommu: u32,
        kind: u32,
        depth: u32,
    ) -> Result<Veventq, Error> {
        no_flags(flags)?;
        zero(reserved)?;
        handle::open(self.shared, |inner| {
            inner.veventq_alloc(viommu, kind, depth)
        })
        .map(Veventq)
    }

    /// A hardware queue.
    ///
    /// # Errors
    /// As [`Viommu::hw_queue`](super::Viommu::hw_queue).
    pub fn hw_queue_alloc(
        &self,
        flags: u32,
        viommu: u32,
        (kind, index): (u32, u32),
        base: Gpa,
        length: u64,
    ) -> Result<u32, Error> {
        no_flags(flags)?;
        self.with(|inner| inner.hw_queue_alloc(viommu, kind, index, base, length))
    }

    /// Attaches a device, or (where it is attached) replaces; returns the HWPT.
    ///
    /// # Errors
    /// As [`Device::attach`](super::Device::attach) and [`Device::replace`](super::Device::replace).
    pub fn attach(&self, device: u32, pasid: u32, pt: u32) -> Result<u32, Error> {
        self.with(|inner| match inner.attached(device, pasid) {
            Some(_) => inner.replace(device, pasid, pt),
            None => inner.attach(device, pasid, pt),
        })
    }

    /// Detaches a device.
    ///
    /// # Errors
    /// As [`Device::detach`](super::Device::detach).
    pub fn detach(&self, device: u32, pasid: u32) -> Result<(), Error> {
        self.with(|inner| inner.detach(device, pasid))
    }
}

fn driver_of(inner: &Inner, device: u32) -> Result<Arc<dyn Driver>, Error> {
    Ok(Arc::clone(&inner.ids.device(device)?.driver))
}
