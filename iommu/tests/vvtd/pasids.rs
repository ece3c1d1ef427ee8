//! PASIDs of a guest's: the entries of its PASID tables go to hardware that walks its first stages.

use iommu::guest::vvtd::FirstStages;
use iommu::model::vtd::Config;
use iommu::object::Error;

use super::guest::{
    CONTEXTS, CONTEXTS_ALL, How, IOTLB_ALL, Machine, PASIDS_ALL, RAM, ROOT, RW, SOURCES, Stage,
    context_of,
};

const DATA: u64 = RAM + 0x100_0000;
const SCALABLE_ROOT: u64 = ROOT | 1 << 10;
const VA: u64 = 0x7000;
/// PASIDE, and a directory of 2^(2 + 7) entries (9.4).
const PASIDE: u64 = 1 << 3 | 2 << 9;
/// Pages of the guest's for its PASID tables, a MiB before its data.
const PASIDS: u64 = RAM + 0xf0_0000;

fn machine(pasids: u16, budget: u32) -> Machine {
    let mut machine = Machine::new(&How {
        config: Config::nesting(),
        input_bits: 39,
        first_stages: FirstStages::Nested,
        pasids,
        budget,
        ..How::default()
    });
    machine.memory.store(ROOT, CONTEXTS | 1);
    machine.enable(SCALABLE_ROOT);
    machine
}

fn directory(which: usize) -> u64 {
    PASIDS + which as u64 * 0x1_0000
}

/// The context entry of a source.
fn admit(machine: &Machine, which: usize, fields: u64) {
    let at = CONTEXTS + u64::from(SOURCES[which]) * 32;
    machine.memory.store(at, directory(which) | fields | 1);
}

/// Where the entry of a PASID is: tables are in the pages behind the directory, by the low bits of their index.
fn slot(machine: &Machine, which: usize, pasid: u64) -> u64 {
    let index = pasid >> 6;
    let table = directory(which) + 0x1000 * (1 + index % 15);
    machine
        .memory
        .store(directory(which) + index * 8, table | 1);
    table + (pasid & 63) * 64
}

fn put(machine: &Machine, which: usize, pasid: u64, words: [u64; 3]) {
    let at = slot(machine, which, pasid);
    for (at, word) in (at..).step_by(8).zip(words).skip(1) {
        machine.memory.store(at, word);
    }
    machine.memory.store(at, words[0]);
}

/// A first stage (PGTT 001), and a second of three levels (010).
fn first(stage: &Stage, domain: u64) -> [u64; 3] {
    [1 << 6 | 1, domain, stage.root]
}

fn second(stage: &Stage, domain: u64) -> [u64; 3] {
    [stage.root | 2 << 6 | 1 << 2 | 1, domain, 0]
}

/// PASID-cache and PASID-based IOTLB invalidations (6.5.2.2, 6.5.2.4).
fn pasid_of(domain: u64, pasid: u64) -> [u64; 2] {
    [0x17 | domain << 16 | pasid << 32, 0]
}

fn pages_of(domain: u64, pasid: u64, at: u64) -> [u64; 2] {
    [0x36 | domain << 16 | pasid << 32, at]
}

fn stage(machine: &Machine, nth: u64, to: u64) -> Stage {
    let mut stage = Stage::first(nth);
    stage.set(&machine.memory, VA, to | 7);
    stage
}

#[test]
fn they_are_offered_where_hardware_walks_and_has_them() {
    // PASID, PSS.
    let offered = |how: &How| Machine::new(how).unit.read(0x10, 8) >> 35 & 0x3f;
    let how = |pasids, pasid_bits, first_stages| How {
        config: Config {
            pasid_bits,
            ..Config::nesting()
        },
        input_bits: 39,
        pasids,
        first_stages,
        ..How::default()
    };
    assert_eq!(offered(&how(4, 20, FirstStages::Nested)), 1 << 5 | 14);
    assert_eq!(offered(&how(4, 9, FirstStages::Nested)), 1 << 5 | 8);
    assert_eq!(offered(&how(0, 20, FirstStages::Nested)), 0);
    assert_eq!(offered(&how(4, 0, FirstStages::Nested)), 0);
    assert_eq!(offered(&how(4, 20, FirstStages::Shadowed)), 0);
}

