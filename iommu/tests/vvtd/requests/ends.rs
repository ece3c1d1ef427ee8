//! Groups that end without an answer of the guest's.

use iommu::hal::Platform;
use iommu::model::vtd::Asked;
use iommu::object::{Item, Record};

use super::super::guest::{BYTES, CONTEXTS_ALL, How, RAM, REAL, SOURCES};
use super::{
    DATA, DTE, Guest, INVALID, PASID, PASIDE, PATIENCE, PECTL, PQA, PQT, PRE, PRS, REQUESTS, VA,
    admit, how, put,
};

#[test]
fn a_guest_that_does_not_answer_holds_nothing_for_ever() {
    let mut guest = Guest::new(&how());
    for group in 0..4 {
        guest.ask(group, true);
    }
    guest.machine.page_requests();
    // Two at once, as the unit was made; one more is taken and waits for a place.
    assert_eq!(guest.told().len(), 2);
    let counters = guest.machine.unit.counters().requests;
    assert_eq!((counters.taken, counters.answered), (3, 0));
    let until = guest.machine.unit.expire().expect("they wait");
    assert_eq!(guest.answers(), []);
    guest.answer(SOURCES[0], PASID, 1, 0);
    assert_eq!(guest.answers(), [(REAL[0], Some(PASID), 1, 0)]);
    assert_eq!(guest.told().len(), 1, "there is room for it");
    let now = guest.machine.memory.0.now_ns();
    assert!(until > now && until <= now + PATIENCE);
    guest.machine.memory.0.advance(PATIENCE + 1);
    guest.machine.unit.expire();
    while guest.machine.unit.has_work() {
        guest.machine.unit.run(&guest.machine.memory);
    }
    // What waits for a place has no longer than what was told.
    let mut answers = guest.answers();
    answers.sort_unstable();
    let expired = [0, 2, 3].map(|group| (REAL[0], Some(PASID), group, INVALID));
    assert_eq!(answers, expired);
    assert_eq!(guest.told().len(), 0);
    assert_eq!(guest.machine.unit.expire(), None);
    assert_eq!(guest.machine.model.waiting_groups(), 0);
    assert_eq!(guest.machine.unit.counters().requests.expired, 3);
}

#[test]
fn a_queue_that_is_full_is_told_of_and_the_device_is_answered() {
    let mut guest = Guest::new(&How {
        page_requests: 200,
        ..how()
    });
    let mut told = 0;
    // One place stays free.
    for _ in 0..127 {
        guest.ask(0, true);
        guest.machine.page_requests();
        guest.answer(SOURCES[0], PASID, 0, 0);
        told += 1;
    }
    assert_eq!((told, guest.answers().len()), (127, 127));
    guest.machine.write(PRS, 4, 1);
    guest.ask(1, true);
    let effects = guest.machine.page_requests();
    assert!(effects.iter().any(|it| !it.messages().is_empty()));
    assert_eq!(guest.machine.unit.read(PRS, 4), 2);
    assert_eq!(guest.answers(), [(REAL[0], Some(PASID), 1, INVALID)]);
    // Until it is acknowledged there is room for nobody.
    assert_eq!(guest.told().len(), 127);
    guest.ask(2, true);
    guest.machine.page_requests();
    assert_eq!(guest.answers(), [(REAL[0], Some(PASID), 2, INVALID)]);
    guest.machine.write(PRS, 4, 2);
    guest.ask(4, true);
    guest.machine.page_requests();
    assert_eq!(guest.told().len(), 1);
    assert_eq!(guest.machine.unit.counters().requests.refused, 2);
}

