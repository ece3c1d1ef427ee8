//! Where faults and page requests go: each row of VEVENTQ_ALLOC, and what is read from the queues.

use super::super::driver::Answer;
use super::super::mock::EVENTS;
use super::super::{Delivery, Errno, Item, MAX_DEPTH, PageRequest, Record};
use super::slice::{Slice, slice};
use super::{TABLE, errno};
use crate::addr::Iova;
use crate::fault::{Fault, FaultReason, Stage};
use crate::id::{DeviceId, IommuIndex};
use crate::physical::PriRequest;

fn fault(stage: Stage) -> Fault {
    Fault {
        iommu: IommuIndex(0),
        device: DeviceId(1),
        pasid: None,
        reason: FaultReason::Translation,
        stage,
        iova: Some(Iova(0x7000)),
        ipa: None,
        write: true,
        privileged: false,
        instruction: false,
        stalled: false,
        tag: 0,
        raw: [0; 4],
    }
}

fn attach(slice: &Slice) -> (super::super::Vdevice, super::super::HwptNested) {
    let vdevice = slice.viommu.vdevice(&slice.device, 5).unwrap();
    let nested = slice.viommu.nested(TABLE, None).unwrap();
    slice.device.attach(0, &nested).unwrap();
    (vdevice, nested)
}

#[test]
fn veventq_alloc_rows() {
    let slice = slice();
    let world = &slice.world;
    let viommu = slice.viommu.id();
    let alloc = |head, viommu, kind, depth| {
        let before = world.snapshot();
        let result = world
            .context
            .by_id()
            .veventq_alloc(head, viommu, kind, depth);
        assert_eq!(world.snapshot() == before, result.is_err());
        result
    };
    assert_eq!(errno(alloc((1, 0), viommu, EVENTS, 4)), Errno::EOPNOTSUPP);
    assert_eq!(errno(alloc((0, 1), viommu, EVENTS, 4)), Errno::EOPNOTSUPP);
    assert_eq!(errno(alloc((0, 0), viommu, 0, 4)), Errno::EOPNOTSUPP);
    assert_eq!(errno(alloc((0, 0), viommu, EVENTS, 0)), Errno::EINVAL);
    assert_eq!(
        errno(alloc((0, 0), viommu, EVENTS, MAX_DEPTH + 1)),
        Errno::EINVAL
    );
    assert_eq!(errno(alloc((0, 0), 99, EVENTS, 4)), Errno::ENOENT);
    // Linux makes a queue that stays silent for ever.
    assert_eq!(errno(alloc((0, 0), viommu, 77, 4)), Errno::EOPNOTSUPP);
    let queue = alloc((0, 0), viommu, EVENTS, 2).unwrap();
    assert_eq!(errno(alloc((0, 0), viommu, EVENTS, 4)), Errno::EEXIST);
    let by_id = world.context.by_id();
    let id = queue.id();
    assert_eq!(
        errno(by_id.destroy(id)),
        Errno::EBUSY,
        "a reader has it open"
    );
    assert_eq!(errno(by_id.destroy(viommu)), Errno::EBUSY);
    drop(queue);
    assert_eq!(by_id.destroy(id), Ok(()));
    alloc((0, 0), viommu, EVENTS, MAX_DEPTH).unwrap();
}

