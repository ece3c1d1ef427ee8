//! Pages that a device asks for, from a unit to a fault queue and back. None waits for ever.

use std::sync::Arc;

use iommu::hal::Platform;
use iommu::id::IommuIndex;
use iommu::model::vtd::{Asked, Config, Initiator};
use iommu::object::driver::{Answer, Driver, HwptFlags, StageOne};
use iommu::object::unit::Unit;
use iommu::object::{Delivery, Device, FaultQueue, HwptPaging, Item, PageRequest, Record};
use iommu::physical::{FirstStage, PhysicalIommu, PriRequest, Waiting};
use iommu::vtd::decode_request;
use iommu::vtd::slice::VIOMMU;

use super::objects::{VA, World, table};
use crate::vtd_unit::start;

const SOURCE: u16 = 0x310;
const OTHER: u16 = 0x318;
const PASID: u32 = 7;
const INVALID: u8 = 1;

struct Guest {
    world: World,
    faults: FaultQueue,
    devices: [Device; 2],
    _tables: HwptPaging,
}

fn config() -> Config {
    Config {
        device_tlbs: true,
        page_requests: true,
        ..Config::nesting()
    }
}

impl Guest {
    /// Two devices that go through a table of the host's, which has a fault queue of 8, without PASID and with one.
    fn new(config: Config, queue: bool) -> Self {
        let world = World::new(config);
        let faults = world.context.fault_queue(8).expect("a queue");
        let queue = queue.then_some(&faults);
        let tables = world
            .ioas
            .paging(&world.driver, HwptFlags::PASID, queue)
            .unwrap();
        let devices = [SOURCE, OTHER].map(|source| world.bind_with(source.into(), true));
        for device in &devices {
            device.attach(0, &tables).unwrap();
            device.attach(PASID, &tables).unwrap();
        }
        Self {
            world,
            faults,
            devices,
            _tables: tables,
        }
    }

    /// Takes every page request to its owner, and answers those of nobody; whether some were lost.
    fn serve(&self) -> (Vec<Delivery>, bool) {
        let mut all = Vec::new();
        loop {
            let mut requests = [decode_request(IommuIndex(0), [0; 2]); 3];
            let drained = self
                .world
                .unit
                .physical()
                .lock()
                .drain_requests(&mut requests);
            let deliver = |it: &PriRequest| self.world.context.deliver_request(it);
            all.extend(requests[..drained.count].iter().map(deliver));
            if drained.lost {
                self.world.context.requests_lost(IommuIndex(0));
            }
            if !drained.more {
                return (all, drained.lost);
            }
        }
    }

    fn ask(&self, pasid: u32, group: u16, last: bool) {
        let from = Initiator::from(SOURCE);
        let from = match pasid {
            0 => from,
            _ => from.with_pasid(pasid),
        };
        let asked = self.world.vtd.page_request(from, VA, true, group, last);
        assert_eq!(asked, Asked::Queued);
    }

    fn read(&self) -> Option<PageRequest> {
        let mut out = [PageRequest::default(); 8];
        let count = self.faults.read(&mut out).expect("room");
        (count > 0).then_some(out[0])
    }

    fn record(&self) -> Option<Record> {
        match self.world.context.record()? {
            Item::Record { record, .. } => Some(record),
            Item::Lost { .. } => panic!("the list is long enough"),
        }
    }
}

#[test]
fn groups_go_to_the_queue_of_their_table_and_answers_back() {
    let guest = Guest::new(config(), true);
    for (pasid, group, last) in [(0, 3, false), (PASID, 3, true), (0, 3, true)] {
        guest.ask(pasid, group, last);
    }
    let to_queue = Delivery::PageRequest(guest.faults.id());
    assert_eq!(guest.serve(), (vec![to_queue; 3], false));
    // In the order of their first requests.
    for (pasid, answer, code) in [
        (None, Answer::Invalid, 1),
        (Some(PASID), Answer::Success, 0),
    ] {
        let request = guest.read().expect("a group");
        assert_eq!(
            (request.pasid, request.group, request.address),
            (pasid, 3, VA)
        );
        assert_eq!((request.access, request.stalled), (3, false));
        assert_eq!(request.device, guest.devices[0].id());
        guest.faults.respond(request.cookie, answer).expect("waits");
        assert_eq!(guest.world.vtd.page_responses(), [(SOURCE, pasid, 3, code)]);
    }
    assert_eq!(guest.world.vtd.waiting_groups(), 0);
}

#[test]
fn what_nobody_answers_ends_at_the_deadline() {
    let guest = Guest::new(config(), true);
    guest.ask(PASID, 4, true);
    guest.serve();
    guest.world.context.age_requests();
    assert_eq!(guest.world.vtd.page_responses(), []);
    let request = guest.read().expect("it may still be read");
    guest.world.context.age_requests();
    let answer = (SOURCE, Some(PASID), 4, INVALID);
    assert_eq!(guest.world.vtd.page_responses(), [answer]);
    let expired = Record::RequestsExpired {
        fault_queue: guest.faults.id(),
    };
    assert_eq!(guest.record(), Some(expired));
    let late = guest.faults.respond(request.cookie, Answer::Success);
    assert!(late.is_err());
    assert_eq!(guest.world.vtd.page_responses(), []);
}

