//! Stalls and page requests.

use super::*;

/// A group of `pages` requests of device `device`, under `cookie`.
fn group(device: u32, cookie: u32, number: u16, pages: u64) -> Vec<PageRequest> {
    (0..pages)
        .map(|page| PageRequest {
            device: 100 + device,
            pasid: Some(7),
            group: number,
            stalled: device == 0,
            last: page + 1 == pages,
            reason: None,
            access: 2,
            address: 0x1000 + page * 0x1000,
            cookie,
        })
        .collect()
}

/// Device 0 stalls as stream 8, device 1 asks as stream 0x10.
fn guest() -> Guest {
    let devices = [
        behind(8),
        Behind {
            ats: true,
            ..behind(0x10)
        },
    ];
    let mut guest = Guest::with(rich_setup(), &devices);
    guest.write(PRIQ_BASE, REQUESTS | 3);
    guest.up(8, 2);
    guest.write(CR0, 0b1111);
    guest
}

impl Guest {
    fn asks(&mut self, group: Vec<PageRequest>) -> Effect {
        self.told.borrow_mut().requests.push_back(group);
        self.smmu.deliver(&self.ram)
    }

    fn answers(&self) -> Vec<(u32, Answer)> {
        core::mem::take(&mut self.told.borrow_mut().answers)
    }

    fn balanced(&self, waiting: u64) {
        let it = self.smmu.counters().requests;
        let ended = it.answered + it.expired + it.refused + it.dropped;
        assert_eq!(it.taken, ended + waiting);
    }
}

const fn resume(stream: u64, tag: u64, retry: bool) -> [u64; 2] {
    [0x44 | stream << 32 | (retry as u64) << 12, tag]
}

#[test]
fn a_stall_is_an_event_with_a_tag_and_ends_with_the_answer() {
    let mut guest = guest();
    let effect = guest.asks(group(0, 41, 0x77, 1));
    assert_eq!(effect.interrupts, Interrupts::EVENTS);
    guest.asks(group(0, 42, 0x78, 1));
    // F_TRANSLATION, SSV, substream 7, stream 8; STALL, CLASS = IN, a write; the address.
    let expected = |tag: u64| {
        [
            0x10 | 1 << 11 | 7 << 12 | 8 << 32,
            tag | 1 << 31 | 2 << 40,
            0x1000,
            0,
        ]
    };
    assert_eq!(guest.ram.load::<4>(EVENTS), expected(0));
    assert_eq!(guest.ram.load::<4>(EVENTS + 32), expected(1));
    assert_eq!(guest.answers(), []);
    guest.say(&[resume(8, 1, true), resume(8, 0, false), SYNC]);
    assert_eq!(
        guest.answers(),
        [(42, Answer::Success), (41, Answer::Invalid)]
    );
    guest.balanced(0);
}

#[test]
fn answers_to_what_does_not_wait_have_no_effect() {
    let mut guest = guest();
    guest.asks(group(0, 41, 0x77, 1));
    guest.say(&[
        resume(8, 1, true),
        resume(8, 0xffff, true),
        // Another's stream, and one of nobody.
        resume(0x10, 0, true),
        resume(0x99, 0, true),
        [0x41 | 0x10 << 32, 0x77 | 2 << 12],
        [0x41 | 8 << 32, 0x77 | 2 << 12],
        [0x45 | 0x10 << 32, 0],
    ]);
    guest.settle();
    assert_eq!(guest.command_error(), None);
    assert_eq!(guest.answers(), []);
    guest.say(&[resume(8, 0, true), resume(8, 0, true)]);
    guest.settle();
    assert_eq!(guest.answers(), [(41, Answer::Success)], "once");
    guest.balanced(0);
}

#[test]
fn all_stalls_of_a_stream_can_be_ended_at_once() {
    let mut guest = guest();
    guest.asks(group(0, 41, 1, 1));
    guest.asks(group(0, 42, 2, 1));
    guest.asks(group(1, 43, 3, 1));
    guest.say(&[[0x45 | 8 << 32, 0]]);
    let ended = [41, 42].map(|cookie| (cookie, Answer::Invalid));
    assert_eq!(guest.answers(), ended);
    guest.balanced(1);
}

#[test]
fn a_group_of_page_requests_is_written_whole_and_answered_once() {
    let mut guest = guest();
    let effect = guest.asks(group(1, 50, 0x123, 3));
    assert_eq!(effect.interrupts, Interrupts::REQUESTS);
    assert_eq!(guest.read(PRIQ_PROD), 3);
    for page in 0..3 {
        let [first, second] = guest.ram.load::<2>(REQUESTS + page * 16);
        // SSV, Last, W, substream, stream; address, group.
        let last = u64::from(page == 2) << 62;
        assert_eq!(first, 1 << 63 | last | 1 << 61 | 7 << 32 | 0x10);
        assert_eq!(second, (0x1000 + page * 0x1000) | 0x123);
    }
    guest.say(&[[0x41 | 0x10 << 32, 0x123 | 2 << 12]]);
    assert_eq!(guest.answers(), [(50, Answer::Success)]);
    guest.balanced(0);
}

