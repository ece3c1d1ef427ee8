//! Changing what a mapping allows, in place.

use super::format::{Entry, Format, Layout};
use super::node::Node;
use super::unmap::Place;
use super::{Context, MapError, PageTable, Unmapped};
use crate::addr::{Input, Span};
use crate::hal::{DmaBuffer, Platform};

/// Whether all of `from..to` in `node` can change to `to_be`; tells whether a block has to be cut for it.
fn check<B: DmaBuffer, F: Format>(
    node: &Node<B>,
    layout: Layout,
    height: u8,
    from: u64,
    to: u64,
    to_be: F::Attributes,
) -> Result<bool, MapError> {
    let size = 1u64 << F::shift(height);
    let mut at = from;
    let mut cuts = false;
    while at < to {
        let end = to.min((at & !(size - 1)) + size);
        let index = layout.index::<F>(at, height);
        if let Some(child) = node.child(index) {
            cuts |= check::<B, F>(child, layout, height - 1, at, end, to_be)?;
        } else if !node.is_used(index) {
            return Err(MapError::NotMapped(at));
        } else {
            let is = F::attributes(node.entry(index));
            if !F::replaceable(is, to_be) {
                return Err(MapError::MemoryType(at));
            }
            cuts |= end - at != size && is != to_be;
        }
        at = end;
    }
    Ok(cuts)
}

/// Stores what [`check`] found possible.
fn commit<P: Platform, F: Format>(
    context: &mut Context<'_, P>,
    out: &mut Unmapped<P::Buffer>,
    node: &mut Node<P::Buffer>,
    place: Place,
    range: (u64, u64),
    to_be: F::Attributes,
) {
    let (from, to) = range;
    let size = 1u64 << F::shift(place.height);
    let mut at = from;
    while at < to {
        let base = at & !(size - 1);
        let end = to.min(base + size);
        let index = context.layout.index::<F>(at, place.height);
        let below = (at, end);
        if let Some(child) = node.child_mut(index) {
            commit::<P, F>(context, out, child, place.below(base), below, to_be);
        } else if F::attributes(node.entry(index)) == to_be {
            // Nothing to change.
        } else if end - at == size {
            change::<P, F>(context, node, index, place.height, to_be);
            out.any = true;
        } else if let Some(mut split) =
            context.begin_split::<F>(out, node, index, place.below(base))
        {
            let unreachable = Place {
                reachable: false,
                ..place.below(base)
            };
            commit::<P, F>(context, out, &mut split.child, unreachable, below, to_be);
            context.finish_split::<F>(out, node, index, place.below(base), split);
        } else {
            debug_assert!(false, "the caller filled the reserve");
        }
        at = end;
    }
}

/// Stores the leaf at entry `index` anew. What it knows of writes stays.
fn change<P: Platform, F: Format>(
    context: &mut Context<'_, P>,
    node: &mut Node<P::Buffer>,
    index: usize,
    height: u8,
    to_be: F::Attributes,
) {
    let was = node.entry(index);
    let Entry::Leaf(output) = F::decode(was, height) else {
        return;
    };
    let clean = context.leaf::<F>(to_be, height, output);
    let dirty = F::dirtied(clean);
    let keeps = context.shape.dirty && F::is_dirty(was);
    let coherent = context.shape.coherent;
    let old = node.swap(index, if keeps { dirty } else { clean }, coherent);
    context.counters.leaf_stores += 1;
    if context.shape.dirty && F::is_dirty(old) && !keeps {
        // The first write came between the two accesses.
        node.store(index..index + 1, dirty, 0, coherent);
        context.counters.leaf_stores += 1;
    }
}

impl<P: Platform, F: Format> PageTable<P, F> {
    /// Changes what the mappings of `input` allow. Only permissions change, which needs no break-before-make
    /// (DDI 0487, D8.17.1); the new ones are in force once what is returned has been invalidated. A block that the
    /// range ends in is cut: under [`Replace::Break`](super::Replace::Break) all of it is out of force until the
    /// release.
    ///
    /// With [`Shape::dirty`](super::Shape::dirty) what is known of writes stays, but for leaves that lose the
    /// permission to write.
    ///
    /// # Errors
    /// [`MapError::NotMapped`], [`MapError::MemoryType`], [`MapError::Access`], [`MapError::OutOfMemory`] and those of
    /// a malformed range. Nothing has changed then.
    pub fn protect<A: Input>(
        &mut self,
        input: Span<A>,
        attributes: F::Attributes,
    ) -> Result<Unmapped<P::Buffer>, MapError> {
        let (from, len) = self.checked(input)?;
        let to = from + len;
        F::check(attributes)?;
        let (root, mut context) = self.parts();
        let (layout, top) = (context.layout, context.layout.top);
        if check::<P::Buffer, F>(root, layout, top, from, to, attributes)? {
            // At most two blocks, like an unmap, and the reserve has to be there for that afterwards.
            let both = 2 * Self::RESERVE;
            if let Err(error) = context.spare.fill(context.platform, both, both) {
                context.spare.trim(context.platform, Self::RESERVE);
                return Err(error);
            }
        }
        let mut out = Unmapped::unchanged(from, to);
        let place = Place {
            height: top,
            base: 0,
            reachable: true,
        };
        commit::<P, F>(&mut context, &mut out, root, place, (from, to), attributes);
        context.platform.write_barrier();
        context.spare.trim(context.platform, Self::RESERVE);
        Ok(out)
    }
}
