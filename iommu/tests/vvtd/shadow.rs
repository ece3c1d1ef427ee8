//! A guest in legacy mode, as Linux drives a unit in caching mode.

use iommu::addr::{Iova, Span};
use iommu::guest::vvtd::Interrupts;
use iommu::id::VirtDeviceId;
use iommu::model::vtd::Config;
use iommu::object::Error;

use super::guest::{
    BYTES, CONTEXTS_ALL, FECTL, FRCD, FSTS, GCMD, GSTS, How, IOTLB_ALL, IQT, Machine, QIE, RAM,
    ROOT, RW, SOURCES, SRTP, Stage, TE, context_of, domain, pages,
};

/// Whether it is done by a machine with a coherent unit.
fn both(test: impl Fn(&How)) {
    for (coherent, input_bits) in [(true, 48), (false, 39)] {
        let config = Config {
            coherent,
            ..Config::default()
        };
        test(&How {
            config,
            input_bits,
            scalable: false,
            ..How::default()
        });
    }
}

/// The first source in domain 1, behind an empty stage of three levels.
fn attached(how: &How) -> (Machine, Stage) {
    let mut machine = Machine::new(how);
    machine.enable(ROOT);
    let stage = Stage::new(0, 3);
    machine.context_entry(SOURCES[0], stage.root | 1, 1 << 8 | 1);
    machine.invalidate(&[context_of(SOURCES[0]), domain(1)]);
    (machine, stage)
}

const PAGE: u64 = 0x1000;
const DATA: u64 = RAM + 0x100_0000;

#[test]
fn dma_goes_where_the_guest_says_and_when_it_says_so() {
    both(|how| {
        let mut machine = Machine::new(how);
        // A unit out of reset lets pass.
        assert_eq!(machine.reach(0, DATA, true), Some(DATA));
        machine.enable(ROOT);
        assert_eq!(machine.reach(0, DATA, true), None);
        let mut stage = Stage::new(0, 3);
        stage.set(&machine.memory, 0x7000, DATA | RW);
        machine.context_entry(SOURCES[0], stage.root | 1, 1 << 8 | 1);
        machine.invalidate(&[context_of(SOURCES[0]), domain(1)]);
        assert_eq!(machine.reach(0, 0x7123, true), Some(DATA + 0x123));
        assert_eq!(machine.reach(1, 0x7123, true), None);
        // A page more, told by page.
        stage.set(&machine.memory, 0x8000, (DATA + 0x5000) | 1);
        machine.invalidate(&[pages(1, 0x8000, 0)]);
        assert_eq!(machine.reach(0, 0x8000, false), Some(DATA + 0x5000));
        assert_eq!(machine.reach(0, 0x8000, true), None);
        // A changed one and one that goes, told together.
        stage.set(&machine.memory, 0x8000, (DATA + 0x6000) | RW);
        stage.set(&machine.memory, 0x7000, 0);
        machine.invalidate(&[pages(1, 0x7000, 0), pages(1, 0x8000, 0)]);
        assert_eq!(machine.reach(0, 0x8000, true), Some(DATA + 0x6000));
        assert_eq!(machine.reach(0, 0x7000, false), None);
        // What is nowhere in the guest's memory is nowhere.
        stage.set(&machine.memory, 0x9000, (RAM + BYTES) | RW);
        stage.set(&machine.memory, 0xa000, RW);
        machine.invalidate(&[domain(1)]);
        assert_eq!(machine.reach(0, 0x9000, true), None);
        assert_eq!(machine.reach(0, 0xa000, true), None);
        assert_eq!(machine.reach(0, 0x8000, true), Some(DATA + 0x6000));
        // The source leaves.
        machine.context_entry(SOURCES[0], 0, 0);
        machine.invalidate(&[CONTEXTS_ALL, IOTLB_ALL]);
        assert_eq!(machine.reach(0, 0x8000, true), None);
        machine.write(GCMD, 4, QIE);
        assert_eq!(machine.read32(GSTS), QIE | SRTP);
        assert_eq!(machine.reach(0, DATA, true), Some(DATA));
        machine.write(GCMD, 4, QIE | TE);
        machine.unit.stop().unwrap();
        assert_eq!(machine.reach(0, DATA, true), None);
        assert_eq!(machine.read32(GSTS), 0);
    });
}

