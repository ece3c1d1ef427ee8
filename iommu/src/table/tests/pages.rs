//! Stage 2 of 4 KiB granules against a map of pages, in any order of operations.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::machine::{Frame, Ram};
use super::{G1, K4, M2, root, span, table};
use crate::addr::{Gpa, Hpa};
use crate::table::{Attributes, Invalidated, MapError, StageTwoTable, Unmapped};

#[derive(Clone, Debug)]
enum Step {
    Map { page: u64, pages: u64, output: u64 },
    Unmap { page: u64, pages: u64, later: bool },
    Protect { page: u64, pages: u64 },
}

/// Ranges of which many are whole blocks or end inside one, within 4 MiB on either side of 1 GiB.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pages = prop_oneof![1..16u64, 500..530u64, 1..2048u64, Just(512), Just(1024)];
    let page = prop_oneof![0..2048u64, (0..4u64).prop_map(|n| n * 512)];
    let output = prop_oneof![0..2048u64, (0..4u64).prop_map(|n| n * 512)];
    let step = (page, pages, output, 0..8u8).prop_map(|(page, pages, output, kind)| match kind {
        0..4 => Step::Map {
            page,
            pages,
            output,
        },
        4..7 => Step::Unmap {
            page,
            pages,
            later: kind == 6,
        },
        _ => Step::Protect { page, pages },
    });
    prop::collection::vec(step, 1..40)
}

fn check(
    ram: &Ram,
    table: &StageTwoTable<Ram>,
    model: &BTreeMap<u64, (u64, u64)>,
    from: u64,
    hardware: bool,
) {
    for page in 0..4096 {
        let at = from + page * K4;
        let expected = model.get(&page).copied();
        let record = table.walk(Gpa(at)).map(|leaf| {
            (
                leaf.output.0,
                leaf.attributes.read as u64 | (leaf.attributes.write as u64) << 1,
            )
        });
        assert_eq!(record, expected, "record at {at:#x}");
        if hardware {
            let seen = ram
                .hardware(root(table), table.start_level().into(), at)
                .map(|seen| (seen.0, seen.1));
            assert_eq!(seen, expected, "walk at {at:#x}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: (48 * ProptestConfig::default().cases).div_ceil(256),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The tables agree with a map of pages after every step, and give everything back.
    #[test]
    fn tables_agree_with_a_map_of_pages(steps in steps(), four_levels: bool) {
        let (ram, mut table) = table(if four_levels { 44 } else { 39 });
        let from = G1 - 4 * M2;
        let live = ram.live();
        let mut model = BTreeMap::new();
        let mut late: Vec<Unmapped<Frame>> = Vec::new();
        for step in steps {
            match step {
                Step::Map { page, pages, output } => {
                    // Mapping again needs the proof for what was unmapped there.
                    for unmapped in late.drain(..) {
                        table.release(unmapped, Invalidated::complete());
                    }
                    let output = 0x10_0000_0000 + output * K4;
                    let free = model.range(page..page + pages).next().map(|(page, _)| *page);
                    let result = table.map(span(from + page * K4, pages * K4), Hpa(output), Attributes::RAM);
                    match free {
                        Some(used) => prop_assert_eq!(result, Err(MapError::Mapped(from + used * K4))),
                        None => {
                            prop_assert_eq!(result, Ok(()));
                            model.extend((0..pages).map(|n| (page + n, (output + n * K4, 3))));
                        }
                    }
                }
                Step::Unmap { page, pages, later } => {
                    let unmapped = table.unmap(span(from + page * K4, pages * K4));
                    prop_assert_eq!(unmapped.removed::<Gpa>(), span(from + page * K4, pages * K4));
                    prop_assert_eq!(unmapped.is_empty(), model.range(page..page + pages).next().is_none());
                    model.retain(|at, _| !(page..page + pages).contains(at));
                    late.push(unmapped);
                    if !later {
                        for unmapped in late.drain(..) {
                            table.release(unmapped, Invalidated::complete());
                        }
                    }
                }
                Step::Protect { page, pages } => {
                    let whole = (page..page + pages).all(|at| model.contains_key(&at));
                    let read_only = Attributes { write: false, ..Attributes::RAM };
                    let result = table.protect(span(from + page * K4, pages * K4), read_only);
                    prop_assert!(whole || result.is_err());
                    if let Ok(changed) = result {
                        model.range_mut(page..page + pages).for_each(|(_, entry)| entry.1 = 1);
                        late.push(changed);
                    }
                }
            }
            check(&ram, &table, &model, from, late.is_empty());
        }
        late.push(table.unmap(span(0, 1 << 39)));
        for unmapped in late.drain(..) {
            table.release(unmapped, Invalidated::complete());
        }
        check(&ram, &table, &BTreeMap::new(), from, true);
        prop_assert_eq!(ram.live(), live);
        prop_assert_eq!(table.counters().table_bytes, K4);
        table.retire(Invalidated::complete());
        prop_assert_eq!(ram.live(), 0);
    }
}
