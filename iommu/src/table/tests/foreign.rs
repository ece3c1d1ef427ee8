//! Walks over memory that is anything, and tables whose every word is known.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::Cell;
use core::convert::Infallible;

use proptest::prelude::*;

use super::walked::{Walked, hardware, make, span};
use crate::addr::Hpa;
use crate::table::{
    Attributes, Ept, ForeignTable, Granule4K, Granule16K, Granule64K, MapError, Memory, Npt,
    SecondStage, Shape, StageOne, StageOneAttributes, StageTwo, Translation, WalkFault,
    WalkFaultKind, walk_foreign,
};

type Result1 = Result<Translation<StageOneAttributes>, WalkFault<u8>>;

/// Walks a stage 1 of 4 KiB granules, 48 bits, from 0x1000, over `words`; the rest of memory cannot be read.
fn walk(words: &[(u64, u64)], address: u64) -> Result1 {
    let words: BTreeMap<u64, u64> = words.iter().copied().collect();
    let shape = Shape {
        output_bits: 40,
        ..Shape::new(48)
    };
    let table = ForeignTable::<StageOne<Granule4K>>::new(0x1000, &shape).expect("a width");
    walk_foreign(&table, address, |at| words.get(&at).copied().ok_or(7))
}

fn fault(result: Result1) -> (WalkFaultKind<u8>, u8) {
    let fault = result.expect_err("no leaf");
    (fault.kind, fault.height)
}

#[test]
fn each_way_for_a_walk_to_end() {
    let at = 0x0080_c060_5123;
    // Indices 1, 3, 3, 5 by hand: bits 47:39, 38:30, 29:21, 20:12.
    let chain = [(0x1008, 0x2003), (0x2018, 0x3003), (0x3018, 0x4003)];
    let with = |last: &[(u64, u64)]| [&chain[..], last].concat();
    let leaf = walk(&with(&[(0x4028, 0x12_3456_7f43)]), at).expect("a page");
    assert_eq!(
        (leaf.output, leaf.size, leaf.height),
        (0x12_3456_7123, 4096, 0)
    );
    assert!(leaf.accessed && leaf.attributes.write && leaf.attributes.unprivileged);
    let leaf = walk(&with(&[(0x4028, 0x12_3456_7343)]), at).expect("a page");
    assert!(!leaf.accessed);
    let block = [chain[0], chain[1], (0x3018, 0x12_3460_0741)];
    let leaf = walk(&block, at).expect("a block");
    assert_eq!((leaf.output, leaf.size), (0x12_3460_5123, 2 << 20));
    // Address bits below the size of a block do not count.
    let block = [chain[0], chain[1], (0x3018, 0x12_347f_f741)];
    let leaf = walk(&block, at).expect("a block");
    assert_eq!((leaf.output, leaf.size), (0x12_3460_5123, 2 << 20));

    assert_eq!(fault(walk(&chain, 1 << 48)), (WalkFaultKind::Input, 3));
    assert_eq!(fault(walk(&chain, at)), (WalkFaultKind::Read(0x4028, 7), 0));
    assert_eq!(
        fault(walk(&with(&[(0x4028, 0)]), at)),
        (WalkFaultKind::Invalid, 0)
    );
    assert_eq!(
        fault(walk(&with(&[(0x4028, 0x741)]), at)),
        (WalkFaultKind::Reserved, 0)
    );
    assert_eq!(
        fault(walk(&[(0x1008, 0x2001)], at)),
        (WalkFaultKind::Reserved, 3)
    );
    let wide = 1 << 40 | 0x743;
    assert_eq!(
        fault(walk(&with(&[(0x4028, wide)]), at)),
        (WalkFaultKind::OutputTooWide(1 << 40), 0)
    );
    assert_eq!(
        fault(walk(&[(0x1008, 1 << 47 | 3)], at)),
        (WalkFaultKind::OutputTooWide(1 << 47), 3)
    );
    let root = ForeignTable::<StageTwo<Granule4K>>::new(
        1 << 44,
        &Shape {
            output_bits: 44,
            ..Shape::new(44)
        },
    );
    let result = walk_foreign(&root.expect("a width"), 0, |_| Ok::<_, Infallible>(0));
    let kind = WalkFaultKind::OutputTooWide(1 << 44);
    assert_eq!(result.err(), Some(WalkFault { kind, height: 3 }));
    let wrong = ForeignTable::<SecondStage>::new(0, &Shape::new(58));
    assert_eq!(wrong.err(), Some(MapError::Width(58)));
}

