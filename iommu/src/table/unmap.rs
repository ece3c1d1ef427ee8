//! Unmapping: cuts the largest subtrees that the range covers with one store each, and keeps what was cut off until
//! nothing can walk it any more.

use core::mem;

use super::format::Format;
use super::node::{Node, Table};
use super::spare::dismantle;
use super::split::Remake;
use super::{Context, PageTable};
use crate::addr::{Input, Span};
use crate::hal::{DmaBuffer, Platform};
use crate::id::CacheTag;
use crate::physical::{Invalidated, Invalidation};

/// What an unmap cut off, or another change left stale. Caches may still hold it: invalidate [`stale`](Self::stale),
/// then give it to [`PageTable::release`]. Dropped instead, its tables are lost, and what is left of a cut block stays
/// unmapped.
#[must_use = "its tables are freed, and cut blocks come back, by PageTable::release"]
pub struct Unmapped<B> {
    tables: Option<Table<B>>,
    pub(super) remake: [Option<Remake>; 2],
    pub(super) stale: (u64, u64),
    pub(super) removed: (u64, u64),
    pub(super) any: bool,
    pub(super) leaf_only: bool,
}

impl<B> Unmapped<B> {
    /// Nothing was mapped there: nothing to invalidate.
    pub fn is_empty(&self) -> bool {
        !self.any
    }

    /// The range that caches may hold: what was asked for and all of each block that was cut.
    pub fn stale<A: Input>(&self) -> Span<A> {
        A::span(self.stale.0, self.stale.1 - self.stale.0)
    }

    /// The range that is not mapped any more. It is larger than what was asked for where a block had to be cut while
    /// there was no memory left to hold the rest of it: then all of the block is gone.
    pub fn removed<A: Input>(&self) -> Span<A> {
        A::span(self.removed.0, self.removed.1 - self.removed.0)
    }

    /// Whether only last-level entries changed, so that cached table entries may stay.
    pub fn leaf_only(&self) -> bool {
        self.leaf_only
    }

    /// What an IOMMU has to forget before the release.
    pub fn invalidation(&self, tag: CacheTag) -> Invalidation {
        Invalidation::StageTwoRange {
            tag,
            range: self.stale(),
            leaf: self.leaf_only,
        }
    }

    /// Nothing of `from..to` yet.
    #[inline]
    fn none(from: u64, to: u64) -> Self {
        Self {
            tables: None,
            remake: [None; 2],
            stale: (from, to),
            removed: (from, to),
            any: false,
            leaf_only: true,
        }
    }

    /// No leaf of `from..to` changed in place yet.
    pub(super) fn unchanged(from: u64, to: u64) -> Self {
        let mut out = Self::none(from, to);
        out.removed.1 = from;
        out
    }

    fn push(&mut self, mut table: Table<B>) {
        table.next = self.tables.take();
        self.tables = Some(table);
        self.leaf_only = false;
    }
}

impl<B> Drop for Unmapped<B> {
    #[inline]
    fn drop(&mut self) {
        mem::forget(self.tables.take());
    }
}

/// Where a walk that changes tables is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub height: u8,
    /// First input address that the table covers.
    pub base: u64,
    /// A walker can be in the table.
    pub reachable: bool,
}

impl Place {
    /// The table below the entry that starts at `base`.
    pub(super) fn below(self, base: u64) -> Self {
        Self {
            height: self.height - 1,
            base,
            ..self
        }
    }
}

/// Removes `from..to` from `node`. Returns whether nothing would be left: then nothing was stored and the caller cuts
/// the whole table off.
fn cut<P: Platform, F: Format>(
    context: &mut Context<'_, P>,
    out: &mut Unmapped<P::Buffer>,
    node: &mut Node<P::Buffer>,
    place: Place,
    from: u64,
    to: u64,
) -> bool {
    let layout = context.layout;
    let size = 1u64 << F::shift(place.height);
    let mut first = layout.index::<F>(from, place.height);
    let mut end = layout.index::<F>(to - 1, place.height) + 1;
    let edges = [Some(first), (end - 1 > first).then_some(end - 1)];
    for edge in edges.into_iter().flatten() {
        let base = place.base + edge as u64 * size;
        let (low, high) = (from.max(base), to.min(base + size));
        if high - low == size || !node.is_used(edge) {
            continue;
        }
        let below = place.below(base);
        let gone = match node.child_mut(edge) {
            Some(child) => cut::<P, F>(context, out, child, below, low, high),
            None => !cut_block::<P, F>(context, out, node, edge, below, low, high),
        };
        if !gone && edge == first {
            first += 1;
        } else if !gone {
            end -= 1;
        }
    }
    let count = node.count(first..end);
    if count == 0 {
        return false;
    }
    out.any = true;
    if count == node.live() && place.height != layout.top {
        return true;
    }
    clear(context, out, node, first, end);
    false
}

