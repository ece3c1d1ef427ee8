//! Slices: each row of VIOMMU_ALLOC, VDEVICE_ALLOC and HW_QUEUE_ALLOC, and access pins.

use super::super::driver::{Access, HwptFlags, StageOne, Target};
use super::super::mock::{ILLEGAL, Mock, Pieces, QUEUES, SLICE, translate};
use super::super::{Device, Errno, Error, HwptPaging, Ioas, Viommu};
use super::{K4, NONE, RW, TABLE, World, bind_to, errno, memory, span};
use crate::addr::{Gpa, Hpa, Iova};
use crate::id::DeviceId;

pub(super) struct Slice {
    pub(super) world: World,
    pub(super) device: Device,
    pub(super) ioas: Ioas,
    pub(super) parent: HwptPaging,
    pub(super) viommu: Viommu,
}

pub(super) fn slice() -> Slice {
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

#[test]
fn a_stage_1_that_nothing_goes_through_is_renewed_and_no_other() {
    let slice = slice();
    let _vdevice = slice.viommu.vdevice(&slice.device, 5).unwrap();
    let used = slice.viommu.nested(TABLE, None).unwrap();
    slice.device.attach(0, &used).unwrap();
    let free = slice.viommu.nested(StageOne::Abort, None).unwrap();
    let objects = slice.world.context.objects();
    let other = translate(0x9000);
    assert_eq!(errno(used.renew(other)), Errno::EBUSY);
    assert_eq!(free.renew(other), Ok(()));
    let illegal = free.renew(translate(ILLEGAL));
    assert_eq!(illegal, Err(Error::IllegalStageOne), "and it is the other");
    assert_eq!(slice.world.context.objects(), objects);
    slice.device.replace(0, &free).unwrap();
    assert_eq!(errno(free.renew(TABLE)), Errno::EBUSY);
    let through = |wanted: StageOne| {
        let state = slice.world.mock.state();
        let target = state.attached.get(&(1, 0));
        matches!(target, Some(Target::Nested { stage_one, .. }) if *stage_one == wanted)
    };
    assert!(through(other));
    // What nothing goes through any more takes the place of that in turn.
    assert_eq!(used.renew(StageOne::Bypass), Ok(()));
    slice.device.replace(0, &used).unwrap();
    assert!(through(StageOne::Bypass));
}
