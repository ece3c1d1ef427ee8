//! Unmapping: cuts the largest subtrees that the range covers with one store each, and keeps what was cut off until
//! nothing can walk it any more.

use core::mem;

use super::node::{Node, TABLE_BYTES, Table};
use super::{Context, RESERVE, StageTwoTable, index, link, shift, spec};
use crate::addr::{Input, Span};
use crate::hal::{DmaBuffer, Platform};
use crate::id::CacheTag;
use crate::physical::{Invalidated, Invalidation};

/// A block that was cut: its entry is invalid until the old block has left the caches (break-before-make,
/// DDI 0487 D8.16.1), and then leads to the table that holds what is left of it.
#[derive(Clone, Copy)]
struct Remake {
    at: u64,
    level: u8,
}

/// What an unmap cut off. Caches may still hold it: invalidate [`stale`](Self::stale), then give it to
/// [`StageTwoTable::release`]. Dropped instead, its tables are lost, and what is left of a cut block stays unmapped.
#[must_use = "its tables are freed, and cut blocks come back, by StageTwoTable::release"]
pub struct Unmapped<B> {
    tables: Option<Table<B>>,
    remake: [Option<Remake>; 2],
    stale: (u64, u64),
    removed: (u64, u64),
    any: bool,
    leaf_only: bool,
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

    /// Leaves of `from..to` changed in place.
    pub(super) fn changed(from: u64, to: u64) -> Self {
        let mut changed = Self::none(from, to);
        changed.removed.1 = from;
        changed.any = true;
        changed
    }

    fn push(&mut self, mut table: Table<B>) {
        table.next = self.tables.take();
        self.tables = Some(table);
        self.leaf_only = false;
    }
}

impl<B> Drop for Unmapped<B> {
    fn drop(&mut self) {
        mem::forget(self.tables.take());
    }
}

/// Where a walk of [`cut`] is.
#[derive(Clone, Copy)]
struct Place {
    level: u8,
    /// First input address that the table covers.
    base: u64,
    /// A walker can be in the table.
    reachable: bool,
    root: bool,
}

/// Removes `from..to` from `node`. Returns whether nothing would be left: then nothing was stored and the caller cuts
/// the whole table off.
fn cut<P: Platform>(
    context: &mut Context<'_, P>,
    out: &mut Unmapped<P::Buffer>,
    node: &mut Node<P::Buffer>,
    place: Place,
    from: u64,
    to: u64,
) -> bool {
    let size = 1u64 << shift(place.level);
    let (mut first, mut end) = (index(from, place.level), index(to - 1, place.level) + 1);
    let edges = [Some(first), (end - 1 > first).then_some(end - 1)];
    for edge in edges.into_iter().flatten() {
        let base = place.base + edge as u64 * size;
        let (low, high) = (from.max(base), to.min(base + size));
        if high - low == size || !node.is_used(edge) {
            continue;
        }
        let below = Place {
            level: place.level + 1,
            base,
            reachable: place.reachable,
            root: false,
        };
        let gone = match node.child_mut(edge) {
            Some(child) => cut(context, out, child, below, low, high),
            None => !split(context, out, node, edge, below, low, high),
        };
        if !gone && edge == first {
            first += 1;
        } else if !gone {
            end -= 1;
        }
    }
    let first = first;
    let count = if first < end {
        node.count(first..end)
    } else {
        0
    };
    if count == 0 {
        return false;
    }
    out.any = true;
    if count == node.live() && !place.root {
        return true;
    }
    let mut at = first;
    while let Some(start) = node.first_used(at..end) {
        at = node.run_end(start, end);
        node.clear(start..at, context.coherent);
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
    false
}

/// Replaces the block at entry `edge` of `node` by a table of its parts without `from..to`. Returns false where the
/// reserve is empty: then all of the block has to go.
fn split<P: Platform>(
    context: &mut Context<'_, P>,
    out: &mut Unmapped<P::Buffer>,
    node: &mut Node<P::Buffer>,
    edge: usize,
    below: Place,
    from: u64,
    to: u64,
) -> bool {
    let size = 1u64 << shift(below.level - 1);
    out.any = true;
    out.stale.0 = out.stale.0.min(below.base);
    out.stale.1 = out.stale.1.max(below.base + size);
    let ready = node.children.is_some() || !context.spare.children.is_empty();
    let Some(mut child) = context.spare.pop().filter(|_| ready) else {
        out.removed.0 = out.removed.0.min(below.base);
        out.removed.1 = out.removed.1.max(below.base + size);
        return false;
    };
    let mut entry = node.buffer.read64(edge * 8);
    if below.level == 3 {
        entry |= spec::LEAF::TYPE::Page.value;
    }
    child.fill(
        0..super::ENTRIES,
        entry,
        1 << shift(below.level),
        context.coherent,
    );
    context.counters.leaf_stores += super::ENTRIES as u64;
    let unreachable = Place {
        reachable: false,
        ..below
    };
    cut(context, out, &mut child, unreachable, from, to);
    if below.reachable {
        node.store(edge..edge + 1, 0, 0, context.coherent);
        context.counters.leaf_stores += 1;
        let remake = Remake {
            at: below.base,
            level: below.level - 1,
        };
        if let Some(slot) = out.remake.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(remake);
        }
        out.leaf_only = false;
    } else {
        node.store(edge..edge + 1, link(&child), 0, context.coherent);
        context.counters.table_stores += 1;
    }
    context.adopt(node, edge, child);
    true
}

