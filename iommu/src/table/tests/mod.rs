//! What the tables promise, against a walker that knows only descriptors, and against a map of pages.

mod edges;
mod foreign;
mod formats;
mod machine;
mod pages;
mod permissions;
mod reserve;
mod tlb;
mod walked;

use alloc::sync::Arc;

use super::{Attributes, Invalidated, MapError, Memory, StageTwoTable};
use crate::addr::{Gpa, Hpa, Span};
use machine::Ram;

const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
/// In the middle of a table of pages.
const BASE: u64 = 0x4020_0000;

impl Ram {
    /// The walk of DDI 0487 D8.2 by descriptors alone: output address, S2AP, and block size.
    fn hardware(&self, root: u64, start: u32, address: u64) -> Option<(u64, u64, u64)> {
        let (leaf, size) = self.walked(root, start, address);
        leaf.map(|(output, access)| (output, access, size))
    }

    /// The same, and what the last entry covers, be it a leaf or none.
    fn walked(&self, root: u64, start: u32, address: u64) -> (Option<(u64, u64)>, u64) {
        let mut table = root;
        for level in start..4 {
            let shift = 39 - 9 * level;
            let size = 1 << shift;
            let entry = self.word(table + ((address >> shift) & 511) * 8);
            assert_ne!(entry, 0xdead_dead_dead_dead, "walk into freed memory");
            match (entry & 3, level) {
                (3, 0..3) => table = entry & 0xffff_ffff_f000,
                (3, 3) | (1, 1..3) => {
                    assert_ne!(entry & 1 << 10, 0, "access flag");
                    let offset = address & (size - 1);
                    let output = entry & 0xffff_ffff_f000;
                    assert_eq!(output & (size - 1), 0, "block address");
                    return (Some((output + offset, entry >> 6 & 3)), size);
                }
                _ => return (None, size),
            }
        }
        unreachable!("level 3 has no tables")
    }
}

fn table(bits: u8) -> (Ram, StageTwoTable<Ram>) {
    let ram = Ram(Arc::default());
    let table = StageTwoTable::new(Arc::new(ram.clone()), bits, true).unwrap();
    (ram, table)
}

fn span(base: u64, len: u64) -> Span<Gpa> {
    Span::<Gpa>::new(Gpa(base), len).unwrap()
}

fn root(table: &StageTwoTable<Ram>) -> u64 {
    table.root().0
}

fn drop_range(table: &mut StageTwoTable<Ram>, base: u64, len: u64) {
    let unmapped = table.unmap(span(base, len));
    table.release(unmapped, Invalidated::complete());
}

#[test]
fn a_page_descriptor_is_the_words_of_the_manual() {
    let (ram, mut table) = table(39);
    table
        .map(span(0x4000_0000, K4), Hpa(0x8_1234_5000), Attributes::RAM)
        .unwrap();
    table
        .map(span(0x4000_1000, K4), Hpa(0x900_0000), Attributes::DEVICE)
        .unwrap();
    let l2 = ram.word(root(&table) + 8) & !0xfff;
    let l3 = ram.word(l2) & !0xfff;
    assert_eq!(ram.word(root(&table) + 8) & 0xfff, 3);
    // AF | SH=inner | S2AP=RW | MemAttr=0b1111 | page.
    assert_eq!(ram.word(l3), 0x8_1234_5000 | 0x7ff);
    // XN | AF | SH=inner | S2AP=RW | MemAttr=0b0001 | page.
    assert_eq!(ram.word(l3 + 8), 0x0040_0000_0900_07c7);
}

#[test]
fn blocks_are_as_large_as_alignment_allows() {
    let (ram, mut table) = table(39);
    table
        .map(span(G1, G1), Hpa(0x40_0000_0000), Attributes::RAM)
        .unwrap();
    assert_eq!(table.counters().leaf_stores, 1);
    assert_eq!(table.counters().table_bytes, K4);
    let entry = ram.word(root(&table) + 8);
    assert_eq!(entry, 0x40_0000_0000 | 0x7fd);
    assert_eq!(table.walk(Gpa(G1 + 5)).unwrap().output, Hpa(0x40_0000_0005));
    assert_eq!(table.walk(Gpa(G1)).unwrap().size, G1);
}

