//! Nothing allocates on the way of a running guest: its commands and its events take what was there at the start.

mod light;

use allocation_counter::measure;
use iommu::hal::GuestMemory;
use iommu::id::IommuIndex;
use iommu::object::Context;
use iommu::smmuv3::event;
use light::{GUEST, Guest, STREAMS, TABLE, guest};

const SYNC: [u64; 2] = [0x46, 0];
const EVENTS: u64 = GUEST + 0x5_0000;
const EVENTS_LOG2: u64 = 7;

/// A guest with everything on, and a stage 1 for each of its streams.
fn running(context: &Context) -> Guest {
    let mut guest = guest(context);
    let memory = &guest.memory;
    guest.smmu.write(memory, 0xa0, 8, EVENTS | EVENTS_LOG2);
    guest.smmu.write(memory, 0x50, 4, 5);
    guest.smmu.write(memory, 0x20, 4, 0b1101);
    guest.settle();
    entries(&guest, 0);
    guest.post([[0x04, 31], SYNC].into_iter());
    guest.ring();
    guest.settle();
    assert_eq!(guest.smmu.counters().streams, u64::from(STREAMS) * 3);
    guest
}

/// Writes stage 1 number `which` into the entry of each stream.
fn entries(guest: &Guest, which: u64) {
    for stream in 0..u64::from(STREAMS) {
        let contexts = GUEST + 0x8_0000 + (which * u64::from(STREAMS) + stream) * 64;
        guest
            .memory
            .store(TABLE + stream * 64, &[0b1011 | contexts, 0xd4]);
    }
}

#[test]
fn commands_that_keep_the_configuration_allocate_nothing() {
    let context = Context::new(256, 8).expect("memory");
    let mut guest = running(&context);
    let before = guest.smmu.counters();
    let info = measure(|| {
        for round in 0..200u64 {
            let page = round << 12;
            let commands = [
                [0x01, 0],
                [0x02, page],
                [0x05 | (round % 8) << 32, 1],
                [0x06 | (round % 8) << 32, 0],
                [0x10, 0],
                [0x11 | 1 << 48, 0],
                [0x12 | 1 << 48, page | 1],
                [0x13, page | 1],
                // A range.
                [0x12 | 5 << 12 | 1 << 48, page | 1 << 10 | 3 << 8 | 1],
                [0x30, 0],
                // Of nobody.
                [0x03 | 0x77 << 32, 1],
                [0x05 | 0x77 << 32, 1],
                SYNC,
            ];
            guest.post(commands.into_iter());
            guest.ring();
            guest.settle();
        }
        // More than a call does; and one that is none, which the guest replaces.
        guest.post((0..3000).map(|page| [0x12 | 1 << 48, page << 12 | 1]));
        guest.ring();
        guest.settle();
        for _ in 0..50 {
            let slot = guest.prod & 0xfff;
            guest.post([[0xff, 0], SYNC].into_iter());
            guest.ring();
            assert_eq!(guest.smmu.read(0x60, 4) ^ guest.smmu.read(0x64, 4), 1);
            guest.memory.store(GUEST + slot * 16, &SYNC);
            let acknowledged = guest.smmu.read(0x60, 4);
            guest.smmu.write(&guest.memory, 0x64, 4, acknowledged);
            guest.settle();
        }
        // Any register, any value of any size, while it runs.
        for offset in (0x28..0x1_00d0u64).step_by(4).filter(|at| at & 0xff00 == 0) {
            guest.smmu.read(offset, 4);
            guest.smmu.write(&guest.memory, offset, 1, 0xff);
        }
    });
    let after = guest.smmu.counters();
    assert_eq!(after.commands - before.commands, 200 * 13 + 3000 + 100);
    assert_eq!(after.errors - before.errors, 50);
    assert_eq!((info.count_total, info.bytes_max), (0, 0));
}

#[test]
fn events_allocate_nothing_read_or_not() {
    let context = Context::new(256, 8).expect("memory");
    let mut guest = running(&context);
    let mut seen = 0u64;
    let info = measure(|| {
        for round in 0..2000u64 {
            // F_TRANSLATION of the stage 1 of one of its streams, or of nobody's.
            let stream = 0x100 + round % 9;
            let raw = [0x10 | stream << 32, 1 << 35, round << 12, 0];
            context.deliver(&event::decode(IommuIndex(0), raw));
            if round % 3 != 0 {
                continue;
            }
            guest.smmu.deliver(&guest.memory);
            guest.settle();
            // The guest reads for the first half of the time.
            if round < 1000 {
                let prod = guest.smmu.read(0x1_00a8, 4);
                guest.smmu.write(&guest.memory, 0x1_00ac, 4, prod);
            }
            while context.record().is_some() {}
        }
        let mut word = [0; 8];
        guest
            .memory
            .read(iommu::addr::Gpa(EVENTS), &mut word)
            .expect("its own");
        seen = u64::from_le_bytes(word);
    });
    let events = guest.smmu.counters().events;
    assert_eq!(seen & 0xff, 0x10);
    assert_eq!(events.recorded, events.delivered + events.dropped());
    assert!(
        events.delivered > 800 && events.dropped() > 500,
        "{events:?}"
    );
    assert_eq!((info.count_total, info.bytes_max), (0, 0));
}

/// Each device has the tables of its stage 1 from the start, and the SMMU's lists have room for it.
#[test]
fn a_changed_stage_1_allocates_nothing_the_first_one_included() {
    let context = Context::new(256, 8).expect("memory");
    let mut guest = guest(&context);
    let changed = |guest: &mut Guest, entry: &dyn Fn(u64) -> [u64; 2]| {
        for stream in 0..u64::from(STREAMS) {
            guest.memory.store(TABLE + stream * 64, &entry(stream));
        }
        let (objects, before) = (context.objects(), guest.smmu.counters());
        let info = measure(|| {
            guest.post([[0x04, 31], SYNC].into_iter());
            guest.ring();
            guest.settle();
        });
        let after = guest.smmu.counters();
        assert_eq!(after.streams - before.streams, u64::from(STREAMS));
        assert_eq!(after.stream_failures, 0);
        assert_eq!(context.objects(), objects);
        assert_eq!((info.count_total, info.bytes_max), (0, 0));
    };
    let contexts = |which: u64, stream: u64| GUEST + 0x8_0000 + (which * 8 + stream) * 64;
    for round in 0..20 {
        // Translation (another one each time), the same again, bypass, not valid, abort.
        changed(&mut guest, &|stream| {
            [0b1011 | contexts(round, stream), 0xd4]
        });
        changed(&mut guest, &|stream| {
            [0b1011 | contexts(round + 1, stream), 0xd4]
        });
        changed(&mut guest, &|stream| {
            [0b1011 | contexts(round + 1, stream), 0xd4]
        });
        changed(&mut guest, &|_| [0b1001, 0]);
        changed(&mut guest, &|_| [0, 0]);
        changed(&mut guest, &|_| [0b0001, 0]);
    }
}