#[test]
fn larger_granules_leave_out_the_low_bits_of_addresses() {
    // 64 KiB: bits 15:12 of a link and of a page are none of the address (DDI 0487, D8.3.1).
    let table = ForeignTable::<StageTwo<Granule64K>>::new(0x1_0000, &Shape::new(42));
    let table = table.expect("a width");
    for (flag, accessed) in [(0, false), (1 << 10, true)] {
        let words = BTreeMap::from([(0x1_0000u64, 0x2_f003u64), (0x2_0000, 0x123_f0c3 | flag)]);
        let leaf = walk_foreign(&table, 0x4567, |at| Ok::<_, Infallible>(words[&at]));
        let leaf = leaf.expect("a page");
        assert_eq!((leaf.output, leaf.size), (0x123_4567, 1 << 16));
        assert_eq!(leaf.accessed, accessed);
    }
}

#[test]
fn tables_restrict_what_is_below_them_unless_told_not_to() {
    let page = 0x743; // read-write, unprivileged, executable at both levels.
    for (bit, changed) in [
        (
            59,
            StageOneAttributes {
                privileged_execute: false,
                ..all()
            },
        ),
        (
            60,
            StageOneAttributes {
                execute: false,
                ..all()
            },
        ),
        (
            61,
            StageOneAttributes {
                unprivileged: false,
                ..all()
            },
        ),
        (
            62,
            StageOneAttributes {
                write: false,
                ..all()
            },
        ),
    ] {
        for level in 0..3 {
            let mut words = [
                (0x1000, 0x2003),
                (0x2000, 0x3003),
                (0x3000, 0x4003),
                (0x4000, page),
            ];
            words[level].1 |= 1 << bit;
            let leaf = walk(&words, 0).expect("a page");
            assert_eq!(leaf.attributes, changed, "bit {bit} at level {level}");
            let map: BTreeMap<u64, u64> = words.into_iter().collect();
            let table = ForeignTable::<StageOne<Granule4K>>::new(0x1000, &Shape::new(48));
            let table = table.expect("a width").without_restrictions();
            let leaf = walk_foreign(&table, 0, |at| Ok::<_, Infallible>(map[&at]));
            assert_eq!(leaf.expect("a page").attributes, all());
        }
    }
}

fn all() -> StageOneAttributes {
    StageOneAttributes {
        write: true,
        unprivileged: true,
        execute: true,
        privileged_execute: true,
        global: true,
        attr_index: 0,
    }
}

#[test]
fn second_stage_permissions_are_those_of_all_levels() {
    let words = BTreeMap::from([(0x1000u64, 0x2003u64), (0x2000, 0x3001), (0x3000, 0x5007)]);
    let table = ForeignTable::<SecondStage>::new(0x1000, &Shape::new(39)).expect("a width");
    let leaf = walk_foreign(&table, 0, |at| Ok::<_, Infallible>(words[&at])).expect("a page");
    let allowed = leaf.attributes;
    assert_eq!(
        (allowed.read, allowed.write, allowed.execute),
        (true, false, false)
    );
    // A level that allows writes only leaves nothing to read.
    let write_only = BTreeMap::from([(0x1000u64, 0x2002u64), (0x2000, 0x3003), (0x3000, 0x5003)]);
    let leaf = walk_foreign(&table, 0, |at| Ok::<_, Infallible>(write_only[&at])).expect("a page");
    assert_eq!((leaf.attributes.read, leaf.attributes.write), (false, true));
    // Address bits below the size of a block do not count, and bit 7 of a page means nothing.
    let block = BTreeMap::from([(0x1000u64, 0x2003u64), (0x2000, 0x0765_4321_f083)]);
    let leaf = walk_foreign(&table, 0x5678, |at| Ok::<_, Infallible>(block[&at])).expect("a block");
    assert_eq!((leaf.output, leaf.size), (0x0765_4320_5678, 2 << 20));
    assert!(leaf.accessed, "no fault waits for A");
    let page = BTreeMap::from([(0x1000u64, 0x2003u64), (0x2000, 0x3003), (0x3000, 0x5083)]);
    let leaf = walk_foreign(&table, 0, |at| Ok::<_, Infallible>(page[&at])).expect("a page");
    assert_eq!((leaf.output, leaf.size), (0x5000, 4096));
    // A page size bit in an SS-PML4E is reserved.
    let table = ForeignTable::<SecondStage>::new(0x1000, &Shape::new(48)).expect("a width");
    let result = walk_foreign(&table, 0, |_| Ok::<_, Infallible>(0x83));
    assert_eq!(result.expect_err("no leaf").kind, WalkFaultKind::Reserved);
}