#[test]
fn each_pasid_goes_through_what_its_entry_says() {
    let mut machine = machine(8, 256);
    admit(&machine, 0, PASIDE);
    let stages = [0, 1, 2].map(|nth| stage(&machine, nth, DATA + nth * 0x1000));
    put(&machine, 0, 0, first(&stages[0], 5));
    put(&machine, 0, 5, first(&stages[1], 6));
    // Past the first table of the directory.
    put(&machine, 0, 1000, first(&stages[2], 7));
    // Straight to the guest's memory.
    put(&machine, 0, 6, [4 << 6 | 1 << 2 | 1, 8, 0]);
    machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, IOTLB_ALL]);
    assert_eq!(machine.reach(0, VA, true), Some(DATA));
    assert_eq!(machine.reach_with(0, 5, VA), Some(DATA + 0x1000));
    assert_eq!(machine.reach_with(0, 1000, VA), Some(DATA + 0x2000));
    assert_eq!(machine.reach_with(0, 6, DATA), Some(DATA));
    for pasid in [1, 4, 7, 64, 999, 1001, 0x7fff] {
        assert_eq!(machine.reach_with(0, pasid, VA), None, "{pasid}");
    }
    assert_eq!(machine.reach_with(1, 5, VA), None, "of another source");
    // A second stage has a shadow, which is made again when the guest says so.
    let mut shadowed = Stage::new(3, 3);
    shadowed.set(&machine.memory, VA, (DATA + 0x3000) | RW);
    put(&machine, 0, 7, second(&shadowed, 9));
    machine.invalidate(&[pasid_of(9, 7)]);
    assert_eq!(machine.reach_with(0, 7, VA), Some(DATA + 0x3000));
    assert_eq!(machine.reach_with(0, 5, VA), Some(DATA + 0x1000));
}

#[test]
fn one_is_changed_by_one_descriptor_and_no_other_is_looked_at() {
    let mut machine = machine(64, 256);
    admit(&machine, 0, PASIDE);
    let tables = [0, 1].map(|nth| stage(&machine, nth, DATA + nth * 0x1000));
    for pasid in 1..33 {
        put(&machine, 0, pasid, first(&tables[0], 6));
    }
    machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL]);
    assert!((1..33).all(|pasid| machine.reach_with(0, pasid, VA) == Some(DATA)));
    let before = machine.unit.counters().attached;
    put(&machine, 0, 9, first(&tables[1], 7));
    machine.invalidate(&[pasid_of(6, 9), pages_of(6, 9, VA)]);
    assert_eq!(machine.unit.counters().attached - before, 1);
    assert_eq!(machine.reach_with(0, 9, VA), Some(DATA + 0x1000));
    // And taken away, which no other notices.
    put(&machine, 0, 9, [0, 0, 0]);
    machine.invalidate(&[pasid_of(7, 9)]);
    assert_eq!(machine.reach_with(0, 9, VA), None);
    assert!((10..33).all(|pasid| machine.reach_with(0, pasid, VA) == Some(DATA)));
    // What a table loses leaves all that go through it, by one descriptor of the guest's.
    let mut shared = Stage::first(0);
    let slot = shared.slot(&machine.memory, VA, 0);
    machine.memory.store(slot, 0);
    machine.invalidate(&[pages_of(6, 1, VA)]);
    assert!((1..33).all(|pasid| machine.reach_with(0, pasid, VA).is_none()));
}

