//! Pages that devices ask a guest for, by its own unit: from the hardware's queue to the guest's, and the guest's answers back.

use iommu::guest::vvtd::{FirstStages, Interrupts};
use iommu::hal::Platform;
use iommu::model::vtd::{Asked, Config, Initiator};

use super::guest::{
    CONTEXTS, CONTEXTS_ALL, How, Machine, PASIDS_ALL, RAM, REAL, ROOT, SOURCES, Stage,
};

mod ends;

const DATA: u64 = RAM + 0x100_0000;
const SCALABLE_ROOT: u64 = ROOT | 1 << 10;
const VA: u64 = 0x7000;
const PASID: u32 = 5;
/// Where the guest has its page request queue, of one page, and its PASID tables.
const REQUESTS: u64 = RAM + 0xe0_0000;
const PASIDS: u64 = RAM + 0xf0_0000;
/// DTE, PASIDE, PRE (9.4).
const DTE: u64 = 1 << 2;
const PASIDE: u64 = 1 << 3;
const PRE: u64 = 1 << 4;
const PQH: u64 = 0xc0;
const PQT: u64 = 0xc8;
const PQA: u64 = 0xd0;
const PRS: u64 = 0xdc;
const PECTL: u64 = 0xe0;
const INVALID: u8 = 1;
const PATIENCE: u64 = 1_000_000_000;

fn how() -> How {
    How {
        config: Config {
            device_tlbs: true,
            page_requests: true,
            ..Config::nesting()
        },
        input_bits: 39,
        first_stages: FirstStages::Nested,
        pasids: 4,
        page_requests: 2,
        ..How::default()
    }
}

/// A guest whose source 0 goes through a first stage with [`PASID`] and may ask for pages; that of requests without goes straight
/// to its memory.
struct Guest {
    machine: Machine,
    stage: Stage,
}

fn admit(machine: &Machine, fields: u64) {
    let at = CONTEXTS + u64::from(SOURCES[0]) * 32;
    machine.memory.store(at, PASIDS | fields | 1);
}

/// The entry of a PASID, in the one table that there is.
fn put(machine: &Machine, pasid: u32, words: [u64; 3]) {
    machine.memory.store(PASIDS, (PASIDS + 0x1000) | 1);
    let at = PASIDS + 0x1000 + u64::from(pasid) * 64;
    for (at, word) in (at..).step_by(8).zip(words) {
        machine.memory.store(at, word);
    }
}

impl Guest {
    fn new(how: &How) -> Self {
        let mut machine = Machine::new(how);
        machine.memory.store(ROOT, CONTEXTS | 1);
        machine.enable(SCALABLE_ROOT);
        machine.write(PQH, 8, 0);
        machine.write(PQT, 8, 0);
        machine.write(PQA, 8, REQUESTS);
        machine.write(0xe4, 4, 0x77);
        machine.write(0xe8, 4, 0xfee0_1000);
        machine.write(PECTL, 4, 0);
        let stage = Stage::first(0);
        admit(&machine, DTE | PASIDE | PRE);
        put(&machine, 0, [4 << 6 | 1 << 2 | 1, 2, 0]);
        put(&machine, PASID, [1 << 6 | 1, 6, stage.root]);
        machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL]);
        Self { machine, stage }
    }

    fn ask(&self, group: u16, last: bool) -> Asked {
        let from = Initiator::from(REAL[0]).with_pasid(PASID);
        let model = &self.machine.model;
        model.page_request(from, VA, true, group, last)
    }

    /// What the unit is told of, as the guest's queue has it from its head on; the head goes behind it.
    fn told(&mut self) -> Vec<[u64; 4]> {
        let (mut head, tail) = (
            self.machine.unit.read(PQH, 8),
            self.machine.unit.read(PQT, 8),
        );
        let mut all = Vec::new();
        while head != tail {
            let at = REQUESTS + head;
            all.push([0, 8, 16, 24].map(|word| self.machine.memory.load(at + word)));
            head = (head + 32) % 4096;
        }
        self.machine.write(PQH, 8, head);
        self.machine.write(PRS, 4, 1);
        all
    }

    fn answer(&mut self, source: u16, pasid: u32, group: u64, code: u64) {
        let first = 9 | 1 << 4 | code << 12 | u64::from(source) << 16 | u64::from(pasid) << 32;
        self.machine.invalidate(&[[first, group << 3]]);
    }

    fn answers(&self) -> Vec<(u16, Option<u32>, u16, u8)> {
        self.machine.model.page_responses()
    }
}

