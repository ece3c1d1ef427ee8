//! What waits for an answer: transactions that stall and pages that a device asks for, from the hardware to a fault queue
//! and back, on the model. None waits for ever.

mod vm;

use iommu::id::{DeviceId, IommuIndex};
use iommu::model::smmu::{Config, Denied, Initiator};
use iommu::object::driver::Answer;
use iommu::object::{Delivery, Device, FaultQueue, Item, PageRequest, Record, Vdevice, Viommu};
use iommu::physical::{PhysicalIommu, PriRequest};
use iommu::smmuv3::decode_request;
use vm::{GUEST, PAGE, Space, Vm, entry, nested};

const STREAM: u32 = 0x108;
const NAME: u64 = 0x20;
const VA: u64 = 0x1000;
/// CD.S: faults stall (IHI 0070, §5.4).
const STALL: u64 = 1 << 44;

struct Guest {
    vm: Vm,
    space: Space,
    faults: FaultQueue,
    device: Device,
    slice: Viommu,
    _vdevice: Vdevice,
}

impl Guest {
    /// A device whose faults stall, or with page requests; `queue`: there is somebody to ask.
    fn new(config: Config, queue: bool) -> Self {
        let vm = Vm::one(config);
        let space = Space::plain(&vm, 1);
        space.map(&vm, 0x9000, Some(GUEST));
        let contexts = vm.take(64);
        space.place(&vm, contexts);
        vm.store(contexts, space.context()[0] | STALL);
        let slice = vm.slice(0);
        let device = vm.device(0, STREAM);
        let _vdevice = slice.vdevice(&device, NAME).expect("named");
        let faults = vm.context.fault_queue(8).expect("a queue");
        let nested = nested(&slice, entry(contexts, 0), queue.then_some(&faults));
        device.attach(0, &nested).expect("attached");
        Self {
            vm,
            space,
            faults,
            device,
            slice,
            _vdevice,
        }
    }

    fn stall(&self) -> u16 {
        match self.vm.reaches(0, STREAM, VA) {
            Err(Denied::Stalled(tag)) => tag,
            other => panic!("{other:?}"),
        }
    }

    /// Takes every page request to its owner; whether some were lost.
    fn serve_requests(&self) -> (Vec<Delivery>, bool) {
        let mut all = Vec::new();
        let mut any_lost = false;
        loop {
            let mut requests = [decode_request(IommuIndex(0), [0; 2]); 3];
            let drained = self.vm.iommus[0]
                .unit
                .physical()
                .lock()
                .drain_requests(&mut requests);
            let deliver = |it: &PriRequest| self.vm.context.deliver_request(it);
            all.extend(requests[..drained.count].iter().map(deliver));
            assert!(!any_lost, "nothing comes after a loss");
            if drained.lost {
                any_lost = true;
                self.vm.context.requests_lost(IommuIndex(0));
            }
            if !drained.more {
                return (all, any_lost);
            }
        }
    }

    fn read(&self) -> Option<PageRequest> {
        let mut out = [PageRequest::default(); 8];
        let count = self.faults.read(&mut out).expect("room");
        (count > 0).then_some(out[0])
    }

    fn ask(&self, group: u16, last: bool) -> bool {
        self.vm.model().page_request(STREAM, VA, true, group, last)
    }
}

fn record(vm: &Vm) -> Option<Record> {
    match vm.context.record()? {
        Item::Record { record, .. } => Some(record),
        Item::Lost { .. } => panic!("the list is long enough"),
    }
}

#[test]
fn a_stalled_transaction_goes_on_when_its_page_is_there() {
    let guest = Guest::new(Config::full(), true);
    let tag = guest.stall();
    let [(fault, delivery)] = guest.vm.serve(0)[..] else {
        panic!("one record");
    };
    assert!(fault.stalled);
    assert_eq!(delivery, Delivery::PageRequest(guest.faults.id()));
    let request = guest.read().expect("the stall");
    assert_eq!(
        (request.group, request.address, request.access),
        (tag, VA, 2)
    );
    assert!(request.stalled && request.last);
    guest.space.map(&guest.vm, VA, Some(GUEST + PAGE));
    guest
        .faults
        .respond(request.cookie, Answer::Success)
        .expect("waits");
    assert_eq!(guest.vm.model().resumed(), [(tag, true)]);
    assert_eq!(guest.vm.reaches(0, STREAM, VA), Ok(GUEST + PAGE));
}

#[test]
fn a_stalled_transaction_that_nobody_answers_ends_at_the_deadline() {
    let guest = Guest::new(Config::full(), true);
    let tag = guest.stall();
    guest.vm.serve(0);
    guest.vm.context.age_requests();
    assert_eq!(guest.vm.model().resumed(), []);
    let request = guest.read().expect("it may still be read");
    guest.vm.context.age_requests();
    assert_eq!(guest.vm.model().resumed(), [(tag, false)]);
    let expired = Record::RequestsExpired {
        fault_queue: guest.faults.id(),
    };
    assert_eq!(record(&guest.vm), Some(expired));
    assert!(
        guest
            .faults
            .respond(request.cookie, Answer::Success)
            .is_err()
    );
    guest.vm.context.age_requests();
    assert_eq!(record(&guest.vm), None);
}

