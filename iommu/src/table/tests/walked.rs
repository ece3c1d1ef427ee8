//! Walkers of every format, written from the documents.

use alloc::sync::Arc;

use super::machine::{FREED, Ram};
use crate::addr::{Iova, Span};
use crate::table::{
    Attributes, Ept, Format, Granule, Invalidated, Npt, PageTable, SecondStage,
    SecondStageAttributes, Shape, StageOne, StageOneAttributes, StageTwo,
};

/// What a walker finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub output: u64,
    pub size: u64,
    /// Where the leaf is.
    pub at: u64,
    pub entry: u64,
}

/// A format as the tests see it: by words of its document.
pub trait Walked: Format {
    const READ_WRITE: Self::Attributes;
    const READ_ONLY: Self::Attributes;
    /// One step of a walk, at a height: where it goes on, or the leaf's address.
    fn step(entry: u64, height: u32) -> Option<Step>;
    /// R and W as bits 0 and 1.
    fn access(entry: u64) -> u8;
    /// What a walker that notes writes makes of an entry that it writes through; `None` faults.
    fn written(entry: u64) -> Option<u64>;
}

/// Where a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Table(u64),
    Leaf(u64),
}

fn vmsa_step(entry: u64, height: u32, granule: u32) -> Option<Step> {
    let address = entry & 0x0000_ffff_ffff_ffff & !((1 << granule) - 1);
    // 4 KiB: blocks at levels 1 and 2; 16 and 64 KiB: at level 2.
    let block = if granule == 12 { 1..=2 } else { 1..=1 };
    match entry & 3 {
        3 if height > 0 => Some(Step::Table(address)),
        3 => Some(Step::Leaf(address)),
        1 if block.contains(&height) => Some(Step::Leaf(address)),
        _ => None,
    }
}

impl<G: Granule> Walked for StageTwo<G> {
    const READ_WRITE: Attributes = Attributes::DMA;
    const READ_ONLY: Attributes = Attributes {
        write: false,
        ..Attributes::DMA
    };
    fn step(entry: u64, height: u32) -> Option<Step> {
        vmsa_step(entry, height, G::SHIFT)
    }
    fn access(entry: u64) -> u8 {
        assert_ne!(entry & 1 << 10, 0, "access flag");
        (entry >> 6 & 3) as u8 | (entry >> 50 & 2) as u8
    }
    fn written(entry: u64) -> Option<u64> {
        match (entry >> 7 & 1, entry >> 51 & 1) {
            (1, _) => Some(entry),
            (0, 1) => Some(entry | 1 << 7),
            _ => None,
        }
    }
}

impl<G: Granule> Walked for StageOne<G> {
    const READ_WRITE: StageOneAttributes = StageOneAttributes::DMA;
    const READ_ONLY: StageOneAttributes = StageOneAttributes {
        write: false,
        ..StageOneAttributes::DMA
    };
    fn step(entry: u64, height: u32) -> Option<Step> {
        vmsa_step(entry, height, G::SHIFT)
    }
    fn access(entry: u64) -> u8 {
        assert_ne!(entry & 1 << 10, 0, "access flag");
        assert_ne!(entry & 1 << 6, 0, "unprivileged");
        1 | (!entry >> 6 & 2) as u8 | (entry >> 50 & 2) as u8
    }
    fn written(entry: u64) -> Option<u64> {
        match (entry >> 7 & 1, entry >> 51 & 1) {
            (0, _) => Some(entry),
            (1, 1) => Some(entry & !(1 << 7)),
            _ => None,
        }
    }
}

impl Walked for SecondStage {
    const READ_WRITE: SecondStageAttributes = SecondStageAttributes::DMA;
    const READ_ONLY: SecondStageAttributes = SecondStageAttributes {
        write: false,
        ..SecondStageAttributes::DMA
    };
    fn step(entry: u64, height: u32) -> Option<Step> {
        let address = entry & 0x000f_ffff_ffff_f000;
        match (entry & 3, entry >> 7 & 1, height) {
            (0, ..) => None,
            (_, _, 0) | (_, 1, 1 | 2) => Some(Step::Leaf(address)),
            (_, 1, _) => panic!("page size bit where it is reserved"),
            (access, 0, _) => {
                assert_eq!(access, 3, "tables restrict nothing");
                Some(Step::Table(address))
            }
            _ => None,
        }
    }
    fn access(entry: u64) -> u8 {
        (entry & 3) as u8
    }
    fn written(entry: u64) -> Option<u64> {
        (entry & 2 != 0).then_some(entry | 0x300)
    }
}

