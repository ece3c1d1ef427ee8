//! What the page tables of PCs have in common: 4 KiB tables, PS for leaves above the pages, permissions that all levels
//! combine, so that a link allows everything, and an access flag that hardware sets by itself.

use super::MapError;
use super::format::{Entry, Format};
use super::spec::{PC_ADDRESS, PC_OUTPUT_BITS, PC_SIZE};

/// One of them. Its constants are bits of an entry.
pub trait PcFormat: Sized + 'static {
    /// What a leaf says beside its address.
    type Attributes: Copy + PartialEq + core::fmt::Debug;

    /// The least height of a root.
    const LEAST_TOP: u8;
    /// An entry without any of these is invalid.
    const PRESENT: u64;
    /// What leads to a table has these, and an address.
    const LINK: u64;
    /// Writes are allowed.
    const WRITE: u64;
    /// Set by the first write, in leaves.
    const DIRTY: u64;

    /// Whether leaves can be made of `attributes`.
    ///
    /// # Errors
    /// [`MapError::Access`].
    fn check(attributes: Self::Attributes) -> Result<(), MapError>;
    /// A leaf that is a page, less its address.
    fn page(attributes: Self::Attributes) -> u64;
    /// Whether `entry`, which is not invalid, has what the architecture reserves in every entry.
    fn is_reserved(_entry: u64) -> bool {
        false
    }
    /// The same for leaves alone.
    fn is_reserved_leaf(_entry: u64) -> bool {
        false
    }
    /// What a leaf allows.
    fn attributes(entry: u64) -> Self::Attributes;
    /// What is left of `attributes` below a link that allows `above`.
    fn below(attributes: Self::Attributes, above: Self::Attributes) -> Self::Attributes;
    /// Whether a leaf may change from one to the other in place: only permissions differ.
    fn replaceable(from: Self::Attributes, to: Self::Attributes) -> bool;
}

/// PS, in leaves above the pages.
fn size(height: u8) -> u64 {
    if height == 0 { 0 } else { PC_SIZE }
}

impl<F: PcFormat> Format for F {
    type Attributes = F::Attributes;
    const PAGE_SHIFT: u32 = 12;
    const BLOCKS: u8 = 2;
    const INPUT: (u8, u8) = (32, 57);
    const OUTPUT: u8 = PC_OUTPUT_BITS;
    const LEAST_TOP: u8 = F::LEAST_TOP;

    fn greatest_top(_output_bits: u8) -> u8 {
        4
    }

    fn check(attributes: F::Attributes) -> Result<(), MapError> {
        F::check(attributes)
    }

    fn link(next: u64) -> u64 {
        (next & PC_ADDRESS) | F::LINK
    }

    fn leaf(attributes: F::Attributes, height: u8, output: u64) -> u64 {
        output | F::page(attributes) | size(height)
    }

    fn part(entry: u64, height: u8) -> u64 {
        (entry & !PC_SIZE) | size(height)
    }

    fn decode(entry: u64, height: u8) -> Entry {
        if entry & F::PRESENT == 0 {
            return Entry::Invalid;
        }
        // Bit 7 of a page is no PS.
        let leaf = height == 0 || entry & PC_SIZE != 0;
        if F::is_reserved(entry) || leaf && (height > Self::BLOCKS || F::is_reserved_leaf(entry)) {
            Entry::Reserved
        } else if leaf {
            Entry::Leaf(entry & PC_ADDRESS & (u64::MAX << Self::shift(height)))
        } else {
            Entry::Table(entry & PC_ADDRESS)
        }
    }

    fn attributes(entry: u64) -> F::Attributes {
        F::attributes(entry)
    }

    fn restrict(attributes: F::Attributes, link: u64) -> F::Attributes {
        F::below(attributes, F::attributes(link))
    }

    fn replaceable(from: F::Attributes, to: F::Attributes) -> bool {
        F::replaceable(from, to)
    }

    fn accessed(_entry: u64) -> bool {
        true
    }

    fn tracked(entry: u64) -> u64 {
        entry & !F::DIRTY
    }

    fn is_dirty(entry: u64) -> bool {
        entry & F::DIRTY != 0
    }

    fn dirtied(entry: u64) -> u64 {
        if entry & F::WRITE == 0 {
            entry
        } else {
            entry | F::DIRTY
        }
    }
}
