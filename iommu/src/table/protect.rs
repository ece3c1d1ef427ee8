//! Changing what a mapping allows, in place.

use super::node::Node;
use super::{Attributes, MapError, StageTwoTable, Unmapped, index, shift};
use crate::addr::{Input, Span};
use crate::hal::{DmaBuffer, Platform};

/// Calls `leaf` with each leaf of `from..to`: its table, index, level and first address.
fn each_leaf<B: DmaBuffer>(
    node: &mut Node<B>,
    level: u8,
    from: u64,
    to: u64,
    leaf: &mut impl FnMut(&mut Node<B>, usize, u8, u64) -> Result<(), MapError>,
) -> Result<(), MapError> {
    let size = 1u64 << shift(level);
    let mut at = from;
    while at < to {
        let end = to.min((at & !(size - 1)) + size);
        let index = index(at, level);
        if let Some(child) = node.child_mut(index) {
            each_leaf(child, level + 1, at, end, leaf)?;
        } else if !node.is_used(index) {
            return Err(MapError::NotMapped(at));
        } else if end - at != size {
            return Err(MapError::InsideBlock(at));
        } else {
            leaf(node, index, level, at)?;
        }
        at = end;
    }
    Ok(())
}

impl<P: Platform> StageTwoTable<P> {
    /// Changes what the mappings of `input` allow. Only permissions change, which needs no break-before-make
    /// (DDI 0487, D8.16.1); the new ones are in force once what is returned has been invalidated.
    ///
    /// # Errors
    /// [`MapError::NotMapped`], [`MapError::InsideBlock`], [`MapError::MemoryType`], [`MapError::Access`] and those of
    /// a malformed range. Nothing has changed then.
    pub fn protect<A: Input>(
        &mut self,
        input: Span<A>,
        attributes: Attributes,
    ) -> Result<Unmapped<P::Buffer>, MapError> {
        let (from, len) = self.checked(input)?;
        let to = from + len;
        attributes.check()?;
        let start = self.start;
        let (root, context) = self.parts();
        each_leaf(root, start, from, to, &mut |node, index, _, at| {
            let old = Attributes::of(node.buffer.read64(index * 8));
            if old.memory == attributes.memory {
                Ok(())
            } else {
                Err(MapError::MemoryType(at))
            }
        })?;
        each_leaf(root, start, from, to, &mut |node, index, level, _| {
            let output = node.buffer.read64(index * 8) & super::spec::ADDRESS;
            let entry = attributes.leaf(level, output);
            node.store(index..index + 1, entry, 0, context.coherent);
            context.counters.leaf_stores += 1;
            Ok(())
        })?;
        context.platform.write_barrier();
        Ok(Unmapped::changed(from, to))
    }
}
