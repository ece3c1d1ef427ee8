//! One table: the memory that the walker reads, and the owned record of it that we read instead.
//!
//! The record makes the walker's memory write-only for us: which entries are in use is a bitmap, and the tables below
//! are owned by index, so that no address ever has to be turned back into a reference.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut, Range};

use crate::hal::DmaBuffer;

/// Descriptors in one table.
pub(super) const ENTRIES: usize = 512;
/// Bytes of one table.
pub(super) const TABLE_BYTES: usize = ENTRIES * 8;
/// Words of the bitmap.
const WORDS: usize = ENTRIES / 64;

/// The tables below one table, by index.
pub(super) type Children<B> = Box<[Option<Table<B>>]>;

/// Room for [`Children`], or `None` where the heap has none left.
pub(super) fn children<B>() -> Option<Children<B>> {
    let mut slots = Vec::new();
    slots.try_reserve_exact(ENTRIES).ok()?;
    slots.resize_with(ENTRIES, || None);
    Some(slots.into_boxed_slice())
}

/// A table and its record.
pub(super) struct Node<B> {
    /// What the walker reads.
    pub(super) buffer: B,
    /// Tables below; absent until the first one.
    pub(super) children: Option<Children<B>>,
    /// The next of a list of tables that hang nowhere.
    pub(super) next: Option<Table<B>>,
    used: [u64; WORDS],
    live: usize,
}

/// A boxed [`Node`] whose allocation may fail without ending the program.
pub(super) struct Table<B>(Box<[Node<B>; 1]>);

impl<B> Deref for Table<B> {
    type Target = Node<B>;
    fn deref(&self) -> &Node<B> {
        let [node] = &*self.0;
        node
    }
}

impl<B> DerefMut for Table<B> {
    fn deref_mut(&mut self) -> &mut Node<B> {
        let [node] = &mut *self.0;
        node
    }
}

impl<B: DmaBuffer> Table<B> {
    /// An empty table in `buffer`, which is zero; `None` where the heap has no room for the record.
    pub(super) fn new(buffer: B) -> Option<Self> {
        let mut one = Vec::new();
        one.try_reserve_exact(1).ok()?;
        one.push(Node {
            buffer,
            children: None,
            next: None,
            used: [0; WORDS],
            live: 0,
        });
        one.into_boxed_slice().try_into().ok().map(Self)
    }
}

/// The bits of `range` that fall in bitmap word `word`.
fn mask(word: usize, range: &Range<usize>) -> u64 {
    let low = range.start.saturating_sub(word * 64).min(64);
    let high = range.end.saturating_sub(word * 64).min(64);
    let below = |n: usize| if n == 64 { u64::MAX } else { (1 << n) - 1 };
    below(high) & !below(low)
}

/// The bitmap words that `range` touches.
fn words(range: &Range<usize>) -> Range<usize> {
    range.start / 64..range.end.div_ceil(64)
}

impl<B: DmaBuffer> Node<B> {
    /// Entries in use.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Whether entry `index` is in use.
    pub(super) fn is_used(&self, index: usize) -> bool {
        self.used[index / 64] >> (index % 64) & 1 != 0
    }

    /// Entries of `range` in use.
    pub(super) fn count(&self, range: Range<usize>) -> usize {
        words(&range)
            .map(|word| (self.used[word] & mask(word, &range)).count_ones() as usize)
            .sum()
    }

    /// The first entry of `range` in use.
    pub(super) fn first_used(&self, range: Range<usize>) -> Option<usize> {
        words(&range).find_map(|word| {
            let bits = self.used[word] & mask(word, &range);
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        })
    }

    /// The end of the run of used entries that starts at `index`, at most `end`.
    pub(super) fn run_end(&self, index: usize, end: usize) -> usize {
        let range = index..end;
        words(&range)
            .find_map(|word| {
                let bits = !self.used[word] & mask(word, &range);
                (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
            })
            .unwrap_or(end)
    }

    /// The table below entry `index`.
    pub(super) fn child(&self, index: usize) -> Option<&Table<B>> {
        self.children.as_ref()?[index].as_ref()
    }

    /// The table below entry `index`.
    pub(super) fn child_mut(&mut self, index: usize) -> Option<&mut Table<B>> {
        self.children.as_mut()?[index].as_mut()
    }

    /// Takes the table below entry `index` out of the record; the descriptor is the caller's.
    pub(super) fn take_child(&mut self, index: usize) -> Option<Table<B>> {
        self.children.as_mut()?[index].take()
    }

    /// Writes descriptors `first`, `first + step`, .. to the free entries of `range`.
    pub(super) fn fill(&mut self, range: Range<usize>, first: u64, step: u64, coherent: bool) {
        self.mark(range.clone());
        self.store(range, first, step, coherent);
    }

    /// Marks `range`, all free, as used, and stores nothing.
    pub(super) fn mark(&mut self, range: Range<usize>) {
        for word in words(&range) {
            self.used[word] |= mask(word, &range);
        }
        self.live += range.len();
    }

    /// Clears the descriptors of `range`, all of them in use.
    pub(super) fn clear(&mut self, range: Range<usize>, coherent: bool) {
        for word in words(&range) {
            self.used[word] &= !mask(word, &range);
        }
        self.live -= range.len();
        self.store(range, 0, 0, coherent);
    }

    /// Stores descriptors whose use does not change.
    pub(super) fn store(&mut self, range: Range<usize>, first: u64, step: u64, coherent: bool) {
        self.buffer
            .write64_run(range.start * 8, first, step, range.len());
        if !coherent {
            self.buffer.clean(range.start * 8, range.len() * 8);
        }
    }
}