#[test]
fn pages_in_the_place_of_a_block_are_not_forgotten_one_by_one() {
    both(|how| {
        let (mut machine, mut stage) = attached(how);
        let slot = stage.slot(&machine.memory, 0x40_0000, 1);
        machine.memory.store(slot, DATA | 1 << 7 | RW);
        machine.invalidate(&[pages(1, 0x40_0000, 9)]);
        assert_eq!(machine.reach(0, 0x40_5000, true), Some(DATA + 0x5000));
        machine.memory.store(slot, 0);
        // The last ones are where they were.
        for page in 0..512 {
            let to = if page < 448 { page + 1 } else { page };
            let at = 0x40_0000 + page * PAGE;
            stage.set(&machine.memory, at, (DATA + to * PAGE) | RW);
        }
        let (_, hardware) = machine.spent(|it| {
            it.invalidate(&[pages(1, 0x40_0000, 9)]);
        });
        assert_eq!(machine.reach(0, 0x40_5000, true), Some(DATA + 0x6000));
        assert_eq!(machine.reach(0, 0x5f_f000, true), Some(DATA + 0x1f_f000));
        // 64 of them are read together.
        assert!(hardware.descriptors <= 448 / 64, "{hardware:?}");
    });
}

/// 64 pages that lie nowhere in a row, and then are others: each is work of its own, so that a call does a few of them, whatever
/// was read together; and 512 pages that a block takes the place of are compared at once.
#[test]
fn what_is_scattered_is_worked_on_in_parts() {
    both(|how| {
        let (mut machine, mut stage) = attached(&How { budget: 16, ..*how });
        let to = |round: u64, page: u64| DATA + ((511 - page) * 2 + round) * PAGE;
        for round in 0..2 {
            for page in 0..64 {
                stage.set(&machine.memory, page * PAGE, to(round, page) | RW);
            }
            let runs = |machine: &Machine| machine.unit.counters().runs;
            machine.queue(&[pages(1, 0, 6)]);
            let mut last = runs(&machine);
            let mut effect = machine.unit.write(&machine.memory, IQT, 8, machine.tail());
            while effect.more {
                // A run is 2 of a budget, and one that has to be forgotten 10.
                let most = if round == 0 { 8 } else { 2 };
                assert!(runs(&machine) - last <= most, "{round}");
                last = runs(&machine);
                // A message of a device in between, which the guest does not remap, leaves that as it is.
                let memory = &machine.memory;
                let (_, passed) = machine.unit.remap(memory, SOURCES[0], 0xfee0_0000, 0x41);
                assert!(passed.more);
                effect = machine.unit.run(&machine.memory);
            }
            for page in 0..64 {
                assert_eq!(machine.reach(0, page * PAGE, true), Some(to(round, page)));
            }
        }
        let slot = stage.slot(&machine.memory, 0, 1);
        machine.memory.store(slot, DATA | 1 << 7 | RW);
        machine.invalidate(&[pages(1, 0, 9)]);
        assert_eq!(machine.reach(0, 0x5000, true), Some(DATA + 0x5000));
    });
}

/// A shadow that nothing goes through any more is emptied a part at a time, and its owner's other work waits for that; then its
/// tables are gone.
#[test]
fn a_shadow_goes_in_parts() {
    both(|how| {
        let (mut machine, mut stage) = attached(&How { budget: 16, ..*how });
        for table in 0..24 {
            stage.set(&machine.memory, table << 21, DATA | RW);
        }
        machine.invalidate(&[domain(1)]);
        let objects = machine.context.objects();
        machine.context_entry(SOURCES[0], 0, 0);
        machine.queue(&[CONTEXTS_ALL]);
        let mut effect = machine.unit.write(&machine.memory, IQT, 8, machine.tail());
        assert_eq!(machine.context.objects(), objects, "it is not empty yet");
        let mut calls = 0;
        while effect.more {
            effect = machine.unit.run(&machine.memory);
            calls += 1;
        }
        assert!(calls > 1);
        assert_eq!(machine.context.objects(), objects - 1);
        assert_eq!(machine.reach(0, 0, true), None);
        // Its place is free, and the same tables are read anew.
        machine.context_entry(SOURCES[0], stage.root | 1, 1 << 8 | 1);
        machine.invalidate(&[context_of(SOURCES[0])]);
        assert_eq!(machine.reach(0, 5 << 21, true), Some(DATA));
    });
}

