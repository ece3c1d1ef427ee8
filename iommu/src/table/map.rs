//! Mapping: a first walk that only looks, then one that only stores.

use super::format::{Format, Layout, Shape};
use super::node::Node;
use super::{Context, MapError, PageTable};
use crate::addr::{Hpa, Input, Span};
use crate::hal::{DmaBuffer, Platform};

/// A range to be mapped, inside what one table covers.
#[derive(Clone, Copy)]
struct Piece {
    at: u64,
    len: u64,
    output: u64,
}

/// What the front of a [`Piece`] becomes in a table.
enum Front {
    /// Leaves of the table itself: first index and number.
    Leaves(usize, usize),
    /// Something in the table below this index.
    Below(usize),
}

impl Piece {
    fn new(at: u64, len: u64, output: u64) -> Self {
        Self { at, len, output }
    }

    /// The first part of this piece that a table at `height` treats in one way, and what is left.
    fn front<F: Format>(self, layout: Layout, height: u8) -> (Front, Piece, Option<Piece>) {
        let shift = F::shift(height);
        let size = 1 << shift;
        let first = layout.index::<F>(self.at, height);
        let aligned = (self.at | self.output) & (size - 1) == 0;
        let (front, len) = if height <= layout.blocks && aligned && self.len >= size {
            let count = (self.len >> shift) as usize;
            (Front::Leaves(first, count), (count as u64) << shift)
        } else {
            let room = size - (self.at & (size - 1));
            (Front::Below(first), self.len.min(room))
        };
        let rest =
            (len < self.len).then(|| Self::new(self.at + len, self.len - len, self.output + len));
        (front, Self { len, ..self }, rest)
    }
}

/// What a mapping will take.
#[derive(Clone, Copy, Default)]
struct Need {
    tables: usize,
    /// Records of tables below a table that has none yet.
    children: usize,
}

/// The first address mapped by the used entry `index` of `node`, which covers addresses from `base` on.
fn first_mapped<B: DmaBuffer, F: Format>(
    node: &Node<B>,
    index: usize,
    height: u8,
    base: u64,
) -> u64 {
    let Some(child) = node.child(index) else {
        return base;
    };
    let used = child.first_used(0..F::ENTRIES).unwrap_or(0);
    let below = base + ((used as u64) << F::shift(height - 1));
    first_mapped::<B, F>(child, used, height - 1, below)
}

/// Adds to `need` what mapping `piece` takes in `node` at `height`, or in an empty table there.
fn check<B: DmaBuffer, F: Format>(
    node: Option<&Node<B>>,
    layout: Layout,
    height: u8,
    piece: Piece,
    need: &mut Need,
) -> Result<(), MapError> {
    let mut has_children = node.is_some_and(|node| node.children.is_some());
    let mut left = Some(piece);
    while let Some(piece) = left {
        let (front, part, rest) = piece.front::<F>(layout, height);
        left = rest;
        match front {
            Front::Leaves(first, count) => {
                let used = node.and_then(|node| {
                    let used = node.first_used(first..first + count)?;
                    let base = part.at + (((used - first) as u64) << F::shift(height));
                    Some(first_mapped::<B, F>(node, used, height, base))
                });
                if let Some(used) = used {
                    return Err(MapError::Mapped(used));
                }
            }
            Front::Below(index) => {
                let child = node.and_then(|node| node.child(index));
                if child.is_none() {
                    if node.is_some_and(|node| node.is_used(index)) {
                        return Err(MapError::Mapped(part.at));
                    }
                    need.tables += 1;
                    need.children += usize::from(!has_children);
                    has_children = true;
                }
                check::<B, F>(child.map(|child| &**child), layout, height - 1, part, need)?;
            }
        }
    }
    Ok(())
}

impl<P: Platform> Context<'_, P> {
    /// The leaf at `height` for `output`.
    pub(super) fn leaf<F: Format>(
        &self,
        attributes: F::Attributes,
        height: u8,
        output: u64,
    ) -> u64 {
        let entry = F::leaf(attributes, height, output);
        if self.shape.dirty {
            F::tracked(entry)
        } else {
            entry
        }
    }
}

/// Stores what [`check`] found possible. `reachable`: a walker can be in `node` already.
fn commit<P: Platform, F: Format>(
    context: &mut Context<'_, P>,
    node: &mut Node<P::Buffer>,
    height: u8,
    piece: Piece,
    attributes: F::Attributes,
    reachable: bool,
) {
    let mut left = Some(piece);
    while let Some(piece) = left {
        let (front, part, rest) = piece.front::<F>(context.layout, height);
        left = rest;
        match front {
            Front::Leaves(first, count) => {
                let entry = context.leaf::<F>(attributes, height, part.output);
                node.fill(
                    first..first + count,
                    entry,
                    1 << F::shift(height),
                    context.shape.coherent,
                );
                context.counters.leaf_stores += count as u64;
            }
            Front::Below(index) => {
                if let Some(child) = node.child_mut(index) {
                    commit::<P, F>(context, child, height - 1, part, attributes, reachable);
                } else if let Some(mut child) = context.spare.pop() {
                    commit::<P, F>(context, &mut child, height - 1, part, attributes, false);
                    context.attach::<F>(node, index, child, reachable);
                } else {
                    debug_assert!(false, "the check counts tables");
                }
            }
        }
    }
}