#[test]
fn page_requests_that_do_not_fit_are_answered_and_told() {
    let mut guest = guest();
    guest.asks(group(1, 50, 1, 6));
    // Two places are left.
    guest.asks(group(1, 51, 2, 3));
    assert_eq!(guest.answers(), [(51, Answer::Invalid)]);
    assert_eq!(guest.read(PRIQ_PROD), 1 << 31 | 6);
    // There would be room for one, but not before the overflow is acknowledged.
    guest.asks(group(1, 52, 3, 1));
    assert_eq!(guest.answers(), [(52, Answer::Invalid)]);
    guest.write(PRIQ_CONS, 1 << 31 | 6);
    guest.asks(group(1, 53, 4, 1));
    assert_eq!(guest.answers(), []);
    assert_eq!(guest.read(PRIQ_PROD), 1 << 31 | 7);
    guest.balanced(2);
}

#[test]
fn a_stall_waits_for_room_and_for_a_tag() {
    let mut guest = guest();
    // Four places and four tags.
    for n in 0..5 {
        guest.asks(group(0, 60 + u32::from(n), n, 1));
    }
    assert_eq!(guest.read(EVENTQ_PROD), 4, "no overflow: nothing is lost");
    assert!(
        !guest.smmu.has_work(),
        "nothing can be done before the guest acts"
    );
    guest.write(EVENTQ_CONS, 4);
    assert_eq!(guest.read(EVENTQ_PROD), 4, "room, but no tag");
    guest.say(&[resume(8, 2, true)]);
    guest.settle();
    assert_eq!(guest.read(EVENTQ_PROD), 5);
    let [_, second, ..] = guest.ram.load::<4>(EVENTS);
    assert_eq!(second & 0xffff, 2, "the tag that came free");
    // The other way round: a tag, but no room.
    let mut guest = self::guest();
    for n in 0..2 {
        guest.asks(group(0, 60 + u32::from(n), n, 1));
    }
    guest
        .told
        .borrow_mut()
        .events
        .extend([0, 1].map(|sequence| Item::Record {
            sequence,
            record: [0x10, 0, 0, 0],
        }));
    guest.asks(group(0, 62, 2, 1));
    assert_eq!(guest.read(EVENTQ_PROD), 4);
    guest.write(EVENTQ_CONS, 1);
    assert_eq!(guest.read(EVENTQ_PROD), 5);
    guest.balanced(3);
}

#[test]
fn nobody_waits_longer_than_the_patience_that_was_agreed() {
    let mut guest = guest();
    // The clock goes on by a microsecond each time it is looked at.
    let about = |next: Option<u64>| next.map(|ns| ns / 100_000);
    assert_eq!(guest.smmu.expire(), None);
    guest.asks(group(0, 41, 1, 1));
    guest.platform.advance(400_000);
    guest.asks(group(1, 42, 2, 1));
    assert_eq!(about(guest.smmu.expire()), Some(10));
    assert_eq!(guest.answers(), []);
    guest.platform.advance(600_000);
    assert_eq!(about(guest.smmu.expire()), Some(14));
    assert_eq!(guest.answers(), [(41, Answer::Invalid)]);
    guest.platform.advance(400_000);
    assert_eq!(guest.smmu.expire(), None);
    assert_eq!(guest.answers(), [(42, Answer::Invalid)]);
    // Too late.
    guest.say(&[resume(8, 0, true)]);
    assert_eq!(guest.answers(), []);
    guest.balanced(0);
    // What could not even be told waits no longer either, and makes room for the next.
    let read = guest.read(EVENTQ_PROD);
    guest.write(EVENTQ_CONS, read.into());
    for n in 0..6 {
        guest.asks(group(0, 60 + u32::from(n), n, 1));
    }
    guest.platform.advance(1_000_000);
    assert_eq!(guest.smmu.expire(), None);
    assert_eq!(guest.answers().len(), 5);
    guest.balanced(0);
    guest.settle();
    guest.balanced(1);
}

#[test]
fn a_new_configuration_ends_what_waited_under_the_old_one() {
    let mut guest = guest();
    guest.asks(group(0, 41, 1, 1));
    guest.asks(group(1, 42, 2, 1));
    guest.entry(8, stage_one(CONTEXTS));
    guest.say(&[cfgi_ste(8)]);
    assert_eq!(guest.answers(), [(41, Answer::Invalid)]);
    guest.balanced(1);
    // One that the guest was not told of, as there is no room: three are, the fourth is not.
    for n in 60..64 {
        guest.asks(group(0, n, n as u16, 1));
    }
    guest.balanced(5);
    guest.entry(8, [0b1001, 0]);
    guest.say(&[cfgi_ste(8)]);
    assert_eq!(guest.answers().len(), 4);
    guest.balanced(1);
    guest.smmu.stop().expect("stopped");
    assert_eq!(guest.answers(), [(42, Answer::Invalid)]);
    guest.balanced(0);
}

#[test]
fn queues_that_are_off_or_not_in_memory_end_what_would_wait() {
    let mut guest = guest();
    guest.write(CR0, 0b1001);
    guest.asks(group(0, 41, 1, 1));
    guest.asks(group(1, 42, 2, 1));
    // Of no device that is behind it.
    guest.asks(vec![PageRequest {
        device: 3,
        ..group(0, 43, 0, 1)[0]
    }]);
    guest.write(EVENTQ_BASE, 0x0900_0000 | 4);
    guest.write(PRIQ_BASE, 0x0900_0000 | 4);
    guest.write(CR0, 0b1111);
    guest.asks(group(0, 44, 1, 1));
    guest.asks(group(1, 45, 2, 1));
    let ended: Vec<_> = (41..=45).map(|cookie| (cookie, Answer::Invalid)).collect();
    assert_eq!(guest.answers(), ended);
    assert_eq!(guest.error(), 0b1100);
    guest.balanced(0);
}