impl<P: Platform> StageTwoTable<P> {
    /// Removes whatever is mapped in `input`. Cannot fail: a range that is not page-aligned is rounded outwards, what
    /// lies past the table's width is not mapped anyway, and cutting a block needs no memory as long as the last
    /// [`map`](Self::map) succeeded and one cut followed it (see [`Unmapped::removed`] for the rest).
    pub fn unmap<A: Input>(&mut self, input: Span<A>) -> Unmapped<P::Buffer> {
        let limit = 1u64 << self.input_bits;
        let from = (input.base.raw() & !0xfff).min(limit);
        let to = input
            .base
            .raw()
            .saturating_add(input.len)
            .min(limit)
            .next_multiple_of(1 << 12);
        let mut out = Unmapped::none(from, to.max(from));
        if from >= to {
            return out;
        }
        let place = Place {
            level: self.start,
            base: 0,
            reachable: true,
            root: true,
        };
        let (root, mut context) = self.parts();
        cut(&mut context, &mut out, root, place, from, to);
        context.platform.write_barrier();
        // A reserve that cannot be filled now is filled by the next map, or that fails.
        let _ = context.spare.fill(context.platform, RESERVE, RESERVE);
        out
    }

    /// Frees the tables that an unmap cut off, and puts what is left of cut blocks back in force.
    pub fn release(&mut self, mut unmapped: Unmapped<P::Buffer>, _proof: Invalidated) {
        for remake in mem::take(&mut unmapped.remake).into_iter().flatten() {
            self.remake(remake);
        }
        let (_, mut context) = self.parts();
        while let Some(mut table) = unmapped.tables.take() {
            unmapped.tables = table.next.take();
            dismantle(&mut context, table);
        }
    }

    /// Makes the table that replaced a block reachable, if it is still there.
    fn remake(&mut self, remake: Remake) {
        let mut level = self.start;
        let (mut node, context) = self.parts();
        while level < remake.level {
            let Some(child) = node.child_mut(index(remake.at, level)) else {
                return;
            };
            node = child;
            level += 1;
        }
        let index = index(remake.at, level);
        let Some(entry) = node.child(index).map(|child| link(child)) else {
            return;
        };
        if node.buffer.read64(index * 8) == 0 {
            context.platform.write_barrier();
            node.store(index..index + 1, entry, 0, context.coherent);
            context.platform.write_barrier();
            context.counters.table_stores += 1;
        }
    }
}

/// Frees `table` and all below it.
fn dismantle<P: Platform>(context: &mut Context<'_, P>, mut table: Table<P::Buffer>) {
    if table.children.is_some() {
        let mut at = 0;
        while let Some(index) = table.first_used(at..super::ENTRIES) {
            if let Some(child) = table.take_child(index) {
                dismantle(context, child);
            }
            at = index + 1;
        }
        let kept = &mut context.spare.children;
        if let Some(children) = table.children.take()
            && kept.len() < kept.capacity()
        {
            kept.push(children);
        }
    }
    context.counters.table_bytes -= TABLE_BYTES as u64;
}
