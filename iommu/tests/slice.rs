//! What Linux's IOMMUFD lacks and a slice of an SMMU has here, on the model: each test names it.

mod vm;

use iommu::model::smmu::{Completion, Config, Denied, Initiator};
use iommu::object::driver::UserData;
use iommu::object::{Delivery, Errno, Error, Item, Record};
use iommu::physical::IommuError;
use iommu::smmuv3::slice::{COMMANDS, EVENTS, STAGE_ONE};
use vm::{Driven, GUEST, PAGE, Space, Vm, bytes, entry, nested, says};

const STREAM: u32 = 0x108;
/// What the guest calls it.
const NAME: u64 = 0x20;
const VA: u64 = 0x1000;

/// A refusal of stage 1 with this event.
const fn fault(number: u8) -> Result<u64, Denied> {
    Err(Denied::Fault {
        number,
        stage_two: false,
    })
}

/// A space with `VA` at page `page` of the guest's memory.
fn space(vm: &Vm, asid: u16, page: u64) -> Space {
    let space = Space::plain(vm, asid);
    space.map(vm, VA, Some(GUEST + page * PAGE));
    space
}

#[test]
fn one_nest_parent_serves_slices_on_two_smmus_under_different_tags() {
    let vm = Vm::new(&[Config::default(), Config::default()]);
    // The second SMMU has given its first tags to others.
    let elsewhere = [vm.slice(1), vm.slice(1)];
    let space = space(&vm, 1, 3);
    let devices = [0, 1].map(|iommu| Driven::new(&vm, iommu, (STREAM, NAME), &space));
    for iommu in [0, 1] {
        assert_eq!(vm.reaches(iommu, STREAM, VA), Ok(GUEST + 3 * PAGE));
    }
    // Stage 2 changes once, and both have forgotten it.
    vm.ioas.unmap_all().expect("unmapped");
    for iommu in [0, 1] {
        let refused = vm.iommus[iommu].model.translate(STREAM, VA, true);
        let denied = Denied::Fault {
            number: 0x10,
            stage_two: true,
        };
        assert_eq!(refused, Err(denied));
    }
    let tags = |iommu: usize| {
        let commands = vm.iommus[iommu].model.commands();
        let by_address = commands.into_iter().filter(|it| it[0] as u8 == 0x2a);
        by_address
            .map(|it| it[0] >> 32 & 0xffff)
            .collect::<Vec<_>>()
    };
    let [first, second] = [tags(0), tags(1)];
    assert_eq!(first, [1], "one slice, one tag");
    assert_eq!(second, [1, 2, 3], "every slice that is on the parent");
    drop((devices, elsewhere));
}

#[test]
fn two_slices_of_one_vm_do_not_share_an_asid_space() {
    let vm = Vm::one(Config::default());
    let spaces = [space(&vm, 5, 3), space(&vm, 5, 4)];
    let names = [(STREAM, NAME), (STREAM + 1, NAME)];
    let devices = [0, 1].map(|at| Driven::new(&vm, 0, names[at], &spaces[at]));
    // The same ASID and the same address are two translations.
    assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 3 * PAGE));
    assert_eq!(vm.reaches(0, STREAM + 1, VA), Ok(GUEST + 4 * PAGE));
    for (space, page) in [(&spaces[0], 5), (&spaces[1], 6)] {
        space.map(&vm, VA, Some(GUEST + page * PAGE));
    }
    // What one slice says does not reach the other's entries.
    assert_eq!(devices[0].say(&[says::asid(5), says::NSNH_ALL]).complete, 2);
    assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 5 * PAGE));
    assert_eq!(vm.reaches(0, STREAM + 1, VA), Ok(GUEST + 4 * PAGE));
    assert_eq!(devices[1].say(&[says::va(5, VA)]).complete, 1);
    assert_eq!(vm.reaches(0, STREAM + 1, VA), Ok(GUEST + 6 * PAGE));
}

