//! Stage 2 page tables: VMSAv8-64, 4 KiB granule, 32 to 48 input bits, for a CPU and for an SMMU alike.
//!
//! * [`StageTwoTable::map`] checks everything first (alignment, width, overlap, memory for every table it will need) and
//!   then commits: a refused call changes nothing. The largest blocks that fit are used; neighbours are never merged.
//! * [`StageTwoTable::unmap`] cannot fail. What it cuts off is held by an [`Unmapped`] until the caller says, with an
//!   [`Invalidated`], that no cache holds the range any more; only then is a table's memory free.
//! * Start tables are never concatenated, so 40 input bits and more start at level 0. That costs one table and works with
//!   walkers that ignore the index into concatenated tables.
//!
//! The descriptors are in `spec`, the record of each table in `node`, and the two walks that change them in `map` and
//! `unmap`. All work on runs of leaves in one table, not on leaves.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use tock_registers::LocalRegisterCopy;

use crate::addr::{Hpa, Input, Span};
use crate::hal::{DmaBuffer, Platform};
use node::{Children, ENTRIES, Node, TABLE_BYTES, Table};

mod attributes;
mod map;
mod node;
mod protect;
pub mod spec;
#[cfg(test)]
mod tests;
mod unmap;

pub use crate::physical::Invalidated;
pub use attributes::{Attributes, Memory};
pub use unmap::Unmapped;

/// Tables kept back so that cutting blocks needs no memory: an unmap cuts at most two blocks, each over two levels.
const RESERVE: usize = 4;

/// The descriptor that points to `table`.
fn link<B: DmaBuffer>(table: &Node<B>) -> u64 {
    let mut entry =
        LocalRegisterCopy::<u64, spec::TABLE::Register>::new(table.buffer.hpa().0 & spec::ADDRESS);
    entry.modify(spec::TABLE::TYPE::Table);
    entry.get()
}

/// Why a change of a table was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// The range has no bytes.
    Empty,
    /// An input address, an output address or a length that is no multiple of 4 KiB.
    Misaligned(u64),
    /// The first input address past the table's width that was asked for.
    InputTooWide(u64),
    /// An output address past 48 bits.
    OutputTooWide(u64),
    /// Neither readable nor writable, or executable but not readable.
    Access,
    /// This input address is mapped already.
    Mapped(u64),
    /// This input address is not mapped ([`StageTwoTable::protect`]).
    NotMapped(u64),
    /// The range ends inside the block at this input address ([`StageTwoTable::protect`]).
    InsideBlock(u64),
    /// The memory type of the mapping at this input address differs ([`StageTwoTable::protect`]).
    MemoryType(u64),
    /// No memory for a table or for its record.
    OutOfMemory,
    /// Input widths are 32 to 48 bits; the one asked for.
    Width(u8),
}

/// The mapping of one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Where this very address goes.
    pub output: Hpa,
    /// Size of the page or block, in bytes.
    pub size: u64,
    /// What it allows.
    pub attributes: Attributes,
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

/// log2 of the bytes one entry at `level` covers (DDI 0487, D8.2.8).
const fn shift(level: u8) -> u32 {
    39 - 9 * level as u32
}

/// The index into a table at `level` of the entry that covers `address`.
const fn index(address: u64, level: u8) -> usize {
    (address >> shift(level)) as usize & (ENTRIES - 1)
}

/// Tables and records that hang nowhere.
struct Spare<B> {
    tables: Option<Table<B>>,
    count: usize,
    /// Never grown on the way of an operation that cannot fail.
    children: Vec<Children<B>>,
}

impl<B: DmaBuffer> Spare<B> {
    fn push(&mut self, mut table: Table<B>) {
        table.next = self.tables.take();
        self.tables = Some(table);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<Table<B>> {
        let mut table = self.tables.take()?;
        self.tables = table.next.take();
        self.count -= 1;
        Some(table)
    }

    /// Holds at least this many of each afterwards.
    fn fill(
        &mut self,
        platform: &impl Platform<Buffer = B>,
        tables: usize,
        children: usize,
    ) -> Result<(), MapError> {
        while self.count < tables {
            let buffer = platform
                .allocate(TABLE_BYTES)
                .ok_or(MapError::OutOfMemory)?;
            self.push(Table::new(buffer).ok_or(MapError::OutOfMemory)?);
        }
        let missing = children.saturating_sub(self.children.len());
        self.children
            .try_reserve(missing)
            .map_err(|_| MapError::OutOfMemory)?;
        for _ in 0..missing {
            self.children
                .push(node::children().ok_or(MapError::OutOfMemory)?);
        }
        Ok(())
    }

    /// Gives tables above `tables` back to the platform.
    fn trim(&mut self, tables: usize) {
        while self.count > tables {
            self.pop();
        }
    }
}

/// The parts of a table that its walks need beside the tables themselves.
struct Context<'a, P: Platform> {
    platform: &'a P,
    coherent: bool,
    spare: &'a mut Spare<P::Buffer>,
    counters: &'a mut Counters,
}

impl<P: Platform> Context<'_, P> {
    /// Hangs `child`, complete, below entry `index` of `parent`.
    /// Its descriptors are visible before the one that leads to them (DDI 0487, B2.3.12: a walk is a read of memory).
    fn attach(
        &mut self,
        parent: &mut Node<P::Buffer>,
        index: usize,
        child: Table<P::Buffer>,
        reachable: bool,
    ) {
        if reachable {
            self.platform.write_barrier();
        }
        parent.fill(index..index + 1, link(&child), 0, self.coherent);
        self.counters.table_stores += 1;
        self.adopt(parent, index, child);
    }

    /// Records `child` below entry `index` of `parent`.
    fn adopt(&mut self, parent: &mut Node<P::Buffer>, index: usize, child: Table<P::Buffer>) {
        if parent.children.is_none() {
            parent.children = self.spare.children.pop();
        }
        debug_assert!(parent.children.is_some(), "the check counts records");
        if let Some(children) = parent.children.as_mut() {
            children[index] = Some(child);
        }
        self.counters.table_bytes += TABLE_BYTES as u64;
    }
}

