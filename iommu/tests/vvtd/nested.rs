//! A guest's first stages on hardware that walks them: maps are no matter of its unit, invalidations are the hardware's.

use iommu::guest::vvtd::FirstStages;
use iommu::hal::Platform;
use iommu::model::vtd::Config;

use super::guest::{
    BYTES, CONTEXTS, CONTEXTS_ALL, How, IOTLB_ALL, Machine, PASIDS_ALL, RAM, ROOT, RW, SOURCES,
    Stage,
};

const DATA: u64 = RAM + 0x100_0000;
const SCALABLE_ROOT: u64 = ROOT | 1 << 10;
const DOMAIN: u64 = 9;

/// The entry of PASID 0 of a source, and what leads there.
fn pasid_entry(machine: &Machine, which: u64, words: [u64; 3]) {
    let memory = &machine.memory;
    let directory = RAM + 0x4000 + which * 0x2000;
    let table = directory + 0x1000;
    memory.store(ROOT, CONTEXTS | 1);
    memory.store(
        CONTEXTS + u64::from(SOURCES[which as usize]) * 32,
        directory | 1,
    );
    memory.store(directory, table | 1);
    for (at, word) in (table..).step_by(8).zip(words) {
        memory.store(at, word);
    }
}

fn machine(budget: u32) -> Machine {
    let mut machine = Machine::new(&How {
        config: Config::nesting(),
        input_bits: 39,
        first_stages: FirstStages::Nested,
        budget,
        ..How::default()
    });
    machine.enable(SCALABLE_ROOT);
    machine
}

/// 6.5.2.4, of PASID 0: all of it, or pages.
fn all_of(domain: u64) -> [u64; 2] {
    [0x26 | domain << 16, 0]
}

fn pages_of(domain: u64, first: u64, log2: u64) -> [u64; 2] {
    [0x36 | domain << 16, first | log2]
}

/// A first stage with a page at 0x7000, and a source that goes through it.
fn attach(machine: &mut Machine, which: u64, domain: u64) -> Stage {
    let mut stage = Stage::first(which);
    stage.set(&machine.memory, 0x7000, DATA | 7);
    pasid_entry(machine, which, [1 << 6 | 1, domain, stage.root]);
    machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, all_of(domain)]);
    stage
}

#[test]
fn a_map_takes_no_exit_and_an_unmap_one_descriptor() {
    let mut machine = machine(256);
    // CM; SMTS, SSTS, FSTS.
    assert_eq!(machine.unit.read(8, 8) >> 7 & 1, 1);
    assert_eq!(machine.unit.read(0x10, 8) >> 43 & 0b1_1001, 0b1_1001);
    let mut stage = attach(&mut machine, 0, DOMAIN);
    assert_eq!(machine.reach(0, 0x7000, true), Some(DATA));
    let exits = machine.exits();
    let (guest, hardware) = machine.spent(|machine| {
        for page in 0..64 {
            let (at, to) = (0x10_0000 + page * 0x1000, DATA + page * 0x1000);
            stage.set(&machine.memory, at, to | 7);
            machine.memory.0.write_barrier();
            assert_eq!(machine.reach(0, at, true), Some(to));
        }
    });
    assert_eq!(machine.exits(), exits);
    assert_eq!((guest.table_reads, hardware.descriptors), (0, 0));
    // The hardware has set its flags in the guest's memory.
    let slot = stage.slot(&machine.memory, 0x10_0000, 0);
    assert_eq!(machine.memory.load(slot) & 0x60, 0x60);
    let runs: Vec<_> = (0..64)
        .map(|page| {
            stage.set(&machine.memory, 0x10_0000 + page * 0x1000, 0);
            pages_of(DOMAIN, 0x10_0000 + page * 0x1000, 0)
        })
        .collect();
    let (guest, hardware) = machine.spent(|machine| drop(machine.invalidate(&runs)));
    assert_eq!(guest.table_reads, 0);
    // One descriptor each, and a wait for each run of at most 63.
    assert_eq!((hardware.descriptors, hardware.waits), (64, 2));
    for page in 0..64 {
        assert_eq!(machine.reach(0, 0x10_0000 + page * 0x1000, true), None);
    }
    assert_eq!(machine.reach(0, 0x7000, true), Some(DATA));
}

#[test]
fn one_call_does_as_much_as_its_budget_says() {
    let mut machine = machine(16);
    attach(&mut machine, 0, DOMAIN);
    let list: Vec<_> = (0..100)
        .map(|page| pages_of(DOMAIN, page << 12, 0))
        .collect();
    machine.queue(&list);
    let before = machine.unit.counters().forgotten;
    let effects = machine.ring();
    assert!(effects.len() >= 100 / 16, "{} calls", effects.len());
    assert_eq!(machine.unit.counters().forgotten - before, 100);
}

#[test]
fn sources_are_told_apart_whatever_the_guest_calls_their_domains() {
    let mut machine = machine(256);
    let mut first = attach(&mut machine, 0, DOMAIN);
    let mut second = Stage::first(1);
    second.set(&machine.memory, 0x7000, (DATA + 0x1000) | 7);
    // The same domain for another table: the document forbids it, and it harms nobody.
    pasid_entry(&machine, 1, [1 << 6 | 1, DOMAIN, second.root]);
    machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, all_of(DOMAIN)]);
    assert_eq!(machine.reach(0, 0x7000, true), Some(DATA));
    assert_eq!(machine.reach(1, 0x7000, true), Some(DATA + 0x1000));
    first.set(&machine.memory, 0x7000, 0);
    second.set(&machine.memory, 0x7000, 0);
    machine.invalidate(&[pages_of(DOMAIN, 0x7000, 0)]);
    assert_eq!(machine.reach(0, 0x7000, true), None);
    assert_eq!(machine.reach(1, 0x7000, true), None);
    // A second stage beside it has a shadow, as ever.
    let mut third = Stage::new(2, 3);
    third.set(&machine.memory, 0x7000, DATA | RW);
    pasid_entry(&machine, 1, [third.root | 2 << 6 | 1 << 2 | 1, 10, 0]);
    machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, IOTLB_ALL]);
    assert_eq!(machine.reach(1, 0x7000, true), Some(DATA));
    assert_eq!(machine.reach(0, 0x7000, true), None);
}