#[test]
fn a_device_that_leaves_takes_its_groups_along_wherever_they_are() {
    let guest = Guest::new(config(), true);
    // Read; delivered; in the queue of the unit; a part of a group, which nobody waits for.
    guest.ask(PASID, 1, true);
    guest.serve();
    let read = guest.read().expect("a group");
    guest.ask(PASID, 2, true);
    guest.ask(PASID, 5, false);
    guest.serve();
    guest.ask(PASID, 3, true);
    guest.ask(0, 4, true);
    guest.devices[0].detach(PASID).unwrap();
    let mut answers = guest.world.vtd.page_responses();
    answers.sort_unstable();
    let expected = [1, 2, 3].map(|group| (SOURCE, Some(PASID), group, INVALID));
    assert_eq!(answers, expected);
    assert!(guest.faults.respond(read.cookie, Answer::Success).is_err());
    // What it asked for otherwise goes on.
    let to_queue = Delivery::PageRequest(guest.faults.id());
    assert_eq!(guest.serve(), (vec![to_queue], false));
    let request = guest.read().expect("a group");
    assert_eq!((request.pasid, request.group), (None, 4));
    guest.devices[0].detach(0).unwrap();
    assert_eq!(
        guest.world.vtd.page_responses(),
        [(SOURCE, None, 4, INVALID)]
    );
    assert_eq!(guest.world.vtd.waiting_groups(), 0);
}

#[test]
fn a_queue_that_is_full_answers_and_says_so() {
    let guest = Guest::new(config(), true);
    for group in 0..9 {
        guest.ask(0, group, true);
    }
    assert_eq!(guest.serve().0.len(), 9);
    assert_eq!(
        guest.world.vtd.page_responses(),
        [(SOURCE, None, 8, INVALID)]
    );
    let lost = Record::RequestsLost {
        fault_queue: guest.faults.id(),
    };
    assert_eq!(guest.record(), Some(lost));
    assert_eq!(guest.record(), None);
}

#[test]
fn a_loss_of_the_unit_leaves_no_half_of_a_group_behind() {
    let guest = Guest::new(config(), true);
    guest.ask(0, 1, true);
    guest.ask(0, 2, false);
    // Of another device that has nobody, until there is no room.
    let stranger = Initiator::from(OTHER);
    let vtd = &guest.world.vtd;
    while vtd.page_request(stranger, 0, true, 0, false) == Asked::Queued {}
    let asked = vtd.page_request(SOURCE, VA, true, 2, true);
    assert_eq!(asked, Asked::Answered(0), "the unit answers");
    let mut drained = guest.serve();
    assert!(drained.1);
    drained.0.truncate(2);
    assert_eq!(drained.0.len(), 2);
    assert_eq!(guest.read().map(|it| it.group), Some(1));
    assert!(guest.read().is_none());
    assert_eq!(vtd.page_responses(), [(SOURCE, None, 2, 0)]);
    // It asks again, and the old half is no part of that.
    guest.ask(0, 2, true);
    guest.serve();
    let mut out = [PageRequest::default(); 8];
    assert_eq!(guest.faults.read(&mut out), Ok(1));
}

#[test]
fn without_a_queue_the_owner_knows_and_nobodys_is_answered_too() {
    let guest = Guest::new(config(), false);
    guest.ask(0, 5, false);
    guest.ask(0, 5, true);
    assert_eq!(guest.serve().0, [Delivery::Ignored, Delivery::Record]);
    assert_eq!(
        guest.world.vtd.page_responses(),
        [(SOURCE, None, 5, INVALID)]
    );
    assert!(matches!(guest.record(), Some(Record::Request(it)) if it.group == 5));
    // Of a device that is nobody's here: whoever drains answers.
    let nobody = World::new(config());
    let vtd = &guest.world.vtd;
    let from = vtd.page_request(OTHER, VA, true, 5, true);
    assert_eq!(from, Asked::Queued);
    let mut requests = [decode_request(IommuIndex(0), [0; 2]); 2];
    let drained = guest
        .world
        .unit
        .physical()
        .lock()
        .drain_requests(&mut requests);
    assert_eq!(drained.count, 1);
    let [asked, _] = requests;
    assert_eq!(nobody.context.deliver_request(&asked), Delivery::NotMine);
    let waiting = Waiting::Pages {
        pasid: None,
        group: 5,
    };
    let answered =
        guest
            .world
            .unit
            .physical()
            .lock()
            .respond(asked.device, waiting, Answer::Invalid);
    answered.unwrap();
    assert_eq!(vtd.page_responses(), [(OTHER, None, 5, INVALID)]);
}