/// A stage 2 translation table and its record. Owned by one holder; a walker reads it at any time.
///
/// A table whose [`root`](Self::root) was asked for may be in use by a walker: [`retire`](Self::retire) frees it.
/// Merely dropped, it is lost rather than freed.
pub struct StageTwoTable<P: Platform> {
    platform: Arc<P>,
    /// Present until the table is retired or dropped.
    root: Option<Table<P::Buffer>>,
    spare: Spare<P::Buffer>,
    counters: Counters,
    start: u8,
    input_bits: u8,
    coherent: bool,
    published: AtomicBool,
}

impl<P: Platform> StageTwoTable<P> {
    /// An empty table for `input_bits` (32 to 48) of input address. `coherent`: whether each walker of it snoops CPU
    /// caches; without that every store is cleaned.
    ///
    /// # Errors
    /// [`MapError::Width`] and [`MapError::OutOfMemory`].
    pub fn new(platform: Arc<P>, input_bits: u8, coherent: bool) -> Result<Self, MapError> {
        if !(32..=48).contains(&input_bits) {
            return Err(MapError::Width(input_bits));
        }
        let mut spare = Spare {
            tables: None,
            count: 0,
            children: Vec::new(),
        };
        spare.fill(&*platform, RESERVE + 1, RESERVE)?;
        let root = spare.pop();
        if !coherent && let Some(root) = &root {
            root.buffer.clean(0, TABLE_BYTES);
        }
        Ok(Self {
            platform,
            root,
            spare,
            counters: Counters {
                table_bytes: TABLE_BYTES as u64,
                ..Counters::default()
            },
            start: if input_bits > 39 { 0 } else { 1 },
            input_bits,
            coherent,
            published: AtomicBool::new(false),
        })
    }

    /// Where a walker starts. From here on the table counts as in use.
    pub fn root(&self) -> Hpa {
        self.published.store(true, Ordering::Relaxed);
        self.node().buffer.hpa()
    }

    /// Input address width in bits.
    pub fn input_bits(&self) -> u8 {
        self.input_bits
    }

    /// The level that a walk starts at: 0 or 1 (VTCR_EL2.SL0 and STE.S2SL0 are 2 minus this, for 4 KiB granules).
    pub fn start_level(&self) -> u8 {
        self.start
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Maps `input` to the same number of bytes from `output` on.
    ///
    /// A range that was unmapped is mapped again only after its [`Unmapped`] was released.
    ///
    /// # Errors
    /// Each [`MapError`] that names no other operation. Nothing has changed then.
    pub fn map<A: Input>(
        &mut self,
        input: Span<A>,
        output: Hpa,
        attributes: Attributes,
    ) -> Result<(), MapError> {
        let (at, len) = self.checked(input)?;
        if !output.is_aligned(1 << 12) {
            return Err(MapError::Misaligned(output.0));
        }
        match output.checked_add(len - 1) {
            Some(last) if last.0 >> spec::OUTPUT_BITS == 0 => {}
            _ => return Err(MapError::OutputTooWide(output.0)),
        }
        attributes.check()?;
        self.map_checked(map::Piece::new(at, len, output.0), attributes)
    }

    /// The range as bare numbers, if this table can hold it.
    fn checked<A: Input>(&self, input: Span<A>) -> Result<(u64, u64), MapError> {
        let (at, len) = (input.base.raw(), input.len);
        if len == 0 {
            return Err(MapError::Empty);
        }
        if (at | len) & 0xfff != 0 {
            return Err(MapError::Misaligned(if at & 0xfff != 0 { at } else { len }));
        }
        match at.checked_add(len - 1) {
            Some(last) if last >> self.input_bits == 0 => Ok((at, len)),
            _ => Err(MapError::InputTooWide(at.max(1 << self.input_bits))),
        }
    }

    /// What `address` is mapped to, by the record of the tables.
    pub fn walk<A: Input>(&self, address: A) -> Option<Leaf> {
        let address = address.raw();
        if address >> self.input_bits != 0 {
            return None;
        }
        let mut node = self.node();
        let mut level = self.start;
        loop {
            let index = index(address, level);
            if let Some(child) = node.child(index) {
                node = child;
                level += 1;
                continue;
            }
            if !node.is_used(index) {
                return None;
            }
            let size = 1 << shift(level);
            let entry = node.buffer.read64(index * 8);
            return Some(Leaf {
                output: Hpa((entry & spec::ADDRESS) + (address & (size - 1))),
                size,
                attributes: Attributes::of(entry),
            });
        }
    }

    /// Frees all of it. The proof is about the whole input range, table entries included, and about the root: nothing
    /// that could start a walk there may have it any more.
    pub fn retire(mut self, _proof: Invalidated) {
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
        let Some(root) = &mut self.root else {
            unreachable!("the root goes with the table");
        };
        let context = Context {
            platform: &*self.platform,
            coherent: self.coherent,
            spare: &mut self.spare,
            counters: &mut self.counters,
        };
        (root, context)
    }
}

impl<P: Platform> Drop for StageTwoTable<P> {
    fn drop(&mut self) {
        if *self.published.get_mut() {
            core::mem::forget(self.root.take());
        }
    }
}
