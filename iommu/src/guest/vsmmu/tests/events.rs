//! The event queue, its overflow, errors and interrupts.

use super::*;

fn fault(n: u64) -> Event {
    [0x10 | 8 << 32, 1 << 35 | 2 << 40, n << 12, 0]
}

impl Guest {
    /// Events from number `first` on, as the slice has them.
    fn happen(&mut self, first: u32, count: u32) {
        let mut told = self.told.borrow_mut();
        for sequence in first..first + count {
            told.events.push_back(Item::Record {
                sequence,
                record: fault(sequence.into()),
            });
        }
    }

    fn deliver(&mut self) -> Effect {
        self.smmu.deliver(&self.ram)
    }

    fn conserved(&self) {
        let events = self.smmu.counters().events;
        assert_eq!(events.recorded, events.delivered + events.dropped());
    }
}

#[test]
fn events_are_where_the_guest_reads_them_and_a_burst_is_one_interrupt() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.happen(0, 5);
    assert_eq!(guest.deliver().interrupts, Interrupts::EVENTS);
    assert_eq!(guest.read(EVENTQ_PROD), 5);
    for n in 0..5u64 {
        assert_eq!(guest.ram.load::<4>(EVENTS + n * 32), fault(n));
    }
    // Not empty: no more interrupts, until it was.
    guest.happen(5, 3);
    assert_eq!(guest.deliver().interrupts, Interrupts::empty());
    guest.write(EVENTQ_CONS, 8);
    guest.happen(8, 1);
    assert_eq!(guest.deliver().interrupts, Interrupts::EVENTS);
    assert_eq!(guest.smmu.counters().events.delivered, 9);
    guest.conserved();
}

#[test]
fn a_guest_that_never_reads_is_told_once_and_nothing_grows() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    let mut interrupts = 0;
    let mut flags = 0;
    let mut prod = 0;
    for round in 0..1000u32 {
        guest.happen(round * 10, 10);
        let effect = guest.deliver();
        interrupts += effect.interrupts.bits().count_ones();
        assert!(!effect.more);
        let now = guest.read(EVENTQ_PROD);
        flags += (now ^ prod) >> 31;
        prod = now;
    }
    assert_eq!((interrupts, flags, prod), (1, 1, 1 << 31 | 16));
    let events = guest.smmu.counters().events;
    assert_eq!((events.recorded, events.delivered), (10_000, 16));
    assert_eq!(events.overflowed, 10_000 - 16);
    guest.conserved();
    assert!(
        guest
            .ram
            .writes
            .borrow()
            .iter()
            .all(|(at, _)| (EVENTS..EVENTS + 512).contains(at))
    );
    // The guest reads and acknowledges; it goes on.
    guest.write(EVENTQ_CONS, 1 << 31 | 16);
    guest.happen(10_000, 17);
    assert_eq!(guest.deliver().interrupts, Interrupts::EVENTS);
    guest.settle();
    // The second overflow: the flag differs from the acknowledgement again.
    assert_eq!(guest.read(EVENTQ_PROD), 0);
    assert_eq!(guest.smmu.counters().events.delivered, 32);
}

#[test]
fn there_is_room_again_before_an_overflow_is_acknowledged() {
    let mut guest = Guest::plain();
    guest.up(8, 2);
    guest.happen(0, 6);
    guest.deliver();
    assert_eq!(guest.read(EVENTQ_PROD), 1 << 31 | 4);
    guest.write(EVENTQ_CONS, 4);
    guest.happen(6, 1);
    assert_eq!(guest.deliver().interrupts, Interrupts::EVENTS);
    assert_eq!(guest.read(EVENTQ_PROD), 1 << 31 | 5);
}

#[test]
fn what_was_lost_on_the_way_is_told_by_the_same_flag() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.happen(0, 1);
    // 1 to 4 are missing; then a mark at the tail, of 6 and 7.
    guest.happen(5, 1);
    guest
        .told
        .borrow_mut()
        .events
        .push_back(Item::Lost { sequence: 7 });
    assert_eq!(guest.smmu.waiting(), 8);
    let effect = guest.deliver();
    assert_eq!(guest.smmu.waiting(), 0);
    assert_eq!(effect.interrupts, Interrupts::EVENTS);
    assert_eq!(guest.read(EVENTQ_PROD), 1 << 31 | 2);
    let events = guest.smmu.counters().events;
    assert_eq!((events.recorded, events.delivered, events.lost), (8, 2, 6));
    guest.conserved();
    // Numbers start again at 0 after 2^31 - 1.
    guest.happen(8, 1);
    guest.deliver();
    guest.smmu.sequence = crate::object::MAX_SEQUENCE;
    guest.happen(crate::object::MAX_SEQUENCE, 1);
    guest.happen(0, 1);
    guest.deliver();
    assert_eq!(guest.smmu.counters().events.lost, 6);
}