#[test]
fn all_go_with_what_leads_to_them() {
    let mut machine = machine(8, 64);
    let table = stage(&machine, 0, DATA);
    for which in [0, 1] {
        admit(&machine, which, PASIDE);
        for pasid in [3, 500] {
            put(&machine, which, pasid, first(&table, 6));
        }
    }
    let all = |machine: &Machine, which| {
        [3, 500].map(|pasid| machine.reach_with(which, pasid, VA).is_some())
    };
    let told = [CONTEXTS_ALL, PASIDS_ALL];
    machine.invalidate(&told);
    assert_eq!((all(&machine, 0), all(&machine, 1)), ([true; 2], [true; 2]));
    // A directory entry.
    machine.memory.store(directory(0) + 500 / 64 * 8, 0);
    machine.invalidate(&told);
    assert_eq!(all(&machine, 0), [true, false]);
    // PASIDE; the context; translation.
    admit(&machine, 0, 0);
    machine.invalidate(&[context_of(SOURCES[0])]);
    assert_eq!(
        (all(&machine, 0), all(&machine, 1)),
        ([false; 2], [true; 2])
    );
    machine
        .memory
        .store(CONTEXTS + u64::from(SOURCES[1]) * 32, 0);
    machine.invalidate(&[context_of(SOURCES[1])]);
    assert_eq!(all(&machine, 1), [false; 2]);
    admit(&machine, 1, PASIDE);
    machine.invalidate(&told);
    assert_eq!(all(&machine, 1), [true; 2]);
    machine.write(0x18, 4, 1 << 26);
    assert_eq!(all(&machine, 1), [false; 2]);
    machine.write(0x18, 4, 1 << 26 | 1 << 31);
    assert_eq!(all(&machine, 1), [true; 2]);
    machine.unit.stop().unwrap();
    assert_eq!(all(&machine, 1), [false; 2]);
}

#[test]
fn so_many_as_there_is_room_for_and_work_in_parts() {
    let mut machine = machine(4, 16);
    admit(&machine, 0, PASIDE);
    let table = stage(&machine, 0, DATA);
    for pasid in [1, 2, 3, 4, 5, 200] {
        put(&machine, 0, pasid, first(&table, 6));
    }
    machine.queue(&[PASIDS_ALL]);
    let effects = machine.ring();
    // Two tables of 64 entries, each of which counts.
    assert!(effects.len() > 30, "{} calls", effects.len());
    let failed = effects
        .iter()
        .filter(|it| it.failed == Some(Error::NoSpace));
    assert_eq!(failed.count(), 2);
    let reached = [1, 2, 3, 4, 5, 200].map(|pasid| machine.reach_with(0, pasid, VA).is_some());
    assert_eq!(reached, [true, true, true, true, false, false]);
    // One goes, and there is room for another.
    put(&machine, 0, 2, [0; 3]);
    machine.invalidate(&[pasid_of(6, 2), pasid_of(6, 5)]);
    let reached = [2, 5].map(|pasid| machine.reach_with(0, pasid, VA).is_some());
    assert_eq!(reached, [false, true]);
}

