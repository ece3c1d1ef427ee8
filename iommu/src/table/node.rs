//! One table: the memory that the walker reads, and the owned record of it that we read instead.
//!
//! The record makes the walker's memory write-only for us: which entries are in use is a bitmap, and the tables below
//! are owned by index, so that no address ever has to be turned back into a reference.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut, Range};

use crate::hal::DmaBuffer;

/// The tables below one table, by index, as far as there has been one: it has room for as many as there are entries.
pub(super) type Children<B> = Vec<Option<Table<B>>>;

/// Room for [`Children`] of a table of `entries`, or `None` where the heap has none left.
pub(super) fn children<B>(entries: usize) -> Option<Children<B>> {
    let mut slots = Vec::new();
    slots.try_reserve_exact(entries).ok()?;
    Some(slots)
}

/// Records `child` at `index` of what has room for it.
pub(super) fn adopt<B>(children: &mut Children<B>, index: usize, child: Table<B>) {
    if children.len() <= index {
        children.resize_with(index + 1, || None);
    }
    children[index] = Some(child);
}

/// A table and its record.
pub(super) struct Node<B> {
    /// What the walker reads.
    pub(super) buffer: B,
    /// Tables below; absent until the first one.
    pub(super) children: Option<Children<B>>,
    /// The next of a list of tables that hang nowhere.
    pub(super) next: Option<Table<B>>,
    /// One bit an entry.
    used: Box<[u64]>,
    live: usize,
}

/// A boxed [`Node`] whose allocation may fail without ending the program.
pub(super) struct Table<B>(Box<[Node<B>; 1]>);

impl<B> Deref for Table<B> {
    type Target = Node<B>;
    #[inline]
    fn deref(&self) -> &Node<B> {
        let [node] = &*self.0;
        node
    }
}

impl<B> DerefMut for Table<B> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Node<B> {
        let [node] = &mut *self.0;
        node
    }
}

impl<B: DmaBuffer> Table<B> {
    /// An empty table of `entries` in `buffer`, which is zero; `None` where the heap has no room for the record.
    pub(super) fn new(buffer: B, entries: usize) -> Option<Self> {
        let mut used = Vec::new();
        used.try_reserve_exact(entries.div_ceil(64)).ok()?;
        used.resize(entries.div_ceil(64), 0);
        let mut one = Vec::new();
        one.try_reserve_exact(1).ok()?;
        one.push(Node {
            buffer,
            children: None,
            next: None,
            used: used.into_boxed_slice(),
            live: 0,
        });
        one.into_boxed_slice().try_into().ok().map(Self)
    }

    /// The memory, without the record.
    pub(super) fn into_buffer(self) -> B {
        let one: Box<[Node<B>]> = self.0;
        let mut node = one.into_vec();
        match node.pop() {
            Some(node) => node.buffer,
            None => unreachable!("a box of one"),
        }
    }
}

/// The bits of bitmap word `word` that `range`, which does not end before it, covers.
#[inline]
fn mask(word: usize, range: &Range<usize>) -> u64 {
    let mut mask = u64::MAX;
    if word == range.start / 64 {
        mask <<= range.start % 64;
    }
    if word == (range.end - 1) / 64 {
        mask &= u64::MAX >> (63 - (range.end - 1) % 64);
    }
    mask
}

/// The bitmap words that `range` touches.
#[inline]
fn words(range: &Range<usize>) -> Range<usize> {
    range.start / 64..range.end.div_ceil(64)
}

/// The first bit of `range` that is set in `word(n)`, called with bitmap words in turn.
#[inline]
fn first(range: &Range<usize>, word: impl Fn(usize) -> u64) -> Option<usize> {
    words(range).find_map(|n| {
        let bits = word(n) & mask(n, range);
        (bits != 0).then(|| n * 64 + bits.trailing_zeros() as usize)
    })
}

impl<B: DmaBuffer> Node<B> {
    /// Entries in use.
    #[inline]
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Whether entry `index` is in use.
    #[inline]
    pub(super) fn is_used(&self, index: usize) -> bool {
        self.used[index / 64] >> (index % 64) & 1 != 0
    }

    /// Entries of `range` in use.
    #[inline]
    pub(super) fn count(&self, range: Range<usize>) -> usize {
        words(&range)
            .map(|word| (self.used[word] & mask(word, &range)).count_ones() as usize)
            .sum()
    }

    /// The first entry of `range` in use.
    #[inline]
    pub(super) fn first_used(&self, range: Range<usize>) -> Option<usize> {
        first(&range, |word| self.used[word])
    }