/// A guest's first stage on ours: what is not there is asked for, put there, and reached.
#[test]
fn a_page_of_a_guests_first_stage_is_there_after_the_answer() {
    let world = World::new(config());
    let faults = world.context.fault_queue(8).unwrap();
    let viommu = world
        .parent
        .viommu(&world.driver, VIOMMU, Default::default())
        .unwrap();
    let device = world.bind_with(SOURCE.into(), true);
    let _name = viommu.vdevice(&device, 0x20).unwrap();
    let root = 0x10_0000;
    let StageOne::Table(first) = table(root) else {
        panic!("a table");
    };
    // The guest's entry has device TLBs on.
    let first = StageOne::Table(FirstStage { ats: true, ..first });
    let nested = viommu.nested_for_pasids(first, Some(&faults)).unwrap();
    device.attach(PASID, &nested).unwrap();
    let from = Initiator::from(SOURCE).with_pasid(PASID);
    assert!(world.reach(SOURCE, PASID).is_err());
    assert_eq!(
        world.vtd.page_request(from, VA, true, 9, true),
        Asked::Queued
    );
    let mut requests = [decode_request(IommuIndex(0), [0; 2]); 1];
    let drained = world.unit.physical().lock().drain_requests(&mut requests);
    assert_eq!(drained.count, 1);
    let delivery = world.context.deliver_request(&requests[0]);
    assert_eq!(delivery, Delivery::PageRequest(faults.id()));
    let mut out = [PageRequest::default(); 8];
    assert_eq!(faults.read(&mut out), Ok(1));
    assert_eq!((out[0].address, out[0].pasid), (VA, Some(PASID)));
    world.tables(root, 0x3000);
    Arc::new(world.memory.clone()).write_barrier();
    faults.respond(out[0].cookie, Answer::Success).unwrap();
    assert_eq!(world.vtd.page_responses(), [(SOURCE, Some(PASID), 9, 0)]);
    assert!(world.reach(SOURCE, PASID).is_ok());
}

/// Two units, each with a device of the same source ID: what one asks for, is refused, loses or says is not the other's.
#[test]
fn two_units_are_told_apart() {
    let first = World::new(config());
    let (vtd, driver) = start(&first.memory, 1, config());
    let platform = Arc::new(first.memory.clone());
    let largest = driver.features().largest;
    let unit = Unit::new(IommuIndex(1), driver, platform, 39).with_second_stages_of_vtd(largest);
    let unit = Arc::new(unit);
    let faults = first.context.fault_queue(8).unwrap();
    let drivers = [Arc::clone(&first.driver), unit.clone() as Arc<dyn Driver>];
    let tables = drivers.each_ref().map(|driver| {
        let table = first.ioas.paging(driver, HwptFlags::PASID, Some(&faults));
        table.unwrap()
    });
    let devices = drivers
        .each_ref()
        .map(|driver| first.bind_to(driver, SOURCE.into()));
    for (device, table) in devices.iter().zip(&tables) {
        device.attach(0, table).unwrap();
    }
    let models = [&first.vtd, &vtd];
    let units = [&first.unit, &unit];
    for (nth, unit) in units.iter().enumerate() {
        let message = Some((0xfee0_0000, nth as u32));
        unit.physical().lock().set_fault_message(message);
    }
    let drain = |nth: usize| {
        let mut requests = [decode_request(IommuIndex(7), [0; 2]); 4];
        let drained = units[nth].physical().lock().drain_requests(&mut requests);
        let requests = &requests[..drained.count];
        for request in requests {
            assert_eq!(request.iommu, IommuIndex(nth as u8));
            first.context.deliver_request(request);
        }
    };
    // Halves of one group of the same number, of each, and the rest of the second's.
    for model in models {
        assert_eq!(
            model.page_request(SOURCE, VA, true, 3, false),
            Asked::Queued
        );
    }
    drain(0);
    drain(1);
    assert_eq!(models.map(|model| model.take_messages().len()), [1, 1]);
    first.context.requests_lost(IommuIndex(0));
    models[1].page_request(SOURCE, VA, true, 3, true);
    assert_eq!(models[1].take_messages(), [(0xfee0_0000, 1)]);
    assert_eq!(models[0].take_messages(), []);
    drain(0);
    drain(1);
    let mut out = [PageRequest::default(); 8];
    assert_eq!(faults.read(&mut out), Ok(2));
    assert_eq!(out[0].device, devices[1].id());
    faults.respond(out[0].cookie, Answer::Success).unwrap();
    assert_eq!(models[0].page_responses(), []);
    assert_eq!(models[1].page_responses(), [(SOURCE, None, 3, 0)]);
    // A fault of one is of that one.
    assert!(models[1].translate(SOURCE, 1 << 40, true).is_err());
    let mut record = [iommu::vtd::event::decode(IommuIndex(7), [0; 2]); 2];
    assert_eq!(
        units[0].physical().lock().drain_faults(&mut record).count,
        0
    );
    assert_eq!(
        units[1].physical().lock().drain_faults(&mut record).count,
        1
    );
    assert_eq!(record[0].iommu, IommuIndex(1));
    assert_eq!(first.context.deliver(&record[0]), Delivery::Record);
}
