//! What is at the edges: malformed pages beside good ones, counts, what a change of permissions may cost, the reserve.

use alloc::vec::Vec;

use super::formats::{Walked, hardware, make, span};
use super::machine::Ram;
use crate::addr::{Gpa, Hpa, Iova, Span};
use crate::table::{
    Attributes, Format, Granule4K, Granule16K, Granule64K, Invalidated, MapError, PageTable,
    Replace, SecondStage, SecondStageAttributes, Shape, StageOne, StageOneAttributes, StageTwo,
};

const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
/// In the middle of a table of pages.
const BASE: u64 = 0x4020_0000;

/// A format with a second kind of mapping that can be written to.
trait Changed: Walked {
    const OTHER: Self::Attributes;
}

impl Changed for StageTwo<Granule4K> {
    const OTHER: Attributes = Attributes::RAM;
}

impl Changed for StageOne<Granule16K> {
    const OTHER: StageOneAttributes = StageOneAttributes {
        execute: true,
        ..StageOneAttributes::DMA
    };
}

impl Changed for SecondStage {
    const OTHER: SecondStageAttributes = SecondStageAttributes {
        execute: true,
        ..SecondStageAttributes::DMA
    };
}

fn bare(base: u64, len: u64) -> Span<Iova> {
    Span {
        base: Iova(base),
        len,
    }
}

/// Whether the next operation finds all that it may need without memory.
fn is_ready<F: Format>(table: &PageTable<Ram, F>) -> bool {
    !table.spare.fill_is_due(PageTable::<Ram, F>::RESERVE)
}

fn unmap<F: Format>(table: &mut PageTable<Ram, F>, range: Span<Iova>) {
    let cut = table.unmap(range);
    table.release(cut, Invalidated::complete());
}

#[test]
fn a_malformed_page_is_refused_beside_good_ones_of_its_table() {
    let (ram, mut table) = make::<StageTwo<Granule4K>>(Shape::new(48));
    for page in 0..3 {
        let at = BASE + page * K4;
        table
            .map(span(at, K4), Hpa(at), Attributes::DMA)
            .expect("free");
    }
    let (words, counters) = (ram.words(), table.counters());
    let (free, odd) = (BASE + 8 * K4, 0x800);
    for (at, output, error) in [
        (free + odd, free, MapError::Misaligned(free + odd)),
        (free, free + odd, MapError::Misaligned(free + odd)),
        (free + odd, free + odd, MapError::Misaligned(free + odd)),
        (free + 1, 2, MapError::Misaligned(free + 1)),
        (free, 1 << 48 | 1, MapError::Misaligned(1 << 48 | 1)),
        (free, 1 << 48, MapError::OutputTooWide(1 << 48)),
    ] {
        let result = table.map(bare(at, K4), Hpa(output), Attributes::DMA);
        assert_eq!(result, Err(error), "{at:#x} to {output:#x}");
    }
    // As far off a page in length as in place.
    let result = table.map(bare(free + odd, odd), Hpa(free), Attributes::DMA);
    assert_eq!(result, Err(MapError::Misaligned(free + odd)));
    assert_eq!((ram.words(), table.counters()), (words, counters));
}

#[test]
fn single_pages_are_counted_and_the_last_takes_its_table_with_it() {
    let (_, mut table) = make::<StageTwo<Granule4K>>(Shape::new(48));
    let empty = table.counters().table_bytes;
    for page in 0..5 {
        let at = BASE + page * K4;
        table
            .map(span(at, K4), Hpa(at), Attributes::DMA)
            .expect("free");
        assert_eq!(table.counters().leaf_stores, page + 1);
    }
    assert_eq!(table.counters().table_bytes, empty + 3 * K4);
    for page in 0..5 {
        unmap(&mut table, span(BASE + page * K4, K4));
        let counters = table.counters();
        let left = if page == 4 { 0 } else { 3 * K4 };
        assert_eq!(counters.table_bytes, empty + left);
        // The last is cut off with three tables, by one store.
        assert_eq!(counters.leaf_stores, 5 + (page + 1).min(4));
        assert_eq!(counters.table_stores, 3 + page / 4);
    }
}

