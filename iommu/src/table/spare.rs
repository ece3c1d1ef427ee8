//! Tables and records in hand, so that a commit needs no memory and an unmap cannot fail.

use alloc::vec::Vec;

use super::MapError;
use super::node::{self, Children, Node, Table};
use crate::hal::{DmaBuffer, Platform};

/// Records that stay with a table above its reserve, for the next map: those of one path. They are heap, not tables.
const RECORDS: usize = 2;

/// Tables and records that hang nowhere.
pub(super) struct Spare<B> {
    tables: Option<Table<B>>,
    count: usize,
    /// Never grown on the way of an operation that cannot fail.
    pub(super) children: Vec<Children<B>>,
    table_bytes: usize,
    coherent: bool,
}

impl<B: DmaBuffer> Spare<B> {
    /// Holds nothing yet. `coherent`: walkers snoop CPU caches.
    pub(super) fn new(table_bytes: usize, coherent: bool) -> Self {
        Self {
            tables: None,
            count: 0,
            children: Vec::new(),
            table_bytes,
            coherent,
        }
    }

    fn push(&mut self, mut table: Table<B>) {
        table.next = self.tables.take();
        self.tables = Some(table);
        self.count += 1;
    }

    /// An empty table.
    pub(super) fn pop(&mut self) -> Option<Table<B>> {
        let mut table = self.tables.take()?;
        self.tables = table.next.take();
        self.count -= 1;
        Some(table)
    }

    /// Whether there is a record for a table below `node`.
    pub(super) fn has_record(&self, node: &Node<B>) -> bool {
        node.children.is_some() || !self.children.is_empty()
    }

    /// Whether it holds less than `reserve` of either.
    #[inline]
    pub(super) fn fill_is_due(&self, reserve: usize) -> bool {
        self.count < reserve || self.children.len() < reserve
    }

    /// Holds at least this many of each afterwards.
    #[inline]
    pub(super) fn fill(
        &mut self,
        platform: &impl Platform<Buffer = B>,
        tables: usize,
        children: usize,
    ) -> Result<(), MapError> {
        if self.count >= tables && self.children.len() >= children {
            return Ok(());
        }
        self.grow(platform, tables, children)
    }

    #[cold]
    fn grow(
        &mut self,
        platform: &impl Platform<Buffer = B>,
        tables: usize,
        children: usize,
    ) -> Result<(), MapError> {
        let entries = self.table_bytes / 8;
        while self.count < tables {
            let buffer = platform.allocate(self.table_bytes);
            let buffer = buffer.ok_or(MapError::OutOfMemory)?;
            if !self.coherent {
                // Zeros that only the CPU's cache holds are no zeros for the walker.
                buffer.clean(0, self.table_bytes);
            }
            self.push(Table::new(buffer, entries).ok_or(MapError::OutOfMemory)?);
        }
        let missing = children.saturating_sub(self.children.len());
        self.children
            .try_reserve(missing + RECORDS)
            .map_err(|_| MapError::OutOfMemory)?;
        for _ in 0..missing {
            self.children
                .push(node::children(entries).ok_or(MapError::OutOfMemory)?);
        }
        Ok(())
    }

    /// Gives what is above `reserve` back: tables, which were never used, to the platform, and records to the heap.
    pub(super) fn trim(&mut self, platform: &impl Platform<Buffer = B>, reserve: usize) {
        while self.count > reserve {
            if let Some(table) = self.pop() {
                platform.release_zeroed(table.into_buffer());
            }
        }
        self.children.truncate(reserve + RECORDS);
    }
}

/// Frees up to `most` tables of `list` and below it, which no walker can reach any more. How many.
///
/// A table with few entries left is cleared by its record and given back as zeroed, if the platform cares to know;
/// of a fuller one clearing all bytes at once, as its owner will, is the shorter way.
pub(super) fn dismantle<P: Platform>(
    platform: &P,
    spare: &mut Spare<P::Buffer>,
    reserve: usize,
    list: &mut Option<Table<P::Buffer>>,
    most: usize,
) -> usize {
    let entries = spare.table_bytes / 8;
    for freed in 0..most {
        let Some(mut table) = list.take() else {
            return freed;
        };
        // What is below goes first.
        while let Some(mut child) = table.pop_child() {
            child.next = Some(table);
            table = child;
        }
        *list = table.next.take();
        let kept = &mut spare.children;
        if let Some(children) = table.children.take()
            && kept.len() < (reserve + RECORDS).min(kept.capacity())
        {
            kept.push(children);
        }
        if P::KEEPS_ZEROED && table.live() <= entries / 2 {
            let mut at = 0;
            while table.live() > 0 {
                let Some(start) = table.first_used(at..entries) else {
                    unreachable!("so many are in use");
                };
                at = table.run_end(start, entries);
                table.clear(start..at, spare.coherent);
            }
            platform.release_zeroed(table.into_buffer());
        }
    }
    most
}