#[test]
fn they_are_offered_where_hardware_has_them_and_devices_are_trusted() {
    // DT, PRS, PDS.
    let offered = |how: &How| {
        let ecap = Machine::new(how).unit.read(0x10, 8);
        [2, 29, 42].map(|bit| ecap >> bit & 1)
    };
    assert_eq!(offered(&how()), [1, 1, 1]);
    let with = |config| How { config, ..how() };
    let no_requests = Config {
        page_requests: false,
        ..how().config
    };
    assert_eq!(offered(&with(no_requests)), [1, 0, 0]);
    let no_tlbs = Config {
        device_tlbs: false,
        ..how().config
    };
    assert_eq!(offered(&with(no_tlbs)), [0, 0, 0]);
    let untrusted = How {
        page_requests: 0,
        ..how()
    };
    assert_eq!(offered(&untrusted), [0, 0, 0]);
    let shadowed = How {
        first_stages: FirstStages::Shadowed,
        ..how()
    };
    assert_eq!(offered(&shadowed), [0, 0, 0]);
    // What is not offered is not there.
    let mut machine = Machine::new(&untrusted);
    let before = machine.unit.counters().misuse;
    for (offset, size) in [(PQH, 8), (PQT, 8), (PQA, 8), (PRS, 4), (0xe4, 4), (0xe8, 4)] {
        machine.write(offset, size, 0x1000);
        assert_eq!(machine.unit.read(offset, size), 0);
    }
    assert_eq!(machine.unit.counters().misuse - before, 6);
    assert_eq!(machine.unit.read(PECTL, 4), 0);
}

#[test]
fn a_page_is_asked_for_put_there_and_reached() {
    let mut guest = Guest::new(&how());
    assert_eq!(guest.machine.reach_with(0, PASID, VA), None);
    assert_eq!(guest.ask(3, false), Asked::Queued);
    assert_eq!(guest.ask(3, true), Asked::Queued);
    let effects = guest.machine.page_requests();
    let messages: Vec<_> = effects.iter().flat_map(|it| it.messages()).collect();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].source, Interrupts::REQUESTS);
    assert_eq!((messages[0].address, messages[0].data), (0xfee0_1000, 0x77));
    assert_eq!(guest.machine.unit.read(PRS, 4), 1);
    // 7.4.1.1, under the guest's own name of the source; nothing of the host's.
    let source = u64::from(SOURCES[0]) << 16;
    let first = 1 | 1 << 8 | source | u64::from(PASID) << 32;
    let words = |last: u64| [first, VA | 3 << 3 | last << 2 | 3, 0, 0];
    assert_eq!(guest.told(), [words(0), words(1)]);
    assert_eq!(guest.answers(), []);
    guest.stage.set(&guest.machine.memory, VA, DATA | 7);
    guest.machine.memory.0.write_barrier();
    guest.answer(SOURCES[0], PASID, 3, 0);
    assert_eq!(guest.answers(), [(REAL[0], Some(PASID), 3, 0)]);
    assert_eq!(guest.machine.reach_with(0, PASID, VA), Some(DATA));
    // Once: of a group that does not wait it has no effect.
    guest.answer(SOURCES[0], PASID, 3, 0);
    assert_eq!(guest.answers(), []);
    let counters = guest.machine.unit.counters().requests;
    assert_eq!((counters.taken, counters.answered), (1, 1));
    assert_eq!(guest.machine.unit.expire(), None);
}

