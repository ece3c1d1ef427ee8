//! Stage 2 of 4 KiB granules against a map of pages, in any order of operations.

use alloc::vec;
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

/// How many pages the steps reach.
const PAGES: u64 = 4096;

/// What each page is mapped to: output address and S2AP.
type Model = Vec<Option<(u64, u64)>>;

/// A leaf, or a hole, answers for all of its pages at once: a walk for each page took most of the test's time.
fn check(ram: &Ram, table: &StageTwoTable<Ram>, model: &Model, from: u64, hardware: bool) {
    let agrees = |page: u64, size: u64, seen: Option<(u64, u64)>, by: &str| {
        let pages = (size - (from + page * K4) % size) / K4;
        let until = (page + pages).min(PAGES);
        for (n, at) in (page..until).enumerate() {
            let seen = seen.map(|(output, access)| (output + n as u64 * K4, access));
            assert_eq!(seen, model[at as usize], "{by} of page {at:#x}");
        }
        until
    };
    let mut page = 0;
    while page < PAGES {
        let leaf = table.walk(Gpa(from + page * K4));
        let seen = leaf.map(|leaf| {
            let access = leaf.attributes.read as u64 | (leaf.attributes.write as u64) << 1;
            (leaf.output.0, access)
        });
        page = agrees(page, leaf.map_or(K4, |leaf| leaf.size), seen, "record");
    }
    let mut page = if hardware { 0 } else { PAGES };
    while page < PAGES {
        let start = table.start_level().into();
        let (seen, size) = ram.walked(root(table), start, from + page * K4);
        page = agrees(page, size, seen, "walk");
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
        let mut model: Model = vec![None; PAGES as usize];
        let mut late: Vec<Unmapped<Frame>> = Vec::new();
        for step in steps {
            let (Step::Map { page, pages, .. } | Step::Unmap { page, pages, .. } | Step::Protect { page, pages }) = step;
            let touched = &mut model[page as usize..(page + pages) as usize];
            match step {
                Step::Map { output, .. } => {
                    // Mapping again needs the proof for what was unmapped there.
                    for unmapped in late.drain(..) {
                        table.release(unmapped, Invalidated::complete());
                    }
                    let output = 0x10_0000_0000 + output * K4;
                    let used = touched.iter().position(Option::is_some);
                    let result = table.map(span(from + page * K4, pages * K4), Hpa(output), Attributes::RAM);
                    match used {
                        Some(n) => prop_assert_eq!(result, Err(MapError::Mapped(from + (page + n as u64) * K4))),
                        None => {
                            prop_assert_eq!(result, Ok(()));
                            let outputs = (output..).step_by(K4 as usize);
                            touched.iter_mut().zip(outputs).for_each(|(entry, output)| *entry = Some((output, 3)));
                        }
                    }
                }
                Step::Unmap { later, .. } => {
                    let unmapped = table.unmap(span(from + page * K4, pages * K4));
                    prop_assert_eq!(unmapped.removed::<Gpa>(), span(from + page * K4, pages * K4));
                    prop_assert_eq!(unmapped.is_empty(), touched.iter().all(Option::is_none));
                    touched.fill(None);
                    late.push(unmapped);
                    if !later {
                        for unmapped in late.drain(..) {
                            table.release(unmapped, Invalidated::complete());
                        }
                    }
                }
                Step::Protect { .. } => {
                    let whole = touched.iter().all(Option::is_some);
                    let read_only = Attributes { write: false, ..Attributes::RAM };
                    let result = table.protect(span(from + page * K4, pages * K4), read_only);
                    prop_assert!(whole || result.is_err());
                    if let Ok(changed) = result {
                        touched.iter_mut().flatten().for_each(|entry| entry.1 = 1);
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
        check(&ram, &table, &vec![None; PAGES as usize], from, true);
        prop_assert_eq!(ram.live(), live);
        prop_assert_eq!(table.counters().table_bytes, K4);
        table.retire(Invalidated::complete());
        prop_assert_eq!(ram.live(), 0);
    }
}
