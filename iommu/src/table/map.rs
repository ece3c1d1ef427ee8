//! Mapping: a first walk that only looks, then one that only stores.

use super::node::{ENTRIES, Node};
use super::{Attributes, Context, MapError, RESERVE, StageTwoTable, index, shift};
use crate::hal::{DmaBuffer, Platform};

/// A range to be mapped, inside what one table covers.
#[derive(Clone, Copy)]
pub(super) struct Piece {
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
    pub(super) fn new(at: u64, len: u64, output: u64) -> Self {
        Self { at, len, output }
    }

    /// The first part of this piece that a table at `level` treats in one way, and what is left.
    fn front(self, level: u8) -> (Front, Piece, Option<Piece>) {
        let size = 1 << shift(level);
        let first = index(self.at, level);
        let (front, len) =
            if level > 0 && (self.at | self.output) & (size - 1) == 0 && self.len >= size {
                let count = (self.len >> shift(level)) as usize;
                (Front::Leaves(first, count), (count as u64) << shift(level))
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
fn first_mapped<B: DmaBuffer>(node: &Node<B>, index: usize, level: u8, base: u64) -> u64 {
    let Some(child) = node.child(index) else {
        return base;
    };
    let used = child.first_used(0..ENTRIES).unwrap_or(0);
    let below = base + ((used as u64) << shift(level + 1));
    first_mapped(child, used, level + 1, below)
}

/// Adds to `need` what mapping `piece` takes in `node` at `level`, or in an empty table there.
fn check<B: DmaBuffer>(
    node: Option<&Node<B>>,
    level: u8,
    piece: Piece,
    need: &mut Need,
) -> Result<(), MapError> {
    let mut has_children = node.is_some_and(|node| node.children.is_some());
    let mut left = Some(piece);
    while let Some(piece) = left {
        let (front, part, rest) = piece.front(level);
        left = rest;
        match front {
            Front::Leaves(first, count) => {
                let used = node.and_then(|node| {
                    let used = node.first_used(first..first + count)?;
                    let base = part.at + (((used - first) as u64) << shift(level));
                    Some(first_mapped(node, used, level, base))
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
                check(child.map(|child| &**child), level + 1, part, need)?;
            }
        }
    }
    Ok(())
}

/// Stores what [`check`] found possible. `reachable`: a walker can be in `node` already.
fn commit<P: Platform>(
    context: &mut Context<'_, P>,
    node: &mut Node<P::Buffer>,
    level: u8,
    piece: Piece,
    attributes: Attributes,
    reachable: bool,
) {
    let mut left = Some(piece);
    while let Some(piece) = left {
        let (front, part, rest) = piece.front(level);
        left = rest;
        match front {
            Front::Leaves(first, count) => {
                let entry = attributes.leaf(level, part.output);
                node.fill(
                    first..first + count,
                    entry,
                    1 << shift(level),
                    context.coherent,
                );
                context.counters.leaf_stores += count as u64;
            }
            Front::Below(index) => {
                if let Some(child) = node.child_mut(index) {
                    commit(context, child, level + 1, part, attributes, reachable);
                } else if let Some(mut child) = context.spare.pop() {
                    commit(context, &mut child, level + 1, part, attributes, false);
                    context.attach(node, index, child, reachable);
                } else {
                    debug_assert!(false, "the check counts tables");
                }
            }
        }
    }
}

impl<P: Platform> StageTwoTable<P> {
    /// Maps a piece whose bounds and alignment are right.
    pub(super) fn map_checked(
        &mut self,
        piece: Piece,
        attributes: Attributes,
    ) -> Result<(), MapError> {
        let mut need = Need::default();
        let start = self.start;
        let (root, mut context) = self.parts();
        check(Some(root), start, piece, &mut need)?;
        let filled = context.spare.fill(
            context.platform,
            need.tables + RESERVE,
            need.children + RESERVE,
        );
        if let Err(error) = filled {
            context.spare.trim(RESERVE);
            return Err(error);
        }
        commit(&mut context, root, start, piece, attributes, true);
        context.platform.write_barrier();
        Ok(())
    }
}
