//! Every format, against walkers written from the documents and against a map of pages.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::machine::{FREED, Frame, Ram};
use crate::addr::{Hpa, Iova, Span};
use crate::table::{
    Attributes, Format, Granule, Granule4K, Granule16K, Granule64K, Invalidated, MapError, Memory,
    PageTable, Replace, SecondStage, SecondStageAttributes, Shape, StageOne, StageOneAttributes,
    StageTwo, Unmapped,
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

fn look<F: Walked>(ram: &Ram, table: &PageTable<Ram, F>, address: u64) -> Option<Seen> {
    hardware::<F>(ram, table.root().0, table.layout().top.into(), address)
}

/// Calls `$case::<F>(shape)` for every format.
macro_rules! every_format {
    ($($name:ident: $format:ty, $bits:literal;)*) => {
        $(
            mod $name {
                use super::*;

                #[test]
                fn every_width_reaches_both_ends() {
                    ends::<$format>();
                }
                #[test]
                fn every_cut_of_two_blocks_leaves_the_rest() {
                    for replace in [Replace::Break, Replace::InPlace] {
                        cuts::<$format>(Shape { replace, ..Shape::new($bits) });
                    }
                }
                #[test]
                fn every_failed_allocation_changes_nothing() {
                    failures::<$format>(Shape::new($bits));
                }
                #[test]
                fn writes_are_noted_and_read_once() {
                    for replace in [Replace::Break, Replace::InPlace] {
                        dirty::<$format>(Shape { replace, dirty: true, ..Shape::new($bits) });
                    }
                }

                proptest! {
                    #![proptest_config(ProptestConfig {
                        cases: 12 * ProptestConfig::default().cases / 256,
                        failure_persistence: None,
                        ..ProptestConfig::default()
                    })]
                    #[test]
                    fn tables_agree_with_a_map_of_pages(ops in ops(), in_place: bool, coherent: bool) {
                        let replace = if in_place { Replace::InPlace } else { Replace::Break };
                        agree::<$format>(Shape { replace, coherent, ..Shape::new($bits) }, ops);
                    }
                }
            }
        )*
    };
}

every_format! {
    stage_two_4k: StageTwo<Granule4K>, 39;
    stage_two_4k_four_levels: StageTwo<Granule4K>, 48;
    stage_two_16k: StageTwo<Granule16K>, 40;
    stage_two_64k: StageTwo<Granule64K>, 48;
    stage_one_4k: StageOne<Granule4K>, 48;
    stage_one_16k: StageOne<Granule16K>, 48;
    stage_one_64k: StageOne<Granule64K>, 48;
    second_stage_three_levels: SecondStage, 39;
    second_stage_five_levels: SecondStage, 57;
}

/// The first and the last page of every width, concatenated or not, and the widths that there are.
fn ends<F: Walked>() {
    for bits in 0..=64u8 {
        for concatenate in [false, true] {
            let shape = Shape {
                concatenate,
                ..Shape::new(bits)
            };
            let ram = Ram(Arc::default());
            let page = 1u64 << F::PAGE_SHIFT;
            let made = PageTable::<Ram, F>::with_shape(Arc::new(ram.clone()), shape);
            let mut table = match made {
                Ok(table) => table,
                Err(error) => {
                    assert_eq!(error, MapError::Width(bits));
                    let inside = (F::INPUT.0..=F::INPUT.1).contains(&bits);
                    // Only 16 KiB stage 2 has widths that need concatenation (R_DXBSH).
                    assert!(!inside || (F::CONCATENATES && F::PAGE_SHIFT == 14 && bits == 48));
                    assert!(!inside || !concatenate);
                    continue;
                }
            };
            let top = (1u64 << bits) - page;
            for at in [0, top] {
                let range = span(at, page);
                table
                    .map(range, Hpa(at & 0xffff_ffff_0000), F::READ_WRITE)
                    .expect("free");
                let seen = look(&ram, &table, at).expect("mapped");
                assert_eq!((seen.output, seen.size), (at & 0xffff_ffff_0000, page));
            }
            let past = table.map(span(top, 2 * page), Hpa(0), F::READ_WRITE);
            assert_eq!(past, Err(MapError::InputTooWide(1 << bits)));
            let cut = table.unmap(span(0, 1 << bits));
            table.release(cut, Invalidated::complete());
            assert_eq!(look(&ram, &table, top), None);
            assert_eq!(
                table.counters().table_bytes,
                table.layout().root_bytes() as u64
            );
        }
    }
}