#[test]
fn a_table_that_was_asked_for_twice_in_a_row_is_at_hand() {
    fn of<F: Walked>(shape: Shape) {
        let (_, mut table) = make::<F>(shape);
        let page = 1u64 << F::PAGE_SHIFT;
        let at_hand =
            |table: &PageTable<Ram, F>, at: u64| table.hot.table(at >> F::shift(1)).is_some();
        let (near, far) = (3u64 << F::shift(1), 9u64 << F::shift(1));
        // Made, used, used again.
        for n in 0..3 {
            assert!(
                !at_hand(&table, near) && !at_hand(&table, far),
                "used in turn"
            );
            let at = near + n * page;
            table
                .map(span(at, page), Hpa(at), F::READ_WRITE)
                .expect("free");
            table
                .map(span(far + n * page, page), Hpa(0), F::READ_WRITE)
                .expect("free");
        }
        for n in 3..5 {
            let at = near + n * page;
            table
                .map(span(at, page), Hpa(at), F::READ_WRITE)
                .expect("free");
        }
        assert!(at_hand(&table, near) && !at_hand(&table, far));
        unmap(&mut table, span(far, page));
        unmap(&mut table, span(far + page, page));
        assert!(at_hand(&table, far) && !at_hand(&table, near));
        // Whatever is more than pages of one table puts it back.
        table
            .map(
                span(6 << F::shift(1), page << F::INDEX_BITS),
                Hpa(0),
                F::READ_WRITE,
            )
            .expect("free");
        assert!(!at_hand(&table, far));
    }
    of::<StageTwo<Granule4K>>(Shape::new(39));
    of::<StageOne<Granule4K>>(Shape::new(48));
    of::<StageTwo<Granule64K>>(Shape::new(42));
    of::<SecondStage>(Shape::new(57));
}

#[test]
fn what_is_in_the_way_of_a_block_is_named_exactly() {
    let (_, mut table) = make::<StageTwo<Granule4K>>(Shape::new(48));
    let used = 3 * G1 + 5 * M2 + 7 * K4;
    table
        .map(span(used, K4), Hpa(0), Attributes::DMA)
        .expect("free");
    for (base, len) in [
        (3 * G1, G1),
        (2 * G1, 2 * G1),
        (3 * G1 + 5 * M2, M2),
        (3 * G1 + 4 * M2, 4 * M2),
        (3 * G1 + 5 * M2 + 6 * K4, 2 * K4),
    ] {
        let result = table.map(span(base, len), Hpa(0), Attributes::DMA);
        assert_eq!(result, Err(MapError::Mapped(used)), "{base:#x}");
    }
}

#[test]
fn layouts_at_the_least_of_everything() {
    // 64 KiB: two levels are the fewest, concatenation or not.
    for concatenate in [false, true] {
        let shape = Shape {
            concatenate,
            ..Shape::new(33)
        };
        let layout = shape.layout::<StageTwo<Granule64K>>().expect("a width");
        assert_eq!((layout.top, layout.root_entries), (1, 16));
    }
    // Smaller than a page: pages.
    let shape = Shape {
        largest: 1,
        ..Shape::new(39)
    };
    assert_eq!(shape.layout::<SecondStage>().expect("a width").blocks, 0);
}

#[test]
fn a_range_of_nothing_has_no_notes() {
    let (_, mut table) = make::<SecondStage>(Shape {
        dirty: true,
        ..Shape::new(39)
    });
    table
        .map(span(0, K4), Hpa(0), SecondStageAttributes::DMA)
        .expect("free");
    for range in [bare(0, 0), bare(K4, 0), bare(1 << 39, K4)] {
        let stale = table.read_dirty(range, true, |_: Span<Iova>| panic!("nothing is noted"));
        assert!(stale.expect("tracked").is_empty());
    }
}