/// A walk of four levels from 0x1000 over the words of `chain`, one a level, to see `last` at the height where they end.
fn four<F: Walked>(
    chain: &[u64],
    last: u64,
) -> Result<Translation<F::Attributes>, WalkFault<Infallible>> {
    let words: Vec<u64> = chain.iter().copied().chain([last]).collect();
    let table = ForeignTable::<F>::new(
        0x1000,
        &Shape {
            output_bits: 52,
            ..Shape::new(48)
        },
    );
    let reads = Cell::new(0);
    walk_foreign(&table.expect("a width"), 0x5678, |_| {
        reads.set(reads.get() + 1);
        Ok(words[reads.get() - 1])
    })
}

/// Fields by hand: P 0, R/W 1, U/S 2, PWT 3, PCD 4, PS 7, PAT 12 of a large leaf and 7 of a page, NX 63.
#[test]
fn what_a_nested_page_table_says_is_what_all_its_levels_say() {
    let all = [0x2007, 0x3007, 0x4007];
    let says = |chain: &[u64], last| four::<Npt>(chain, last).expect("a leaf");
    let page = says(&all, 0x8_0000_0000_5007);
    assert_eq!(
        (page.output, page.size, page.accessed),
        (0x8_0000_0000_5678, 4096, true)
    );
    assert_eq!(page.attributes, Attributes::RAM);
    // PAT of a page is no page size, and that of a large leaf no address.
    assert_eq!(says(&all, 0x5087).output, 0x5678);
    let large = says(&all[..2], 0x60_1087);
    assert_eq!((large.output, large.size), (0x60_5678, 2 << 20));
    assert_eq!(says(&all[..1], 0x4000_1087).size, 1 << 30);
    let rights = |chain: &[u64], last| {
        let allowed = says(chain, last).attributes;
        [allowed.read, allowed.write, allowed.execute]
    };
    assert_eq!(rights(&all, 0x5005), [true, false, true]);
    assert_eq!(rights(&all, 1 << 63 | 0x5007), [true, true, false]);
    // Nothing for a user is nothing for a guest.
    assert_eq!(rights(&all, 0x5003), [false; 3]);
    assert_eq!(
        rights(&[0x2007, 0x3005, 0x4007], 0x5007),
        [true, false, true]
    );
    assert_eq!(
        rights(&[0x2007, 1 << 63 | 0x3007, 0x4007], 0x5007),
        [true, true, false]
    );
    assert_eq!(rights(&[0x2003, 0x3007, 0x4007], 0x5007), [false; 3]);
    let memory = |last| says(&all, last).attributes.memory;
    assert_eq!(memory(0x500f), Memory::Normal);
    assert_eq!([memory(0x5017), memory(0x501f)], [Memory::Device; 2]);
    let wrong = |chain: &[u64], last| {
        let fault = four::<Npt>(chain, last).expect_err("no leaf");
        (fault.kind, fault.height)
    };
    assert_eq!(wrong(&all, 0x5006), (WalkFaultKind::Invalid, 0));
    assert_eq!(wrong(&all[..2], 0), (WalkFaultKind::Invalid, 1));
    assert_eq!(wrong(&[], 0x2087), (WalkFaultKind::Reserved, 3));
}

