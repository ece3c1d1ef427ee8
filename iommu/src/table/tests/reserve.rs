//! What is in hand: tables and records for the next cut, and the table that was used last.

use alloc::collections::BTreeMap;

use super::machine::Ram;
use super::walked::{Walked, look, make, span, unmap};
use super::{BASE, G1, K4, M2};
use crate::addr::{Hpa, Iova};
use crate::table::{
    Attributes, Ept, Format, Granule4K, Granule16K, Granule64K, Invalidated, MapError, Npt,
    PageTable, Replace, SecondStage, SecondStageAttributes, Shape, StageOne, StageTwo,
};

/// Whether the next operation finds all that it may need without memory.
fn is_ready<F: Format>(table: &PageTable<Ram, F>) -> bool {
    !table.spare.fill_is_due(PageTable::<Ram, F>::RESERVE)
}

/// Two blocks, each cut into tables of all levels below the largest one that has blocks (DDI 0487, D8.3.1.2; VT-d 3.7).
#[test]
fn the_reserve_is_what_two_cut_blocks_take_and_no_more() {
    fn reserve<F: Walked>() -> usize {
        let (_, table) = make::<F>(Shape::new(39));
        let reserve = PageTable::<Ram, F>::RESERVE;
        assert!(is_ready(&table) && table.spare.fill_is_due(reserve + 1));
        reserve
    }
    assert_eq!(reserve::<StageTwo<Granule4K>>(), 4);
    assert_eq!(reserve::<StageTwo<Granule16K>>(), 2);
    assert_eq!(reserve::<StageTwo<Granule64K>>(), 2);
    assert_eq!(reserve::<SecondStage>(), 4);
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
        of::<Npt>(shape(48));
        of::<Ept>(shape(57));
    }
}

#[test]
fn a_single_page_sees_to_it_that_the_next_unmap_needs_no_memory() {
    let (ram, mut table) = make::<StageTwo<Granule4K>>(Shape::new(39));
    // A page whose table's parent has a record of tables below: cutting blocks beside it takes tables only.
    table
        .map(span(G1, 2 * K4), Hpa(G1), Attributes::DMA)
        .expect("free");
    for block in 1..7 {
        table
            .map(span(G1 + block * M2, M2), Hpa(G1), Attributes::DMA)
            .expect("free");
    }
    for n in 0..3 {
        let from = G1 + (2 * n + 2) * M2 - K4;
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
    assert_eq!(table.spare.children[0].capacity(), SecondStage::ENTRIES);
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
    of::<Npt>(Shape::new(48));
    of::<Ept>(Shape::new(57));
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
