//! What the handles of a slice, its queues and its memory users do.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::driver::{Access, Answer, Entry, HwptFlags, StageOne, UserData};
use super::super::fault_queue::PageRequest;
use super::super::inner::Inner;
use super::super::nested::{Parent, StageOneSource};
use super::super::ring::Item;
use super::super::shadow::Set;
use super::super::viommu::{Entries, Progress};
use super::super::{Error, Event, Record};
use super::{
    AccessPins, Device, FaultQueue, HwQueue, HwptNested, HwptShadow, Vdevice, Veventq, Viommu,
    peer_of, with_fault,
};
use crate::addr::{Gpa, Hpa, Iova, Span};

impl Viommu {
    /// A guest's stage 1 that the caller has decoded.
    ///
    /// # Errors
    /// [`Error::IllegalStageOne`], [`Error::Unsupported`], [`Error::NoSuchObject`].
    pub fn nested(
        &self,
        stage_one: StageOne,
        fault_queue: Option<&FaultQueue>,
    ) -> Result<HwptNested, Error> {
        let source = StageOneSource::Decoded(stage_one);
        self.nested_of(source, HwptFlags::empty(), fault_queue)
    }

    /// The same for PASIDs, where the IOMMU has a table for each.
    ///
    /// # Errors
    /// As [`nested`](Self::nested).
    pub fn nested_for_pasids(
        &self,
        stage_one: StageOne,
        fault_queue: Option<&FaultQueue>,
    ) -> Result<HwptNested, Error> {
        let source = StageOneSource::Decoded(stage_one);
        self.nested_of(source, HwptFlags::PASID, fault_queue)
    }

    /// A guest's stage 1 in the driver's own format.
    ///
    /// # Errors
    /// As [`nested`](Self::nested), and [`Error::DataType`], [`Error::DataLength`].
    pub fn nested_from(
        &self,
        data: UserData<'_>,
        fault_queue: Option<&FaultQueue>,
    ) -> Result<HwptNested, Error> {
        self.nested_of(StageOneSource::Data(data), HwptFlags::empty(), fault_queue)
    }

    fn nested_of(
        &self,
        source: StageOneSource<'_>,
        flags: HwptFlags,
        fault_queue: Option<&FaultQueue>,
    ) -> Result<HwptNested, Error> {
        let fault = peer_of(&self.0, fault_queue)?;
        let flags = with_fault(flags, fault);
        let make = |inner: &mut Inner, id| {
            let driver = Arc::clone(&inner.ids.viommu(id)?.driver);
            inner.nested_alloc(Parent::Viommu(id), &driver, flags, source, fault)
        };
        self.0.child(make).map(HwptNested)
    }

    /// An empty shadow table.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the IOMMU has no such tables; [`Error::NoSpace`], [`Error::OutOfMemory`].
    pub fn shadow(&self) -> Result<HwptShadow, Error> {
        self.0.child(Inner::shadow_alloc).map(HwptShadow)
    }

    /// Names a device of the same IOMMU.
    ///
    /// # Errors
    /// [`Error::OtherIommu`]; [`Error::Exists`] where the device or the name has one; those of the driver.
    pub fn vdevice(&self, device: &Device, virt_id: u64) -> Result<Vdevice, Error> {
        let device = self.0.peer(&device.0)?;
        self.0
            .child(|inner, id| inner.vdevice_alloc(id, device, virt_id))
            .map(Vdevice)
    }

    /// A guest's invalidations, in order, up to the first that fails. What is counted is complete in the hardware.
    #[inline(always)]
    pub fn invalidate(&self, kind: u32, entries: &[Entry]) -> Progress {
        let mut inner = self.0.shared.lock();
        inner.invalidate(self.0.id, kind, Entries::Words(entries))
    }

    /// A queue of `depth` events of type `kind`.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::Invalid`], [`Error::Exists`].
    pub fn veventq(&self, kind: u32, depth: u32) -> Result<Veventq, Error> {
        self.0
            .child(|inner, id| inner.veventq_alloc(id, kind, depth))
            .map(Veventq)
    }

    /// Puts an event into the queue of its type. A full queue notes the loss.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: there is no such queue.
    pub fn report(&self, kind: u32, event: Event) -> Result<(), Error> {
        self.0.with(|inner, id| inner.report_event(id, kind, event))
    }

    /// A hardware queue of this slice stopped.
    pub fn queue_error(&self, error: u64) {
        let viommu = self.id();
        self.0.with(|inner, _| {
            let record = Record::QueueError { viommu, error };
            inner.records.push(record)
        });
    }

    /// A guest queue of `len` bytes at `base` for the hardware to read.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::Empty`], [`Error::Overflow`], [`Error::Exists`], [`Error::NotMapped`],
    /// [`Error::NotPermitted`], [`Error::NotContiguous`], [`Error::Misaligned`], [`Error::QueueOrder`].
    pub fn hw_queue(&self, kind: u32, index: u32, base: Gpa, len: u64) -> Result<HwQueue, Error> {
        self.0
            .child(|inner, id| inner.hw_queue_alloc(id, kind, index, base, len))
            .map(HwQueue)
    }
}

