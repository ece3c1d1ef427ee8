//! Typed owners of objects. Dropping one ends its object, as soon as nothing uses that any more.

use alloc::sync::Arc;
use core::fmt;

use super::driver::{Access, Driver, HwInfo, HwptFlags, Memory, UserData};
use super::inner::Inner;
use super::ioas::{Bitmap, Source};
use super::{Error, Shared};
use crate::addr::{Hpa, Iova, Span};

mod slice;

/// A reference to one object, and mostly its owner.
pub struct Handle {
    shared: Shared,
    id: u32,
    owned: bool,
}

impl Handle {
    fn with<R>(&self, operation: impl FnOnce(&mut Inner, u32) -> R) -> R {
        operation(&mut self.shared.lock(), self.id)
    }

    /// Makes an object that depends on this one, and its handle.
    fn child(
        &self,
        make: impl FnOnce(&mut Inner, u32) -> Result<u32, Error>,
    ) -> Result<Self, Error> {
        adopt(&self.shared, |inner| make(inner, self.id))
    }

    /// The ID of `other`, if it is of the same context.
    fn peer(&self, other: &Self) -> Result<u32, Error> {
        if Arc::ptr_eq(&self.shared, &other.shared) {
            Ok(other.id)
        } else {
            Err(Error::NoSuchObject(other.id))
        }
    }
}

/// Makes an object, and its handle.
pub(super) fn adopt(
    shared: &Shared,
    make: impl FnOnce(&mut Inner) -> Result<u32, Error>,
) -> Result<Handle, Error> {
    let mut inner = shared.lock();
    let id = make(&mut inner)?;
    inner.adopt(id);
    Ok(Handle {
        shared: Arc::clone(shared),
        id,
        owned: true,
    })
}

/// A handle that leaves the object to the outer ABI: an open queue.
pub(super) fn open(
    shared: &Shared,
    make: impl FnOnce(&mut Inner) -> Result<u32, Error>,
) -> Result<Handle, Error> {
    let mut handle = adopt(shared, make)?;
    handle.owned = false;
    if let Ok(entry) = shared.lock().ids.entry_mut(handle.id) {
        entry.owner = super::ids::Owner::Id;
    }
    Ok(handle)
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().drop_handle(self.id, self.owned);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name(pub(super) Handle);

            impl $name {
                /// The object's ID in its context, for an outer ABI.
                pub fn id(&self) -> u32 {
                    self.0.id
                }
            }
        )*
    };
}

handles! {
    /// An I/O address space. Mappings do not keep it; tables and access users do.
    Ioas;
    /// A device whose DMA is the context's. Dropping it stops the DMA, ends its vDEVICE, and gives its group back.
    Device;
    /// A table of ours, filled from an address space.
    HwptPaging;
    /// A guest's stage 1 on a nest parent. A changed one is a new one, or [renewed](HwptNested::renew) while nothing uses it.
    HwptNested;
    /// A guest's translation and its memory in one table, filled by the IOMMU that the guest sees.
    HwptShadow;
    /// A slice: one physical IOMMU for one VM, with a cache tag of its own.
    Viommu;
    /// A device's name in a slice. Dropped, or with its device, it is gone.
    Vdevice;
    /// Events of one type of a slice.
    Veventq;
    /// Page requests that wait for an answer. Dropped, whatever waits is answered as wrong.
    FaultQueue;
    /// A guest queue that the hardware reads.
    HwQueue;
    /// A user of an address space's memory.
    AccessPins;
}

mod sealed {
    pub trait Sealed {
        fn handle(&self) -> &super::Handle;
    }
}

/// What a device can be attached to: an [`Ioas`] (through a table that comes and goes with its attachments), a
/// [`HwptPaging`], a [`HwptNested`] or a [`HwptShadow`].
pub trait Attachable: sealed::Sealed {}

macro_rules! attachable {
    ($($name:ident)*) => {
        $(
            impl sealed::Sealed for $name {
                fn handle(&self) -> &Handle {
                    &self.0
                }
            }
            impl Attachable for $name {}
        )*
    };
}

attachable!(Ioas HwptPaging HwptNested HwptShadow);