#[test]
fn a_name_is_a_slices_own_and_an_unknown_one_is_refused() {
    let vm = Vm::one(Config::default());
    let spaces = [space(&vm, 1, 3), space(&vm, 1, 4)];
    let names = [(STREAM, NAME), (STREAM + 1, NAME + 1)];
    let [first, second] = [0, 1].map(|at| Driven::new(&vm, 0, names[at], &spaces[at]));
    vm.model().commands();
    assert_eq!(first.say(&[says::cd_all(NAME)]).complete, 1);
    assert_eq!(second.say(&[says::cd(NAME + 1, 0)]).complete, 1);
    let sent = vm.model().commands();
    let sent: Vec<_> = sent.iter().filter(|it| it[0] as u8 != 0x46).collect();
    let stream = u64::from(STREAM);
    assert_eq!(
        sent,
        [&[0x06 | stream << 32, 0], &[0x05 | (stream + 1) << 32, 1]]
    );
    // The other's name, and the machine's own number.
    for name in [NAME + 1, stream] {
        let progress = first.say(&[says::NH_ALL, says::cd_all(name), says::NH_ALL]);
        assert_eq!(progress.complete, 1);
        assert_eq!(progress.result.map_err(Error::errno), Err(Errno::EIO));
    }
}

#[test]
fn an_empty_array_probes_the_type() {
    let vm = Vm::one(Config::default());
    let slice = vm.slice(0);
    assert_eq!(slice.invalidate(COMMANDS, &[]).result, Ok(()));
    for kind in [0, 2, 0xdead_beef] {
        let progress = slice.invalidate(kind, &[]);
        assert_eq!(progress.result, Err(Error::DataType(kind)));
        assert_eq!(progress.complete, 0);
    }
}

#[test]
fn a_stage_1_is_what_its_words_say_or_refused() {
    let vm = Vm::one(Config::default());
    let slice = vm.slice(0);
    let device = vm.device(0, STREAM);
    let vdevice = slice.vdevice(&device, NAME).expect("named");
    let from = |kind, bytes: &[u8]| slice.nested_from(UserData { kind, bytes }, None);
    // Not valid, abort: nothing passes. Bypass: the guest's own addresses.
    for (words, reaches) in [
        ([0, u64::MAX], fault(0x04)),
        ([1, 0], Err(Denied::StreamAbort)),
        ([1 | 0b100 << 1, 0], Ok(GUEST + VA)),
    ] {
        let nested = nested(&slice, words, None);
        device.attach(0, &nested).expect("attached");
        assert_eq!(vm.reaches(0, STREAM, GUEST + VA), reaches);
        device.detach(0).expect("detached");
    }
    let legal = entry(GUEST, 0);
    for (word, bit) in [(0, 52), (0, 58), (1, 8), (1, 19), (1, 29), (1, 63)] {
        let mut words = legal;
        words[word] |= 1 << bit;
        let refused = from(STAGE_ONE, &bytes(words)).map(|it| it.id());
        assert_eq!(refused, Err(Error::IllegalStageOne), "{word} {bit}");
    }
    // More contexts than the SMMU has substreams.
    let refused = from(STAGE_ONE, &bytes(entry(GUEST, 21))).map(|it| it.id());
    assert_eq!(refused, Err(Error::IllegalStageOne));
    let bytes = bytes(legal);
    for (kind, len, error) in [
        (STAGE_ONE, 15, Error::DataLength(15)),
        (STAGE_ONE, 8, Error::DataLength(8)),
        (1, 16, Error::DataType(1)),
    ] {
        let refused = from(kind, &bytes[..len]).map(|it| it.id());
        assert_eq!(refused, Err(error));
        assert_eq!(error.errno(), Errno::EINVAL);
    }
    let long = [0; 24];
    assert_eq!(
        from(STAGE_ONE, &long).map(|it| it.id()),
        Err(Error::DataLength(24))
    );
    drop(vdevice);
}

#[test]
fn a_translating_stage_1_needs_a_name_first() {
    let vm = Vm::one(Config::default());
    let slice = vm.slice(0);
    let device = vm.device(0, STREAM);
    let nested = nested(&slice, entry(GUEST, 0), None);
    let refused = device.attach(0, &nested).map_err(Error::errno);
    assert_eq!(refused, Err(Errno::ENOENT));
}

