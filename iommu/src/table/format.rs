//! What a format of page tables has to say; the walks in this module do the rest.
//!
//! Levels are counted upwards here: *height* 0 holds the pages, whatever the architecture calls it.

use core::fmt::Debug;

use super::MapError;

/// A radix format with 8-byte entries and tables of one page.
///
/// An entry of 0 is invalid in every format.
pub trait Format: Sized + 'static {
    /// What a leaf says beside its address.
    type Attributes: Copy + PartialEq + Debug;

    /// log2 of the bytes of a page and of a table.
    const PAGE_SHIFT: u32;
    /// The greatest height of a leaf: 0 where there are only pages.
    const BLOCKS: u8;
    /// Fewest and most bits of input.
    const INPUT: (u8, u8);
    /// Most bits of output.
    const OUTPUT: u8;
    /// The least height of a root.
    const LEAST_TOP: u8;
    /// Start tables may be concatenated: up to 16 of them (VMSAv8-64 stage 2).
    const CONCATENATES: bool = false;

    /// log2 of the entries in a table.
    const INDEX_BITS: u32 = Self::PAGE_SHIFT - 3;
    /// Entries in a table.
    const ENTRIES: usize = 1 << Self::INDEX_BITS;
    /// Bytes of a table.
    const TABLE_BYTES: usize = 1 << Self::PAGE_SHIFT;

    /// The greatest height of a root where the output is `output_bits` wide.
    fn greatest_top(output_bits: u8) -> u8;
    /// Whether leaves can be made of `attributes`.
    ///
    /// # Errors
    /// [`MapError::Access`].
    fn check(attributes: Self::Attributes) -> Result<(), MapError>;
    /// The entry that leads to the table at `next`.
    fn link(next: u64) -> u64;
    /// The leaf at `height` for `output`.
    fn leaf(attributes: Self::Attributes, height: u8, output: u64) -> u64;
    /// The first of the leaves at `height` that the leaf `entry`, one height up, consists of.
    fn part(entry: u64, height: u8) -> u64;
    /// What an entry at `height` is, whoever wrote it.
    fn decode(entry: u64, height: u8) -> Entry;
    /// What a leaf allows; a leaf that waits for its first write allows writing.
    fn attributes(entry: u64) -> Self::Attributes;
    /// What is left of `attributes` below a `link` with restrictions.
    fn restrict(attributes: Self::Attributes, link: u64) -> Self::Attributes;
    /// Whether a leaf may change from one to the other in place: only permissions differ.
    fn replaceable(from: Self::Attributes, to: Self::Attributes) -> bool;
    /// Whether a walker may use the leaf without setting an access flag first.
    fn accessed(entry: u64) -> bool;
    /// The leaf in a form in which the first write leaves a trace. It is clean.
    fn tracked(entry: u64) -> u64;
    /// Whether a tracked leaf was written to.
    fn is_dirty(entry: u64) -> bool;
    /// A tracked, writable leaf as the first write leaves it.
    fn dirtied(entry: u64) -> u64;

    /// The index into a table of pages of the entry that covers `address`.
    #[inline]
    fn page_index(address: u64) -> usize {
        (address >> Self::PAGE_SHIFT) as usize & (Self::ENTRIES - 1)
    }

    /// log2 of the bytes that an entry at `height` covers.
    #[inline]
    fn shift(height: u8) -> u32 {
        Self::PAGE_SHIFT + Self::INDEX_BITS * u32::from(height)
    }
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing.
    Invalid,
    /// Something that the architecture reserves.
    Reserved,
    /// The next table is here.
    Table(u64),
    /// A page or block, which is here.
    Leaf(u64),
}

/// How an entry in use may become another one of a different size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// Invalid first, then out of every cache, then the new one (break-before-make, DDI 0487 D8.17.1).
    Break,
    /// By one store: the walkers have BBM level 2 (SMMU_IDR3.BBML, ID_AA64MMFR2_EL1.BBM), or the format never asks
    /// for more (VT-d, NPT, EPT).
    InPlace,
}

/// What one table is to be, beside its format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Input address width in bits.
    pub input_bits: u8,
    /// Output address width of the walkers in bits.
    pub output_bits: u8,
    /// Largest leaf in bytes; leaves larger than this are not made.
    pub largest: u64,
    /// Use concatenated start tables wherever that saves a level. Not for QEMU's SMMU, which ignores the index into them.
    pub concatenate: bool,
    /// How a block is cut.
    pub replace: Replace,
    /// Every walker snoops CPU caches; without that every store is cleaned.
    pub coherent: bool,
    /// Writable leaves note the first write. Each walker has to be told so as well (CD.HD, STE.S2HD, SSADE): one that
    /// is not refuses the write (VMSA) or notes nothing (VT-d).
    pub dirty: bool,
}

impl Shape {
    /// `input_bits` wide, with everything else as the simplest walker needs it.
    pub const fn new(input_bits: u8) -> Self {
        Self {
            input_bits,
            output_bits: 48,
            largest: u64::MAX,
            concatenate: false,
            replace: Replace::Break,
            coherent: true,
            dirty: false,
        }
    }

    /// The levels that this shape means in format `F`.
    ///
    /// # Errors
    /// [`MapError::Width`] where the format has none such.
    pub fn layout<F: Format>(&self) -> Result<Layout, MapError> {
        let input = self.input_bits;
        let error = MapError::Width(input);
        let bits = u32::from(input);
        if input < F::INPUT.0 || input > F::INPUT.1 || self.output_bits > F::OUTPUT {
            return Err(error);
        }
        let levels = (bits - F::PAGE_SHIFT).div_ceil(F::INDEX_BITS) as u8;
        let mut top = (levels - 1).max(F::LEAST_TOP);
        if F::CONCATENATES
            && self.concatenate
            && top > F::LEAST_TOP
            && bits.saturating_sub(F::shift(top)) <= 4
        {
            top -= 1;
        }
        if top > F::greatest_top(self.output_bits) {
            return Err(error);
        }
        let mut blocks = F::BLOCKS.min(top);
        while blocks > 0 && self.largest >> F::shift(blocks) == 0 {
            blocks -= 1;
        }
        let index_bits = bits.saturating_sub(F::shift(top));
        Ok(Layout {
            top,
            blocks,
            root_entries: 1 << index_bits,
        })
    }
}

/// The levels of one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Height of the root; heights below it down to 0 follow.
    pub top: u8,
    /// Greatest height of a leaf.
    pub blocks: u8,
    /// Entries of the root in use, more than in another table where start tables are concatenated.
    pub root_entries: usize,
}

impl Layout {
    /// The index into a table at `height` of the entry that covers `address`, which is within the input width.
    #[inline]
    pub(super) fn index<F: Format>(&self, address: u64, height: u8) -> usize {
        let index = (address >> F::shift(height)) as usize;
        if height == self.top {
            index
        } else {
            index & (F::ENTRIES - 1)
        }
    }

    /// Bytes of the root: a power of two, the unit of allocation at least.
    pub(super) fn root_bytes(&self) -> usize {
        (self.root_entries * 8).next_power_of_two().max(4096)
    }
}