#[test]
fn a_gib_of_2_mib_blocks_takes_512_leaf_stores_and_one_table() {
    let (_, mut table) = table(39);
    table.map(span(G1, G1), Hpa(M2), Attributes::RAM).unwrap();
    let counters = table.counters();
    assert_eq!(
        (
            counters.leaf_stores,
            counters.table_stores,
            counters.table_bytes
        ),
        (512, 1, 2 * K4)
    );
}

#[test]
fn a_gib_of_pages_takes_the_fewest_tables_and_one_store_to_cut() {
    let (ram, mut table) = table(39);
    let live = ram.live();
    table.map(span(G1, G1), Hpa(K4), Attributes::RAM).unwrap();
    let counters = table.counters();
    assert_eq!(
        (counters.leaf_stores, counters.table_stores),
        (262_144, 513)
    );
    assert_eq!(counters.table_bytes, K4 + 2_101_248);
    let unmapped = table.unmap(span(G1, G1));
    assert_eq!(table.counters().table_stores, 514);
    assert_eq!(table.counters().leaf_stores, 262_144);
    assert!(!unmapped.leaf_only());
    assert_eq!(ram.live(), live + 513, "nothing is freed before the proof");
    table.release(unmapped, Invalidated::complete());
    assert_eq!(ram.live(), live);
    assert_eq!(table.counters().table_bytes, K4);
}

#[test]
fn a_refused_map_changes_nothing() {
    let (ram, mut table) = table(39);
    table
        .map(span(G1 + M2, K4), Hpa(0), Attributes::RAM)
        .unwrap();
    let before = ram.words();
    let cases = [
        (span(G1, G1), Hpa(0), MapError::Mapped(G1 + M2)),
        (span(G1, 2 * G1), Hpa(K4), MapError::Mapped(G1 + M2)),
        (span(G1, 0), Hpa(0), MapError::Empty),
        (span(G1 + 1, K4), Hpa(0), MapError::Misaligned(G1 + 1)),
        (span(G1, 100), Hpa(0), MapError::Misaligned(100)),
        (span(G1, K4), Hpa(8), MapError::Misaligned(8)),
        (
            span((1 << 39) - K4, 2 * K4),
            Hpa(0),
            MapError::InputTooWide(1 << 39),
        ),
        (span(1 << 40, K4), Hpa(0), MapError::InputTooWide(1 << 40)),
        (
            span(0, 2 * K4),
            Hpa((1 << 48) - K4),
            MapError::OutputTooWide((1 << 48) - K4),
        ),
        (
            span(0, 2 * K4),
            Hpa(u64::MAX - 0xfff),
            MapError::OutputTooWide(u64::MAX - 0xfff),
        ),
    ];
    for (input, output, error) in cases {
        assert_eq!(table.map(input, output, Attributes::RAM), Err(error));
    }
    let none = Attributes {
        read: false,
        write: false,
        execute: false,
        memory: Memory::Normal,
    };
    assert_eq!(table.map(span(0, K4), Hpa(0), none), Err(MapError::Access));
    assert_eq!(ram.words(), before);
}

#[test]
fn a_range_that_wraps_is_refused() {
    let (_, mut table) = table(48);
    let wraps = Span {
        base: Gpa(u64::MAX - 0xfff),
        len: 2 * K4,
    };
    assert!(matches!(
        table.map(wraps, Hpa(0), Attributes::RAM),
        Err(MapError::InputTooWide(_))
    ));
    assert!(table.unmap(wraps).is_empty());
}

#[test]
fn every_failing_allocation_leaves_the_table_as_it_was() {
    const NEEDED: usize = 513;
    for budget in [0, 1, 2, 3, 100, 510, 511, 512, 513, 514, 515] {
        let (ram, mut table) = table(48);
        table
            .map(span(G1 + M2, M2), Hpa(0), Attributes::RAM)
            .unwrap();
        let (before, live) = (ram.words(), ram.live());
        ram.budget(Some(budget));
        // Blocks do not fit: 509 tables of pages in this GiB, 2 and a level 2 table in the next.
        let result = table.map(span(G1 + 2 * M2, G1), Hpa(K4 * 3), Attributes::RAM);
        if budget < NEEDED {
            assert_eq!(result, Err(MapError::OutOfMemory), "with {budget}");
            assert_eq!(ram.live(), live);
            let after = ram.words();
            for (at, word) in before {
                assert_eq!(after[&at], word);
            }
        } else {
            assert_eq!(result, Ok(()), "with {budget}");
            drop_range(&mut table, G1 + 2 * M2, G1);
        }
        ram.budget(None);
        table
            .map(span(G1 + 2 * M2, M2), Hpa(K4 * 3), Attributes::RAM)
            .unwrap();
    }
}