#[test]
fn a_stalled_transaction_without_a_queue_ends_at_once_and_the_owner_knows() {
    let guest = Guest::new(Config::full(), false);
    let tag = guest.stall();
    let [(fault, delivery)] = guest.vm.serve(0)[..] else {
        panic!("one record");
    };
    assert_eq!(delivery, Delivery::Record);
    assert_eq!(guest.vm.model().resumed(), [(tag, false)]);
    assert_eq!(record(&guest.vm), Some(Record::Fault(fault)));
}

#[test]
fn a_device_that_leaves_takes_its_stalls_along_whether_or_not_they_were_read() {
    let guest = Guest::new(Config::full(), true);
    let read = guest.stall();
    guest.vm.serve(0);
    let seen = guest.stall();
    assert_ne!(read, seen);
    guest.device.detach(0).expect("detached");
    let mut resumed = guest.vm.model().resumed();
    resumed.sort_unstable();
    assert_eq!(resumed, [(read, false), (seen, false)]);
    assert_eq!(guest.vm.model().stalled(), 0);
    // The record that comes after it is nobody's to answer, and harms nobody.
    let late = guest.vm.serve(0);
    assert_eq!(late.len(), 1);
    assert!(guest.read().is_none());
}

#[test]
fn page_requests_go_to_the_queue_as_groups_and_their_answers_back() {
    let guest = Guest::new(Config::full(), true);
    for (group, last) in [(3, false), (4, true), (3, true)] {
        assert!(guest.ask(group, last));
    }
    let to_queue = Delivery::PageRequest(guest.faults.id());
    assert_eq!(guest.serve_requests(), (vec![to_queue; 3], false));
    for (group, answer, code) in [(3, Answer::Success, 2), (4, Answer::Invalid, 1)] {
        let request = guest.read().expect("a group");
        assert_eq!((request.group, request.address), (group, VA));
        assert_eq!((request.access, request.stalled), (3, false));
        guest.faults.respond(request.cookie, answer).expect("waits");
        assert_eq!(guest.vm.model().page_responses(), [(STREAM, group, code)]);
    }
}

#[test]
fn page_requests_that_find_the_queue_full_leave_no_half_of_a_group_behind() {
    let guest = Guest::new(
        Config {
            pri_queue_log2: 2,
            ..Config::full()
        },
        true,
    );
    assert!(guest.ask(1, true) && guest.ask(2, false) && guest.ask(3, false) && guest.ask(4, true));
    assert!(!guest.ask(2, true), "no room: the SMMU answers");
    let (taken, lost) = guest.serve_requests();
    assert_eq!((taken.len(), lost), (4, true));
    let told = Record::RequestsLost {
        fault_queue: guest.faults.id(),
    };
    assert_eq!(record(&guest.vm), Some(told));
    for group in [1, 4] {
        assert_eq!(guest.read().map(|it| it.group), Some(group));
    }
    assert!(guest.read().is_none());
    // The overflow is acknowledged: the next ones come through, and the old half is no part of them.
    assert!(guest.ask(2, true));
    assert_eq!(guest.serve_requests().0.len(), 1);
    let mut out = [PageRequest::default(); 8];
    assert_eq!(guest.faults.read(&mut out), Ok(1));
    assert_eq!(guest.serve_requests(), (vec![], false));
}

#[test]
fn a_page_request_that_could_not_be_written_is_a_loss() {
    let guest = Guest::new(Config::full(), true);
    assert!(guest.ask(2, false));
    guest.serve_requests();
    // GERROR.PRIQ_ABT_ERR
    guest.vm.model().raise_global_error(1 << 3);
    let errors = guest.vm.iommus[0].unit.physical().lock().serve_errors();
    assert_eq!(errors.map(|it| it.raw), Ok(1 << 3));
    assert_eq!(guest.serve_requests(), (vec![], true));
    assert!(matches!(
        record(&guest.vm),
        Some(Record::RequestsLost { .. })
    ));
}

#[test]
fn a_page_request_without_a_queue_is_answered_and_one_of_nobody_is_the_owners() {
    let guest = Guest::new(Config::full(), false);
    assert!(guest.ask(5, false) && guest.ask(5, true));
    let (taken, _) = guest.serve_requests();
    assert_eq!(taken, [Delivery::Ignored, Delivery::Record]);
    assert_eq!(guest.vm.model().page_responses(), [(STREAM, 5, 1)]);
    assert!(matches!(record(&guest.vm), Some(Record::Request(it)) if it.group == 5));
    let stranger = Initiator::from(STREAM + 9).with_substream(7);
    assert!(guest.vm.model().page_request(stranger, VA, false, 6, true));
    assert_eq!(guest.serve_requests().0, [Delivery::NotMine]);
}

#[test]
fn an_smmu_without_page_requests_has_none_and_answers_none() {
    let guest = Guest::new(
        Config {
            pri: false,
            ..Config::full()
        },
        true,
    );
    assert!(!guest.ask(1, true));
    assert_eq!(guest.serve_requests(), (vec![], false));
    let waiting = iommu::physical::Waiting::Pages {
        pasid: None,
        group: 1,
    };
    let answered = guest.vm.iommus[0].unit.physical().lock().respond(
        DeviceId(STREAM),
        waiting,
        Answer::Success,
    );
    assert!(answered.is_err());
    drop(guest.slice);
}
