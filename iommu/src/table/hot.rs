//! The table of pages that was used last, taken out of its parent's record so that the next page in it needs no descent.
//!
//! Only the record moves: walkers see nothing of it. Everything but the paths for ranges within one table of pages goes
//! through `PageTable::parts`, which puts it back first.

use super::format::Format;
use super::node::{Node, Table};
use super::{Context, PageTable};
use crate::hal::Platform;

/// No table: no address has this prefix.
const NONE: u64 = u64::MAX;

/// A table of pages out of its place, by the address bits above what it covers.
pub(super) struct Hot<B> {
    prefix: u64,
    table: Option<Table<B>>,
    /// What was asked for last and was not here. Who is asked for twice in a row is fetched; two tables used in turn
    /// are left where they are.
    missed: u64,
}

impl<B> Default for Hot<B> {
    fn default() -> Self {
        Self {
            prefix: NONE,
            table: None,
            missed: NONE,
        }
    }
}

impl<B> Hot<B> {
    /// The table for `prefix`, if it is here.
    pub(super) fn table(&self, prefix: u64) -> Option<&Node<B>> {
        self.table.as_deref().filter(|_| self.prefix == prefix)
    }

    /// How many tables after that for `prefix` the one that is here comes, if it comes after it.
    pub(super) fn after(&self, prefix: u64) -> Option<usize> {
        let after = self.prefix.checked_sub(prefix)?;
        self.table.as_ref()?;
        usize::try_from(after).ok()
    }

    /// What is here, for good.
    pub(super) fn take(&mut self) -> Option<Table<B>> {
        self.prefix = NONE;
        self.table.take()
    }
}

/// The lowest table above the pages on the way to `address`, if it is there, and the index into it.
fn above<'a, P: Platform, F: Format>(
    root: &'a mut Node<P::Buffer>,
    context: &Context<'_, P>,
    address: u64,
) -> Option<(&'a mut Node<P::Buffer>, usize)> {
    let mut node = root;
    let mut height = context.layout.top;
    while height > 1 {
        node = node.child_mut(context.layout.index::<F>(address, height))?;
        height -= 1;
    }
    Some((node, context.layout.index::<F>(address, 1)))
}

impl<P: Platform, F: Format> PageTable<P, F> {
    /// The table of pages that covers `address`, if it is there.
    #[inline(always)]
    pub(super) fn page_table(&mut self, address: u64) -> Option<&mut Node<P::Buffer>> {
        if self.hot.prefix == address >> F::shift(1) {
            return self.hot.table.as_deref_mut();
        }
        self.fetch(address)
    }

    #[inline(never)]
    fn fetch(&mut self, address: u64) -> Option<&mut Node<P::Buffer>> {
        if address >> self.shape.input_bits != 0 {
            return None;
        }
        let prefix = address >> F::shift(1);
        let again = self.hot.missed == prefix;
        self.hot.missed = prefix;
        if again {
            self.cool();
        }
        let (root, context, hot) = self.parts_and_hot();
        let (node, index) = above::<P, F>(root, &context, address)?;
        if !again {
            return node.child_mut(index).map(|table| &mut **table);
        }
        hot.table = Some(node.take_child(index)?);
        hot.prefix = prefix;
        hot.table.as_deref_mut()
    }

    /// Puts the table back in its place.
    pub(super) fn cool(&mut self) {
        let prefix = self.hot.prefix;
        let Some(table) = self.hot.take() else {
            return;
        };
        let (root, context, _) = self.parts_and_hot();
        let found = above::<P, F>(root, &context, prefix << F::shift(1));
        let slot = found.and_then(|(node, index)| node.children.as_mut()?.get_mut(index));
        match slot {
            Some(slot) => *slot = Some(table),
            None => unreachable!("nothing changes while a table is out"),
        }
    }
}