#[test]
fn only_the_guests_own_names_and_numbers_answer() {
    let mut guest = Guest::new(&how());
    guest.ask(3, true);
    guest.machine.page_requests();
    for (source, pasid, group) in [
        (REAL[0], PASID, 3),
        (SOURCES[1], PASID, 3),
        (SOURCES[0], PASID + 1, 3),
        (SOURCES[0], PASID, 4),
    ] {
        guest.answer(source, pasid, group, 0);
    }
    // Without a PASID.
    let first = 9 | u64::from(SOURCES[0]) << 16;
    guest.machine.invalidate(&[[first, 3 << 3]]);
    assert_eq!(guest.answers(), []);
    // A failure is one of the guest's, which does not turn off page requests of others behind the device.
    guest.answer(SOURCES[0], PASID, 3, 15);
    assert_eq!(guest.answers(), [(REAL[0], Some(PASID), 3, INVALID)]);
    // A code that there is not stops the queue.
    guest.machine.queue(&[[9 | 2 << 12, 0]]);
    guest.machine.ring();
    assert_eq!(guest.machine.read32(0x34) >> 4 & 1, 1);
    assert_eq!(guest.machine.unit.read(0xb0, 8) & 0xf, 4);
}

#[test]
fn one_call_tells_of_as_many_as_its_budget_says() {
    let mut guest = Guest::new(&How {
        budget: 4,
        page_requests: 8,
        ..how()
    });
    for group in 0..6 {
        guest.ask(group, true);
    }
    // The owner hands them over all at once, and each call tells of one.
    let mut calls = guest.machine.page_requests().len();
    assert!(guest.told().len() <= calls);
    while guest.machine.unit.has_work() {
        guest.machine.unit.run(&guest.machine.memory);
        calls += 1;
        assert!(calls < 100);
    }
    assert_eq!(guest.machine.unit.counters().requests.taken, 6);
}

#[test]
fn masked_it_waits_and_is_sent_once_it_is_not() {
    let mut guest = Guest::new(&how());
    guest.machine.write(PECTL, 4, 1 << 31);
    guest.ask(1, true);
    let effects = guest.machine.page_requests();
    assert!(effects.iter().all(|it| it.messages().is_empty()));
    assert_eq!(guest.machine.unit.read(PECTL, 4), 3 << 30);
    let effects = guest.machine.write(PECTL, 4, 0);
    assert_eq!(effects[0].messages().len(), 1);
    assert_eq!(guest.machine.unit.read(PECTL, 4), 0);
    // Served while it was masked: there is nothing to say any more.
    guest.machine.write(PRS, 4, 3);
    guest.machine.write(PECTL, 4, 1 << 31);
    guest.ask(2, true);
    guest.machine.page_requests();
    guest.machine.write(PRS, 4, 1);
    assert_eq!(guest.machine.unit.read(PECTL, 4), 1 << 31);
}

/// What a guest takes out of a first stage leaves a device that has cached it, by the invalidation of the unit alone: those of
/// device TLBs that follow have nothing left to do.
#[test]
fn what_leaves_a_first_stage_leaves_the_devices() {
    let mut guest = Guest::new(&how());
    guest.stage.set(&guest.machine.memory, VA, DATA | 7);
    guest.machine.memory.0.write_barrier();
    let from = Initiator::from(REAL[0]).with_pasid(PASID);
    let model = guest.machine.model.clone();
    let real = model.translated(from, VA).expect("it is there");
    guest.stage.set(&guest.machine.memory, VA, 0);
    guest.machine.memory.0.write_barrier();
    assert_eq!(model.translated(from, VA), Ok(real), "it keeps it");
    let iotlb = [0x36 | 6 << 16 | u64::from(PASID) << 32, VA];
    guest.machine.invalidate(&[iotlb]);
    assert!(model.translated(from, VA).is_err());
    // 6.5.2.5 and 6.5.2.6, under the guest's name, and reserved bits of each.
    let source = u64::from(SOURCES[0]);
    let without = [3 | 1 << 16 | source << 32, VA];
    let with = [8 | 1 << 4 | source << 16 | u64::from(PASID) << 32, VA];
    guest.machine.invalidate(&[without, with]);
    guest.machine.queue(&[[3, 1 << 5]]);
    guest.machine.ring();
    assert_eq!(guest.machine.read32(0x34) >> 4 & 1, 1);
}
