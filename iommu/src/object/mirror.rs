//! Tables of ours that a [`Unit`](super::unit::Unit)'s objects are filled into, in each format that it walks.

use core::fmt;

use super::Error;
use super::driver::{Access, Flush, Format, PageTable as Mirror, Root, Stale};
use crate::addr::{Hpa, Iova, Span};
use crate::hal::Platform;
use crate::physical::{Invalidated, IommuError};
use crate::table::{
    self, Attributes, Granule4K, MapError, Memory, Npt, PageTable, SecondStage,
    SecondStageAttributes, StageOne, StageOneAttributes, StageTwo, Unmapped,
};

/// A first stage of ours.
pub(super) type FirstTable<P> = PageTable<P, StageOne<Granule4K>>;

/// What an objects' table has to know of its format.
pub(super) trait Kind: table::Format {
    const FORMAT: Format;
    fn of(access: Access) -> Self::Attributes;
}

impl Kind for StageTwo<Granule4K> {
    const FORMAT: Format = Format::ArmStageTwo;

    fn of(access: Access) -> Attributes {
        Attributes {
            read: access.contains(Access::READ),
            write: access.contains(Access::WRITE),
            execute: false,
            memory: if access.contains(Access::DEVICE) {
                Memory::Device
            } else {
                Memory::Normal
            },
        }
    }
}

/// Whatever may be written may be read: a first stage cannot say otherwise (DDI 0487, D8.4.1.2.1).
impl Kind for StageOne<Granule4K> {
    const FORMAT: Format = Format::ArmStageOne;

    fn of(access: Access) -> StageOneAttributes {
        let kind = if access.contains(Access::DEVICE) {
            StageOneAttributes::DEVICE
        } else {
            StageOneAttributes::DMA
        };
        StageOneAttributes {
            write: access.contains(Access::WRITE),
            ..kind
        }
    }
}

/// Registers and RAM are the same to it: memory types of second stages are the device's own.
impl Kind for SecondStage {
    const FORMAT: Format = Format::VtdSecondStage;

    fn of(access: Access) -> SecondStageAttributes {
        SecondStageAttributes {
            read: access.contains(Access::READ),
            write: access.contains(Access::WRITE),
            ..SecondStageAttributes::DMA
        }
    }
}

/// Whatever may be written may be read: what is present is for all that is not said otherwise (VT-d, 9.7).
impl Kind for Npt {
    const FORMAT: Format = Format::VtdFirstStage;

    fn of(access: Access) -> Attributes {
        Attributes {
            read: true,
            write: access.contains(Access::WRITE),
            // No request is refused for it: there are none for execution.
            execute: true,
            memory: Memory::Normal,
        }
    }
}

pub(super) fn refused(error: MapError) -> Error {
    match error {
        MapError::OutOfMemory => Error::OutOfMemory,
        MapError::Misaligned(at) => Error::Misaligned(at),
        MapError::Mapped(at) => Error::Occupied(at),
        MapError::InputTooWide(at) | MapError::OutputTooWide(at) => Error::Invalid(at),
        MapError::Width(bits) => Error::Unsupported(bits.into()),
        MapError::Empty => Error::Empty,
        _ => Error::Access,
    }
}

/// Tables that are freed at once at most.
const FREED: usize = 8;

fn stale<B>(cut: &Unmapped<B>) -> Stale {
    Stale {
        range: cut.stale(),
        leaf: cut.leaf_only(),
    }
}

/// A table of ours. Lost unless it is retired.
pub(super) struct Table<P: Platform, F: Kind> {
    table: Option<PageTable<P, F>>,
    /// What may not be written is not mapped.
    writable: bool,
}

impl<P: Platform, F: Kind> fmt::Debug for Table<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("counters", &self.get().counters())
            .finish_non_exhaustive()
    }
}

impl<P: Platform, F: Kind> Table<P, F> {
    pub(super) fn new(table: PageTable<P, F>) -> Self {
        Self {
            table: Some(table),
            writable: false,
        }
    }

    fn get(&self) -> &PageTable<P, F> {
        let Some(table) = &self.table else {
            unreachable!("nothing is asked of a retired table");
        };
        table
    }

    fn get_mut(&mut self) -> &mut PageTable<P, F> {
        let Some(table) = &mut self.table else {
            unreachable!("nothing is asked of a retired table");
        };
        table
    }
}

impl<P: Platform, F: Kind> Mirror for Table<P, F> {
    fn root(&self) -> Root {
        let table = self.get();
        let shape = table.shape();
        Root {
            format: F::FORMAT,
            root: table.root(),
            input_bits: shape.input_bits,
            output_bits: shape.output_bits,
            largest: shape.largest,
            cleaned: !shape.coherent,
        }
    }

    fn page_size(&self) -> u64 {
        1 << F::PAGE_SHIFT
    }

    fn map(&mut self, range: Span<Iova>, to: Hpa, access: Access) -> Result<(), Error> {
        if self.writable && !access.contains(Access::WRITE) {
            return Err(Error::Access);
        }
        self.get_mut()
            .map(range, to, F::of(access))
            .map_err(refused)
    }

    fn refuse_read_only(&mut self) {
        self.writable = true;
    }

    fn unmap(&mut self, range: Span<Iova>, flush: &mut Flush<'_>) -> Result<(), IommuError> {
        let table = self.get_mut();
        let cut = table.unmap(range);
        if cut.is_empty() {
            return Ok(());
        }
        flush(stale(&cut))?;
        table.release(cut, Invalidated::complete());
        Ok(())
    }

    fn clear(&mut self, flush: &mut Flush<'_>) -> Result<(), IommuError> {
        let table = self.get_mut();
        let cut = table.clear::<Iova>();
        if cut.is_empty() {
            return Ok(());
        }
        flush(stale(&cut))?;
        table.release_later(cut, Invalidated::complete());
        Ok(())
    }

    fn free(&mut self) -> bool {
        self.get_mut().free(FREED) > 0
    }

    fn walk(&self, iova: Iova) -> Option<Hpa> {
        Some(self.get().walk(iova)?.output)
    }

    fn leaf(&self, iova: Iova) -> Option<Span<Iova>> {
        let leaf = self.get().walk(iova)?;
        Some(Span {
            base: iova.align_down(leaf.size),
            len: leaf.size,
        })
    }

    fn agrees(&self, range: Span<Iova>, to: Hpa, access: Access) -> Option<(bool, Iova)> {
        let (agrees, end) = self.get().agrees(range, to, F::of(access))?;
        Some((agrees, Iova(end)))
    }

    fn next(&self, from: Iova) -> Option<Iova> {
        self.get().next(from)
    }

    fn bytes(&self) -> u64 {
        self.get().counters().table_bytes
    }

    fn stores(&self) -> u64 {
        self.get().counters().leaf_stores
    }

    fn retire(&mut self) {
        if let Some(table) = self.table.take() {
            table.retire(Invalidated::complete());
        }
    }
}