/// What a fault is told apart by: the guest's own tables have nothing there, or what they have is not the guest's.
#[test]
fn where_the_guest_s_own_tables_lead_is_known() {
    both(|how| {
        let (mut machine, mut stage) = attached(how);
        let outside = RAM + BYTES;
        let leads = |machine: &Machine, source: u16, at: u64, write| {
            let source = VirtDeviceId(source.into());
            let to = machine.unit.leads(&machine.memory, source, Iova(at), write);
            to.map(|to| to.0)
        };
        stage.set(&machine.memory, 0x7000, DATA | RW);
        stage.set(&machine.memory, 0x8000, outside | 1);
        let block = stage.slot(&machine.memory, 0x40_0000, 1);
        machine.memory.store(block, outside | 1 << 7 | RW);
        machine.invalidate(&[domain(1)]);
        let own = SOURCES[0];
        assert_eq!(leads(&machine, own, 0x7123, true), Some(DATA + 0x123));
        assert_eq!(leads(&machine, own, 0x8004, false), Some(outside + 4));
        assert_eq!(leads(&machine, own, 0x8004, true), None, "not allowed");
        assert_eq!(leads(&machine, own, 0x9000, false), None, "nothing there");
        assert_eq!(
            leads(&machine, own, 0x40_5008, true),
            Some(outside + 0x5008),
            "in a block"
        );
        for (at, write) in [(0x8004, false), (0x40_5008, true)] {
            assert_eq!(machine.reach(0, at, write), None);
        }
        // Beyond the tables; of a source that is refused, or that there is not.
        assert_eq!(leads(&machine, own, 1 << 39, false), None);
        assert_eq!(leads(&machine, SOURCES[1], 0x7000, true), None);
        assert_eq!(leads(&machine, 0x99, 0x7000, true), None);
    });
}

#[test]
fn two_sources_of_one_domain_have_one_shadow_and_leave_it_one_by_one() {
    both(|how| {
        let (mut machine, mut stage) = attached(how);
        let objects = machine.context.objects();
        machine.context_entry(SOURCES[1], stage.root | 1, 1 << 8 | 1);
        machine.invalidate(&[context_of(SOURCES[1])]);
        assert_eq!(machine.context.objects(), objects);
        stage.set(&machine.memory, 0x7000, DATA | RW);
        machine.invalidate(&[pages(1, 0x7000, 0)]);
        assert_eq!(machine.reach(0, 0x7000, true), Some(DATA));
        assert_eq!(machine.reach(1, 0x7000, true), Some(DATA));
        // The other one gets a domain of its own, with the same tables.
        machine.context_entry(SOURCES[1], stage.root | 1, 2 << 8 | 1);
        machine.invalidate(&[context_of(SOURCES[1])]);
        assert_eq!(machine.context.objects(), objects + 1);
        stage.set(&machine.memory, 0x7000, 0);
        machine.invalidate(&[pages(1, 0x7000, 0)]);
        assert_eq!(machine.reach(0, 0x7000, true), None);
        assert_eq!(machine.reach(1, 0x7000, true), Some(DATA), "not told yet");
        machine.invalidate(&[domain(2)]);
        assert_eq!(machine.reach(1, 0x7000, true), None);
        for source in SOURCES {
            machine.context_entry(source, 0, 0);
        }
        machine.invalidate(&[CONTEXTS_ALL]);
        assert_eq!(machine.context.objects(), objects - 1);
    });
}