#[test]
fn every_entry_counted_is_complete_wherever_the_queue_stops() {
    for completion in [Completion::AtSync, Completion::AtOnce] {
        // Past one batch of 63 as well.
        for at in [0, 1, 2, 61, 62, 63, 64, 99] {
            let vm = Vm::one(Config {
                completion,
                ..Config::default()
            });
            let space = space(&vm, 1, 3);
            let driven = Driven::new(&vm, 0, (STREAM, NAME), &space);
            let mut commands = vec![says::va(1, VA); 100];
            commands[at] = says::asid(1);
            vm.model().refuse(0x11, 1);
            vm.model().commands();
            let progress = driven.say(&commands);
            assert_eq!(progress.complete, at);
            let error = Error::Hardware(IommuError::Command(1));
            assert_eq!(progress.result, Err(error));
            assert_eq!(error.errno(), Errno::EIO);
            let taken = vm.model().commands();
            let consumed = taken.iter().filter(|it| it[0] as u8 == 0x12).count();
            assert!(consumed >= at, "{consumed} of {at}");
            assert_eq!(taken.last().map(|it| it[0] as u8), Some(0x46));
            // And it goes on from there.
            assert_eq!(driven.say(&commands[at..]).complete, 100 - at);
        }
    }
}

#[test]
fn an_entry_that_is_refused_is_not_counted_and_all_before_it_are_complete() {
    for at in [0, 1, 62, 63, 64, 99] {
        let vm = Vm::one(Config::default());
        let space = space(&vm, 1, 3);
        let driven = Driven::new(&vm, 0, (STREAM, NAME), &space);
        assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 3 * PAGE));
        space.map(&vm, VA, Some(GUEST + 4 * PAGE));
        let mut commands = vec![says::cd_all(NAME); 100];
        if at > 0 {
            commands[at - 1] = says::va(1, VA);
        }
        commands[at] = [0x46, 0];
        let progress = driven.say(&commands);
        assert_eq!(progress.complete, at);
        assert_eq!(progress.result, Err(Error::IllegalEntry(0x46)));
        let page = if at > 0 { 4 } else { 3 };
        assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + page * PAGE));
    }
}

#[test]
fn a_queue_that_hangs_counts_nothing_that_is_not_known() {
    let vm = Vm::one(Config::default());
    let space = space(&vm, 1, 3);
    let driven = Driven::new(&vm, 0, (STREAM, NAME), &space);
    vm.model().hang(true);
    let progress = driven.say(&[says::NH_ALL; 3]);
    assert_eq!(progress.complete, 0);
    let error = Error::Hardware(IommuError::Timeout);
    assert_eq!(progress.result, Err(error));
    vm.model().hang(false);
    assert_eq!(driven.say(&[says::NH_ALL; 3]).complete, 3);
}

/// ASIDs 1 and 2 in two contexts of one device; only one of them is told to go.
#[test]
fn an_invalidation_is_as_precise_as_the_guest_said() {
    let other = VA + 8 * PAGE;
    type Left = [bool; 4];
    // What stays of: ASID 1 at VA, ASID 1 at the other address, ASID 2 at VA, ASID 2 at the other address.
    let ways: [(&str, [u64; 2], Left); 6] = [
        ("asid", says::asid(1), [false, false, true, true]),
        ("va", says::va(1, VA), [false, true, true, true]),
        ("vaa", says::vaa(VA), [false, true, false, true]),
        // NUM 3, SCALE 0, TG 4 KiB, TTL 3: pages 1 to 4.
        (
            "range",
            [says::va(1, VA)[0] | 3 << 12, VA | 1 | 3 << 8 | 1 << 10],
            [false, true, true, true],
        ),
        // NUM 7: up to the page before the other one.
        (
            "all but one",
            [says::vaa(VA)[0] | 7 << 12, VA | 1 | 1 << 10],
            [false, true, false, true],
        ),
        ("all", says::NH_ALL, [false; 4]),
    ];
    for (name, way, left) in ways {
        let vm = Vm::one(Config {
            substream_bits: 4,
            speculate: false,
            ..Config::default()
        });
        let contexts = vm.take(0x1000);
        let spaces = [1, 2].map(|asid| {
            let space = space(&vm, asid, 3);
            space.map(&vm, other, Some(GUEST + 4 * PAGE));
            space.place(&vm, contexts + u64::from(asid) * 64);
            space
        });
        let slice = vm.slice(0);
        let device = vm.device(0, STREAM);
        let vdevice = slice.vdevice(&device, NAME).expect("named");
        let nested = nested(&slice, entry(contexts, 4), None);
        device.attach(0, &nested).expect("attached");
        let probes = [(1, VA), (1, other), (2, VA), (2, other)];
        let reach = |(substream, va)| {
            let from = Initiator::from(STREAM).with_substream(substream);
            vm.reaches(0, from, va)
        };
        for probe in probes {
            assert!(reach(probe).is_ok());
        }
        for space in &spaces {
            space.map(&vm, VA, None);
            space.map(&vm, other, None);
        }
        assert_eq!(vm::say(&slice, &[way]).complete, 1, "{name}");
        let found = probes.map(|probe| reach(probe).is_ok());
        assert_eq!(found, left, "{name}");
        drop((nested, vdevice));
    }
}

