//! Whatever the file says, parts lie in RAM and apart, and nothing panics.

use super::{GUEST, Guest, MIB, plan, span};
use crate::pc_boot::tests::files::{bzimage, multiboot, pvh};
use iommu::addr::{Gpa, Span};
use proptest::prelude::*;

/// What is true of every plan there is.
fn check(kernel: &[u8], guest: &Guest<'_>) -> bool {
    let Ok(plan) = plan(kernel, guest) else {
        return false;
    };
    let mut spans: Vec<Span<Gpa>> = Vec::new();
    for part in &plan.parts {
        let span = Span::<Gpa>::new(part.at, part.bytes.len() as u64).unwrap();
        assert!(guest.memory.iter().any(|ram| ram.covers(&span)), "{span:?}");
        assert!(!spans.iter().any(|other| other.overlaps(&span)), "{span:?}");
        spans.push(span);
    }
    true
}

fn files() -> [Vec<u8>; 3] {
    [bzimage(|_| {}), pvh(), multiboot(|_| {})]
}

#[test]
fn every_truncation_is_refused() {
    for (file, needed) in files().into_iter().zip([0x19f1, 0x294, 0x200]) {
        for len in 0..=file.len() {
            let whole = check(&file[..len], &GUEST);
            assert_eq!(whole, len >= needed, "{len:#x} of {:#x}", file.len());
        }
    }
}

#[test]
fn small_memories_are_too_small_and_no_more() {
    for file in files() {
        for kib in 0..80 {
            let guest = Guest {
                memory: &[span(0, kib * 0x4000)],
                ..GUEST
            };
            check(&file, &guest);
        }
        let odd = Guest {
            memory: &[
                span(0, 0x8_0000),
                span(0x9_0000, MIB),
                span(17 * MIB, 100 * MIB),
            ],
            ..GUEST
        };
        check(&file, &odd);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000 * ProptestConfig::default().cases / 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_field_leads_anywhere_else(
        which in 0..3usize, changes in prop::collection::vec((0..0x2c0usize, prop_oneof![
            any::<u32>(), Just(0), Just(u32::MAX), Just(0x7000), Just(0x10_0000), Just(0xbfff_fff0)]), 1..4)
    ) {
        let mut file = files()[which].clone();
        for (at, value) in changes {
            // Headers are what matters.
            let at = if which == 0 { 0x1f0 + at % 0x80 } else { at };
            if at + 4 <= file.len() {
                file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
        check(&file, &GUEST);
    }
}
