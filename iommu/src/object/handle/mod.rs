//! Typed owners of objects. Dropping one ends its object, as soon as nothing uses that any more.

use alloc::sync::Arc;
use core::fmt;

use super::driver::{Driver, HwInfo, HwptFlags, UserData};
use super::inner::Inner;
use super::ioas::Bitmap;
use super::{Error, Shared};
use crate::addr::{Hpa, Iova, Span};

mod ioas;
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
