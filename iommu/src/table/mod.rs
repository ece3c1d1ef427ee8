//! Page tables: one radix implementation, and the formats that CPUs and IOMMUs walk.
//!
//! * A [`Format`] says how entries look: [`StageTwo`] and [`StageOne`] of VMSAv8-64 with each [`Granule`],
//!   [`SecondStage`] of VT-d, and [`Npt`] and [`Ept`] of x86's CPUs. A [`Shape`] says what one table is to be.
//! * [`PageTable::map`] checks everything first (alignment, width, overlap, memory for every table it will need) and
//!   then commits: a refused call changes nothing. The largest blocks that fit are used; neighbours are never merged.
//! * [`PageTable::unmap`] cannot fail. What it cuts off is held by an [`Unmapped`] until the caller says, with an
//!   [`Invalidated`], that no cache holds the range any more; only then is a table's memory free.
//! * [`PageTable::protect`] and [`PageTable::read_dirty`] change leaves in place; [`walk_foreign`] walks tables that
//!   somebody else wrote.
//! * Start tables are not concatenated unless the shape asks for it: that costs one table and works with walkers that
//!   ignore the index into concatenated tables.
//!
//! The formats are in `vmsa`, `second_stage`, `npt`, `ept` and `spec`, the record of each table in `node`, the memory kept in hand in
//! `spare`, the table used last in `hot`, and the walks that change tables in `map`, `unmap`, `split`, `protect` and `dirty`. All work on runs of
//! leaves in one table, not on leaves; so do those that only look, `next` and `agree`.

use alloc::sync::Arc;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::addr::{Hpa, Input, Span};
use crate::hal::{DmaBuffer, Platform};
use hot::Hot;
use node::{Node, Table};
use spare::Spare;

mod agree;
mod dirty;
mod ept;
mod foreign;
mod format;
mod hot;
mod map;
mod next;
mod node;
mod npt;
mod pc;
mod protect;
mod second_stage;
mod spare;
pub mod spec;
mod split;
#[cfg(test)]
mod tests;
mod unmap;
mod vmsa;

pub use crate::physical::Invalidated;
pub use ept::Ept;
pub use foreign::{ForeignTable, Translation, WalkFault, WalkFaultKind, walk_foreign};
pub use format::{Entry, Format, Layout, Replace, Shape};
pub use npt::Npt;
pub use second_stage::{SecondStage, SecondStageAttributes};
pub use unmap::Unmapped;
pub use vmsa::{
    Attributes, Granule, Granule4K, Granule16K, Granule64K, Memory, StageOne, StageOneAttributes,
    StageTwo,
};

/// The table that a CPU's stage 2 and an SMMU's share: VMSAv8-64 stage 2, 4 KiB granule.
pub type StageTwoTable<P> = PageTable<P, StageTwo<Granule4K>>;

/// Why a change of a table was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// The range has no bytes.
    Empty,
    /// An input address, an output address or a length that is no multiple of a page.
    Misaligned(u64),
    /// The first input address past the table's width that was asked for.
    InputTooWide(u64),
    /// An output address past the output width.
    OutputTooWide(u64),
    /// The format has no leaf with these attributes.
    Access,
    /// This input address is mapped already.
    Mapped(u64),
    /// This input address is not mapped ([`PageTable::protect`]).
    NotMapped(u64),
    /// The mapping at this input address differs in more than permissions ([`PageTable::protect`]).
    MemoryType(u64),
    /// The shape does not track writes ([`PageTable::read_dirty`]).
    Untracked,
    /// No memory for a table or for its record.
    OutOfMemory,
    /// The format has no table this wide, or not without concatenation, or not for that output width; the input width.
    Width(u8),
}

impl core::fmt::Display for MapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::Empty => ("empty range", None),
            Self::Misaligned(at) => ("misaligned:", Some(at)),
            Self::InputTooWide(at) => ("input past the table:", Some(at)),
            Self::OutputTooWide(at) => ("output past the table:", Some(at)),
            Self::Access => ("no such access", None),
            Self::Mapped(at) => ("mapped already:", Some(at)),
            Self::NotMapped(at) => ("not mapped:", Some(at)),
            Self::MemoryType(at) => ("other memory type at", Some(at)),
            Self::Untracked => ("writes are not tracked", None),
            Self::OutOfMemory => ("out of memory", None),
            Self::Width(bits) => ("no table of this width:", Some(bits.into())),
        };
        crate::text::write(f, what, value)
    }
}

impl core::error::Error for MapError {}

/// The mapping of one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf<A = Attributes> {
    /// Where this very address goes.
    pub output: Hpa,
    /// Size of the page or block, in bytes.
    pub size: u64,
    /// What it allows.
    pub attributes: A,
}

