//! Cutting a block into a table of its parts, under break-before-make or without.

use core::num::NonZeroU64;

use super::Context;
use super::format::{Format, Replace};
use super::node::{Node, Table};
use super::unmap::{Place, Unmapped};
use crate::hal::{DmaBuffer, Platform};

/// A block that was cut: its entry is invalid until the old block has left the caches (break-before-make,
/// DDI 0487 D8.17.1), and then leads to the table that holds what is left of it.
///
/// Its first address, and its height in the low bits; no block has height 0.
#[derive(Clone, Copy)]
pub(super) struct Remake(NonZeroU64);

impl Remake {
    fn new(at: u64, height: u8) -> Option<Self> {
        NonZeroU64::new(at | u64::from(height)).map(Self)
    }

    pub(super) fn at(self) -> u64 {
        self.0.get() & !7
    }

    pub(super) fn height(self) -> u8 {
        (self.0.get() & 7) as u8
    }
}

/// The table of the parts of a block, before it takes the block's place.
pub(super) struct Split<B> {
    pub(super) child: Table<B>,
    /// What the block was when the parts were made.
    entry: u64,
}

impl<P: Platform> Context<'_, P> {
    /// Makes the parts of the block at entry `edge` of `node`, which `below` is the place below of. Where the walkers
    /// need it the block is out of force from here on. `None`, with the block as it was, if the reserve is empty.
    pub(super) fn begin_split<F: Format>(
        &mut self,
        out: &mut Unmapped<P::Buffer>,
        node: &mut Node<P::Buffer>,
        edge: usize,
        below: Place,
    ) -> Option<Split<P::Buffer>> {
        let end = below.base + (1u64 << F::shift(below.height + 1));
        out.any = true;
        out.stale = (out.stale.0.min(below.base), out.stale.1.max(end));
        if !self.spare.has_record(node) {
            return None;
        }
        let mut child = self.spare.pop()?;
        let coherent = self.shape.coherent;
        let entry = if self.breaks(below) {
            self.counters.leaf_stores += 1;
            node.swap(edge, 0, coherent)
        } else {
            node.entry(edge)
        };
        let step = 1 << F::shift(below.height);
        child.fill(0..F::ENTRIES, F::part(entry, below.height), step, coherent);
        self.counters.leaf_stores += F::ENTRIES as u64;
        Some(Split { child, entry })
    }

    /// Puts the parts in the block's place, at once or when the caches have forgotten the block.
    pub(super) fn finish_split<F: Format>(
        &mut self,
        out: &mut Unmapped<P::Buffer>,
        node: &mut Node<P::Buffer>,
        edge: usize,
        below: Place,
        split: Split<P::Buffer>,
    ) {
        let mut child = split.child;
        out.leaf_only = false;
        if self.breaks(below) {
            if let Some(slot) = out.remake.iter_mut().find(|slot| slot.is_none()) {
                *slot = Remake::new(below.base, below.height + 1);
            }
        } else {
            if below.reachable {
                self.platform.write_barrier();
            }
            let link = F::link(child.buffer.hpa().0);
            let old = node.swap(edge, link, self.shape.coherent);
            self.counters.table_stores += 1;
            if self.shape.dirty && F::is_dirty(old) && !F::is_dirty(split.entry) {
                // Written to between the two reads, nobody knows where.
                taint::<P::Buffer, F>(&mut child, self.shape.coherent);
            }
        }
        self.adopt::<F>(node, edge, child);
    }

    fn breaks(&self, below: Place) -> bool {
        below.reachable && self.shape.replace == Replace::Break
    }
}

/// Marks every writable leaf in and below `node` as written to.
fn taint<B: DmaBuffer, F: Format>(node: &mut Node<B>, coherent: bool) {
    let mut at = 0;
    while let Some(index) = node.first_used(at..F::ENTRIES) {
        at = index + 1;
        if let Some(child) = node.child_mut(index) {
            taint::<B, F>(child, coherent);
        } else {
            let entry = F::dirtied(node.entry(index));
            node.store(index..index + 1, entry, 0, coherent);
        }
    }
}