    /// The end of the run of used entries that starts at `index`, at most `end`.
    #[inline]
    pub(super) fn run_end(&self, index: usize, end: usize) -> usize {
        first(&(index..end), |word| !self.used[word]).unwrap_or(end)
    }

    /// The table below entry `index`.
    #[inline]
    pub(super) fn child(&self, index: usize) -> Option<&Table<B>> {
        self.children.as_ref()?.get(index)?.as_ref()
    }

    /// The table below entry `index`.
    #[inline]
    pub(super) fn child_mut(&mut self, index: usize) -> Option<&mut Table<B>> {
        self.children.as_mut()?.get_mut(index)?.as_mut()
    }

    /// Takes the table below entry `index` out of the record; the descriptor is the caller's.
    #[inline]
    pub(super) fn take_child(&mut self, index: usize) -> Option<Table<B>> {
        self.children.as_mut()?.get_mut(index)?.take()
    }

    /// Takes the last table below out of the record.
    pub(super) fn pop_child(&mut self) -> Option<Table<B>> {
        let children = self.children.as_mut()?;
        while let Some(last) = children.pop() {
            if last.is_some() {
                return last;
            }
        }
        None
    }

    /// Writes descriptors `first`, `first + step`, .. to the free entries of `range`.
    #[inline]
    pub(super) fn fill(&mut self, range: Range<usize>, first: u64, step: u64, coherent: bool) {
        self.mark(range.clone());
        self.store(range, first, step, coherent);
    }

    /// Writes one descriptor. Returns false, and has done nothing, where the entry is in use.
    #[inline(always)]
    pub(super) fn fill_one(&mut self, index: usize, entry: u64, coherent: bool) -> bool {
        let (word, bit) = (&mut self.used[index / 64], 1 << (index % 64));
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.live += 1;
        self.store_one(index, entry, coherent);
        true
    }

    /// Clears one descriptor of several. Returns false, and has done nothing, where it is not in use or the last one.
    #[inline(always)]
    pub(super) fn clear_one(&mut self, index: usize, coherent: bool) -> bool {
        let (word, bit) = (&mut self.used[index / 64], 1 << (index % 64));
        if *word & bit == 0 || self.live == 1 {
            return false;
        }
        *word &= !bit;
        self.live -= 1;
        self.store_one(index, 0, coherent);
        true
    }

    #[inline(always)]
    fn store_one(&mut self, index: usize, entry: u64, coherent: bool) {
        self.buffer.write64(index * 8, entry);
        if !coherent {
            self.buffer.clean(index * 8, 8);
        }
    }

    /// Marks `range`, all free, as used, and stores nothing.
    #[inline]
    pub(super) fn mark(&mut self, range: Range<usize>) {
        self.live += range.len();
        for word in words(&range) {
            self.used[word] |= mask(word, &range);
        }
    }

    /// Clears the descriptors of `range`, all of them in use.
    #[inline]
    pub(super) fn clear(&mut self, range: Range<usize>, coherent: bool) {
        self.live -= range.len();
        for word in words(&range) {
            self.used[word] &= !mask(word, &range);
        }
        self.store(range, 0, 0, coherent);
    }

    /// The descriptor of entry `index`. Walkers that note writes change it.
    #[inline]
    pub(super) fn entry(&self, index: usize) -> u64 {
        self.buffer.read64(index * 8)
    }

    /// The descriptors of the entries from `first` on.
    pub(super) fn entries(&self, first: usize, words: &mut [u64]) {
        self.buffer.read64_words(first * 8, words);
    }

    /// The end of the run of leaves that starts at `index`, at most `end`.
    pub(super) fn leaves_end(&self, index: usize, end: usize) -> usize {
        let end = self.run_end(index, end);
        let below = self.children.as_ref().map_or(&[][..], |it| &it[..]);
        let below = below.get(index..end.min(below.len())).unwrap_or(&[]);
        let first = below.iter().position(Option::is_some);
        first.map_or(end, |first| index + first)
    }

    /// Stores one descriptor whose use does not change, and returns the one that was there.
    pub(super) fn swap(&mut self, index: usize, entry: u64, coherent: bool) -> u64 {
        let old = self.buffer.swap64(index * 8, entry);
        if !coherent {
            self.buffer.clean(index * 8, 8);
        }
        old
    }

    /// Stores descriptors whose use does not change.
    #[inline]
    pub(super) fn store(&mut self, range: Range<usize>, first: u64, step: u64, coherent: bool) {
        self.buffer
            .write64_run(range.start * 8, first, step, range.len());
        if !coherent {
            self.buffer.clean(range.start * 8, range.len() * 8);
        }
    }
}