#[test]
fn whatever_was_done_the_next_unmap_needs_no_memory() {
    fn of<F: Walked>(shape: Shape) {
        let (ram, mut table) = make::<F>(shape);
        let (page, block) = (1u64 << F::PAGE_SHIFT, 1u64 << F::shift(1));
        let top = 1u64 << F::shift(F::BLOCKS);
        assert!(is_ready(&table));
        // One path in an empty table, then blocks of both sizes on paths of their own.
        table
            .map(span(0, page), Hpa(0), F::READ_WRITE)
            .expect("free");
        assert!(is_ready(&table));
        table
            .map(span(8 * top + block, block), Hpa(block), F::READ_WRITE)
            .expect("free");
        assert!(is_ready(&table));
        table
            .map(span(16 * top, 2 * top), Hpa(0), F::READ_WRITE)
            .expect("free");
        assert!(is_ready(&table));
        // From the second page of one block to the last but one of the next.
        let middle = span(16 * top + page, 2 * top - 2 * page);
        let changed = table.protect(middle, F::READ_ONLY).expect("mapped");
        assert!(is_ready(&table));
        table.release(changed, Invalidated::complete());
        let edges = span(8 * top + block + page, page);
        let changed = table.protect(edges, F::READ_ONLY).expect("mapped");
        assert!(is_ready(&table));
        table.release(changed, Invalidated::complete());
        table
            .map(span(24 * top, 2 * top), Hpa(0), F::READ_WRITE)
            .expect("free");
        ram.budget(Some(0));
        let middle = span(24 * top + page, 2 * top - 2 * page);
        let cut = table.unmap(middle);
        assert_eq!(cut.removed::<Iova>(), middle);
    }
    for replace in [Replace::Break, Replace::InPlace] {
        let shape = |bits| Shape {
            replace,
            ..Shape::new(bits)
        };
        of::<StageTwo<Granule4K>>(shape(39));
        of::<StageTwo<Granule4K>>(shape(48));
        of::<StageOne<Granule16K>>(shape(47));
        of::<SecondStage>(shape(57));
    }
}

#[test]
fn a_change_that_cuts_no_block_needs_no_memory() {
    let (ram, mut table) = make::<StageTwo<Granule4K>>(Shape::new(39));
    table
        .map(span(G1, 2 * M2), Hpa(G1), Attributes::DMA)
        .expect("free");
    let read_only = Attributes {
        write: false,
        ..Attributes::DMA
    };
    ram.budget(Some(0));
    // All of a block; a part of one that allows just that already.
    let stores = table.counters().leaf_stores;
    let whole = table.protect(span(G1, M2), read_only).expect("mapped");
    assert!(!whole.is_empty() && whole.leaf_only());
    let part = table.protect(span(G1 + K4, K4), read_only).expect("mapped");
    assert!(part.is_empty());
    assert_eq!(table.counters().leaf_stores, stores + 1);
    // A part that changes.
    let result = table.protect(span(G1 + M2 + K4, K4), read_only);
    assert_eq!(result.err(), Some(MapError::OutOfMemory));
}