/// Fields by hand: R 0, W 1, X 2, memory type 5:3, PS 7.
#[test]
fn what_an_extended_page_table_says_is_what_all_its_levels_say() {
    let all = [0x2007, 0x3007, 0x4007];
    let says = |chain: &[u64], last| four::<Ept>(chain, last).expect("a leaf");
    let page = says(&all, 0x8_0000_0000_5037);
    assert_eq!(
        (page.output, page.size, page.accessed),
        (0x8_0000_0000_5678, 4096, true)
    );
    assert_eq!(page.attributes, Attributes::RAM);
    assert_eq!(says(&all, 0x50b7).output, 0x5678);
    let large = says(&all[..2], 0x60_10b7);
    assert_eq!((large.output, large.size), (0x60_5678, 2 << 20));
    assert_eq!(says(&all[..1], 0x4000_10b7).size, 1 << 30);
    let rights = |chain: &[u64], last| {
        let allowed = says(chain, last).attributes;
        [allowed.read, allowed.write, allowed.execute]
    };
    assert_eq!(rights(&all, 0x5031), [true, false, false]);
    assert_eq!(rights(&all, 0x5034), [false, false, true]);
    assert_eq!(
        rights(&[0x2007, 0x3005, 0x4007], 0x5037),
        [true, false, true]
    );
    assert_eq!(
        rights(&[0x2007, 0x3007, 0x4004], 0x5037),
        [false, false, true]
    );
    assert_eq!(
        rights(&[0x2003, 0x3007, 0x4007], 0x5037),
        [true, true, false]
    );
    let memory = |kind: u64| says(&all, 0x5007 | kind << 3).attributes.memory;
    assert_eq!(memory(0), Memory::Device);
    assert_eq!([1, 4, 5, 6].map(memory), [Memory::Normal; 4]);
    let wrong = |chain: &[u64], last| {
        let fault = four::<Ept>(chain, last).expect_err("no leaf");
        (fault.kind, fault.height)
    };
    assert_eq!(wrong(&all, 0x5038), (WalkFaultKind::Invalid, 0));
    // Any permission at all makes an entry present.
    assert_eq!(wrong(&all[..2], 0), (WalkFaultKind::Invalid, 1));
    // Writes without reads, types that there are not, a large leaf too far up.
    for last in [0x5032, 0x5036] {
        assert_eq!(wrong(&all, last), (WalkFaultKind::Reserved, 0));
    }
    for kind in [2u64, 3, 7] {
        assert_eq!(
            wrong(&all, 0x5007 | kind << 3),
            (WalkFaultKind::Reserved, 0)
        );
        assert_eq!(
            wrong(&all[..2], 0x87 | kind << 3),
            (WalkFaultKind::Reserved, 1)
        );
    }
    assert_eq!(wrong(&all[..2], 0x4002), (WalkFaultKind::Reserved, 1));
    assert_eq!(wrong(&[], 0x20b7), (WalkFaultKind::Reserved, 3));
}

/// Tables that we made are read by the foreign walk as they are by the walkers of the tests.
fn same<F: Walked>(bits: u8) {
    let (ram, mut table) = make::<F>(Shape::new(bits));
    let page = 1u64 << F::PAGE_SHIFT;
    let block = page << (F::PAGE_SHIFT - 3);
    let range = span(3 * block - page, block + 2 * page);
    table
        .map(range, Hpa(5 * block - page), F::READ_ONLY)
        .expect("free");
    let foreign = ForeignTable::<F>::new(table.root().0, &table.shape()).expect("a width");
    for at in (2 * block..5 * block).step_by(page as usize / 2) {
        let ours = hardware::<F>(&ram, table.root().0, table.layout().top.into(), at);
        let walked = walk_foreign(&foreign, at, |at| Ok::<_, Infallible>(ram.word(at))).ok();
        assert_eq!(
            walked.map(|to| (to.output, to.size)),
            ours.map(|to| (to.output, to.size))
        );
        assert!(walked.is_none_or(|to| to.attributes == F::READ_ONLY));
    }
}

#[test]
fn our_own_tables_read_as_what_was_mapped() {
    same::<StageTwo<Granule4K>>(39);
    same::<StageTwo<Granule16K>>(40);
    same::<StageTwo<Granule64K>>(48);
    same::<StageOne<Granule4K>>(48);
    same::<StageOne<Granule16K>>(48);
    same::<StageOne<Granule64K>>(42);
    same::<SecondStage>(57);
    same::<Npt>(48);
    same::<Npt>(57);
    same::<Ept>(48);
    same::<Ept>(57);
}

/// A walk over words that are anything reads at most one a level, and never one twice.
fn bounded<F: Walked>(bits: u8, root: u64, address: u64, seed: u64) {
    let table = ForeignTable::<F>::new(root, &Shape::new(bits)).expect("a width");
    let reads = Cell::new(0);
    // Mostly tables, so that the walk goes on; many of them back to the same place.
    let _ = walk_foreign(&table, address, |at| {
        reads.set(reads.get() + 1);
        let mut word = (at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if word & 0x30 != 0 {
            word = word & 0xffff_ffff_f000 | 3;
        }
        Ok::<_, Infallible>(word)
    });
    assert!(reads.get() <= u32::from(table_top::<F>(bits)) + 1);
}

fn table_top<F: Walked>(bits: u8) -> u8 {
    Shape::new(bits).layout::<F>().expect("a width").top
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_over_anything_ends(root in 0..1u64 << 48, address: u64, seed: u64) {
        bounded::<StageOne<Granule4K>>(48, root, address >> 16, seed);
        bounded::<StageOne<Granule16K>>(47, root, address, seed);
        bounded::<StageTwo<Granule64K>>(42, root, address >> 22, seed);
        bounded::<SecondStage>(57, root & !0xfff, address >> 7, seed);
        bounded::<Npt>(57, root & !0xfff, address >> 7, seed);
        bounded::<Ept>(48, root & !0xfff, address >> 16, seed);
    }
}
