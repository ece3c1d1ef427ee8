//! Guests that write anything anywhere, against a walk of their tables that knows nothing of ours.

use proptest::prelude::{Strategy, any, prop, prop_oneof};
use proptest::test_runner::{Config as Runs, TestCaseError, TestRunner};

use super::guest::{
    BYTES, CONTEXTS, CONTEXTS_ALL, GCMD, GuestRam, How, IOTLB_ALL, IQT, Machine, QIE, RAM, REAL,
    ROOT, SOURCES, STATUS, TABLES, TE,
};
use iommu::model::vtd::Config;

/// What a guest does.
#[derive(Clone, Debug)]
enum Deed {
    /// A context entry of a source: which, first and second word.
    Context(usize, u64, u64),
    /// An entry in one of a few tables: table, index, word.
    Entry(u64, u64, u64),
    /// All is told.
    Tell,
}

/// An entry: mostly a link to one of the tables or a page, in some memory, now and then anything.
fn entry() -> impl Strategy<Value = u64> {
    let link = (0u64..8, 1u64..4).prop_map(|(table, rights)| (TABLES + table * 0x1000) | rights);
    let page =
        (0u64..BYTES >> 12, 0u64..4).prop_map(|(page, rights)| (RAM + (page << 12)) | rights);
    let block = (0u64..BYTES >> 21, 0u64..4)
        .prop_map(|(page, rights)| (RAM + (page << 21)) | 1 << 7 | rights);
    prop_oneof![4 => link, 4 => page, 2 => block, 1 => any::<u64>(), 1 => proptest::strategy::Just(0)]
}

fn deed() -> impl Strategy<Value = Deed> {
    let context = (0usize..2, 0u64..8, 0u64..4, 0u64..4).prop_map(|(which, table, kind, more)| {
        let first = (TABLES + table * 0x1000) | kind << 2 | u64::from(more != 0);
        Deed::Context(which, first, (table + 1) << 8 | 1 | more >> 1)
    });
    // The indices that the probed addresses use.
    let entry = (0u64..8, 0u64..4, entry())
        .prop_map(|(table, index, word)| Deed::Entry(table, index, word));
    prop_oneof![2 => context, 8 => entry, 1 => proptest::strategy::Just(Deed::Tell)]
}

/// Where a request goes, by the document alone (3.4, 3.7, 9.3, 9.8).
fn walk(memory: &GuestRam, widths: u64, source: u16, iova: u64, write: bool) -> Option<u64> {
    let load = |at: u64| (RAM..RAM + BYTES).contains(&at).then(|| memory.load(at));
    let beyond = !((1u64 << 40) - 1);
    let at = CONTEXTS + u64::from(source) * 16;
    let (first, second) = (load(at)?, load(at + 8)?);
    if first & 1 == 0 || first & (0xff0 | beyond) != 0 || widths >> (second & 7) & 1 == 0 {
        return None;
    }
    if first >> 2 & 3 == 2 {
        return (RAM..RAM + BYTES).contains(&iova).then_some(iova);
    }
    if first >> 2 & 3 != 0 {
        return None;
    }
    let mut height = (second & 7) + 1;
    let mut table = first & !0xfff;
    if iova >> (12 + 9 * (height + 1)) != 0 {
        return None;
    }
    loop {
        let shift = 12 + 9 * height;
        let entry = load(table + (iova >> shift & 0x1ff) * 8)?;
        if entry & 3 == 0 || entry >> u64::from(write) & 1 == 0 {
            return None;
        }
        let to = entry & 0x000f_ffff_ffff_f000;
        if height == 0 || entry >> 7 & 1 != 0 {
            if height > 2 {
                return None;
            }
            let size = 1 << shift;
            let at = (to & !(size - 1)) + (iova & (size - 1));
            return (RAM..RAM + BYTES).contains(&at).then_some(at);
        }
        table = to;
        height -= 1;
    }
}

/// Addresses whose indices are 0 to 3 at each of the lower levels.
fn probes() -> impl Iterator<Item = u64> {
    (0..256u64).map(|n| {
        (n & 3) << 12 | (n >> 2 & 3) << 21 | (n >> 4 & 3) << 30 | (n >> 6 & 3) << 39 | 0x123
    })
}