#[test]
fn what_is_known_of_writes_outlives_a_change_of_permissions() {
    fn of<F: Changed>(bits: u8) {
        let (ram, mut table) = make::<F>(Shape {
            dirty: true,
            ..Shape::new(bits)
        });
        let page = 1u64 << F::PAGE_SHIFT;
        let all = span(0, 4 * page);
        table.map(all, Hpa(0), F::READ_WRITE).expect("free");
        let top = table.layout().top.into();
        let root = table.root().0;
        let seen = |at| hardware::<F>(&ram, root, top, at).expect("mapped");
        let change = |table: &mut PageTable<Ram, F>, page_at: u64, to| {
            let stores = table.counters().leaf_stores;
            let changed = table
                .protect(span(page_at * page, page), to)
                .expect("mapped");
            assert!(!changed.is_empty());
            table.release(changed, Invalidated::complete());
            table.counters().leaf_stores - stores
        };
        // Page 0 is written to before the change, page 1 never, page 2 in the middle of it.
        let before = seen(0);
        ram.set(before.at, F::written(before.entry).expect("writable"));
        assert_eq!(change(&mut table, 0, F::OTHER), 1);
        assert_eq!(change(&mut table, 1, F::OTHER), 1);
        let between = seen(2 * page);
        let written = F::written(between.entry).expect("writable");
        ram.set_before_swap(between.at, written);
        assert_eq!(change(&mut table, 2, F::OTHER), 2);
        // Page 3 was written to, and then could not be for a while.
        let before = seen(3 * page);
        ram.set(before.at, F::written(before.entry).expect("writable"));
        change(&mut table, 3, F::READ_ONLY);
        change(&mut table, 3, F::READ_WRITE);
        for at in 0..4 {
            let entry = seen(at * page).entry;
            assert!(F::written(entry).is_some(), "page {at}");
            assert_eq!(F::access(entry), 3);
            let expected = if at == 3 { F::READ_WRITE } else { F::OTHER };
            assert_eq!(F::attributes(entry), expected);
        }
        let mut found = Vec::new();
        let stores = table.counters().leaf_stores;
        let stale = table.read_dirty(all, true, |part: Span<Iova>| found.push(part));
        assert!(!stale.expect("tracked").is_empty());
        assert_eq!(found, [span(0, page), span(2 * page, page)]);
        assert_eq!(table.counters().leaf_stores, stores + 2, "one each");
    }
    of::<StageTwo<Granule4K>>(39);
    of::<StageOne<Granule16K>>(47);
    of::<SecondStage>(48);
}

#[test]
fn second_stage_has_no_leaf_that_nobody_may_read_or_write() {
    let (_, mut table) = make::<SecondStage>(Shape::new(39));
    for bits in 0..8u64 {
        let [read, write, execute] = [1, 2, 4].map(|bit| bits & bit != 0);
        let attributes = SecondStageAttributes {
            read,
            write,
            execute,
            snoop: false,
        };
        let result = table.map(span(bits * K4, K4), Hpa(0), attributes);
        // X without R is for nobody; W alone is a mapping.
        let allowed = read || write && !execute;
        assert_eq!(
            result,
            if allowed {
                Ok(())
            } else {
                Err(MapError::Access)
            }
        );
    }
    let seen = table.walk(Gpa(2 * K4)).expect("mapped").attributes;
    assert_eq!((seen.read, seen.write, seen.execute), (false, true, false));
}

#[test]
fn a_single_page_sees_to_it_that_the_next_unmap_needs_no_memory() {
    let (ram, mut table) = make::<StageTwo<Granule4K>>(Shape::new(39));
    // A page whose table's parent has a record of tables below: cutting blocks beside it takes tables only.
    table
        .map(span(G1, 2 * K4), Hpa(G1), Attributes::DMA)
        .expect("free");
    for block in 1..5 {
        table
            .map(span(G1 + block * M2, M2), Hpa(G1), Attributes::DMA)
            .expect("free");
    }
    for (n, from) in (0..).zip([G1 + 2 * M2 - K4, G1 + 4 * M2 - K4]) {
        ram.budget(Some(0));
        let edge = span(from, 2 * K4);
        let cut = table.unmap(edge);
        assert_eq!(cut.removed::<Iova>(), edge);
        table.release(cut, Invalidated::complete());
        ram.budget(None);
        let page = span(G1 + (2 + n) * K4, K4);
        table.map(page, Hpa(G1), Attributes::DMA).expect("free");
        assert!(is_ready(&table));
    }
}

