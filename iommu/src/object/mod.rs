//! IOMMUFD's objects, with the same rules and the same errors, and typed owners in place of file descriptors.
//!
//! ```text
//! Ioas <- HwptPaging <- Viommu <- { HwptNested, HwptShadow, Vdevice, Veventq, HwQueue }     Device <- Vdevice
//! HwptPaging, HwptNested, HwptShadow <- attached Device / PASID      FaultQueue <- Hwpt*     HwQueue <- later HwQueue
//! ```
//!
//! A [`Context`] is one VM's: one ID space, one lock, and the end of all of it. Callers hold typed handles ([`Ioas`],
//! [`Device`], ..). An object lives as long as its handle or anything that uses it, so that handles may be dropped in any
//! order; dropping a [`Device`] stops its DMA first, and dropping the [`Context`] ends everything, devices first, from
//! the leaves up, whatever handles are left: what they named is [`Error::NoSuchObject`] then. Bare IDs are only for an
//! outer ABI ([`by_id`]), where an object goes by `destroy` and is `EBUSY` while anything uses it.
//!
//! * **Nothing is half done.** What can fail comes before the commit, and what was done is undone. Two exceptions, both
//!   of broken hardware: an area that caches would not forget stays in its address space, unmapped but not free, and a
//!   device that could not be put back is refused DMA; the owner finds a [`Record`] of it.
//! * **There are no wait counts.** An operation holds the lock from the first look-up to the commit, so that no other
//!   one is under way when it starts; what Linux waits for cannot happen. Drivers bound their own waits, and never call
//!   up.
//! * **Memory is held when it is mapped**, also where no table is there yet: there is no swap here to be lazy for. An
//!   error comes from the mapping then, never from a later attachment.
//! * **A hardware failure never frees** what the hardware may still reach: memory, tables and tags are lost instead.
//!
//! The contract for an IOMMU's driver is [`driver`]; [`mod@unit`] makes one of a
//! [`PhysicalIommu`](crate::physical::PhysicalIommu).

use alloc::sync::Arc;

use crate::fault::Fault;
use crate::id::IommuIndex;
use crate::physical::{IommuError, PriRequest};
use crate::sync::Mutex;
use driver::DeviceInfo;
use inner::Inner;

mod access;
mod attach;
pub mod by_id;
mod device;
pub mod driver;
mod error;
mod event;
mod fault_queue;
mod handle;
mod hw_queue;
mod hwpt;
mod ids;
mod inner;
mod ioas;
mod mirror;
mod nested;
mod one;
mod ring;
pub(crate) mod room;
mod shadow;
mod switch;
pub mod unit;
mod vdevice;
mod veventq;
mod viommu;

#[cfg(test)]
pub(crate) mod mock;
#[cfg(test)]
mod tests;

pub use error::{Errno, Error};
pub use event::{Delivery, Record};
pub use fault_queue::PageRequest;
pub use handle::{
    AccessPins, Attachable, Device, FaultQueue, HwQueue, HwptNested, HwptPaging, HwptShadow, Ioas,
    Vdevice, Veventq, Viommu,
};
pub use ring::{Item, MAX_DEPTH, MAX_SEQUENCE, Ring};
pub use shadow::Set;
pub use veventq::Event;
pub use viommu::{BATCH, MAX_ENTRIES, MAX_ENTRY_LEN, Progress};

/// What handles share.
type Shared = Arc<Mutex<Inner>>;

/// All objects of one VM. See the module's description.
#[derive(Debug)]
pub struct Context {
    shared: Shared,
}

impl Context {
    /// An empty one, of at most `objects` objects, that keeps at most `records` [`Record`]s for its owner. Its own few
    /// bytes are the one allocation here that ends the program where there is no memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Invalid`] for a number of records that a [`Ring`] does not take.
    pub fn new(objects: u32, records: u32) -> Result<Self, Error> {
        let shared = Arc::new(Mutex::new(Inner::new(objects, records)?));
        shared.lock().key = Arc::as_ptr(&shared).addr();
        Ok(Self { shared })
    }

    /// A new, empty address space.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::OutOfMemory`].
    pub fn ioas(&self) -> Result<Ioas, Error> {
        handle::adopt(&self.shared, Inner::ioas_alloc).map(Ioas)
    }

    /// Takes a device. Its DMA is refused until it is attached.
    ///
    /// # Errors
    /// [`Error::GroupOwned`] where another context has its group or another group its stream; [`Error::NotCoherent`];
    /// [`Error::NotPermitted`] where its messages are not isolated; [`Error::Invalid`] for reserved ranges that cannot
    /// be; [`Error::NoIommu`]; [`Error::NoSpace`], [`Error::OutOfMemory`].
    pub fn bind(&self, info: &DeviceInfo<'_>) -> Result<Device, Error> {
        handle::adopt(&self.shared, |inner| inner.bind(info)).map(Device)
    }

    /// A queue of at most `depth` page requests.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a depth of 0 or above 4096; [`Error::NoSpace`], [`Error::OutOfMemory`].
    pub fn fault_queue(&self, depth: u32) -> Result<FaultQueue, Error> {
        handle::adopt(&self.shared, |inner| inner.fault_queue_alloc(depth)).map(FaultQueue)
    }

    /// Takes one fault of a physical IOMMU, if its device is of this context.
    pub fn deliver(&self, fault: &Fault) -> Delivery {
        self.shared.lock().deliver(fault)
    }

    /// Takes one page request of a physical IOMMU, if its device is of this context. One that no context takes is for the
    /// owner of the IOMMU to answer.
    pub fn deliver_request(&self, request: &PriRequest) -> Delivery {
        self.shared.lock().deliver_request(request)
    }

    /// An IOMMU dropped page requests.
    pub fn requests_lost(&self, iommu: IommuIndex) {
        self.shared.lock().requests_lost(iommu);
    }

    /// The deadline of page requests: to be called once a period. Whatever has not been answered by the second call since
    /// it came is answered as wrong.
    pub fn age_requests(&self) {
        self.shared.lock().age_requests();
    }

    /// An IOMMU dropped fault records.
    pub fn faults_lost(&self, iommu: IommuIndex) {
        self.shared.lock().faults_lost(iommu);
    }

    /// The oldest of what no object could be told.
    pub fn record(&self) -> Option<Item<Record>> {
        let mut inner = self.shared.lock();
        inner.find_contained();
        inner.records.pop()
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.shared.lock().ids.live().count()
    }

    /// The objects by their IDs, for an outer ABI.
    pub fn by_id(&self) -> by_id::ById<'_> {
        by_id::ById::new(&self.shared)
    }

    /// Ends everything: all DMA first, then the objects from the leaves up.
    ///
    /// # Errors
    /// That of a device whose DMA could not be stopped. What it may still reach is lost then, not freed.
    pub fn close(self) -> Result<(), IommuError> {
        self.end()
    }

    fn end(&self) -> Result<(), IommuError> {
        let mut inner = self.shared.lock();
        let result = inner.close();
        if result.is_err() {
            // Handles may be the last to go; nothing of this may be freed with them.
            core::mem::forget(Arc::clone(&self.shared));
        }
        result
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Devices that are stuck are in the records, and what they reach is lost.
        let _ = self.end();
    }
}