impl Ioas {
    /// Maps `len` bytes of `memory` from `offset` on at `iova`. In each table of the space the largest blocks are used.
    ///
    /// # Errors
    /// In this order: [`Error::Overflow`] (`iova` or `len` is 2^64 - 1), [`Error::Access`], [`Error::Overflow`] (of the
    /// offset), [`Error::Empty`], [`Error::Invalid`] (past the memory's end), [`Error::PinFailed`] (writing read-only
    /// memory), [`Error::Misaligned`], [`Error::Overflow`], [`Error::InReserved`], [`Error::Occupied`], then those of
    /// the memory and the tables.
    pub fn map(
        &self,
        iova: Iova,
        memory: Arc<dyn Memory>,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<(), Error> {
        let source = Source {
            memory,
            offset,
            len,
        };
        self.0
            .with(|inner, id| inner.map(id, Some(iova.0), source, access))
            .map(drop)
    }

    /// Maps at the lowest free IOVA that suits the largest blocks, and returns it; never 0.
    ///
    /// # Errors
    /// As [`map`](Self::map), and [`Error::NoSpace`].
    pub fn map_anywhere(
        &self,
        memory: Arc<dyn Memory>,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<Iova, Error> {
        let source = Source {
            memory,
            offset,
            len,
        };
        self.0
            .with(|inner, id| inner.map(id, None, source, access))
            .map(Iova)
    }

    /// Maps what `from` has mapped at `range` here too, at `iova` or at a free one, and returns where.
    ///
    /// # Errors
    /// As [`map`](Self::map); [`Error::NotMapped`] at a hole of `range`; [`Error::NotPermitted`] where writes are asked
    /// for and were not there.
    pub fn copy(
        &self,
        iova: Option<Iova>,
        from: &Self,
        range: Span<Iova>,
        access: Access,
    ) -> Result<Iova, Error> {
        let from = self.0.peer(&from.0)?;
        self.0
            .with(|inner, id| inner.copy(id, iova.map(|it| it.0), from, range, access))
            .map(Iova)
    }

    /// Unmaps the areas inside a range, and returns their bytes. No device reaches them when it returns.
    ///
    /// # Errors
    /// [`Error::Overflow`], [`Error::Empty`], [`Error::NotMapped`], [`Error::CutsArea`] (areas are not split),
    /// [`Error::AreaLocked`], [`Error::Pinned`]; then nothing has changed. [`Error::Hardware`]: not all caches would
    /// forget; the areas that are left stay taken and can be unmapped again.
    pub fn unmap(&self, range: Span<Iova>) -> Result<u64, Error> {
        self.0
            .with(|inner, id| inner.unmap(id, range.base.0, range.len))
    }

    /// Unmaps everything, be it nothing.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    pub fn unmap_all(&self) -> Result<u64, Error> {
        self.0.with(|inner, id| inner.unmap(id, 0, u64::MAX))
    }

    /// Replaces the list of ranges that automatic IOVAs come from, both ends inclusive. They cannot be reserved then.
    ///
    /// # Errors
    /// [`Error::Invalid`] for ranges of one byte or less, or that overlap; [`Error::AddressInUse`].
    pub fn allow(&self, ranges: &[(u64, u64)]) -> Result<(), Error> {
        self.0.with(|inner, id| inner.allow_iovas(id, ranges))
    }

    /// Fills `ranges` with what is not reserved, both ends inclusive; returns the alignment and how many there are.
    ///
    /// # Errors
    /// None but those of a closed context.
    pub fn ranges(&self, ranges: &mut [(u64, u64)]) -> Result<(u64, usize), Error> {
        self.0.with(|inner, id| inner.iova_ranges(id, ranges))
    }

    /// Lets tables of this space use blocks, or only pages.
    ///
    /// # Errors
    /// [`Error::Invalid`] where tables and areas are there; [`Error::AddressInUse`] at an area that is no whole pages.
    pub fn set_huge_pages(&self, on: bool) -> Result<(), Error> {
        self.0.with(|inner, id| inner.set_huge_pages(id, on))
    }

    /// Chooses where message doorbells are mapped: whole pages from `first` to `last` inclusive, as many as are needed.
    ///
    /// # Errors
    /// [`Error::Misaligned`]; [`Error::AddressInUse`] where it meets something, or the old window has doorbells.
    pub fn set_message_window(&self, first: Iova, last: Iova) -> Result<(), Error> {
        self.0
            .with(|inner, id| inner.set_window(id, first.0, last.0))
    }

    /// Maps a doorbell in the window, once, and returns its IOVA.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a window; [`Error::NoSpace`] in a full one; those of the tables.
    pub fn doorbell(&self, at: Hpa) -> Result<Iova, Error> {
        self.0.with(|inner, id| inner.doorbell(id, at)).map(Iova)
    }

    /// A table of this space in the format of `driver`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for flags that the driver or their combination does not allow; [`Error::AddressInUse`]
    /// where the table is too narrow for what is mapped or allowed; [`Error::NoSuchObject`]; those of the table.
    pub fn paging(
        &self,
        driver: &Arc<dyn Driver>,
        flags: HwptFlags,
        fault_queue: Option<&FaultQueue>,
    ) -> Result<HwptPaging, Error> {
        let fault = peer_of(&self.0, fault_queue)?;
        let flags = with_fault(flags, fault);
        self.0
            .child(|inner, id| inner.paging_alloc(id, driver, flags, UserData::default(), fault))
            .map(HwptPaging)
    }

    /// A table that slices and guests' stages 1 can be put on.
    ///
    /// # Errors
    /// As [`paging`](Self::paging).
    pub fn nest_parent(&self, driver: &Arc<dyn Driver>) -> Result<HwptPaging, Error> {
        self.paging(driver, HwptFlags::NEST_PARENT, None)
    }

    /// A user of this space's memory.
    ///
    /// # Errors
    /// [`Error::AddressInUse`] where something is mapped that is no whole pages.
    pub fn access(&self) -> Result<AccessPins, Error> {
        self.0
            .child(|inner, id| inner.access_alloc(id, false))
            .map(AccessPins)
    }
}

fn peer_of(handle: &Handle, fault_queue: Option<&FaultQueue>) -> Result<Option<u32>, Error> {
    fault_queue.map(|queue| handle.peer(&queue.0)).transpose()
}

fn with_fault(flags: HwptFlags, fault: Option<u32>) -> HwptFlags {
    match fault {
        Some(_) => flags | HwptFlags::FAULT,
        None => flags - HwptFlags::FAULT,
    }
}

impl Device {
    /// Lets the device's requests go through `to`, at a PASID or (0) those without one; returns the HWPT's ID.
    ///
    /// # Errors
    /// [`Error::PasidRange`], [`Error::GroupInReset`], [`Error::AlreadyAttached`], [`Error::OtherAttachment`],
    /// [`Error::PasidMix`], [`Error::Incompatible`], [`Error::OtherIommu`], [`Error::NoVdevice`],
    /// [`Error::AddressInUse`] where its reserved ranges meet mappings; those of the driver. It is refused DMA then.
    pub fn attach(&self, pasid: u32, to: &impl Attachable) -> Result<u32, Error> {
        let to = self.0.peer(to.handle())?;
        self.0.with(|inner, id| inner.attach(id, pasid, to))
    }

