//! Slices: each row of VIOMMU_ALLOC, VDEVICE_ALLOC, VEVENTQ_ALLOC and HW_QUEUE_ALLOC, and where faults go.

use super::super::driver::{Access, Answer, HwptFlags, StageOne, UserData};
use super::super::mock::{EVENTS, Mock, Pieces, QUEUES, SLICE};
use super::super::{
    Delivery, Device, Errno, Error, HwptPaging, Ioas, Item, MAX_DEPTH, PageRequest, Record, Viommu,
};
use super::{K4, RW, World, bind_to, errno, memory, span};
use crate::addr::{Gpa, Hpa, Iova};
use crate::fault::{Fault, FaultReason, Stage};
use crate::id::{DeviceId, IommuIndex};
use crate::physical::{PriRequest, StageOneConfig};

const NONE: UserData<'static> = UserData {
    kind: 0,
    bytes: &[],
};
const TABLE: StageOne = StageOne::Translate(StageOneConfig {
    format: 0,
    contexts: 0x4000,
    contexts_log2: 0,
    default_context: 0,
    inner: 0,
    outer: 0,
    shareability: 0,
    no_stall: false,
    ats: false,
});

struct Slice {
    world: World,
    device: Device,
    ioas: Ioas,
    parent: HwptPaging,
    viommu: Viommu,
}

fn slice() -> Slice {
    let world = World::new();
    let device = world.device(1);
    let ioas = world.ioas();
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    let viommu = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
    Slice {
        world,
        device,
        ioas,
        parent,
        viommu,
    }
}

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

#[test]
fn viommu_alloc_rows() {
    let slice = slice();
    let world = &slice.world;
    let (device, parent) = (slice.device.id(), slice.parent.id());
    let alloc = |head, kind, device, hwpt, bytes: &[u8]| {
        let before = world.snapshot();
        let result = world
            .context
            .by_id()
            .viommu_alloc(head, kind, device, hwpt, bytes);
        assert_eq!(world.snapshot() == before, result.is_err());
        result
    };
    assert_eq!(
        errno(alloc((1, 0), SLICE, device, parent, &[])),
        Errno::EOPNOTSUPP
    );
    assert_eq!(
        errno(alloc((0, 1), SLICE, device, parent, &[])),
        Errno::EOPNOTSUPP,
        "checked here"
    );
    assert_eq!(
        errno(alloc((0, 0), 0, device, parent, &[])),
        Errno::EOPNOTSUPP,
        "type 0"
    );
    assert_eq!(
        errno(alloc((0, 0), 1, device, parent, &[])),
        Errno::EOPNOTSUPP
    );
    world.mock.state().no_slices = true;
    assert_eq!(
        errno(alloc((0, 0), SLICE, device, parent, &[])),
        Errno::EOPNOTSUPP
    );
    world.mock.state().no_slices = false;
    assert_eq!(errno(alloc((0, 0), SLICE, 99, parent, &[])), Errno::ENOENT);
    assert_eq!(errno(alloc((0, 0), SLICE, device, 99, &[])), Errno::ENOENT);
    assert_eq!(
        errno(alloc((0, 0), SLICE, device, slice.ioas.id(), &[])),
        Errno::ENOENT
    );
    let plain = slice
        .ioas
        .paging(&world.driver(), HwptFlags::empty(), None)
        .unwrap();
    assert_eq!(
        errno(alloc((0, 0), SLICE, device, plain.id(), &[])),
        Errno::EINVAL
    );
    assert_eq!(
        errno(alloc((0, 0), SLICE, device, parent, &[0; 3])),
        Errno::EINVAL,
        "its data"
    );
    world.mock.state().refuses = true;
    assert_eq!(
        errno(alloc((0, 0), SLICE, device, parent, &[])),
        Errno::EINVAL,
        "not its format"
    );
    world.mock.state().refuses = false;
    world.mock.state().tag_limit = 2;
    assert_eq!(
        errno(alloc((0, 0), SLICE, device, parent, &[])),
        Errno::ENOSPC
    );
    world.mock.state().tag_limit = 3;
    alloc((0, 0), SLICE, device, parent, &[0; 8]).unwrap();
}

#[test]
fn a_slice_outlives_its_devices() {
    let slice = slice();
    drop(slice.device);
    let device = slice.world.device(4);
    slice.viommu.vdevice(&device, 1).unwrap();
}