impl<P: Platform, F: Format> PageTable<P, F> {
    /// Maps `input` to the same number of bytes from `output` on.
    ///
    /// A range that was unmapped is mapped again only after its [`Unmapped`](super::Unmapped) was released.
    ///
    /// # Errors
    /// Each [`MapError`] that names no other operation. Nothing has changed then.
    #[inline]
    pub fn map<A: Input>(
        &mut self,
        input: Span<A>,
        output: Hpa,
        attributes: F::Attributes,
    ) -> Result<(), MapError> {
        let (at, len) = (input.base.raw(), input.len);
        if len == 1 << F::PAGE_SHIFT && self.map_page(at, output.0, attributes) {
            return Ok(());
        }
        self.map_range(input, output, attributes)
    }

    /// Maps one free page of a table that is there already. Returns false, and has done nothing, where anything is
    /// different, or wrong.
    #[inline(always)]
    fn map_page(&mut self, at: u64, output: u64, attributes: F::Attributes) -> bool {
        let offset = (at | output) & ((1 << F::PAGE_SHIFT) - 1);
        if offset | output >> self.shape.output_bits != 0
            || F::check(attributes).is_err()
            || self.spare.fill_is_due(Self::RESERVE)
        {
            return false;
        }
        let Shape {
            coherent, dirty, ..
        } = self.shape;
        let Some(node) = self.page_table(at) else {
            return false;
        };
        let entry = F::leaf(attributes, 0, output);
        let entry = if dirty { F::tracked(entry) } else { entry };
        if !node.fill_one(F::page_index(at), entry, coherent) {
            return false;
        }
        self.counters.leaf_stores += 1;
        self.platform.write_barrier();
        true
    }

    #[inline(never)]
    fn map_range<A: Input>(
        &mut self,
        input: Span<A>,
        output: Hpa,
        attributes: F::Attributes,
    ) -> Result<(), MapError> {
        let (at, len) = self.checked(input)?;
        if !output.is_aligned(1 << F::PAGE_SHIFT) {
            return Err(MapError::Misaligned(output.0));
        }
        match output.checked_add(len - 1) {
            Some(last) if last.0 >> self.shape.output_bits == 0 => {}
            _ => return Err(MapError::OutputTooWide(output.0)),
        }
        F::check(attributes)?;
        let piece = Piece::new(at, len, output.0);
        if self.map_pages(piece, attributes) {
            return Ok(());
        }
        self.map_piece(piece, attributes)
    }

    /// Maps a piece that is all free pages of one table that is there already. Returns false, and has done nothing,
    /// where it is anything else.
    fn map_pages(&mut self, piece: Piece, attributes: F::Attributes) -> bool {
        let Piece { at, len, output } = piece;
        let one_table = (at ^ (at + len - 1)) >> F::shift(1) == 0;
        if !one_table || self.spare.fill_is_due(Self::RESERVE) {
            return false;
        }
        let Shape {
            coherent, dirty, ..
        } = self.shape;
        let Some(node) = self.page_table(at) else {
            return false;
        };
        let index = F::page_index(at);
        let range = index..index + (len >> F::PAGE_SHIFT) as usize;
        if node.first_used(range.clone()).is_some() {
            return false;
        }
        let entry = F::leaf(attributes, 0, output);
        let entry = if dirty { F::tracked(entry) } else { entry };
        let count = range.len();
        node.fill(range, entry, 1 << F::PAGE_SHIFT, coherent);
        self.counters.leaf_stores += count as u64;
        self.platform.write_barrier();
        true
    }

    /// Maps a piece whose bounds and alignment are right.
    fn map_piece(&mut self, piece: Piece, attributes: F::Attributes) -> Result<(), MapError> {
        let mut need = Need::default();
        let (root, mut context) = self.parts();
        let (layout, top) = (context.layout, context.layout.top);
        check::<P::Buffer, F>(Some(root), layout, top, piece, &mut need)?;
        let filled = context.spare.fill(
            context.platform,
            need.tables + Self::RESERVE,
            need.children + Self::RESERVE,
        );
        if let Err(error) = filled {
            context.spare.trim(context.platform, Self::RESERVE);
            return Err(error);
        }
        commit::<P, F>(&mut context, root, top, piece, attributes, true);
        context.platform.write_barrier();
        Ok(())
    }
}