#[test]
fn records_in_hand_are_few_and_used_again() {
    let (_, mut table) = make::<SecondStage>(Shape::new(57));
    let most = PageTable::<Ram, SecondStage>::RESERVE + 2;
    assert_eq!(table.spare.children[0].len(), SecondStage::ENTRIES);
    for round in 0..3 {
        // A path of five levels, and blocks that a change of permissions cuts.
        let path = span((5 + round) << 48, K4);
        let blocks = span(8 * G1, 2 * G1);
        for range in [path, blocks] {
            table
                .map(range, Hpa(0), SecondStageAttributes::DMA)
                .expect("free");
        }
        let read_only = SecondStageAttributes {
            write: false,
            ..SecondStageAttributes::DMA
        };
        let changed = table.protect(span(8 * G1 + K4, 2 * G1 - 2 * K4), read_only);
        table.release(changed.expect("mapped"), Invalidated::complete());
        assert!(table.spare.children.len() <= most);
        unmap(&mut table, path);
        unmap(&mut table, blocks);
        assert_eq!(table.spare.children.len(), most, "kept for the next");
    }
}

#[test]
fn a_table_with_few_entries_goes_back_zeroed_and_a_full_one_as_it_is() {
    for (pages, zeroed) in [(1, 3), (256, 3), (257, 2), (511, 2)] {
        let (ram, mut table) = make::<StageTwo<Granule4K>>(Shape::new(48));
        table
            .map(span(BASE, pages * K4), Hpa(K4), Attributes::DMA)
            .expect("free");
        let before = ram.zeroed();
        unmap(&mut table, span(0, 1 << 47));
        // Those above have one entry each.
        assert_eq!(ram.zeroed() - before, zeroed, "{pages} pages");
    }
}

#[test]
fn the_stores_of_a_cut_are_counted() {
    for (replace, at_once) in [(Replace::Break, 0), (Replace::InPlace, 1)] {
        let (_, mut table) = make::<StageTwo<Granule4K>>(Shape {
            replace,
            ..Shape::new(39)
        });
        table
            .map(span(G1, M2), Hpa(G1), Attributes::DMA)
            .expect("free");
        let before = table.counters();
        let cut = table.unmap(span(G1 + K4, K4));
        let counters = table.counters();
        // The parts, without the one that goes; the block itself, where it has to be invalid first.
        let leaves = counters.leaf_stores - before.leaf_stores;
        assert_eq!(leaves, 512 + 1 + (1 - at_once));
        assert_eq!(counters.table_stores - before.table_stores, at_once);
        table.release(cut, Invalidated::complete());
        assert_eq!(table.counters().table_stores - before.table_stores, 1);
        assert_eq!(table.counters().leaf_stores, counters.leaf_stores);
    }
}

#[test]
fn parts_that_no_walker_can_reach_yet_are_cut_at_once() {
    let (_, mut table) = make::<StageTwo<Granule4K>>(Shape::new(39));
    table
        .map(span(G1, G1), Hpa(G1), Attributes::DMA)
        .expect("free");
    let before = table.counters();
    let read_only = Attributes {
        write: false,
        ..Attributes::DMA
    };
    let changed = table.protect(span(G1 + K4, K4), read_only).expect("mapped");
    let counters = table.counters();
    // The block of 1 GiB is invalid first; 512 parts, of which one becomes 512 pages, of which one changes.
    assert_eq!(counters.leaf_stores - before.leaf_stores, 1 + 512 + 512 + 1);
    assert_eq!(counters.table_stores - before.table_stores, 1);
    table.release(changed, Invalidated::complete());
    assert_eq!(table.counters().table_stores - before.table_stores, 2);
}