/// Clears the used entries of `first..end`, and takes the tables below them.
fn clear<P: Platform>(
    context: &mut Context<'_, P>,
    out: &mut Unmapped<P::Buffer>,
    node: &mut Node<P::Buffer>,
    first: usize,
    end: usize,
) {
    let mut at = first;
    while let Some(start) = node.first_used(at..end) {
        at = node.run_end(start, end);
        node.clear(start..at, context.shape.coherent);
        let mut tables = 0;
        if node.children.is_some() {
            for index in start..at {
                if let Some(child) = node.take_child(index) {
                    out.push(child);
                    tables += 1;
                }
            }
        }
        context.counters.table_stores += tables;
        context.counters.leaf_stores += (at - start) as u64 - tables;
    }
}

/// Replaces the block at entry `edge` of `node` by a table of its parts without `from..to`. Returns false where the
/// reserve is empty: then all of the block has to go.
fn cut_block<P: Platform, F: Format>(
    context: &mut Context<'_, P>,
    out: &mut Unmapped<P::Buffer>,
    node: &mut Node<P::Buffer>,
    edge: usize,
    below: Place,
    from: u64,
    to: u64,
) -> bool {
    let Some(mut split) = context.begin_split::<F>(out, node, edge, below) else {
        let end = below.base + (1u64 << F::shift(below.height + 1));
        out.removed = (out.removed.0.min(below.base), out.removed.1.max(end));
        return false;
    };
    let unreachable = Place {
        reachable: false,
        ..below
    };
    cut::<P, F>(context, out, &mut split.child, unreachable, from, to);
    context.finish_split::<F>(out, node, edge, below, split);
    true
}

impl<P: Platform, F: Format> PageTable<P, F> {
    /// Removes whatever is mapped in `input`. Cannot fail: a range that is not page-aligned is rounded outwards, what
    /// lies past the table's width is not mapped anyway, and cutting a block needs no memory as long as the last
    /// [`map`](Self::map) succeeded and one cut followed it (see [`Unmapped::removed`] for the rest).
    #[inline]
    pub fn unmap<A: Input>(&mut self, input: Span<A>) -> Unmapped<P::Buffer> {
        let (at, len) = (input.base.raw(), input.len);
        if len == 1 << F::PAGE_SHIFT && self.unmap_page(at) {
            let mut out = Unmapped::none(at, at + len);
            out.any = true;
            return out;
        }
        self.unmap_any(input)
    }

    /// Removes one page of a table that holds more. Returns false, and has done nothing, where anything is different.
    #[inline(always)]
    fn unmap_page(&mut self, at: u64) -> bool {
        if at & ((1 << F::PAGE_SHIFT) - 1) != 0 {
            return false;
        }
        let coherent = self.shape.coherent;
        let Some(node) = self.page_table(at) else {
            return false;
        };
        if !node.clear_one(F::page_index(at), coherent) {
            return false;
        }
        self.counters.leaf_stores += 1;
        self.platform.write_barrier();
        true
    }

    #[inline(never)]
    fn unmap_any<A: Input>(&mut self, input: Span<A>) -> Unmapped<P::Buffer> {
        let (from, to) = self.clamped(input);
        let mut out = Unmapped::none(from, to);
        if from >= to {
            return out;
        }
        if !self.unmap_pages(&mut out, from, to) {
            self.unmap_range(&mut out, from, to);
        }
        // A reserve that cannot be filled now is filled by the next map, or that fails.
        let _ = self
            .spare
            .fill(&*self.platform, Self::RESERVE, Self::RESERVE);
        out
    }

    /// Removes `from..to`, wherever it lies.
    fn unmap_range(&mut self, out: &mut Unmapped<P::Buffer>, from: u64, to: u64) {
        let (root, mut context) = self.parts();
        let place = Place {
            height: context.layout.top,
            base: 0,
            reachable: true,
        };
        cut::<P, F>(&mut context, out, root, place, from, to);
        context.platform.write_barrier();
    }

