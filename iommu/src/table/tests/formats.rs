//! Every format, against its walker and against a map of pages.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::machine::{Frame, Ram};
use super::walked::{Walked, look, make, span};
use crate::addr::{Hpa, Iova, Span};
use crate::table::{
    Ept, Format, Granule4K, Granule16K, Granule64K, Invalidated, MapError, Npt, PageTable, Replace,
    SecondStage, Shape, StageOne, StageTwo, Unmapped,
};

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
                        cases: (12 * ProptestConfig::default().cases).div_ceil(256),
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
    npt_four_levels: Npt, 48;
    npt_five_levels: Npt, 57;
    ept_four_levels: Ept, 48;
    ept_five_levels: Ept, 57;
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
    let written = F::dirtied(F::leaf(F::READ_WRITE, 0, 0));
    assert_eq!(F::dirtied(written), written, "again");
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
    table.retire(Invalidated::complete());
    assert_eq!(ram.live(), 0);
}