#[test]
fn stage_1_events_are_the_guests_by_its_own_name_and_stage_2_stays_with_the_owner() {
    let vm = Vm::one(Config::default());
    let space = space(&vm, 1, 3);
    let driven = Driven::new(&vm, 0, (STREAM, NAME), &space);
    let events = driven.slice.veventq(EVENTS, 8).expect("a queue");
    assert_eq!(vm.reaches(0, STREAM, 0x5678), fault(0x10));
    let [(_, delivery)] = vm.serve(0)[..] else {
        panic!("one record");
    };
    assert_eq!(delivery, Delivery::Event(events.id()));
    // F_TRANSLATION, its stream; a write (RnW = 0) of unprivileged data, CLASS = IN; the address.
    let record = [0x10 | NAME << 32, 2 << 40, 0x5678, 0];
    assert_eq!(
        events.pop(),
        Some(Item::Record {
            record,
            sequence: 0
        })
    );
    // The guest maps what it does not have: stage 2 refuses, and the guest hears nothing.
    space.map(&vm, 0x5000, Some(0x9000_0000));
    assert_eq!(driven.say(&[says::va(1, 0x5000)]).complete, 1);
    let refused = vm.iommus[0].model.translate(STREAM, 0x5678, false);
    assert!(matches!(
        refused,
        Err(Denied::Fault {
            stage_two: true,
            ..
        })
    ));
    let [(fault, delivery)] = vm.serve(0)[..] else {
        panic!("one record");
    };
    assert_eq!((delivery, events.pop()), (Delivery::Record, None));
    let recorded = vm.context.record();
    assert!(
        matches!(recorded, Some(Item::Record { record: Record::Fault(it), .. }) if it == fault)
    );
}

#[test]
fn lost_records_reach_the_queue_and_the_owner() {
    let vm = Vm::one(Config {
        event_queue_log2: 2,
        ..Config::default()
    });
    let space = space(&vm, 1, 3);
    let driven = Driven::new(&vm, 0, (STREAM, NAME), &space);
    let events = driven.slice.veventq(EVENTS, 8).expect("a queue");
    for page in 0..6 {
        let _ = vm.reaches(0, STREAM, 0x10_0000 + page * PAGE);
    }
    assert_eq!(vm.serve(0).len(), 4);
    let items: Vec<_> = std::iter::from_fn(|| events.pop()).collect();
    assert_eq!(items.len(), 5);
    assert!(matches!(items[4], Item::Lost { sequence: 4 }));
    let told: Vec<_> = std::iter::from_fn(|| vm.context.record()).collect();
    let is = |item: &Item<Record>, wanted: Record| matches!(item, Item::Record { record, .. } if *record == wanted);
    assert!(is(
        &told[0],
        Record::EventsLost {
            veventq: events.id()
        }
    ));
    assert!(is(&told[1], Record::FaultsLost(iommu::id::IommuIndex(0))));
}

#[test]
fn an_entry_that_is_not_valid_is_told_to_the_guest_and_one_that_aborts_is_not() {
    let vm = Vm::one(Config::default());
    let slice = vm.slice(0);
    let device = vm.device(0, STREAM);
    let vdevice = slice.vdevice(&device, NAME).expect("named");
    let events = slice.veventq(EVENTS, 8).expect("a queue");
    for (valid, told) in [(0, true), (1, false)] {
        let nested = nested(&slice, [valid, 0], None);
        device.attach(0, &nested).expect("attached");
        assert!(vm.reaches(0, STREAM, VA).is_err());
        assert_eq!(vm.serve(0).len(), usize::from(told));
        let record = [0x04 | NAME << 32, 0, 0, 0];
        let item = told.then_some(Item::Record {
            record,
            sequence: 0,
        });
        assert_eq!(events.pop(), item);
        device.detach(0).expect("detached");
    }
    drop(vdevice);
}