#[test]
fn faults_of_its_own_tables_are_the_guests_and_others_are_not() {
    let mut machine = machine(256);
    let mut stage = attach(&mut machine, 0, DOMAIN);
    // Read only; beyond the guest's memory; a reserved bit; a table beyond it.
    stage.set(&machine.memory, 0x8000, DATA | 5);
    stage.set(&machine.memory, 0x9000, 0x1000_0000 | 7);
    let slot = stage.slot(&machine.memory, 0x4000_0000, 2);
    machine.memory.store(slot, DATA | 1 << 13 | 0x87);
    let slot = stage.slot(&machine.memory, 1 << 39, 3);
    machine.memory.store(slot, 0x1000_0000 | 7);
    machine.invalidate(&[all_of(DOMAIN)]);
    let source = u64::from(SOURCES[0]);
    for (at, write, reason) in [
        (0x8000, true, Some(0x85)),
        (0x9000, true, None),
        (0x4000_0000, false, Some(0x72)),
        (1 << 39, false, None),
        (0xa000, false, Some(0x71)),
        (1 << 47, false, Some(0x80)),
    ] {
        let before = machine.unit.counters().faults.delivered;
        assert_eq!(machine.reach(0, at, write), None);
        machine.faults();
        let delivered = machine.unit.counters().faults.delivered - before;
        assert_eq!(delivered, u64::from(reason.is_some()), "{at:#x}");
        if let Some(reason) = reason {
            let index = before % 4;
            let word = 1 << 63 | u64::from(!write) << 62 | reason << 32 | source;
            assert_eq!(machine.fault_record(index), [at, word]);
        }
    }
}

/// The tables of a guest's that are wrong in ways of their own, against a walk of our own of what they say.
#[test]
fn whatever_a_guest_has_in_its_tables_leads_where_they_say_or_nowhere() {
    let (mut arrived, mut nowhere) = (0, 0);
    for seed in 1..60u64 {
        let mut machine = machine(64);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % bound
        };
        // Eight pages of entries that mostly lead to each other.
        let tables = RAM + 0x20_0000;
        let mut entry = || {
            let to = match roll(8) {
                0 => roll(1 << 20) << 12,
                1 | 2 => DATA + (roll(16) << 12),
                _ => tables + (roll(8) << 12),
            };
            let low = [7, 7, 7, 7, 5, 3, 1, 0x87, 0x187, 0, 0x67][roll(11) as usize];
            let high = if roll(16) == 0 {
                1 << (52 + roll(12))
            } else {
                0
            };
            to | low | high
        };
        for page in 0..8 {
            for index in 0..4 {
                let word = entry();
                machine
                    .memory
                    .store(tables + page * 0x1000 + index * 8, word);
            }
        }
        pasid_entry(&machine, 0, [1 << 6 | 1, DOMAIN, tables]);
        machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, all_of(DOMAIN)]);
        for round in 0..3 {
            for at in 0..256u64 {
                let digits = [at & 3, at >> 2 & 3, at >> 4 & 3, at >> 6 & 3];
                let va = digits.iter().rev().fold(0, |va, digit| va << 9 | digit) << 12;
                for write in [false, true] {
                    let expected = walk(&machine, tables, va, write);
                    let went = machine.reach(0, va, write);
                    assert_eq!(went, expected, "{seed} {round} {va:#x} {write}");
                    match went {
                        Some(to) => {
                            assert!((RAM..RAM + BYTES).contains(&to));
                            arrived += 1;
                        }
                        None => nowhere += 1,
                    }
                }
            }
            machine.faults();
            for _ in 0..6 {
                let (page, index) = (state % 8, state >> 8 & 3);
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                machine.memory.store(
                    tables + page * 0x1000 + index * 8,
                    tables + (state >> 16 & 7) * 0x1000 + 7,
                );
            }
            machine.invalidate(&[all_of(DOMAIN)]);
        }
    }
    assert!(arrived > 1_000 && nowhere > 1_000, "{arrived} {nowhere}");
}

/// Where four levels lead (9.7), by the words alone.
fn walk(machine: &Machine, root: u64, va: u64, write: bool) -> Option<u64> {
    let inside = |at: u64| (RAM..RAM + BYTES).contains(&at);
    let (mut table, mut writes, mut users) = (root, true, true);
    for height in (0..4u32).rev() {
        if !inside(table) {
            return None;
        }
        let shift = 12 + 9 * height;
        let entry = machine.memory.load(table + (va >> shift & 511) * 8);
        let large = height > 0 && entry >> 7 & 1 != 0;
        let mask = (1u64 << shift) - 1;
        if entry & 1 == 0 || large && (height == 3 || entry & mask & !0x1fff != 0) {
            return None;
        }
        writes &= entry & 2 != 0;
        users &= entry & 4 != 0;
        table = entry & 0x000f_ffff_ffff_f000;
        if height == 0 || large {
            let to = table & !mask | va & mask;
            return (users && (writes || !write) && inside(to)).then_some(to);
        }
    }
    None
}
