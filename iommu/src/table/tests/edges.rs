//! What is at the edges: malformed pages beside good ones, counts, the least of everything.

use super::walked::{hardware, make, span, unmap};
use super::{BASE, G1, K4, M2};
use crate::addr::{Hpa, Iova, Span};
use crate::table::{
    Attributes, Granule4K, Granule16K, Granule64K, Invalidated, MapError, Replace, SecondStage,
    SecondStageAttributes, Shape, StageOne, StageTwo,
};

fn bare(base: u64, len: u64) -> Span<Iova> {
    Span {
        base: Iova(base),
        len,
    }
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