#[test]
fn a_loss_alone_is_an_interrupt() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest
        .told
        .borrow_mut()
        .events
        .push_back(Item::Lost { sequence: 3 });
    assert_eq!(guest.deliver().interrupts, Interrupts::EVENTS);
    assert_eq!(guest.read(EVENTQ_PROD), 1 << 31);
    assert_eq!(guest.smmu.counters().events.lost, 4);
}

#[test]
fn a_queue_that_is_off_drops_and_counts() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.write(CR0, 0b1001);
    guest.happen(0, 7);
    let effect = guest.deliver();
    assert_eq!(effect, Effect::default());
    assert_eq!(guest.read(EVENTQ_PROD), 0);
    assert_eq!(guest.smmu.counters().events.disabled, 7);
    guest.conserved();
}

#[test]
fn a_queue_that_is_not_in_memory_is_an_error_told_once() {
    let end = RAM + BYTES as u64;
    for base in [0, 0x0900_0000, end, RAM - 0x1000, 0x000f_ffff_ffff_ffe0] {
        let mut guest = Guest::plain();
        guest.up(8, 4);
        guest.write(CR0, 0b1001);
        guest.write(EVENTQ_BASE, base | 4);
        guest.write(CR0, 0b1101);
        guest.happen(0, 3);
        let effect = guest.deliver();
        assert_eq!(effect.interrupts, Interrupts::ERRORS, "{base:#x}");
        assert_eq!(guest.error(), 1 << 2);
        assert_eq!(guest.read(EVENTQ_PROD), 0);
        assert_eq!(guest.smmu.counters().events.aborted, 3);
        guest.conserved();
        let errors = guest.read(GERROR);
        guest.write(GERRORN, errors.into());
        guest.happen(3, 1);
        assert_eq!(guest.deliver().interrupts, Interrupts::ERRORS);
    }
}

#[test]
fn interrupts_that_are_off_do_not_come() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.write(IRQ_CTRL, 0);
    guest.happen(0, 1);
    assert_eq!(guest.deliver().interrupts, Interrupts::empty());
    assert_eq!(guest.say(&[[0xff, 0]]).interrupts, Interrupts::empty());
    assert_eq!(guest.error(), 1);
}

#[test]
fn interrupts_are_messages_where_the_guest_says_so() {
    let mut guest = Guest::rich();
    // Events to memory, errors to a doorbell.
    guest.write(0xb0, CONTEXTS);
    guest.write(0xb8, 0x77);
    guest.write(0x68, 0x0809_0040);
    guest.write(0x70, 0x55);
    guest.up(8, 4);
    guest.happen(0, 1);
    let effect = guest.deliver();
    assert_eq!(effect, Effect::default());
    assert_eq!(guest.ram.load::<1>(CONTEXTS), [0x77]);
    guest.say(&[[0xff, 0]]);
    let message = Message {
        source: Interrupts::ERRORS,
        address: Gpa(0x0809_0040),
        data: 0x55,
    };
    assert_eq!(guest.smmu.messages(), [message]);
    // A doorbell that is none: its error does not ask for itself.
    let effect = guest.smmu.message_refused(&guest.ram, Interrupts::ERRORS);
    assert_eq!(effect, Effect::default());
    assert_eq!(guest.error(), 1 | 1 << 7);
}

#[test]
fn a_storm_is_moved_on_a_bounded_number_at_a_time() {
    let mut guest = Guest::plain();
    guest.up(8, 10);
    guest.happen(0, 500);
    let mut effect = guest.deliver();
    let mut calls = 1;
    let mut seen = 0;
    loop {
        let prod = guest.read(EVENTQ_PROD);
        assert!(prod - seen <= BUDGET / EVENT_COST);
        seen = prod;
        if !effect.more {
            break;
        }
        effect = guest.run();
        calls += 1;
    }
    assert_eq!((seen, calls), (500, 32));
}

#[test]
fn an_event_of_a_bad_entry_stays_what_it_is() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.entry(8, [0b1101, 0]);
    guest.say(&[cfgi_ste(8)]);
    guest.told.borrow_mut().events.push_back(Item::Record {
        sequence: 0,
        record: [0x04 | 8 << 32, 0, 0, 0],
    });
    guest.deliver();
    assert_eq!(guest.ram.load::<4>(EVENTS), [0x04 | 8 << 32, 0, 0, 0]);
}