    /// Puts `to` in place of what the device's group goes through; returns the HWPT's ID.
    ///
    /// # Errors
    /// [`Error::NotAttached`], and those of [`attach`](Self::attach). The old attachment is intact then.
    pub fn replace(&self, pasid: u32, to: &impl Attachable) -> Result<u32, Error> {
        let to = self.0.peer(to.handle())?;
        self.0.with(|inner, id| inner.replace(id, pasid, to))
    }

    /// Refuses the device's requests at one PASID, and records them from then on; nothing to do where it is not attached.
    /// PASID 0 ends a [`silence`](Self::silence) too.
    ///
    /// # Errors
    /// [`Error::Hardware`]: they may go on, and the device stays attached.
    pub fn detach(&self, pasid: u32) -> Result<(), Error> {
        self.0.with(|inner, id| inner.detach(id, pasid))
    }

    /// Refuses all requests of the device and makes no record of them, attached or not, until its owner detaches
    /// it from what has no PASID: replacements do not end it. Streams that it shares with others fall silent for these as
    /// well.
    ///
    /// # Errors
    /// [`Error::Hardware`]: it may go on.
    pub fn silence(&self) -> Result<(), Error> {
        self.0.with(Inner::silence)
    }

    /// While a function of the group is being reset, its attachments do not change.
    ///
    /// # Errors
    /// None but those of a closed context.
    pub fn set_in_reset(&self, in_reset: bool) -> Result<(), Error> {
        self.0.with(|inner, id| inner.set_in_reset(id, in_reset))
    }

    /// What the hardware in front of it is (`kind` 0: in its own words), and the bits of a PASID.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that is not its own.
    pub fn hw_info(&self, kind: u32) -> Result<(HwInfo, u8), Error> {
        self.0.with(|inner, id| inner.hw_info(id, kind))
    }

    /// Stops its DMA and gives it back.
    ///
    /// # Errors
    /// [`Error::Hardware`]: the DMA could not be stopped. The device stays with the context, with all it can reach.
    pub fn unbind(self) -> Result<(), Error> {
        self.0.with(|inner, id| Ok(inner.unbind(id)?))
    }
}

impl HwptPaging {
    /// A slice of `driver`'s IOMMU on this nest parent, with a cache tag of its own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that the IOMMU does not have; [`Error::NotNestParent`];
    /// [`Error::Incompatible`] where that IOMMU cannot walk the table; [`Error::NoSpace`]; those of the driver.
    pub fn viommu(
        &self,
        driver: &Arc<dyn Driver>,
        kind: u32,
        data: UserData<'_>,
    ) -> Result<Viommu, Error> {
        self.0
            .child(|inner, id| inner.viommu_alloc(id, driver, kind, data))
            .map(Viommu)
    }

    /// Starts noting writes, or stops.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn set_dirty_tracking(&self, on: bool) -> Result<(), Error> {
        self.0.with(|inner, id| inner.set_dirty_tracking(id, on))
    }

    /// Sets the bit of each page of `page_size` bytes that was written, and clears what was noted if asked to.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::Empty`], [`Error::Invalid`], [`Error::Misaligned`], [`Error::Overflow`],
    /// [`Error::MessageSize`], and [`Error::NotMapped`] at a hole: nothing is cleared then.
    pub fn read_dirty(
        &self,
        range: Span<Iova>,
        page_size: u64,
        clear: bool,
        words: &mut [u64],
    ) -> Result<(), Error> {
        let mut bitmap = Bitmap { words, page_size };
        self.0
            .with(|inner, id| inner.read_dirty(id, range, clear, &mut bitmap))
    }

    /// Where the table sends `iova`.
    pub fn walk(&self, iova: Iova) -> Option<Hpa> {
        self.0
            .with(|inner, id| inner.ids.paging(id).ok()?.walk(iova))
    }
}
