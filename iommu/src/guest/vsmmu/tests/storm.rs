//! Whatever a guest does: no panic, bounded work a call, nothing lost without a count.

use super::*;

/// xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn one_of<const N: usize>(&mut self, values: [u64; N]) -> u64 {
        values[(self.roll() >> 32) as usize % N]
    }
}

/// Accesses of every kind, at places that do something and at others, with memory that is made of commands, entries and
/// noise.
fn storm(mut guest: Guest, seed: u64) {
    let mut dice = Dice(seed);
    let mut sequence = 0;
    let mut consumed = guest.smmu.counters().commands;
    for round in 0..100_000u32 {
        if round % 64 == 0 {
            for (offset, value) in [
                (CR0, 0),
                (CMDQ_BASE, COMMANDS | 8),
                (EVENTQ_BASE, EVENTS | 4),
                (PRIQ_BASE, REQUESTS | 3),
                (STRTAB_BASE, TABLE),
                (STRTAB_CONFIG, 8),
                (GERRORN, guest.read(GERROR).into()),
                (CR0, 0b1111),
            ] {
                guest.write(offset, value);
                guest.settle();
            }
            for slot in 0..256 {
                let command = match dice.roll() & 15 {
                    0 => CFGI_ALL,
                    1 => cfgi_ste(8),
                    2 => [0x44 | 8 << 32 | 1 << 12, dice.roll() & 3],
                    3 => [dice.roll() & 0xff, 0],
                    4..8 => SYNC,
                    _ => NH_ALL,
                };
                guest.ram.store(COMMANDS + slot * 16, &command);
            }
            consumed = guest.smmu.counters().commands;
        }
        let roll = dice.roll();
        let place = dice.one_of([COMMANDS, EVENTS, TABLE, CONTEXTS, TABLE + 8 * 64, REQUESTS]);
        let words = match roll & 7 {
            0 => [dice.roll(), dice.roll()],
            1 => stage_one(CONTEXTS),
            2 => CFGI_ALL,
            3 => cfgi_ste(8),
            4 => [0x44 | 8 << 32 | 1 << 12, dice.roll() & 7],
            5 => [dice.roll() & 0xff | 8 << 32, dice.roll()],
            _ => SYNC,
        };
        guest.ram.store(place + (dice.roll() & 0xff) * 16, &words);
        if roll >> 8 & 3 == 0 {
            guest.told.borrow_mut().events.push_back(Item::Record {
                sequence,
                record: [dice.roll(), dice.roll(), dice.roll(), 0],
            });
            sequence += 1 + (roll >> 60) as u32 / 15;
        }
        if roll >> 10 & 7 == 0 {
            guest
                .told
                .borrow_mut()
                .requests
                .push_back(vec![PageRequest {
                    device: 100 + (roll >> 20) as u32 % 4,
                    stalled: roll >> 23 & 1 == 0,
                    cookie: round,
                    last: true,
                    ..PageRequest::default()
                }]);
        }
        if roll >> 13 & 63 == 0 {
            let error = dice.one_of([0, 1, 2]);
            let error = [
                Error::OutOfMemory,
                Error::IllegalEntry(0),
                Error::IllegalStageOne,
            ][error as usize];
            guest.told.borrow_mut().fails = Some((dice.roll() as usize % 5, error));
            guest.told.borrow_mut().attach_fails = Some(error);
        }
        let offset = match dice.roll() & 7 {
            0 => dice.roll() & 0x1_ffff,
            1 => dice.roll(),
            2 | 3 => 0x98,
            _ => dice.one_of([
                0x20, 0x44, 0x50, 0x64, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0x1_00ac, 0x1_00cc, 0xc0,
            ]),
        };
        let value = match dice.roll() & 3 {
            0 => dice.roll(),
            1 => dice.one_of([0b1101, 0b1111, 0b1101, 0b1000, 0]),
            2 => dice.one_of([COMMANDS | 8, EVENTS | 4, TABLE, 8, REQUESTS | 3]),
            _ => dice.roll() & 0x1ff,
        };
        // Now and then it does as a driver does.
        let (offset, value) = match roll >> 54 & 7 {
            0 => (GERRORN, guest.read(GERROR).into()),
            1 => (CR0, 0b1101),
            2 => (EVENTQ_CONS, guest.read(EVENTQ_PROD).into()),
            3 => (CMDQ_PROD, (guest.consumed() + 3).into()),
            _ => (offset, value),
        };
        let size = dice.one_of([4, 4, 4, 8, 8, 2, 1, 16]) as u8;
        guest.ram.reads.set(0);
        guest.told.borrow_mut().batches.clear();
        guest.told.borrow_mut().attached.clear();
        let _ = match roll >> 50 & 7 {
            0 => guest.run(),
            1 => guest.smmu.deliver(&guest.ram),
            2 => {
                guest.smmu.read(offset, size);
                guest.smmu.expire();
                Effect::default()
            }
            _ => guest.smmu.write(&guest.ram, offset, size, value),
        };
        assert!(guest.smmu.messages().len() <= 8);
        // Each command is one read, and so are up to 16 ahead; a stream, a sixteenth of the budget, three; a context, an
        // eighth, one.
        assert!(
            guest.ram.reads.get() <= u64::from(BUDGET) + 16 + 12 + 3,
            "{}",
            guest.ram.reads.get()
        );
        let told = guest.told.borrow();
        assert!(told.batches.iter().sum::<usize>() <= BUDGET as usize);
        assert!(told.attached.len() <= 2 * (BUDGET / 16) as usize + 1);
        drop(told);
        let counters = guest.smmu.counters();
        assert!(counters.commands - consumed <= u64::from(BUDGET) + 1);
        consumed = counters.commands;
        assert_eq!(
            counters.events.recorded,
            counters.events.delivered + counters.events.dropped()
        );
        let requests = counters.requests;
        let ended = requests.answered + requests.expired + requests.refused + requests.dropped;
        assert!((0..=5).contains(&(requests.taken - ended)));
        assert_eq!(guest.told.borrow().answers.len() as u64, ended);
    }
    let counters = guest.smmu.counters();
    assert!(
        counters.commands > 5_000 && counters.errors > 500,
        "{counters:?}"
    );
    assert!(
        counters.streams > 5_000 && counters.events.delivered > 1_000,
        "{counters:?}"
    );
    guest.told.borrow_mut().abort_fails = None;
    guest.smmu.stop().expect("stopped");
    let requests = guest.smmu.counters().requests;
    let ended = requests.answered + requests.expired + requests.refused + requests.dropped;
    assert_eq!(requests.taken, ended);
}