/// Exact counts since the table was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Stores of page and block descriptors, clearing ones included.
    pub leaf_stores: u64,
    /// Stores of table descriptors, clearing ones included.
    pub table_stores: u64,
    /// Bytes of tables that a walker can reach or that wait for an invalidation; the root included, the reserve not.
    pub table_bytes: u64,
}

/// The parts of a table that its walks need beside the tables themselves.
struct Context<'a, P: Platform> {
    platform: &'a P,
    shape: Shape,
    layout: Layout,
    spare: &'a mut Spare<P::Buffer>,
    counters: &'a mut Counters,
}

impl<P: Platform> Context<'_, P> {
    /// Hangs `child`, complete, below entry `index` of `parent`. Its descriptors are visible before the one that leads
    /// to them (DDI 0487, B2.3: a walk is a read of memory).
    fn attach<F: Format>(
        &mut self,
        parent: &mut Node<P::Buffer>,
        index: usize,
        child: Table<P::Buffer>,
        reachable: bool,
    ) {
        if reachable {
            self.platform.write_barrier();
        }
        let entry = F::link(child.buffer.hpa().0);
        parent.fill(index..index + 1, entry, 0, self.shape.coherent);
        self.counters.table_stores += 1;
        self.adopt::<F>(parent, index, child);
    }

    /// Records `child` below entry `index` of `parent`.
    fn adopt<F: Format>(
        &mut self,
        parent: &mut Node<P::Buffer>,
        index: usize,
        child: Table<P::Buffer>,
    ) {
        if parent.children.is_none() {
            parent.children = self.spare.children.pop();
        }
        debug_assert!(parent.children.is_some(), "the check counts records");
        if let Some(children) = parent.children.as_mut() {
            node::adopt(children, index, child);
        }
        self.counters.table_bytes += F::TABLE_BYTES as u64;
    }
}

/// A page table and its record. Owned by one holder; a walker reads it at any time.
///
/// A table whose [`root`](Self::root) was asked for may be in use by a walker: [`retire`](Self::retire) frees it.
/// Merely dropped, it is lost rather than freed.
pub struct PageTable<P: Platform, F: Format> {
    platform: Arc<P>,
    /// Present until the table is retired or dropped.
    root: Option<Table<P::Buffer>>,
    spare: Spare<P::Buffer>,
    counters: Counters,
    shape: Shape,
    layout: Layout,
    published: AtomicBool,
    hot: Hot<P::Buffer>,
    /// Cut off, in no cache, and not freed yet.
    loose: Option<Table<P::Buffer>>,
    format: PhantomData<fn() -> F>,
}

impl<P: Platform> StageTwoTable<P> {
    /// An empty table for `input_bits` (32 to 48) of input address. `coherent`: whether each walker of it snoops CPU
    /// caches; without that every store is cleaned.
    ///
    /// # Errors
    /// [`MapError::Width`] and [`MapError::OutOfMemory`].
    pub fn new(platform: Arc<P>, input_bits: u8, coherent: bool) -> Result<Self, MapError> {
        let shape = Shape {
            coherent,
            ..Shape::new(input_bits)
        };
        Self::with_shape(platform, shape)
    }
}

impl<P: Platform, G: Granule> PageTable<P, StageTwo<G>> {
    /// The level that a walk starts at, as the architecture counts (DDI 0487, D8.2.8). With 4 KiB granules
    /// VTCR_EL2.SL0 and STE.S2SL0 are 2 minus this, with larger ones 3 minus this.
    pub fn start_level(&self) -> u8 {
        3 - self.layout.top
    }
}

impl<P: Platform, F: Format> PageTable<P, F> {
    /// Tables kept back so that cutting blocks needs no memory: an unmap cuts at most two blocks.
    const RESERVE: usize = 2 * F::BLOCKS as usize;

    /// An empty table.
    ///
    /// # Errors
    /// [`MapError::Width`] and [`MapError::OutOfMemory`].
    pub fn with_shape(platform: Arc<P>, shape: Shape) -> Result<Self, MapError> {
        let layout = shape.layout::<F>()?;
        let mut spare = Spare::new(F::TABLE_BYTES, shape.coherent);
        spare.fill(&*platform, Self::RESERVE, Self::RESERVE)?;
        let buffer = platform.allocate(layout.root_bytes());
        let buffer = buffer.ok_or(MapError::OutOfMemory)?;
        if !shape.coherent {
            buffer.clean(0, layout.root_bytes());
        }
        let mut root = Table::new(buffer, layout.root_entries).ok_or(MapError::OutOfMemory)?;
        root.children = Some(node::children(layout.root_entries).ok_or(MapError::OutOfMemory)?);
        Ok(Self {
            platform,
            root: Some(root),
            spare,
            counters: Counters {
                table_bytes: layout.root_bytes() as u64,
                ..Counters::default()
            },
            shape,
            layout,
            published: AtomicBool::new(false),
            hot: Hot::default(),
            loose: None,
            format: PhantomData,
        })
    }