/// Block size of `F` below the greatest, in pages.
fn block<F: Format>() -> u64 {
    1 << F::INDEX_BITS
}

/// Two blocks, and every range between interesting pages unmapped or protected.
fn cuts<F: Walked>(shape: Shape) {
    let (page, block) = (1u64 << F::PAGE_SHIFT, block::<F>());
    let base = 4 * block * page;
    let marks = [
        0,
        1,
        7,
        block - 1,
        block,
        block + 1,
        2 * block - 1,
        2 * block,
    ];
    for (n, &from) in marks.iter().enumerate() {
        for &to in &marks[n + 1..] {
            for protect in [false, true] {
                let (ram, mut table) = make::<F>(shape);
                let all = span(base, 2 * block * page);
                table.map(all, Hpa(base), F::READ_WRITE).expect("free");
                assert_eq!(table.counters().leaf_stores, 2);
                let range = span(base + from * page, (to - from) * page);
                let changed = if protect {
                    table.protect(range, F::READ_ONLY).expect("mapped")
                } else {
                    ram.budget(Some(0));
                    let cut = table.unmap(range);
                    assert_eq!(cut.removed::<Iova>(), range, "nothing more is gone");
                    cut
                };
                assert!(changed.stale::<Iova>().covers(&range));
                if shape.replace == Replace::InPlace {
                    assert!(look(&ram, &table, base).is_some() || !protect && from == 0);
                }
                table.release(changed, Invalidated::complete());
                for &mark in &marks {
                    for at in [mark.wrapping_sub(1), mark] {
                        if at >= 2 * block {
                            continue;
                        }
                        let address = base + at * page;
                        let seen = look(&ram, &table, address);
                        let touched = (from..to).contains(&at);
                        let access = seen.map(|seen| {
                            assert_eq!(seen.output, address);
                            F::access(seen.entry)
                        });
                        let expected = match (touched, protect) {
                            (true, false) => None,
                            (true, true) => Some(1),
                            (false, _) => Some(3),
                        };
                        assert_eq!(access, expected, "page {at} of {from}..{to}");
                    }
                }
            }
        }
    }
}

/// Fails each allocation in turn, in a map and in a protect.
fn failures<F: Walked>(shape: Shape) {
    let (page, block) = (1u64 << F::PAGE_SHIFT, block::<F>());
    let mut done = [false; 2];
    for budget in 0..40 {
        for protect in [false, true] {
            let (ram, mut table) = make::<F>(shape);
            let all = span(0, 4 * block * page);
            table.map(all, Hpa(0), F::READ_WRITE).expect("free");
            let (words, live, counters) = (ram.words(), ram.live(), table.counters());
            ram.budget(Some(budget));
            let result = if protect {
                let range = span(page, 3 * block * page);
                table.protect(range, F::READ_ONLY).map(|changed| {
                    table.release(changed, Invalidated::complete());
                })
            } else {
                let range = span(8 * block * page - page, 2 * block * page);
                table.map(range, Hpa(page), F::READ_WRITE)
            };
            match result {
                Ok(()) => done[usize::from(protect)] = true,
                Err(error) => {
                    assert_eq!(error, MapError::OutOfMemory);
                    assert_eq!(table.counters(), counters);
                    assert_eq!(ram.live(), live);
                    let after = ram.words();
                    assert!(words.iter().all(|(at, word)| after[at] == *word));
                }
            }
            ram.budget(None);
            let everything = table.unmap(span(0, 1 << shape.input_bits));
            table.release(everything, Invalidated::complete());
            assert_eq!(
                table.counters().table_bytes,
                table.layout().root_bytes() as u64
            );
        }
    }
    assert_eq!(done, [true; 2], "40 tables are enough");
}