#[test]
fn who_may_not_ask_is_answered_and_the_guest_has_a_record() {
    let mut guest = Guest::new(&how());
    let source = u64::from(SOURCES[0]);
    let pasid = u64::from(PASID) << 40 | 1 << 31;
    // Without PRE.
    admit(&guest.machine, DTE | PASIDE);
    guest.machine.invalidate(&[CONTEXTS_ALL]);
    assert_eq!(guest.ask(1, true), Asked::Queued, "the host allows it");
    guest.machine.page_requests();
    assert_eq!(guest.answers(), [(REAL[0], Some(PASID), 1, INVALID)]);
    assert_eq!(guest.told().len(), 0);
    // T2 without T1 is a page request.
    let word = 1 << 63 | 0x47 << 32 | 1 << 28 | source | pasid;
    assert_eq!(guest.machine.fault_record(0), [VA, word]);
    // FPD: nobody is told.
    admit(&guest.machine, DTE | PASIDE | 2);
    guest.machine.invalidate(&[CONTEXTS_ALL]);
    guest.ask(1, true);
    guest.machine.page_requests();
    assert_eq!(guest.answers().len(), 1);
    assert_eq!(guest.machine.fault_record(1), [0, 0]);
    // PRE without DTE is no entry at all (SCT.4.1).
    admit(&guest.machine, PASIDE | PRE);
    guest.machine.invalidate(&[CONTEXTS_ALL]);
    assert_eq!(guest.machine.reach_with(0, PASID, VA), None);
    guest.machine.faults();
    assert_eq!(guest.machine.fault_record(1)[1] >> 32 & 0xff, 0x43);
    // What goes through no first stage has nobody to ask: the owner knows.
    admit(&guest.machine, DTE | PASIDE | PRE);
    guest.machine.invalidate(&[CONTEXTS_ALL]);
    let model = guest.machine.model.clone();
    let asked = model.page_request(REAL[0], DATA, true, 2, true);
    assert_eq!(asked, Asked::Queued);
    guest.machine.page_requests();
    assert_eq!(guest.answers(), [(REAL[0], None, 2, INVALID)]);
    let records = std::iter::from_fn(|| guest.machine.context.record());
    let of_request = |item: &Item<Record>| {
        matches!(
            item,
            Item::Record {
                record: Record::Request(it),
                ..
            } if it.group == 2
        )
    };
    assert_eq!(records.filter(of_request).count(), 1);
}

#[test]
fn a_pasid_that_goes_takes_its_groups_along() {
    let mut guest = Guest::new(&how());
    for group in 1..5 {
        guest.ask(group, true);
    }
    guest.machine.page_requests();
    guest.ask(5, true);
    // Told, held, in the slice, and in the hardware's queue.
    put(&guest.machine, PASID, [0; 3]);
    let one = [0x17 | 6 << 16 | u64::from(PASID) << 32, 0];
    guest.machine.invalidate(&[one]);
    let mut answers = guest.answers();
    answers.sort_unstable();
    let all = [1, 2, 3, 4, 5].map(|group| (REAL[0], Some(PASID), group, INVALID));
    assert_eq!(answers, all);
    assert_eq!(guest.machine.unit.counters().requests.dropped, 3);
    guest.told();
    guest.machine.page_requests();
    assert_eq!(guest.told(), Vec::<[u64; 4]>::new(), "none comes later");
    guest.answer(SOURCES[0], PASID, 1, 0);
    assert_eq!(guest.answers(), []);
    assert_eq!(guest.machine.model.waiting_groups(), 0);
    assert_eq!(guest.machine.unit.expire(), None);
}

#[test]
fn a_queue_that_is_nowhere_and_a_guest_that_stops() {
    let mut guest = Guest::new(&how());
    // Past the guest's memory, which is the host's or nobody's.
    guest.machine.write(PQA, 8, RAM + BYTES);
    guest.ask(1, true);
    guest.machine.page_requests();
    assert_eq!(guest.answers(), [(REAL[0], Some(PASID), 1, INVALID)]);
    assert_eq!(guest.machine.unit.read(PQT, 8), 0);
    guest.machine.write(PQA, 8, REQUESTS);
    for group in 2..6 {
        guest.ask(group, true);
    }
    guest.machine.page_requests();
    guest.machine.unit.stop().unwrap();
    let answers = guest.answers();
    assert_eq!(answers.len(), 4);
    assert!(answers.iter().all(|it| it.3 == INVALID));
    assert_eq!(guest.machine.model.waiting_groups(), 0);
    assert_eq!(guest.machine.unit.read(PECTL, 4), 1 << 31);
    assert_eq!(guest.machine.unit.read(PQA, 8), 0);
    let counters = guest.machine.unit.counters().requests;
    assert_eq!(
        counters.taken,
        counters.answered + counters.expired + counters.refused + counters.dropped
    );
}