#[test]
fn creation_fails_cleanly_at_each_allocation() {
    for budget in 0..5 {
        let ram = Ram(Arc::default());
        ram.budget(Some(budget));
        let made = StageTwoTable::new(Arc::new(ram.clone()), 39, true);
        assert!(matches!(made, Err(MapError::OutOfMemory)));
        assert_eq!(ram.live(), 0);
    }
    let ram = Arc::new(Ram(Arc::default()));
    assert!(matches!(
        StageTwoTable::new(ram.clone(), 31, true),
        Err(MapError::Width(31))
    ));
    assert!(matches!(
        StageTwoTable::new(ram, 49, true),
        Err(MapError::Width(49))
    ));
}

#[test]
fn a_cut_block_is_broken_before_it_is_made() {
    let (ram, mut table) = table(39);
    table.map(span(G1, G1), Hpa(0), Attributes::RAM).unwrap();
    ram.budget(Some(0));
    let hole = G1 + 5 * M2 + 3 * K4;
    let unmapped = table.unmap(span(hole, K4));
    assert_eq!(
        unmapped.stale::<Gpa>(),
        span(G1, G1),
        "all of the old block"
    );
    assert_eq!(unmapped.removed::<Gpa>(), span(hole, K4));
    assert_eq!(ram.hardware(root(&table), 1, G1), None, "broken");
    table.release(unmapped, Invalidated::complete());
    assert_eq!(ram.hardware(root(&table), 1, G1), Some((0, 3, M2)));
    assert_eq!(ram.hardware(root(&table), 1, hole), None);
    assert_eq!(
        ram.hardware(root(&table), 1, hole - K4),
        Some((5 * M2 + 2 * K4, 3, K4))
    );
    assert_eq!(ram.hardware(root(&table), 1, hole + K4).unwrap().2, K4);
    assert_eq!(ram.hardware(root(&table), 1, hole + M2).unwrap().2, M2);
}

#[test]
fn a_cut_without_memory_or_reserve_takes_the_whole_block() {
    let (ram, mut table) = table(39);
    table.map(span(0, G1), Hpa(0), Attributes::RAM).unwrap();
    table.map(span(G1, G1), Hpa(G1), Attributes::RAM).unwrap();
    ram.budget(Some(0));
    for block in 1..=4 {
        drop_range(&mut table, block * M2, K4);
    }
    let unmapped = table.unmap(span(9 * M2 + K4, K4));
    assert_eq!(unmapped.removed::<Gpa>(), span(9 * M2, M2));
    table.release(unmapped, Invalidated::complete());
    assert_eq!(table.walk(Gpa(9 * M2)), None);
    assert_eq!(ram.hardware(root(&table), 1, 9 * M2), None);
    assert!(table.walk(Gpa(8 * M2)).is_some());
    assert_eq!(
        table.map(span(9 * M2, M2), Hpa(0), Attributes::RAM),
        Err(MapError::OutOfMemory)
    );
    ram.budget(None);
    table
        .map(span(9 * M2, M2), Hpa(0), Attributes::RAM)
        .unwrap();
}

#[test]
fn a_cut_across_two_blocks_cuts_both() {
    let (ram, mut table) = table(40);
    table.map(span(0, 4 * G1), Hpa(0), Attributes::RAM).unwrap();
    ram.budget(Some(0));
    drop_range(&mut table, G1 - K4, 2 * K4);
    assert_eq!(
        ram.hardware(root(&table), 0, G1 - 2 * K4),
        Some((G1 - 2 * K4, 3, K4))
    );
    assert_eq!(ram.hardware(root(&table), 0, G1 - K4), None);
    assert_eq!(ram.hardware(root(&table), 0, G1), None);
    assert_eq!(
        ram.hardware(root(&table), 0, G1 + K4),
        Some((G1 + K4, 3, K4))
    );
    assert_eq!(
        ram.hardware(root(&table), 0, G1 + M2),
        Some((G1 + M2, 3, M2))
    );
    assert_eq!(ram.hardware(root(&table), 0, 2 * G1), Some((2 * G1, 3, G1)));
}