/// A device that writes, and what is said of it.
fn dirty<F: Walked>(shape: Shape) {
    let (page, block) = (1u64 << F::PAGE_SHIFT, block::<F>());
    let (ram, mut table) = make::<F>(shape);
    let all = span(0, 3 * block * page);
    table.map(all, Hpa(0), F::READ_WRITE).expect("free");
    let write = |table: &PageTable<Ram, F>, at: u64| {
        let seen = look(&ram, table, at).expect("mapped");
        ram.set(seen.at, F::written(seen.entry).expect("writable"));
    };
    let read = |table: &mut PageTable<Ram, F>, range, clear| {
        let mut found = Vec::new();
        let stale = table.read_dirty(range, clear, |part: Span<Iova>| {
            found.push((part.base.0 / page, part.len / page));
        });
        let stale = stale.expect("tracked");
        assert_eq!(stale.is_empty(), !clear || found.is_empty());
        assert!(stale.is_empty() || stale.leaf_only());
        table.release(stale, Invalidated::complete());
        found
    };
    assert_eq!(read(&mut table, all, true), []);
    write(&table, block * page);
    assert_eq!(read(&mut table, all, false), [(block, block)]);
    // A part of a block is reported and stays noted.
    let part = span((block + 3) * page, page);
    let mut found = Vec::new();
    let stale = table.read_dirty(part, true, |part: Span<Iova>| found.push(part));
    assert!(stale.expect("tracked").is_empty());
    assert_eq!(found, [part]);
    assert_eq!(read(&mut table, all, true), [(block, block)]);
    assert_eq!(read(&mut table, all, true), []);
    // The parts of a cut block inherit what is known of it.
    write(&table, 0);
    let cut = table.unmap(span(page, page));
    table.release(cut, Invalidated::complete());
    let parts = read(&mut table, all, true);
    assert_eq!(parts.len() as u64, block - 1);
    write(&table, 5 * page);
    assert_eq!(read(&mut table, span(0, 6 * page), true), [(5, 1)]);
    // A change of permissions keeps it, but for who may not write any more.
    write(&table, 6 * page);
    let changed = table
        .protect(span(6 * page, page), F::READ_WRITE)
        .expect("mapped");
    assert!(changed.is_empty(), "nothing to change");
    table.release(changed, Invalidated::complete());
    assert_eq!(read(&mut table, all, true), [(6, 1)]);
    let changed = table
        .protect(span(6 * page, page), F::READ_ONLY)
        .expect("mapped");
    table.release(changed, Invalidated::complete());
    let seen = look(&ram, &table, 6 * page).expect("mapped");
    assert_eq!(F::written(seen.entry), None);
    // A clean block that is cut stays clean.
    let cut = table.unmap(span((2 * block + 1) * page, page));
    table.release(cut, Invalidated::complete());
    assert_eq!(read(&mut table, all, true), []);
    let (_, mut untracked) = make::<F>(Shape {
        dirty: false,
        ..shape
    });
    let refused = untracked.read_dirty(all, true, |_| panic!("nothing is noted"));
    assert_eq!(refused.err(), Some(MapError::Untracked));
}

