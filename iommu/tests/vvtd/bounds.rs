//! What a guest has mapped makes no call longer: a guest that stops, and one whose memory changes.

use iommu::model::vtd::Config;

use super::guest::{GCMD, GSTS, How, Machine, RAM, ROOT, RW, SOURCES, Stage, context_of, domain};

const PAGE: u64 = 0x1000;
/// Pages of guest memory that are mapped over and over.
const DATA: u64 = RAM + 0x100_0000;
const PAGES: u64 = 0x1000;
const MAPPED: u64 = 1 << 18;
const TABLES: usize = (MAPPED / 512) as usize;
/// Tables that one call frees at most: three times eight, and those of a path.
const FREED: usize = 3 * 8 + 3;
/// What the hardware is told by one call at most: of a source that leaves, of a shadow, and of its tag.
const TOLD: u64 = 16;

/// The page behind, so that none of it is a block.
fn target(page: u64) -> u64 {
    DATA + (page + 1) % PAGES * PAGE
}

/// A guest with so many pages of its first source mapped that its shadow has 512 tables of pages.
fn filled() -> Machine {
    let how = How {
        config: Config::default(),
        scalable: false,
        budget: 16,
        ..How::default()
    };
    let mut machine = Machine::new(&how);
    machine.enable(ROOT);
    let mut stage = Stage::new(0, 3);
    for table in 0..TABLES as u64 {
        let first = table * 512;
        let slot = stage.slot(&machine.memory, first * PAGE, 0);
        for page in 0..512 {
            let to = target(first + page);
            machine.memory.store(slot + page * 8, to | RW);
        }
    }
    machine.context_entry(SOURCES[0], stage.root | 1, 1 << 8 | 1);
    machine.invalidate(&[context_of(SOURCES[0]), domain(1)]);
    for page in [0, 511, 512, MAPPED - 1] {
        assert_eq!(machine.reach(0, page * PAGE, true), Some(target(page)));
    }
    machine
}

/// Allocations in use.
fn live(machine: &Machine) -> usize {
    machine.memory.0.live().0
}

/// Does one call, which may free and tell only so much.
fn bounded<T>(machine: &mut Machine, call: impl FnOnce(&mut Machine) -> T) -> T {
    let before = live(machine);
    let mut result = None;
    let (_, told) = machine.spent(|it| result = Some(call(it)));
    let freed = before.saturating_sub(live(machine));
    assert!(freed <= FREED, "{freed} tables at once");
    assert!(told.descriptors <= TOLD && told.waits <= TOLD, "{told:?}");
    result.expect("it was called")
}

/// Goes on until nothing is left; how many calls that took.
fn finish(machine: &mut Machine) -> usize {
    let mut calls = 0;
    while machine.unit.has_work() {
        bounded(machine, |it| it.unit.run(&it.memory));
        calls += 1;
        assert!(calls <= 4 * TABLES);
    }
    calls
}

#[test]
fn a_guest_that_stops_is_refused_at_once_and_given_back_in_parts() {
    let mut machine = filled();
    let full = live(&machine);
    let stopped = bounded(&mut machine, |it| it.unit.stop());
    stopped.expect("stopped");
    assert_eq!(machine.reach(0, 0, true), None);
    assert_eq!(machine.read32(GSTS), 0);
    // A message of a device that is not reset yet passes, and hides nothing.
    let (found, effect) = machine
        .unit
        .remap(&machine.memory, SOURCES[0], 0xfee0_3000, 0x41);
    assert!(found.is_some() && effect.more);
    // The next guest need not wait for it.
    let effect = bounded(&mut machine, |it| it.unit.start(&it.memory));
    assert!(effect.more && effect.failed.is_none());
    assert_eq!(machine.reach(0, DATA, true), Some(DATA));
    assert!(machine.unit.has_work());
    assert!(finish(&mut machine) > 1);
    assert!(full - live(&machine) >= TABLES);
    assert_eq!(machine.reach(0, DATA, true), Some(DATA));
}

#[test]
fn memory_that_goes_is_reached_no_more_at_once_and_tables_go_in_parts() {
    let mut machine = filled();
    let full = live(&machine);
    let gone = bounded(&mut machine, |it| it.ioas.unmap_all());
    gone.expect("nobody holds it");
    for page in [0, 512, MAPPED - 1] {
        assert_eq!(machine.reach(0, page * PAGE, true), None);
    }
    machine.map_ram();
    let effect = bounded(&mut machine, |it| it.unit.memory_changed(&it.memory));
    assert!(effect.more);
    finish(&mut machine);
    for page in [0, 512, MAPPED - 1] {
        assert_eq!(machine.reach(0, page * PAGE, true), Some(target(page)));
    }
    // What there was before is gone, or as good as that: the same is there once more.
    let now = live(&machine);
    assert!(now.abs_diff(full) <= FREED, "{full} before, {now} now");
}

#[test]
fn what_is_left_of_a_guest_goes_with_its_unit() {
    let mut machine = filled();
    let root = machine.memory.0.clone();
    let full = root.live().0;
    machine.write(GCMD, 4, 0);
    machine.ioas.unmap_all().expect("nobody holds it");
    drop(machine);
    assert!(full - root.live().0 > TABLES);
}