#[test]
fn as_much_is_done_as_has_changed() {
    both(|how| {
        let (mut machine, mut stage) = attached(how);
        // 64 pages, told at once: one read of each, and what leads there.
        for page in 0..64 {
            stage.set(&machine.memory, page * PAGE, (DATA + page * PAGE) | RW);
        }
        let exits = machine.exits();
        let (own, hardware) = machine.spent(|it| drop(it.invalidate(&[pages(1, 0, 6)])));
        assert_eq!(machine.exits(), exits + 1);
        assert_eq!((own.entries, own.table_reads, own.runs), (64 + 2, 3, 1));
        assert_eq!((hardware.descriptors, hardware.waits), (0, 0));
        assert_eq!(machine.reach(0, 63 * PAGE, true), Some(DATA + 63 * PAGE));
        // Told again, nothing is stored.
        let (_, hardware) = machine.spent(|it| drop(it.invalidate(&[domain(1)])));
        assert_eq!((hardware.descriptors, hardware.waits), (0, 0));
        // One of them goes: one descriptor, one wait, one write of the tail.
        stage.set(&machine.memory, 5 * PAGE, 0);
        let (own, hardware) = machine.spent(|it| drop(it.invalidate(&[pages(1, 5 * PAGE, 0)])));
        assert_eq!((own.entries, own.runs), (1 + 2, 1));
        let told = (
            hardware.descriptors,
            hardware.waits,
            hardware.register_writes,
        );
        assert_eq!(told, (1, 1, 1));
        // All of them go: one more of each.
        for page in 0..64 {
            stage.set(&machine.memory, page * PAGE, 0);
        }
        let (_, hardware) = machine.spent(|it| drop(it.invalidate(&[pages(1, 0, 6)])));
        assert_eq!((hardware.descriptors, hardware.waits), (1, 1));
        // A block over memory that is one: a block, which the hardware finds by two steps.
        let slot = stage.slot(&machine.memory, 0x20_0000, 1);
        machine.memory.store(slot, DATA | 1 << 7 | RW);
        let (own, _) = machine.spent(|it| drop(it.invalidate(&[pages(1, 0x20_0000, 9)])));
        assert_eq!((own.entries, own.runs), (2, 1));
        assert_eq!(machine.reach(0, 0x20_0000, true), Some(DATA));
        let walks = machine.model.counters().walks;
        assert_eq!(machine.reach(0, 0x3f_f000, true), Some(DATA + 0x1f_f000));
        assert_eq!(machine.model.counters().walks, walks, "one translation");
        let shadow = machine.unit.slice().shadow(0).expect("it is open");
        let leaf = shadow.leaf(Iova(0x30_0000)).unwrap();
        assert_eq!(
            leaf,
            Span {
                base: Iova(0x20_0000),
                len: 0x20_0000
            }
        );
    });
}

/// A page of a block is told to be gone: the hardware would have forgotten the block.
#[test]
fn a_block_goes_as_a_whole() {
    both(|how| {
        let (mut machine, mut stage) = attached(how);
        let slot = stage.slot(&machine.memory, 0x20_0000, 1);
        machine.memory.store(slot, DATA | 1 << 7 | RW);
        machine.invalidate(&[pages(1, 0x20_0000, 9)]);
        machine.memory.store(slot, 0);
        machine.invalidate(&[pages(1, 0x25_0000, 0)]);
        assert_eq!(machine.reach(0, 0x20_0000, true), None);
        assert_eq!(machine.reach(0, 0x3f_f000, true), None);
        // By a table of pages, of which there is one.
        machine.memory.store(slot, DATA | 1 << 7 | RW);
        machine.invalidate(&[pages(1, 0x20_0000, 9)]);
        machine.memory.store(slot, 0);
        stage.set(&machine.memory, 0x25_0000, DATA | RW);
        machine.invalidate(&[pages(1, 0x25_0000, 0)]);
        assert_eq!(machine.reach(0, 0x25_0000, true), Some(DATA));
        assert_eq!(machine.reach(0, 0x25_1000, true), None);
        assert_eq!(machine.reach(0, 0x3f_f000, true), None);
    });
}