#[derive(Clone, Debug)]
struct Op {
    kind: u8,
    /// In eighths of a block, or pages from there.
    at: (u64, u64),
    len: (u64, u64),
    output: (u64, u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let spot = || (0..24u64, prop_oneof![Just(0), Just(0), 0..9u64]);
    let op = (0..8u8, spot(), spot(), spot()).prop_map(|(kind, at, len, output)| Op {
        kind,
        at,
        len,
        output,
    });
    prop::collection::vec(op, 1..24)
}

/// Steps against a map of pages, looked at near every end that was ever named.
fn agree<F: Walked>(shape: Shape, ops: Vec<Op>) {
    let (ram, mut table) = make::<F>(shape);
    let (page, block) = (1u64 << F::PAGE_SHIFT, block::<F>());
    // Across an entry of the level above the blocks.
    let base = block * block * page - block * page;
    let pages = |spot: (u64, u64)| spot.0 * (block / 8) + spot.1;
    let live = ram.live();
    let mut model: BTreeMap<u64, (u64, u8)> = BTreeMap::new();
    let mut marks = Vec::new();
    let mut late: Vec<Unmapped<Frame>> = Vec::new();
    for op in ops {
        let (at, len) = (pages(op.at), pages(op.len).max(1));
        let output = 0x10_0000_0000 + pages(op.output) * page;
        let range = span(base + at * page, len * page);
        marks.extend([at, at + len, at + len / 2]);
        if op.kind < 6 {
            for changed in late.drain(..) {
                table.release(changed, Invalidated::complete());
            }
        }
        match op.kind {
            0..4 => {
                let used = model.range(at..at + len).next().map(|(page, _)| *page);
                let result = table.map(range, Hpa(output), F::READ_WRITE);
                match used {
                    Some(used) => assert_eq!(result, Err(MapError::Mapped(base + used * page))),
                    None => {
                        assert_eq!(result, Ok(()));
                        model.extend((0..len).map(|n| (at + n, (output + n * page, 3))));
                    }
                }
            }
            4 | 6 => {
                let cut = table.unmap(range);
                assert_eq!(cut.removed::<Iova>(), range);
                let nothing = model.range(at..at + len).next().is_none();
                assert_eq!(cut.is_empty(), nothing);
                let mut rest = model.split_off(&at);
                model.append(&mut rest.split_off(&(at + len)));
                late.push(cut);
            }
            _ => {
                let (attributes, access) = if op.kind == 5 {
                    (F::READ_ONLY, 1)
                } else {
                    (F::READ_WRITE, 3)
                };
                let whole = model.range(at..at + len).count() as u64 == len;
                match table.protect(range, attributes) {
                    Ok(changed) => {
                        assert!(whole);
                        model
                            .range_mut(at..at + len)
                            .for_each(|(_, to)| to.1 = access);
                        late.push(changed);
                    }
                    Err(error) => {
                        // A table of a block that was cut and not released is out of force, but mapped.
                        assert!(!whole, "{error:?}");
                        assert!(matches!(error, MapError::NotMapped(_)));
                    }
                }
            }
        }
        let near = marks.iter().flat_map(|mark| [mark.wrapping_sub(1), *mark]);
        for at in near.filter(|at| *at < 4 * 8 * block) {
            let address = base + at * page;
            let expected = model.get(&at).copied();
            let seen = look(&ram, &table, address);
            let seen = seen.map(|seen| (seen.output, F::access(seen.entry)));
            // Under break-before-make what is left of a cut block is out of force for a while.
            if !(seen.is_none() && !late.is_empty() && shape.replace == Replace::Break) {
                assert_eq!(seen, expected, "walk of page {at}");
            }
            let record = table.walk(Iova(address)).map(|leaf| leaf.output.0);
            assert_eq!(record, expected.map(|to| to.0), "record of page {at}");
        }
        if !shape.coherent {
            assert_eq!(ram.dirty(), 0, "every store is cleaned");
        }
    }
    late.push(table.unmap(span(0, 1 << shape.input_bits)));
    for changed in late {
        table.release(changed, Invalidated::complete());
    }
    assert_eq!(ram.live(), live);
    assert_eq!(
        table.counters().table_bytes,
        table.layout().root_bytes() as u64
    );
}

#[test]
fn concatenation_saves_a_level_where_it_is_asked_for() {
    let top = |bits, concatenate| {
        let shape = Shape {
            concatenate,
            ..Shape::new(bits)
        };
        let layout = shape.layout::<StageTwo<Granule4K>>().expect("a width");
        (layout.top, layout.root_entries)
    };
    assert_eq!(top(39, true), (2, 512));
    assert_eq!(top(40, false), (3, 2));
    assert_eq!(top(40, true), (2, 1024));
    assert_eq!(top(43, true), (2, 8192));
    assert_eq!(top(44, true), (3, 32));
    // R_DXBSH: 48 bits with 16 KiB granules are two tables at level 1.
    let two = Shape {
        concatenate: true,
        ..Shape::new(48)
    };
    let layout = two.layout::<StageTwo<Granule16K>>().expect("a width");
    assert_eq!((layout.top, layout.root_entries), (2, 4096));
    // R_SRKBC: 40 and 42 bits of output have no level 0 with 4 KiB granules.
    let narrow = Shape {
        output_bits: 40,
        ..Shape::new(40)
    };
    let refused = narrow.layout::<StageTwo<Granule4K>>();
    assert_eq!(refused, Err(MapError::Width(40)));
    let stage_one = narrow.layout::<StageOne<Granule4K>>();
    assert_eq!(stage_one.expect("a width").top, 3);
}

#[test]
fn leaves_are_no_larger_than_the_walkers_know() {
    for (largest, size) in [
        (4096, 4096),
        (2 << 20, 2 << 20),
        (1 << 29, 2 << 20),
        (1 << 30, 1 << 30),
    ] {
        let (_, mut table) = make::<SecondStage>(Shape {
            largest,
            ..Shape::new(39)
        });
        table
            .map(
                span(1 << 30, 1 << 30),
                Hpa(1 << 30),
                SecondStageAttributes::DMA,
            )
            .expect("free");
        assert_eq!(table.walk(Iova(1 << 30)).expect("mapped").size, size);
    }
}

#[test]
fn protect_refuses_a_change_of_more_than_permissions() {
    let (ram, mut table) = make::<StageTwo<Granule16K>>(Shape::new(40));
    let range = span(0, 1 << 14);
    table.map(range, Hpa(0), Attributes::DMA).expect("free");
    let before = ram.words();
    let device = Attributes {
        memory: Memory::Device,
        ..Attributes::DMA
    };
    assert_eq!(
        table.protect(range, device).err(),
        Some(MapError::MemoryType(0))
    );
    assert_eq!(ram.words(), before);
}

#[test]
fn single_pages_of_two_tables_in_turn() {
    let (ram, mut table) = make::<StageTwo<Granule4K>>(Shape::new(39));
    let far = 1 << 30;
    let mut mapped = BTreeMap::new();
    // Runs of one to four pages in one table, then in the other, and what is wrong in between.
    for n in 0..600u64 {
        let table_base = if n / (n % 4 + 1) % 2 == 0 { 0 } else { far };
        let at = table_base + n * 7 % 64 * 4096;
        let range = span(at, 4096);
        if mapped.remove(&at).is_some() {
            let cut = table.unmap(range);
            assert!(!cut.is_empty());
            table.release(cut, Invalidated::complete());
        } else {
            assert!(table.unmap(range).is_empty());
            let wrong = table.map(range, Hpa(1 << 48), Attributes::DMA);
            assert_eq!(wrong, Err(MapError::OutputTooWide(1 << 48)));
            let wide = table.map(span(1 << 39, 4096), Hpa(at), Attributes::DMA);
            assert_eq!(wide, Err(MapError::InputTooWide(1 << 39)));
            assert!(table.unmap(span(1 << 39, 4096)).is_empty());
            table
                .map(range, Hpa(n << 12), Attributes::DMA)
                .expect("free");
            let again = table.map(range, Hpa(0), Attributes::DMA);
            assert_eq!(again, Err(MapError::Mapped(at)));
            mapped.insert(at, n << 12);
        }
        for (at, output) in [0, far]
            .into_iter()
            .flat_map(|base| (0..64).map(move |n| base + n * 4096))
            .map(|at| (at, mapped.get(&at)))
        {
            let seen = look(&ram, &table, at).map(|seen| seen.output);
            assert_eq!(seen.as_ref(), output);
            assert_eq!(
                table.walk(Iova(at)).map(|leaf| leaf.output.0).as_ref(),
                output
            );
        }
    }
    table.root();
    table.retire(Invalidated::complete());
    assert_eq!(ram.live(), 0);
}
