//! Walking tables that somebody else wrote, and may be writing now.

use core::marker::PhantomData;

use super::MapError;
use super::format::{Entry, Format, Layout, Shape};

/// Tables of format `F` in memory that is not ours.
#[derive(Debug)]
pub struct ForeignTable<F> {
    root: u64,
    input_bits: u8,
    output_bits: u8,
    layout: Layout,
    restricts: bool,
    format: PhantomData<fn() -> F>,
}

impl<F: Format> ForeignTable<F> {
    /// The tables from `root` on, as `shape` describes them; bits of `root` below the size of a start table are ignored.
    ///
    /// # Errors
    /// [`MapError::Width`].
    pub fn new(root: u64, shape: &Shape) -> Result<Self, MapError> {
        let layout = shape.layout::<F>()?;
        // A start table is aligned to its own size, 64 bytes at least (DDI 0487, D8.2.5.2).
        let align = (layout.root_entries as u64 * 8).max(64);
        Ok(Self {
            root: root & !(align - 1),
            input_bits: shape.input_bits,
            output_bits: shape.output_bits,
            layout,
            restricts: true,
            format: PhantomData,
        })
    }

    /// Without the restrictions that table entries put on what is below them (TCR_ELx.HPDn, CD.HADn).
    #[must_use]
    pub fn without_restrictions(mut self) -> Self {
        self.restricts = false;
        self
    }
}

/// What a foreign table says of one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation<A> {
    /// Where this very address goes.
    pub output: u64,
    /// Size of the page or block, in bytes.
    pub size: u64,
    /// What all levels together allow.
    pub attributes: A,
    /// The access flag is set. Where it is not, and nobody sets it, the access faults at the leaf's height.
    pub accessed: bool,
    /// Height of the leaf.
    pub height: u8,
}

/// Why a walk ended without a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkFaultKind<E> {
    /// The input address is wider than the tables.
    Input,
    /// Nothing is mapped there.
    Invalid,
    /// The entry has a form that the architecture reserves (VMSA: a translation fault as well).
    Reserved,
    /// An address in the entry is wider than the output; at the root's height it may be that of the root.
    OutputTooWide(u64),
    /// The entry at this address could not be read.
    Read(u64, E),
}

/// Why a walk ended without a leaf, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkFault<E> {
    /// Why.
    pub kind: WalkFaultKind<E>,
    /// The height that it happened at. VMSA levels are 3 minus this.
    pub height: u8,
}

/// Walks `table` for `address` through `read`, which returns the 8-byte entry at an address. Each entry is read once,
/// and never more of them than there are levels, whatever they say.
///
/// # Errors
/// [`WalkFault`], one for each [`WalkFaultKind`].
pub fn walk_foreign<F: Format, E>(
    table: &ForeignTable<F>,
    address: u64,
    mut read: impl FnMut(u64) -> Result<u64, E>,
) -> Result<Translation<F::Attributes>, WalkFault<E>> {
    let top = table.layout.top;
    let fault = |kind, height| Err(WalkFault { kind, height });
    if address >> table.input_bits != 0 {
        return fault(WalkFaultKind::Input, top);
    }
    let too_wide = |at: u64| at >> table.output_bits != 0;
    if too_wide(table.root) {
        return fault(WalkFaultKind::OutputTooWide(table.root), top);
    }
    let mut next = table.root;
    let mut links = [0; 5];
    let mut seen = 0;
    for height in (0..=top).rev() {
        let at = next + table.layout.index::<F>(address, height) as u64 * 8;
        let entry = match read(at) {
            Ok(entry) => entry,
            Err(error) => return fault(WalkFaultKind::Read(at, error), height),
        };
        match F::decode(entry, height) {
            Entry::Invalid => return fault(WalkFaultKind::Invalid, height),
            Entry::Reserved => return fault(WalkFaultKind::Reserved, height),
            Entry::Table(to) | Entry::Leaf(to) if too_wide(to) => {
                return fault(WalkFaultKind::OutputTooWide(to), height);
            }
            Entry::Table(to) => {
                next = to;
                links[seen] = entry;
                seen += 1;
            }
            Entry::Leaf(output) => {
                let size = 1u64 << F::shift(height);
                let above = if table.restricts { &links[..seen] } else { &[] };
                let own = F::attributes(entry);
                return Ok(Translation {
                    output: output + (address & (size - 1)),
                    size,
                    attributes: above.iter().fold(own, |all, &link| F::restrict(all, link)),
                    accessed: F::accessed(entry),
                    height,
                });
            }
        }
    }
    // No format has a table at height 0.
    fault(WalkFaultKind::Reserved, 0)
}