#[test]
fn vdevice_alloc_rows() {
    let slice = slice();
    let world = &slice.world;
    let alloc = |viommu, device, virt_id| {
        let before = world.snapshot();
        let result = world.context.by_id().vdevice_alloc(viommu, device, virt_id);
        assert_eq!(world.snapshot() == before, result.is_err());
        result
    };
    let (viommu, device) = (slice.viommu.id(), slice.device.id());
    assert_eq!(errno(alloc(99, device, 1)), Errno::ENOENT);
    assert_eq!(errno(alloc(viommu, 99, 1)), Errno::ENOENT);
    let far = Mock::new(1);
    let other = bind_to(&world.context, &far, 1, |_| {}).unwrap();
    assert_eq!(
        errno(alloc(viommu, other.id(), 1)),
        Errno::EINVAL,
        "another IOMMU"
    );
    assert_eq!(
        errno(alloc(viommu, device, 1 << 20)),
        Errno::EINVAL,
        "the driver's width"
    );
    const TWO: [DeviceId; 2] = [DeviceId(8), DeviceId(9)];
    let double = world.device_like(8, |it| it.streams = &TWO);
    assert_eq!(
        errno(alloc(viommu, double.id(), 1)),
        Errno::EOPNOTSUPP,
        "two streams"
    );
    let vdevice = alloc(viommu, device, 1).unwrap();
    assert_eq!(
        errno(alloc(viommu, device, 2)),
        Errno::EEXIST,
        "one of a device"
    );
    let second = world.device(2);
    assert_eq!(
        errno(alloc(viommu, second.id(), 1)),
        Errno::EEXIST,
        "the name is taken"
    );
    let friend = slice.parent.viommu(&world.driver(), SLICE, NONE).unwrap();
    assert_eq!(
        errno(alloc(friend.id(), device, 1)),
        Errno::EEXIST,
        "of any slice"
    );
    // Names are each slice's own, and free once the vDEVICE is gone.
    alloc(friend.id(), second.id(), 1).unwrap();
    world.context.by_id().destroy(vdevice).unwrap();
    alloc(viommu, device, 1).unwrap();
    // A device whose DMA would not stop is on its way out.
    world.mock.state().abort_fails = true;
    let stuck = world.device(3);
    stuck.attach(0, &slice.ioas).unwrap();
    let stuck_id = stuck.id();
    drop(stuck);
    assert_eq!(
        errno(alloc(viommu, stuck_id, 7)),
        Errno::ENOENT,
        "being unbound"
    );
    world.mock.state().abort_fails = false;
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
fn hw_queue_alloc_rows() {
    let slice = slice();
    let world = &slice.world;
    let by_id = world.context.by_id();
    slice
        .ioas
        .map(Iova(0x1_0000), memory(0x40_0000, 4 * K4), 0, 4 * K4, RW)
        .unwrap();
    let pieces = Pieces::new(&[(0x9000, K4), (0xb000, K4)], true);
    slice
        .ioas
        .map(Iova(0x2_0000), pieces, 0, 2 * K4, RW)
        .unwrap();
    slice
        .ioas
        .map(Iova(0x3_0000), memory(0, K4), 0, K4, Access::WRITE)
        .unwrap();
    let viommu = slice.viommu.id();
    let alloc = |flags, viommu, key, base, len| {
        let before = world.snapshot();
        let result = by_id.hw_queue_alloc(flags, viommu, key, Gpa(base), len);
        assert_eq!(world.snapshot() == before, result.is_err());
        result
    };
    let first = (QUEUES, 0);
    assert_eq!(
        errno(alloc(1, viommu, first, 0x1_0000, K4)),
        Errno::EOPNOTSUPP
    );
    assert_eq!(
        errno(alloc(0, viommu, (0, 0), 0x1_0000, K4)),
        Errno::EOPNOTSUPP
    );
    assert_eq!(
        errno(alloc(0, viommu, (7, 0), 0x1_0000, K4)),
        Errno::EOPNOTSUPP
    );
    assert_eq!(errno(alloc(0, viommu, first, 0x1_0000, 0)), Errno::EINVAL);
    assert_eq!(
        errno(alloc(0, viommu, first, u64::MAX, 2)),
        Errno::EOVERFLOW
    );
    assert_eq!(errno(alloc(0, 99, first, 0x1_0000, K4)), Errno::ENOENT);
    assert_eq!(
        errno(alloc(0, viommu, first, 0x1_3000, 2 * K4)),
        Errno::ENOENT,
        "a hole"
    );
    assert_eq!(
        errno(alloc(0, viommu, first, 0x3_0000, K4)),
        Errno::EPERM,
        "not readable"
    );
    assert_eq!(
        errno(alloc(0, viommu, first, 0x1_0800, 0x800)),
        Errno::EINVAL,
        "not a page's"
    );
    assert_eq!(
        errno(alloc(0, viommu, first, 0x2_0000, 2 * K4)),
        Errno::EFAULT,
        "two pieces"
    );
    assert_eq!(
        errno(alloc(0, viommu, (QUEUES, 4), 0x1_0000, K4)),
        Errno::EINVAL,
        "index"
    );
    assert_eq!(
        errno(alloc(0, viommu, first, 0x1_0000, 3 * K4)),
        Errno::EINVAL,
        "length"
    );
    assert_eq!(
        errno(alloc(0, viommu, (QUEUES, 1), 0x1_0000, K4)),
        Errno::EIO,
        "0 comes first"
    );
    let queue = alloc(0, viommu, first, 0x1_0000, 2 * K4).unwrap();
    assert_eq!(errno(alloc(0, viommu, first, 0x1_2000, K4)), Errno::EEXIST);
    assert_eq!(world.mock.state().queues[&0], (Hpa(0x40_0000), 2 * K4));
    // Its pins are an object of their own, locked against unmapping and destruction.
    assert_eq!(
        slice.ioas.unmap(span(0x1_0000, 4 * K4)),
        Err(Error::AreaLocked(0x1_0000))
    );
    assert_eq!(errno(slice.ioas.unmap_all()), Errno::EBUSY);
    assert_eq!(errno(by_id.destroy(queue + 1)), Errno::EBUSY);
    let second = alloc(0, viommu, (QUEUES, 1), 0x1_2000, K4).unwrap();
    assert_eq!(
        errno(by_id.destroy(queue)),
        Errno::EBUSY,
        "the second depends on it"
    );
    by_id.destroy(second).unwrap();
    by_id.destroy(queue).unwrap();
    slice.ioas.unmap_all().unwrap();
}

#[test]
fn access_pins_give_the_pieces_in_order() {
    let slice = slice();
    let ioas = &slice.ioas;
    ioas.map(
        Iova(0),
        Pieces::new(&[(0x9000, K4), (0xb000, K4)], true),
        0,
        2 * K4,
        RW,
    )
    .unwrap();
    ioas.map(Iova(0x2000), memory(0xc000, K4), 0, K4, Access::READ)
        .unwrap();
    let access = ioas.access().unwrap();
    let pinned = access.pin(span(0x800, 0x2000), false).unwrap();
    let pinned: std::vec::Vec<_> = pinned.iter().map(|it| (it.base.0, it.len)).collect();
    assert_eq!(pinned, [(0x9800, 0x800), (0xb000, 0x1800)]);
    assert_eq!(errno(access.pin(span(0, 0), false)), Errno::EINVAL);
    assert_eq!(
        errno(access.pin(span(u64::MAX, 2), false)),
        Errno::EOVERFLOW
    );
    assert_eq!(
        errno(access.pin(span(0x2000, 0x1001), false)),
        Errno::ENOENT
    );
    assert_eq!(errno(access.pin(span(0x2000, 1), true)), Errno::EPERM);
    assert_eq!(errno(access.unpin(span(0x800, 0x1000))), Errno::ENOENT);
    assert_eq!(
        errno(slice.world.context.by_id().destroy(access.id())),
        Errno::EBUSY
    );
    drop(access);
    ioas.unmap_all().unwrap();
}

fn attach(slice: &Slice) -> (super::super::Vdevice, super::super::HwptNested) {
    let vdevice = slice.viommu.vdevice(&slice.device, 5).unwrap();
    let nested = slice.viommu.nested(TABLE, None).unwrap();
    slice.device.attach(0, &nested).unwrap();
    (vdevice, nested)
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
    // The device leaves: whatever it asked for is answered, read or not.
    slice.device.detach(0).unwrap();
    let answers: std::vec::Vec<_> = world
        .mock
        .state()
        .answers
        .iter()
        .map(|it| (it.1, it.2))
        .collect();
    use Answer::{Invalid, Success};
    assert_eq!(
        answers,
        [(1, Success), (2, Invalid), (9, Invalid), (4, Invalid)]
    );
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
    assert_eq!(world.mock.state().answers.len(), 6);
    let record = world.context.record();
    assert!(matches!(
        record,
        Some(Item::Record {
            record: Record::Fault(_),
            ..
        })
    ));
}