#[test]
fn a_write_in_the_middle_of_a_cut_counts_for_all_of_the_block() {
    fn of<F: Changed>(bits: u8) {
        let (ram, mut table) = make::<F>(Shape {
            dirty: true,
            replace: Replace::InPlace,
            ..Shape::new(bits)
        });
        let page = 1u64 << F::PAGE_SHIFT;
        let largest = 1u64 << F::shift(F::BLOCKS);
        let all = span(largest, largest);
        table.map(all, Hpa(0), F::READ_WRITE).expect("free");
        let top = table.layout().top.into();
        let block = hardware::<F>(&ram, table.root().0, top, largest).expect("mapped");
        assert_eq!(block.size, largest);
        ram.set_before_swap(block.at, F::written(block.entry).expect("writable"));
        unmap(&mut table, span(largest + page, page));
        let mut noted = 0;
        let stale = table.read_dirty(all, false, |part: Span<Iova>| noted += part.len);
        assert!(stale.expect("tracked").is_empty());
        assert_eq!(noted, largest - page);
        // The parts are what they were, but for that.
        for at in [0, 2, largest / page - 1] {
            let part = hardware::<F>(&ram, table.root().0, top, largest + at * page);
            let part = part.expect("mapped");
            assert_eq!(part.output, at * page);
            assert_eq!(F::attributes(part.entry), F::READ_WRITE);
        }
    }
    of::<StageTwo<Granule4K>>(39);
    of::<StageOne<Granule16K>>(47);
    of::<SecondStage>(48);
}

#[test]
fn an_unmap_off_page_bounds_takes_every_page_it_touches() {
    // One page long, and in the middle of two, in a table that is at hand.
    for off in [0x800, 1, 0xfff] {
        let (ram, mut table) = make::<StageTwo<Granule4K>>(Shape::new(48));
        for page in 0..8 {
            let at = BASE + page * K4;
            table
                .map(span(at, K4), Hpa(at), Attributes::DMA)
                .expect("free");
        }
        let stores = table.counters().leaf_stores;
        unmap(&mut table, bare(BASE + 2 * K4 + off, K4));
        for page in 0..8 {
            let at = BASE + page * K4;
            let seen = hardware::<StageTwo<Granule4K>>(&ram, table.root().0, 3, at);
            assert_eq!(
                seen.is_none(),
                [2, 3].contains(&page),
                "page {page}, {off:#x}"
            );
        }
        assert_eq!(table.counters().leaf_stores, stores + 2);
        // Several at once, in order.
        unmap(&mut table, span(BASE + 5 * K4, 3 * K4));
        assert_eq!(table.counters().leaf_stores, stores + 5);
    }
}

#[test]
fn a_walk_tells_what_was_mapped() {
    let (_, mut table) = make::<StageTwo<Granule4K>>(Shape::new(39));
    let kinds = [
        Attributes::RAM,
        Attributes::DMA,
        Attributes::DEVICE,
        Attributes {
            read: false,
            ..Attributes::DMA
        },
    ];
    for (n, attributes) in (0..).zip(kinds) {
        let at = BASE + n * K4;
        table.map(span(at, K4), Hpa(at), attributes).expect("free");
        let leaf = table.walk(Gpa(at + 5)).expect("mapped");
        assert_eq!((leaf.output, leaf.attributes), (Hpa(at + 5), attributes));
    }
}

#[test]
fn stage_1_leaves_have_one_of_eight_memory_types_and_keep_it() {
    let (ram, mut table) = make::<StageOne<Granule4K>>(Shape::new(48));
    let of = |attr_index, global| StageOneAttributes {
        attr_index,
        global,
        ..StageOneAttributes::DMA
    };
    for index in 0..8 {
        let page = span(BASE + u64::from(index) * K4, K4);
        table.map(page, Hpa(0), of(index, false)).expect("free");
    }
    let refused = table.map(span(0, K4), Hpa(0), of(8, false));
    assert_eq!(refused, Err(MapError::Access));
    let words = ram.words();
    for changed in [of(1, false), of(0, true), of(1, true), of(8, false)] {
        let result = table.protect(span(BASE, K4), changed);
        let expected = if changed.attr_index > 7 {
            MapError::Access
        } else {
            MapError::MemoryType(BASE)
        };
        assert_eq!(result.err(), Some(expected));
        assert_eq!(ram.words(), words);
    }
}