#[test]
fn veventq_read_gives_whole_records() {
    let slice = slice();
    let queue = slice.viommu.veventq(EVENTS, 2).unwrap();
    assert_eq!(
        errno(slice.viommu.report(77, [0; 4])),
        Errno::EOPNOTSUPP,
        "no such queue"
    );
    let mut bytes = [0xff; 64];
    assert!(
        queue.read(16, &mut bytes[..7]).is_err(),
        "also where it is empty"
    );
    assert_eq!(queue.read(16, &mut bytes), Ok(0));
    for n in 1..=4 {
        slice.viommu.report(EVENTS, [n, 0x22, 0x33, 0x44]).unwrap();
    }
    assert_eq!(
        errno(queue.read(16, &mut bytes[..23])),
        Errno::EINVAL,
        "the first does not fit"
    );
    assert_eq!(queue.read(16, &mut bytes[..47]), Ok(24));
    assert_eq!(bytes[..9], [0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(bytes[16], 0x22);
    // The mark has no payload and is the last.
    assert_eq!(queue.read(16, &mut bytes), Ok(24 + 8));
    assert_eq!(bytes[..9], [0, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(bytes[24..32], [1, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!((queue.peek(), queue.pop()), (None, None));
}

#[test]
fn a_guests_fault_becomes_its_event() {
    let slice = slice();
    let context = &slice.world.context;
    let mine = fault(Stage::One);
    let not = Fault {
        device: DeviceId(2),
        ..mine
    };
    assert_eq!(context.deliver(&not), Delivery::NotMine);
    assert_eq!(
        context.deliver(&Fault {
            iommu: IommuIndex(1),
            ..mine
        }),
        Delivery::NotMine
    );
    assert_eq!(context.deliver(&mine), Delivery::Record, "no name");
    let (vdevice, _nested) = attach(&slice);
    assert_eq!(context.deliver(&mine), Delivery::Record, "no queue");
    let queue = slice.viommu.veventq(EVENTS, 4).unwrap();
    assert_eq!(context.deliver(&mine), Delivery::Event(queue.id()));
    let event = Item::Record {
        sequence: 0,
        record: [5, 0x7000, 0, 0],
    };
    assert_eq!(queue.pop(), Some(event));
    drop(vdevice);
    assert_eq!(context.deliver(&mine), Delivery::Record, "the name is gone");
}

#[test]
fn page_requests_are_read_as_groups_and_answered_once() {
    let slice = slice();
    let world = &slice.world;
    let queue = world.context.fault_queue(8).unwrap();
    let vdevice = slice.viommu.vdevice(&slice.device, 5).unwrap();
    let nested = slice.viommu.nested(TABLE, Some(&queue)).unwrap();
    let asked = |group, last| PriRequest {
        iommu: IommuIndex(0),
        device: DeviceId(1),
        pasid: Some(3),
        address: Iova(0x5000),
        group,
        last,
        read: true,
        write: false,
        execute: false,
        privileged: true,
    };
    let put = |group, last| world.context.deliver_request(&asked(group, last));
    // Not attached: the last of a group is answered, and the owner knows.
    assert_eq!(put(1, false), Delivery::Ignored);
    assert_eq!(put(1, true), Delivery::Record);
    assert_eq!(world.mock.state().answers.pop().map(|it| it.1), Some(1));
    let told = world.context.record();
    assert!(
        matches!(told, Some(Item::Record { record, .. }) if record == Record::Request(asked(1, true)))
    );
    slice.device.attach(0, &nested).unwrap();
    let stop = PriRequest {
        read: false,
        ..asked(1, true)
    };
    assert_eq!(world.context.deliver_request(&stop), Delivery::Ignored);
    let other = PriRequest {
        device: DeviceId(77),
        ..stop
    };
    assert_eq!(world.context.deliver_request(&other), Delivery::NotMine);
    let put = |group, last| {
        assert_eq!(put(group, last), Delivery::PageRequest(queue.id()));
    };
    let mut out = [PageRequest::default(); 4];
    put(1, false);
    assert_eq!(queue.read(&mut out), Ok(0), "the group is not complete");
    put(2, true);
    put(1, true);
    assert_eq!(
        errno(queue.read(&mut out[..1])),
        Errno::EINVAL,
        "the oldest does not fit"
    );
    assert_eq!(queue.read(&mut out), Ok(2));
    let first = out[0].cookie;
    assert_eq!(
        (out[0].access, out[0].address, out[0].pasid),
        (9, 0x5000, Some(3))
    );
    assert_eq!((out[0].group, out[1].group, out[1].cookie), (1, 1, first));
    assert_eq!(queue.read(&mut out), Ok(1));
    let second = out[0].cookie;
    assert!(first != 0 && second != 0 && first != second);
    assert_eq!(
        errno(queue.respond(second + 7, Answer::Success)),
        Errno::EINVAL
    );
    assert_eq!(queue.respond(first, Answer::Success), Ok(()));
    assert_eq!(
        errno(queue.respond(first, Answer::Success)),
        Errno::EINVAL,
        "once"
    );
    put(9, false);
    put(4, true);
    // The device leaves: whatever it asked for is answered, read or not. A part of a group is not (PCIe PRI).
    slice.device.detach(0).unwrap();
    let answers: std::vec::Vec<_> = world
        .mock
        .state()
        .answers
        .iter()
        .map(|it| (it.1, it.2))
        .collect();
    use Answer::{Invalid, Success};
    assert_eq!(answers, [(1, Success), (2, Invalid), (4, Invalid)]);
    assert_eq!(errno(queue.respond(second, Answer::Success)), Errno::EINVAL);
    // A stalled transaction is a group of one.
    slice.device.attach(0, &nested).unwrap();
    let stalled = Fault {
        stalled: true,
        tag: 6,
        ..fault(Stage::One)
    };
    assert_eq!(
        world.context.deliver(&stalled),
        Delivery::PageRequest(queue.id())
    );
    assert_eq!(queue.read(&mut out), Ok(1));
    assert_eq!(
        (out[0].group, out[0].access, out[0].address),
        (6, 2, 0x7000)
    );
    assert_eq!(out[0].device, slice.device.id());
    drop(queue);
    slice.device.detach(0).unwrap();
    drop((nested, vdevice));
    assert_eq!(
        world.mock.state().answers.last().map(|it| (it.1, it.2)),
        Some((6, Invalid))
    );
    // Without a queue it is answered at once, and the owner knows.
    assert_eq!(world.context.deliver(&stalled), Delivery::Record);
    assert_eq!(world.mock.state().answers.len(), 5);
    let record = world.context.record();
    assert!(matches!(
        record,
        Some(Item::Record {
            record: Record::Fault(_),
            ..
        })
    ));
}
