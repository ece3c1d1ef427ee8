//! What walkers noted of writes.

use super::format::{Format, Layout};
use super::node::Node;
use super::{MapError, PageTable, Unmapped};
use crate::addr::{Input, Span};
use crate::hal::{DmaBuffer, Platform};

/// One pass over a range.
struct Pass<'a> {
    layout: Layout,
    coherent: bool,
    clear: bool,
    cleared: u64,
    found: &'a mut dyn FnMut(u64, u64),
}

impl Pass<'_> {
    fn over<B: DmaBuffer, F: Format>(
        &mut self,
        node: &mut Node<B>,
        height: u8,
        from: u64,
        to: u64,
    ) {
        let size = 1u64 << F::shift(height);
        let last = self.layout.index::<F>(to - 1, height);
        let mut index = self.layout.index::<F>(from, height);
        let zero = (from & !(size - 1)) - index as u64 * size;
        while let Some(used) = node.first_used(index..last + 1) {
            index = used + 1;
            let base = zero + used as u64 * size;
            let (low, high) = (from.max(base), to.min(base + size));
            if let Some(child) = node.child_mut(used) {
                self.over::<B, F>(child, height - 1, low, high);
                continue;
            }
            let entry = node.entry(used);
            if !F::is_dirty(entry) {
                continue;
            }
            (self.found)(low, high);
            if self.clear && high - low == size {
                // A walker can only set what was set already when this was read: a plain store loses nothing.
                node.store(used..used + 1, F::tracked(entry), 0, self.coherent);
                self.cleared += 1;
            }
        }
    }
}

impl<P: Platform, F: Format> PageTable<P, F> {
    /// Calls `found` with the part of `input` that each leaf covers which was written to since it was mapped, or since
    /// its note was cleared. With `clear` the notes are cleared: a walker notes the next write once what is returned has
    /// been invalidated, and writes before that may stay unnoted, so pages are copied after the invalidation. The note
    /// of a block that is not all in `input` stays.
    ///
    /// A range that is not page-aligned is rounded outwards. A block that was cut and not released yet has its parts'
    /// notes.
    ///
    /// # Errors
    /// [`MapError::Untracked`] where the shape does not ask for notes.
    pub fn read_dirty<A: Input>(
        &mut self,
        input: Span<A>,
        clear: bool,
        mut found: impl FnMut(Span<A>),
    ) -> Result<Unmapped<P::Buffer>, MapError> {
        if !self.shape.dirty {
            return Err(MapError::Untracked);
        }
        let (from, to) = self.clamped(input);
        let mut out = Unmapped::unchanged(from, to);
        if from < to {
            let (root, context) = self.parts();
            let mut pass = Pass {
                layout: context.layout,
                coherent: context.shape.coherent,
                clear,
                cleared: 0,
                found: &mut |low, high| found(A::span(low, high - low)),
            };
            pass.over::<P::Buffer, F>(root, context.layout.top, from, to);
            out.any = pass.cleared > 0;
            context.counters.leaf_stores += pass.cleared;
            context.platform.write_barrier();
        }
        Ok(out)
    }
}