#[test]
fn neighbours_are_not_merged() {
    let (_, mut table) = table(39);
    table.map(span(0, M2 / 2), Hpa(0), Attributes::RAM).unwrap();
    table
        .map(span(M2 / 2, M2 / 2), Hpa(M2 / 2), Attributes::RAM)
        .unwrap();
    assert_eq!(table.walk(Gpa(0)).unwrap().size, K4);
}

#[test]
fn the_top_of_the_widest_table_is_usable() {
    let (ram, mut table) = table(48);
    let top = (1 << 48) - K4;
    table.map(span(top, K4), Hpa(top), Attributes::DMA).unwrap();
    assert_eq!(ram.hardware(root(&table), 0, top), Some((top, 3, K4)));
    drop_range(&mut table, 0, 1 << 48);
    assert_eq!(table.walk(Gpa(top)), None);
    assert_eq!(table.counters().table_bytes, K4);
}

#[test]
fn protect_changes_permissions_and_nothing_else() {
    let (ram, mut table) = table(39);
    table
        .map(span(0, 2 * M2 + K4), Hpa(M2), Attributes::RAM)
        .unwrap();
    let read_only = Attributes {
        write: false,
        ..Attributes::RAM
    };
    let changed = table.protect(span(M2, M2 + K4), read_only).unwrap();
    assert!(changed.leaf_only());
    assert_eq!(changed.stale::<Gpa>(), span(M2, M2 + K4));
    table.release(changed, Invalidated::complete());
    assert_eq!(ram.hardware(root(&table), 1, 0).unwrap().1, 3);
    assert_eq!(ram.hardware(root(&table), 1, M2).unwrap(), (2 * M2, 1, M2));
    assert_eq!(ram.hardware(root(&table), 1, 2 * M2).unwrap().1, 1);
    let before = ram.words();
    let refused = |table: &mut StageTwoTable<Ram>, range, to| table.protect(range, to).err();
    assert_eq!(
        refused(&mut table, span(0, 3 * M2), read_only),
        Some(MapError::NotMapped(2 * M2 + K4))
    );
    assert_eq!(
        refused(&mut table, span(0, M2), Attributes::DEVICE),
        Some(MapError::MemoryType(0))
    );
    assert_eq!(ram.words(), before);
}

#[test]
fn a_published_table_is_freed_by_its_proof_only() {
    let (ram, table) = table(39);
    drop(table);
    assert_eq!(ram.live(), 0);
    let (ram, table) = self::table(39);
    table.root();
    drop(table);
    assert_eq!(ram.live(), 1, "lost, not freed");
    let (ram, table) = self::table(39);
    table.root();
    table.retire(Invalidated::complete());
    assert_eq!(ram.live(), 0);
}

#[test]
fn an_unmap_that_is_never_released_frees_nothing() {
    let (ram, mut table) = table(39);
    table.map(span(0, K4), Hpa(0), Attributes::RAM).unwrap();
    let live = ram.live();
    drop(table.unmap(span(0, K4)));
    assert_eq!(ram.live(), live);
}

#[test]
fn a_walker_that_does_not_snoop_sees_every_store() {
    let ram = Ram(Arc::default());
    let mut table = StageTwoTable::new(Arc::new(ram.clone()), 39, false).unwrap();
    table
        .map(span(0, 3 * M2 + 5 * K4), Hpa(0), Attributes::RAM)
        .unwrap();
    assert_eq!(ram.dirty(), 0);
    drop_range(&mut table, K4, M2);
    assert_eq!(ram.dirty(), 0);
    let read_only = Attributes {
        write: false,
        ..Attributes::RAM
    };
    drop(table.protect(span(2 * M2, M2), read_only).unwrap());
    assert_eq!(ram.dirty(), 0);
}