impl HwptShadow {
    /// Makes the start of `range` lead to what the partition has from the address on, with the rights that both allow, or nowhere,
    /// and says how much of it: as much as a few tables hold, so that a call takes no longer than that, and nothing yet where a lot
    /// had to go first. What is so already is not stored again; what was otherwise is in no cache when this returns. Where the
    /// partition has nothing, nothing is mapped.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Invalid`], [`Error::Misaligned`]: the range is mapped in part. [`Error::Hardware`]:
    /// what was there may still be cached, and its tables are lost.
    pub fn set(&self, range: Span<Iova>, to: Option<(Gpa, Access)>) -> Result<Set, Error> {
        self.0.with(|inner, id| inner.shadow_set(id, range, to))
    }

    /// Empties it at once: nothing of it is in a cache when this returns. The tables that held what was there are freed in parts, a
    /// few by each call, of this and of [`set`](Self::set). Whether there were any.
    ///
    /// # Errors
    /// [`Error::Hardware`]: as with [`set`](Self::set).
    pub fn clear(&self) -> Result<bool, Error> {
        self.0.with(|inner, id| inner.shadow_clear(id))
    }

    /// The first address from `from` on for which there is a mapping.
    pub fn next(&self, from: Iova) -> Option<Iova> {
        let next = self.0.with(|inner, id| inner.shadow_next(id, from));
        next.ok().flatten()
    }

    /// Bytes of its tables.
    pub fn bytes(&self) -> u64 {
        let bytes = self
            .0
            .with(|inner, id| Some(inner.ids.paging_mut(id).ok()?.table_mut().bytes()));
        bytes.unwrap_or(0)
    }

    /// Leaves stored so far, cleared ones included.
    pub fn stores(&self) -> u64 {
        let stores = self
            .0
            .with(|inner, id| Some(inner.ids.paging_mut(id).ok()?.table_mut().stores()));
        stores.unwrap_or(0)
    }

    /// The page or block that `iova` is in.
    pub fn leaf(&self, iova: Iova) -> Option<Span<Iova>> {
        self.0
            .with(|inner, id| inner.ids.paging_mut(id).ok()?.table_mut().leaf(iova))
    }

    /// Where the table sends `iova`.
    pub fn walk(&self, iova: Iova) -> Option<Hpa> {
        self.0
            .with(|inner, id| inner.ids.paging(id).ok()?.walk(iova))
    }
}

impl HwptNested {
    /// Makes it another stage 1 on the same slice, in the memory that it has. Nothing goes through it: what something goes
    /// through never changes under it.
    ///
    /// # Errors
    /// [`Error::InUse`] while something is attached to it; [`Error::IllegalStageOne`], [`Error::Unsupported`];
    /// [`Error::NoSuchObject`]. It is what it was then.
    pub fn renew(&self, stage_one: StageOne) -> Result<(), Error> {
        self.0.with(|inner, id| inner.nested_renew(id, stage_one))
    }

    /// A guest's invalidations of this stage 1 alone, as [`Viommu::invalidate`].
    pub fn invalidate(&self, kind: u32, entries: &[Entry]) -> Progress {
        self.0
            .with(|inner, id| inner.invalidate(id, kind, Entries::Words(entries)))
    }
}

impl Veventq {
    /// Takes the oldest.
    pub fn pop(&self) -> Option<Item<Event>> {
        self.0
            .with(|inner, id| inner.ids.veventq_mut(id).ok()?.ring.pop())
    }

    /// The sequence number of the next one that is put or lost; 0 where the queue is gone.
    pub fn sequence(&self) -> u32 {
        let sequence = self
            .0
            .with(|inner, id| Some(inner.ids.veventq(id).ok()?.ring.sequence()));
        sequence.unwrap_or(0)
    }

    /// The oldest, which stays.
    pub fn peek(&self) -> Option<Item<Event>> {
        self.0
            .with(|inner, id| inner.ids.veventq(id).ok()?.ring.peek())
    }

    /// Whole records as bytes: a header of two words (flags, sequence) and `event_len` bytes each.
    ///
    /// # Errors
    /// [`Error::MessageSize`] for fewer than 8 bytes; [`Error::Invalid`] where the first does not fit.
    pub fn read(&self, event_len: usize, bytes: &mut [u8]) -> Result<usize, Error> {
        self.0
            .with(|inner, id| inner.veventq_read(id, event_len, bytes))
    }
}

impl FaultQueue {
    /// Reads the oldest complete group, and returns its length; 0 where there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it does not fit.
    pub fn read(&self, out: &mut [PageRequest]) -> Result<usize, Error> {
        self.0
            .with(|inner, id| inner.ids.fault_queue_mut(id)?.read(out))
    }

    /// Answers the group that was read under `cookie`; once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cookie that no group has.
    pub fn respond(&self, cookie: u32, answer: Answer) -> Result<(), Error> {
        self.0
            .with(|inner, id| inner.ids.fault_queue_mut(id)?.respond(cookie, answer))
    }
}

impl AccessPins {
    /// Holds a range, and returns its physically contiguous pieces in order.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Overflow`], [`Error::NotMapped`], [`Error::NotPermitted`], [`Error::OutOfMemory`].
    pub fn pin(&self, range: Span<Iova>, write: bool) -> Result<Vec<Span<Hpa>>, Error> {
        self.0.with(|inner, id| inner.pin(id, range, write))
    }

    /// Lets go of a range that was held exactly so.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn unpin(&self, range: Span<Iova>) -> Result<(), Error> {
        self.0.with(|inner, id| inner.unpin(id, range))
    }

    /// Whether an unmapping was refused because of this.
    pub fn wanted(&self) -> bool {
        self.0
            .with(|inner, id| inner.ids.access(id).is_ok_and(|pins| pins.wanted))
    }
}