    /// Removes `from..to` where it lies in one table of pages. Returns false, and has done nothing, where it does not.
    fn unmap_pages(&mut self, out: &mut Unmapped<P::Buffer>, from: u64, to: u64) -> bool {
        if (from ^ (to - 1)) >> F::shift(1) != 0 {
            return false;
        }
        let coherent = self.shape.coherent;
        let Some(node) = self.page_table(from) else {
            return false;
        };
        let index = F::page_index(from);
        let range = index..index + ((to - from) >> F::PAGE_SHIFT) as usize;
        let (count, wanted) = (node.count(range.clone()), range.len());
        if count == node.live() {
            return self.unmap_path(out, from);
        }
        if count != wanted {
            return false;
        }
        node.clear(range, coherent);
        out.any = true;
        self.counters.leaf_stores += count as u64;
        self.platform.write_barrier();
        true
    }

    /// Cuts off the table of pages for `address`, and the tables above it that hold nothing else, by one store.
    fn unmap_path(&mut self, out: &mut Unmapped<P::Buffer>, address: u64) -> bool {
        let (root, mut context) = self.parts();
        let layout = context.layout;
        // Looks first: how far up does the cut leave tables empty?
        let (mut keep, mut node) = (layout.top, &*root);
        for height in (1..layout.top + 1).rev() {
            if node.live() > 1 {
                keep = height;
            }
            let Some(child) = node.child(layout.index::<F>(address, height)) else {
                return false;
            };
            node = child;
        }
        let mut node = root;
        for height in (keep + 1..layout.top + 1).rev() {
            let Some(child) = node.child_mut(layout.index::<F>(address, height)) else {
                return false;
            };
            node = child;
        }
        let index = layout.index::<F>(address, keep);
        out.any = true;
        clear(&mut context, out, node, index, index + 1);
        context.platform.write_barrier();
        true
    }

    /// Frees the tables that an unmap cut off, and puts what is left of cut blocks back in force.
    #[inline]
    pub fn release(&mut self, unmapped: Unmapped<P::Buffer>, _proof: Invalidated) {
        if unmapped.tables.is_some() || unmapped.remake[0].is_some() {
            self.settle(unmapped);
        }
    }

    #[inline(never)]
    fn settle(&mut self, mut unmapped: Unmapped<P::Buffer>) {
        for remake in mem::take(&mut unmapped.remake).into_iter().flatten() {
            self.remake(remake);
        }
        let mut tables = unmapped.tables.take();
        self.dismantle(&mut tables, usize::MAX);
    }

    /// Removes everything, by the entries of the first table. What it cuts off is given to [`release_later`](Self::release_later).
    pub fn clear<A: Input>(&mut self) -> Unmapped<P::Buffer> {
        self.unmap(A::span(0, 1 << self.shape.input_bits))
    }

    /// As [`release`](Self::release) of what [`clear`](Self::clear) cut off, but the tables are freed by [`free`](Self::free).
    pub fn release_later(&mut self, mut unmapped: Unmapped<P::Buffer>, _proof: Invalidated) {
        while let Some(mut table) = unmapped.tables.take() {
            unmapped.tables = table.next.take();
            table.next = self.loose.take();
            self.loose = Some(table);
        }
    }

    /// Frees up to `most` tables that wait for it; how many.
    #[inline]
    pub fn free(&mut self, most: usize) -> usize {
        let mut loose = self.loose.take();
        if loose.is_none() {
            return 0;
        }
        let freed = self.dismantle(&mut loose, most);
        self.loose = loose;
        freed
    }

    #[inline(never)]
    fn dismantle(&mut self, tables: &mut Option<Table<P::Buffer>>, most: usize) -> usize {
        let freed = dismantle(
            &*self.platform,
            &mut self.spare,
            Self::RESERVE,
            tables,
            most,
        );
        self.counters.table_bytes -= (freed * F::TABLE_BYTES) as u64;
        freed
    }

    /// Makes the table that replaced a block reachable, if it is still there.
    fn remake(&mut self, remake: Remake) {
        let (mut node, context) = self.parts();
        let mut height = context.layout.top;
        while height > remake.height() {
            let index = context.layout.index::<F>(remake.at(), height);
            let Some(child) = node.child_mut(index) else {
                return;
            };
            node = child;
            height -= 1;
        }
        let index = context.layout.index::<F>(remake.at(), height);
        let Some(child) = node.child(index) else {
            return;
        };
        let entry = F::link(child.buffer.hpa().0);
        if node.entry(index) == 0 {
            context.platform.write_barrier();
            node.store(index..index + 1, entry, 0, context.shape.coherent);
            context.platform.write_barrier();
            context.counters.table_stores += 1;
        }
    }
}