impl Walked for Npt {
    const READ_WRITE: Attributes = Attributes::DMA;
    const READ_ONLY: Attributes = Attributes {
        write: false,
        ..Attributes::DMA
    };
    fn step(entry: u64, height: u32) -> Option<Step> {
        let address = entry & 0x000f_ffff_ffff_f000;
        match (entry & 1, entry >> 7 & 1, height) {
            (0, ..) => None,
            (_, _, 0) | (_, 1, 1 | 2) => Some(Step::Leaf(address)),
            (_, 1, _) => panic!("page size bit where it is reserved"),
            _ => {
                assert_eq!((entry & 7, entry >> 63), (7, 0), "tables restrict nothing");
                Some(Step::Table(address))
            }
        }
    }
    fn access(entry: u64) -> u8 {
        assert_ne!(entry & 1 << 2, 0, "guests are users");
        (entry & 3) as u8
    }
    fn written(entry: u64) -> Option<u64> {
        (entry & 2 != 0).then_some(entry | 0x60)
    }
}

impl Walked for Ept {
    const READ_WRITE: Attributes = Attributes::DMA;
    const READ_ONLY: Attributes = Attributes {
        write: false,
        ..Attributes::DMA
    };
    fn step(entry: u64, height: u32) -> Option<Step> {
        let address = entry & 0x000f_ffff_ffff_f000;
        match (entry & 7, entry >> 7 & 1, height) {
            (0, ..) => None,
            (2 | 6, ..) => panic!("misconfigured"),
            (_, _, 0) | (_, 1, 1 | 2) => {
                assert_eq!(entry >> 3 & 7, 6, "write-back");
                Some(Step::Leaf(address))
            }
            (access, size, _) => {
                assert_eq!((access, size, entry >> 3 & 0xf), (7, 0, 0), "reserved bits");
                Some(Step::Table(address))
            }
        }
    }
    fn access(entry: u64) -> u8 {
        (entry & 3) as u8
    }
    fn written(entry: u64) -> Option<u64> {
        (entry & 2 != 0).then_some(entry | 0x300)
    }
}

/// A walk by descriptors alone, from a root at `top` levels above the pages.
pub fn hardware<F: Walked>(ram: &Ram, root: u64, top: u32, address: u64) -> Option<Seen> {
    let bits = F::PAGE_SHIFT - 3;
    let mut table = root;
    for height in (0..=top).rev() {
        let shift = F::PAGE_SHIFT + bits * height;
        let mut index = address >> shift;
        if height < top {
            index &= (1 << bits) - 1;
        }
        let at = table + index * 8;
        let entry = ram.word(at);
        assert_ne!(entry, FREED, "walk into freed memory");
        match F::step(entry, height)? {
            Step::Table(next) => table = next,
            Step::Leaf(output) => {
                let offset = address & ((1 << shift) - 1);
                assert_eq!(output & ((1 << shift) - 1), 0, "address of the leaf");
                return Some(Seen {
                    output: output + offset,
                    size: 1 << shift,
                    at,
                    entry,
                });
            }
        }
    }
    None
}

pub fn make<F: Walked>(shape: Shape) -> (Ram, PageTable<Ram, F>) {
    let ram = Ram(Arc::default());
    let table = PageTable::with_shape(Arc::new(ram.clone()), shape).expect("a shape");
    (ram, table)
}

pub fn span(base: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(base), len).expect("range")
}

pub fn look<F: Walked>(ram: &Ram, table: &PageTable<Ram, F>, address: u64) -> Option<Seen> {
    hardware::<F>(ram, table.root().0, table.layout().top.into(), address)
}

/// Unmaps, and nobody has anything of it cached.
pub fn unmap<F: Format>(table: &mut PageTable<Ram, F>, range: Span<Iova>) {
    let cut = table.unmap(range);
    table.release(cut, Invalidated::complete());
}