    /// Where a walker starts. From here on the table counts as in use.
    pub fn root(&self) -> Hpa {
        self.published.store(true, Ordering::Relaxed);
        self.node().buffer.hpa()
    }

    /// Input address width in bits.
    pub fn input_bits(&self) -> u8 {
        self.shape.input_bits
    }

    /// What the table was made to be.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its levels.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The range as bare numbers, if this table can hold it.
    fn checked<A: Input>(&self, input: Span<A>) -> Result<(u64, u64), MapError> {
        let (at, len) = (input.base.raw(), input.len);
        let offset = (1 << F::PAGE_SHIFT) - 1;
        if len == 0 {
            return Err(MapError::Empty);
        }
        if (at | len) & offset != 0 {
            let wrong = if at & offset != 0 { at } else { len };
            return Err(MapError::Misaligned(wrong));
        }
        match at.checked_add(len - 1) {
            Some(last) if last >> self.shape.input_bits == 0 => Ok((at, len)),
            _ => Err(MapError::InputTooWide(at.max(1 << self.shape.input_bits))),
        }
    }

    /// The part of `input` that this table can hold, rounded outwards to pages.
    #[inline]
    fn clamped<A: Input>(&self, input: Span<A>) -> (u64, u64) {
        let limit = 1u64 << self.shape.input_bits;
        let page = 1u64 << F::PAGE_SHIFT;
        let from = (input.base.raw() & !(page - 1)).min(limit);
        let to = input.base.raw().saturating_add(input.len).min(limit);
        let to = to.next_multiple_of(page);
        (from, to.max(from))
    }

    /// What `address` is mapped to, by the record of the tables.
    pub fn walk<A: Input>(&self, address: A) -> Option<Leaf<F::Attributes>> {
        let address = address.raw();
        if address >> self.shape.input_bits != 0 {
            return None;
        }
        let (node, height, index) = self.entry_for(address)?;
        let size = 1u64 << F::shift(height);
        let entry = node.entry(index);
        // A cut block is out of force until its release, and has its table by then.
        let Entry::Leaf(output) = F::decode(entry, height) else {
            return None;
        };
        Some(Leaf {
            output: Hpa(output + (address & (size - 1))),
            size,
            attributes: F::attributes(entry),
        })
    }

    /// The entry in use that maps `address`: its table, the height of that, and the index.
    fn entry_for(&self, address: u64) -> Option<(&Node<P::Buffer>, u8, usize)> {
        let (mut node, mut height) = match self.hot.table(address >> F::shift(1)) {
            Some(node) => (node, 0),
            None => (self.node(), self.layout.top),
        };
        loop {
            let index = self.layout.index::<F>(address, height);
            let Some(child) = node.child(index) else {
                return node.is_used(index).then_some((node, height, index));
            };
            node = child;
            height -= 1;
        }
    }

    /// Frees all of it. The proof is about the whole input range, table entries included, and about the root: nothing
    /// that could start a walk there may have it any more.
    pub fn retire(mut self, _proof: Invalidated) {
        self.cool();
        self.root = None;
    }

    fn node(&self) -> &Node<P::Buffer> {
        let Some(root) = &self.root else {
            unreachable!("the root goes with the table");
        };
        root
    }

    /// The root, and what the walks need beside it.
    fn parts(&mut self) -> (&mut Node<P::Buffer>, Context<'_, P>) {
        self.cool();
        let (root, context, _) = self.parts_and_hot();
        (root, context)
    }

    /// The same with the hot table where it is.
    fn parts_and_hot(&mut self) -> (&mut Node<P::Buffer>, Context<'_, P>, &mut Hot<P::Buffer>) {
        let Some(root) = &mut self.root else {
            unreachable!("the root goes with the table");
        };
        let context = Context {
            platform: &*self.platform,
            shape: self.shape,
            layout: self.layout,
            spare: &mut self.spare,
            counters: &mut self.counters,
        };
        (root, context, &mut self.hot)
    }
}

impl<P: Platform, F: Format> Drop for PageTable<P, F> {
    fn drop(&mut self) {
        if *self.published.get_mut() {
            core::mem::forget(self.root.take());
            core::mem::forget(self.hot.take());
        }
        // One by one: a list drops itself in as many nested calls as it is long.
        while let Some(mut table) = self.loose.take() {
            self.loose = table.next.take();
        }
    }
}