#[test]
fn faults_have_the_guests_source_and_reason() {
    both(|how| {
        let (mut machine, mut stage) = attached(how);
        machine.forget_all();
        machine.write(0x3c, 4, 0x4041);
        machine.write(0x40, 4, 0xfee0_1000);
        machine.write(FECTL, 4, 0);
        assert_eq!(machine.reach(0, 0x1_2345, true), None);
        let effects = machine.faults();
        let [message] = effects[0].messages() else {
            panic!("{effects:?}");
        };
        assert_eq!(message.source, Interrupts::FAULT);
        assert_eq!((message.address, message.data), (0xfee0_1000, 0x4041));
        assert_eq!(machine.read32(FSTS), 2);
        let word = |reason: u64, source: u16, read: u64| {
            1 << 63 | read << 62 | reason << 32 | u64::from(source)
        };
        assert_eq!(machine.fault_record(0), [0x1_2000, word(5, SOURCES[0], 0)]);
        // Another device without an entry; no second message while the first is pending.
        assert_eq!(machine.reach(1, 0x7000, false), None);
        let effects = machine.faults();
        assert_eq!(effects[0].messages(), []);
        assert_eq!(machine.fault_record(1), [0x7000, word(2, SOURCES[1], 1)]);
        // Past the tables: three levels.
        assert_eq!(machine.reach(0, 1 << 39, false), None);
        machine.faults();
        assert_eq!(machine.fault_record(2), [1 << 39, word(4, SOURCES[0], 1)]);
        // An entry of which nobody is told, and one with a reserved bit.
        machine.context_entry(SOURCES[1], 2, 0);
        machine.invalidate(&[context_of(SOURCES[1])]);
        assert_eq!(machine.reach(1, 0x7000, false), None);
        machine.faults();
        assert_eq!(machine.read32(FRCD + 3 * 16 + 12), 0);
        machine.context_entry(SOURCES[1], stage.root | 1, 1 << 40 | 1 << 8 | 1);
        machine.invalidate(&[context_of(SOURCES[1])]);
        assert_eq!(machine.reach(1, 0x7000, false), None);
        machine.faults();
        assert_eq!(machine.fault_record(3), [0x7000, word(0xb, SOURCES[1], 1)]);
        // No record is left.
        assert_eq!(machine.reach(0, 0x3000, false), None);
        machine.faults();
        assert_eq!(machine.read32(FSTS), 3);
        let faults = machine.unit.counters().faults;
        assert_eq!((faults.recorded, faults.delivered), (6, 4));
        assert_eq!((faults.overflowed, faults.silent, faults.lost), (1, 1, 0));
        // As Linux does it: each record, then the overflow.
        for index in 0..4 {
            machine.write(FRCD + index * 16 + 12, 4, 1 << 31);
        }
        machine.write(FSTS, 4, 1);
        assert_eq!(machine.read32(FSTS) & 0xff, 0);
        stage.set(&machine.memory, 0x3000, DATA | 1);
        machine.invalidate(&[pages(1, 0x3000, 0)]);
        assert_eq!(machine.reach(0, 0x3000, true), None);
        let effects = machine.faults();
        assert_eq!(effects[0].messages().len(), 1);
        assert_eq!(machine.fault_record(0), [0x3000, word(5, SOURCES[0], 0)]);
    });
}

#[test]
fn memory_that_comes_back_is_in_the_shadows_again() {
    both(|how| {
        let (mut machine, mut stage) = attached(how);
        stage.set(&machine.memory, 0x7000, DATA | RW);
        machine.invalidate(&[pages(1, 0x7000, 0)]);
        // The objects forget the partition's memory, and have it once more: the guest did nothing.
        machine.ioas.unmap_all().unwrap();
        assert_eq!(machine.reach(0, 0x7000, true), None);
        machine.map_ram();
        assert_eq!(machine.reach(0, 0x7000, true), None);
        let mut effect = machine.unit.memory_changed(&machine.memory);
        while effect.more {
            effect = machine.unit.run(&machine.memory);
        }
        assert_eq!(machine.reach(0, 0x7000, true), Some(DATA));
    });
}

/// More tables than a guest may have, and none left: its source is in abort, and has all again once it asks for less.
#[test]
fn what_does_not_fit_is_in_abort_and_comes_back() {
    for quota in [true, false] {
        both(|how| {
            let how = How {
                config: how.config,
                input_bits: how.input_bits,
                scalable: false,
                // A root, and two or three tables on the way to each page that is far from the others.
                shadow_bytes: if quota { 0x8000 } else { 1 << 24 },
                ..How::default()
            };
            let (mut machine, mut stage) = attached(&how);
            stage.set(&machine.memory, 0x7000, DATA | RW);
            machine.invalidate(&[pages(1, 0x7000, 0)]);
            assert_eq!(machine.reach(0, 0x7000, true), Some(DATA));
            if !quota {
                machine.memory.0.fail_allocation(0, true);
            }
            for n in 1..32 {
                stage.set(&machine.memory, n << 30, (DATA + 0x1000) | RW);
            }
            let effects = machine.invalidate(&[domain(1)]);
            let failed = effects.iter().find_map(|effect| effect.failed);
            let expected = match quota {
                true => Error::NoSpace,
                false => Error::OutOfMemory,
            };
            assert_eq!(failed, Some(expected));
            assert_eq!(machine.reach(0, 0x7000, true), None);
            // In abort: nobody is told.
            let recorded = machine.unit.counters().faults.recorded;
            machine.faults();
            assert_eq!(machine.unit.counters().faults.recorded, recorded);
            machine.memory.0.heal();
            for n in 1..32 {
                stage.set(&machine.memory, n << 30, 0);
            }
            machine.invalidate(&[context_of(SOURCES[0]), domain(1)]);
            assert_eq!(machine.reach(0, 0x7000, true), Some(DATA));
            assert_eq!(machine.reach(0, 1 << 30, true), None);
        });
    }
}