#[test]
fn faults_come_with_the_pasid_and_the_reason_of_the_guests_own_tables() {
    let mut machine = machine(8, 256);
    admit(&machine, 0, PASIDE);
    let mut table = stage(&machine, 0, DATA);
    table.set(&machine.memory, 0x8000, DATA | 5);
    put(&machine, 0, 5, first(&table, 6));
    put(&machine, 0, 9, [1 << 9 | 1, 0, 0]);
    put(&machine, 0, 10, [7 << 6 | 1, 0, 0]);
    put(&machine, 0, 11, [2, 0, 0]);
    machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL]);
    let source = u64::from(SOURCES[0]);
    let mut seen = 0;
    for (pasid, at, reason) in [
        (5, 0x8000, Some(0x85)),
        (5, 0x9000, Some(0x71)),
        (6, VA, Some(0x59)),
        (9, VA, Some(0x5a)),
        (10, VA, Some(0x5b)),
        // FPD.
        (11, VA, None),
        (3000, VA, Some(0x51)),
        (0x7fff, VA, Some(0x51)),
        // Past what is offered.
        (0x8000, VA, Some(0x89)),
    ] {
        assert_eq!(machine.reach_with(0, pasid, at), None);
        machine.faults();
        let index = seen % 4;
        let record = machine.fault_record(index);
        match reason {
            Some(reason) => {
                let pasid = u64::from(pasid) << 40 | 1 << 31;
                let word = 1 << 63 | reason << 32 | source | pasid;
                assert_eq!(record, [at, word], "{pasid:#x} {at:#x}");
                machine.write(0x200 + index * 16 + 12, 4, 1 << 31);
                seen += 1;
            }
            None => assert_eq!(record[1] >> 63, 0),
        }
    }
    // Not enabled, and past a smaller directory.
    admit(&machine, 0, 1 << 3);
    machine.invalidate(&[CONTEXTS_ALL]);
    assert_eq!(machine.reach_with(0, 0x7fff, VA), None);
    machine.faults();
    assert_eq!(
        machine.fault_record(seen % 4)[1] >> 32 & 0xff,
        0x46,
        "128 tables"
    );
    seen += 1;
    admit(&machine, 0, 0);
    machine.invalidate(&[CONTEXTS_ALL]);
    assert_eq!(machine.reach_with(0, 5, VA), None);
    machine.faults();
    assert_eq!(machine.fault_record(seen % 4)[1] >> 32 & 0xff, 0x45);
}

/// Random entries of three PASIDs of two sources, against what they say.
#[test]
fn whatever_entries_say_is_what_there_is_after_they_are_told() {
    let (mut arrived, mut nowhere) = (0, 0);
    for seed in 1..20u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % bound
        };
        let mut machine = machine(8, [8, 64, 256][seed as usize % 3]);
        let tables = [0, 1, 2].map(|nth| stage(&machine, nth, DATA + nth * 0x1000));
        for _ in 0..60 {
            let (which, pasid) = (roll(2) as usize, [0, 3, 300][roll(3) as usize]);
            let context = roll(8);
            admit(&machine, which, if context > 0 { PASIDE } else { 0 });
            let choice = roll(5);
            let words = match choice {
                // A table has one domain, whoever goes through it.
                0..3 => first(&tables[choice as usize], 6 + choice),
                3 => [0; 3],
                _ => [1 << 10 | 1 << 6 | 1, 0, 0],
            };
            put(&machine, which, pasid, words);
            // What changed is told, by one of the ways to.
            let told = match roll(3) {
                0 => vec![CONTEXTS_ALL, PASIDS_ALL],
                _ => vec![context_of(SOURCES[which]), pasid_of(9, pasid)],
            };
            machine.invalidate(&told);
            for which in [0, 1] {
                let at = CONTEXTS + u64::from(SOURCES[which]) * 32;
                let context = machine.memory.load(at);
                for pasid in [0, 3, 300] {
                    let entry = slot(&machine, which, pasid);
                    let words = [0, 16].map(|word| machine.memory.load(entry + word));
                    let open = context & 1 != 0 && (pasid == 0 || context & 8 != 0);
                    let expected = (open && words[0] == 1 << 6 | 1).then(|| {
                        let nth = tables.iter().position(|it| it.root == words[1]).unwrap();
                        DATA + nth as u64 * 0x1000
                    });
                    let went = match pasid {
                        0 => machine.reach(which, VA, true),
                        _ => machine.reach_with(which, pasid as u32, VA),
                    };
                    assert_eq!(went, expected, "{seed} {which} {pasid}");
                    match went {
                        Some(_) => arrived += 1,
                        None => nowhere += 1,
                    }
                }
            }
            machine.faults();
        }
    }
    assert!(arrived > 500 && nowhere > 500, "{arrived} {nowhere}");
}
