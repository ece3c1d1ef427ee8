//! What mappings allow: which of that there is, and what a change of it costs and keeps.

use alloc::vec::Vec;

use super::machine::Ram;
use super::walked::{Walked, hardware, make, span, unmap};
use super::{BASE, G1, K4, M2};
use crate::addr::{Gpa, Hpa, Iova, Span};
use crate::table::{
    Attributes, Ept, Format, Granule4K, Granule16K, Invalidated, MapError, Memory, Npt, PageTable,
    Replace, SecondStage, SecondStageAttributes, Shape, StageOne, StageOneAttributes, StageTwo,
};

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

impl Changed for Npt {
    const OTHER: Attributes = Attributes::RAM;
}

impl Changed for Ept {
    const OTHER: Attributes = Attributes::RAM;
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
        let closed = seen(3 * page).entry;
        assert_eq!(F::access(closed), 1, "written to or not");
        assert_eq!(F::written(closed), None);
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
    of::<Npt>(48);
    of::<Ept>(48);
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
    of::<Npt>(48);
    of::<Ept>(48);
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

/// Every permission that NPT and EPT have, and none that they have not, or not on every CPU: neither has leaves that
/// cannot be read.
#[test]
fn what_a_guest_may_not_read_is_not_mapped_for_its_cpus() {
    fn of<F: Format<Attributes = Attributes> + Walked>() {
        let (ram, mut table) = make::<F>(Shape::new(48));
        for bits in 0..8u64 {
            let [read, write, execute] = [1, 2, 4].map(|bit| bits & bit != 0);
            let attributes = Attributes {
                read,
                write,
                execute,
                ..Attributes::RAM
            };
            let words = ram.words();
            let result = table.map(span(bits * K4, K4), Hpa(0), attributes);
            if read {
                assert_eq!(result, Ok(()));
                let leaf = table.walk(Gpa(bits * K4)).expect("mapped");
                assert_eq!(leaf.attributes, attributes);
            } else {
                assert_eq!(result, Err(MapError::Access));
                assert_eq!(ram.words(), words);
            }
        }
        let refused = table.protect(
            span(7 * K4, K4),
            Attributes {
                read: false,
                ..Attributes::RAM
            },
        );
        assert_eq!(refused.err(), Some(MapError::Access));
        let other = table.protect(span(7 * K4, K4), Attributes::DEVICE);
        assert_eq!(other.err(), Some(MapError::MemoryType(7 * K4)));
    }
    of::<Npt>();
    of::<Ept>();
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
