//! What the handle of an address space does.

use alloc::sync::Arc;

use super::super::Error;
use super::super::driver::{Access, Driver, HwptFlags, Memory, UserData};
use super::super::ioas::Source;
use super::{AccessPins, FaultQueue, HwptPaging, Ioas, peer_of, with_fault};
use crate::addr::{Hpa, Iova, Span};

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