/// After an invalidation of everything, every probe goes where the guest's tables say, whatever was there before; and no
/// probe ever leaves the guest's memory.
#[test]
fn devices_see_what_the_guests_tables_say() {
    for (input_bits, coherent) in [(48, true), (39, false)] {
        let widths = if input_bits == 48 { 0b110 } else { 0b10 };
        let how = How {
            config: Config {
                coherent,
                ..Config::default()
            },
            input_bits,
            scalable: false,
            budget: 100,
            ..How::default()
        };
        let deeds = prop::collection::vec(deed(), 1..120);
        let runs = Runs {
            cases: 40,
            failure_persistence: None,
            ..Runs::default()
        };
        let passed = std::cell::Cell::new(0u64);
        let test = |deeds: Vec<Deed>| {
            let mut machine = Machine::new(&how);
            machine.enable(ROOT);
            for deed in deeds.into_iter().chain([Deed::Tell]) {
                match deed {
                    Deed::Context(which, first, second) => {
                        machine.context_entry(SOURCES[which], first, second);
                    }
                    Deed::Entry(table, index, word) => {
                        machine
                            .memory
                            .store(TABLES + table * 0x1000 + index * 8, word);
                    }
                    Deed::Tell => {
                        machine.invalidate(&[CONTEXTS_ALL, IOTLB_ALL]);
                        for (which, source) in SOURCES.into_iter().enumerate() {
                            for at in probes() {
                                for write in [false, true] {
                                    let found = machine.reach(which, at, write);
                                    let said = walk(&machine.memory, widths, source, at, write);
                                    passed.set(passed.get() + u64::from(found.is_some()));
                                    if found != said {
                                        let what = format!(
                                            "{which} {at:#x} {write}: {found:x?}, not {said:x?}"
                                        );
                                        return Err(TestCaseError::fail(what));
                                    }
                                }
                            }
                        }
                    }
                }
            }
            Ok(())
        };
        TestRunner::new(runs).run(&deeds, test).unwrap();
        assert!(passed.get() > 1000, "only {} probes passed", passed.get());
    }
}

/// The largest tables that a guest can have in a few pages: each entry of a table leads to the next one, and the last one
/// to itself. Every call ends, and others get their turn; the queue goes on where it was.
#[test]
fn tables_without_end_are_worked_on_in_parts() {
    let mut machine = Machine::new(&How {
        scalable: false,
        budget: 64,
        ..How::default()
    });
    machine.enable(ROOT);
    let table = |height: u64| TABLES + (3 - height) * 0x1000;
    for index in 0..512 {
        for height in 1..4 {
            // All rights above, none at the end: nothing is mapped, and all of it has to be looked at.
            machine
                .memory
                .store(table(height) + index * 8, table(height - 1) | 3);
        }
        machine.memory.store(table(0) + index * 8, 0);
    }
    machine.context_entry(SOURCES[0], TABLES | 1, 1 << 8 | 2);
    machine.queue(&[[0x31 | u64::from(SOURCES[0]) << 32, 0]]);
    machine.queue(&[[99 << 32 | 0x25, STATUS]]);
    let before = machine.unit.counters();
    let first = machine.unit.write(&machine.memory, IQT, 8, machine.tail());
    assert!(first.more);
    let mut last = machine.unit.counters();
    for _ in 0..2_000 {
        assert!(machine.unit.run(&machine.memory).more);
        let now = machine.unit.counters();
        // 64 entries, and what leads to them, count as four.
        assert!(
            now.entries - last.entries <= (64 / 4 + 1) * (64 + 4),
            "a call's part"
        );
        last = now;
    }
    assert!(last.entries > before.entries + 2_000 * 8);
    // The source has what it had, and nothing of it is complete.
    assert_eq!(machine.reach(0, 0x123, false), None);
    assert_ne!(machine.memory.load(STATUS) & 0xffff_ffff, 99);
    // The guest mends its tables, and the same queue comes to its end.
    for index in 0..512 {
        machine.memory.store(table(3) + index * 8, 0);
    }
    let mut turns = 0;
    while machine.unit.run(&machine.memory).more {
        turns += 1;
        assert!(turns < 100_000);
    }
    assert_eq!(machine.memory.load(STATUS) & 0xffff_ffff, 99);
    machine.unit.stop().unwrap();
}

/// Anything anywhere: no store of a guest's ends anything, or lets its devices out of its memory.
#[test]
fn stores_of_anything_to_any_register() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut dice = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut machine = Machine::new(&How {
        budget: 32,
        ..How::default()
    });
    for at in (RAM..RAM + 0x8000).step_by(8) {
        let word = match dice() % 4 {
            0 => dice(),
            1 => dice() & 0xffff_ffff_ffff,
            2 => (RAM + (dice() % 0x20) * 0x1000) | dice() & 0xff,
            _ => dice() % 16,
        };
        machine.memory.store(at, word);
    }
    for turn in 0..60_000u64 {
        let size = [1, 2, 4, 4, 8, 8][(dice() % 6) as usize];
        let offset = match dice() % 3 {
            0 => dice() % 0x1008,
            _ => {
                [0x18, 0x20, 0x28, 0x34, 0x38, 0x88, 0x90, 0xb8, 0xf0, 0xf8][(dice() % 10) as usize]
            }
        };
        let value = match dice() % 3 {
            0 => dice(),
            1 => (RAM + (dice() % 8) * 0x1000) | dice() & 0xcff,
            _ => TE | QIE | dice() & 0xff00_0000,
        };
        machine.unit.write(&machine.memory, offset, size, value);
        machine.unit.run(&machine.memory);
        machine.unit.read(offset, size);
        if turn % 64 == 0 {
            for which in 0..REAL.len() {
                if let Some(at) = machine.reach(which, dice() & 0x3fff_ffff, dice() & 1 != 0) {
                    assert!((RAM..RAM + BYTES).contains(&at), "{at:#x}");
                }
            }
            machine.faults();
        }
    }
    machine.unit.stop().unwrap();
    for which in 0..REAL.len() {
        assert_eq!(machine.reach(which, RAM, false), None);
    }
    // As out of reset: what is asked for is done.
    machine.write(GCMD, 4, 0);
    assert_eq!(machine.read32(0x1c), 0);
}