#[test]
fn a_storm_against_an_smmu_with_little() {
    storm(Guest::plain(), 0x1234_5678_9abc_def1);
}

#[test]
fn a_storm_against_an_smmu_with_everything() {
    storm(Guest::rich(), 0xfedc_ba98_7654_3211);
}

/// A million faults of a guest's devices, faster than it reads them, through a queue of the slice that loses some, to a
/// queue of the guest's that loses others: every one of them is where it is counted, the guest has read what was
/// delivered, and knows that there is more than that. A burst is one interrupt.
#[test]
fn a_million_faults_are_delivered_pending_or_dropped_and_told() {
    const FAULTS: u64 = 1_000_000;
    let mut guest = Guest::plain();
    guest.up(8, 4);
    let mut slice = crate::object::Ring::new(256).unwrap();
    let mut dice = Dice(0x0123_4567_89ab_cdef);
    // What the guest saw: records, how often it was told of a loss, interrupts.
    let (mut cons, mut read, mut told, mut interrupts) = (0_u32, 0_u64, 0_u64, 0_u64);
    let mut happened = 0_u64;
    let mut empty = 0_u64;
    let mut last = None;
    let mut more = false;
    while happened < FAULTS || !slice.is_empty() || more {
        for _ in 0..(dice.roll() >> 32 & 511).min(FAULTS - happened) {
            slice.push([0x10 | 8 << 32, 0, happened << 12, 0]);
            happened += 1;
        }
        // The hypervisor moves some of it on.
        for _ in 0..dice.roll() >> 32 & 63 {
            let Some(item) = slice.pop() else { break };
            guest.told.borrow_mut().events.push_back(item);
        }
        let effect = match more {
            true => guest.run(),
            false => guest.smmu.deliver(&guest.ram),
        };
        more = effect.more;
        interrupts += u64::from(effect.interrupts.contains(Interrupts::EVENTS));
        // The guest reads now and then, all there is.
        if happened == FAULTS || dice.roll() >> 32 & 3 == 0 {
            let prod = guest.read(EVENTQ_PROD);
            empty += u64::from(prod & 0x1f != cons & 0x1f);
            while prod & 0x1f != cons & 0x1f {
                let record = guest.ram.load::<4>(EVENTS + u64::from(cons & 0xf) * 32);
                assert!(
                    last.is_none_or(|last| record[2] > last),
                    "in order, and none twice"
                );
                last = Some(record[2]);
                read += 1;
                cons = cons & 1 << 31 | (cons & 0x1f).wrapping_add(1) & 0x1f;
            }
            if (prod ^ cons) >> 31 != 0 {
                told += 1;
                cons ^= 1 << 31;
            }
            more |= guest.write(EVENTQ_CONS, cons.into()).more;
        }
    }
    let events = guest.smmu.counters().events;
    let pending = u64::from(guest.read(EVENTQ_PROD).wrapping_sub(cons) & 0x1f);
    assert_eq!(events.recorded, FAULTS);
    assert_eq!(events.recorded, events.delivered + events.dropped());
    assert_eq!(events.delivered, read + pending);
    assert!(
        events.overflowed > 50_000 && events.lost > 100_000 && told > 1000,
        "{events:?}"
    );
    assert!(
        interrupts <= empty + told + 1,
        "{interrupts} interrupts for {empty} bursts"
    );
}
