//! Who lives how long: IDs, handles, tombstones, and the end of a context.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::driver::HwptFlags;
use super::super::mock::{EVENTS, Mock, Pieces, SLICE};
use super::super::{Context, Errno, Error, Item, Record};
use super::{K4, NONE, RW, TABLE, World, bind_to, errno, memory};
use crate::addr::Iova;

#[test]
fn destroy_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    assert_eq!(errno(by_id.destroy(0)), Errno::ENOENT, "0 is nobody");
    assert_eq!(errno(by_id.destroy(1)), Errno::ENOENT);
    assert_eq!(errno(by_id.destroy(u32::MAX)), Errno::ENOENT);
    let ioas = by_id.ioas_alloc(0).unwrap();
    let device = world.device(1);
    assert_eq!(
        errno(by_id.destroy(device.id())),
        Errno::EBUSY,
        "its driver has it"
    );
    let auto = by_id.attach(device.id(), 0, ioas).unwrap();
    assert_eq!(errno(by_id.destroy(ioas)), Errno::EBUSY);
    assert_eq!(errno(by_id.destroy(auto)), Errno::EBUSY);
    by_id.detach(device.id(), 0).unwrap();
    assert_eq!(
        errno(by_id.destroy(auto)),
        Errno::ENOENT,
        "gone with its last device"
    );
    assert_eq!(by_id.destroy(ioas), Ok(()));
    assert_eq!(errno(by_id.destroy(ioas)), Errno::ENOENT);
}

#[test]
fn ids_are_the_lowest_free_and_used_again_at_once() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ids: Vec<_> = (0..4).map(|_| by_id.ioas_alloc(0).unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    by_id.destroy(2).unwrap();
    assert_eq!(by_id.ioas_alloc(0), Ok(2));
    by_id.destroy(4).unwrap();
    by_id.destroy(3).unwrap();
    assert_eq!(by_id.ioas_alloc(0), Ok(3));
}

#[test]
fn a_context_has_a_bound() {
    let context = Context::new(2, 1).unwrap();
    let (_a, _b) = (context.ioas().unwrap(), context.ioas().unwrap());
    assert_eq!(errno(context.ioas()), Errno::ENOSPC);
}

#[test]
fn handles_go_in_any_order_and_objects_from_the_leaves() {
    let world = World::new();
    let clean = world.snapshot();
    let ram = Pieces::whole(0, K4);
    {
        let ioas = world.ioas();
        ioas.map(Iova(0), ram.clone(), 0, K4, RW).unwrap();
        let device = world.device(1);
        let parent = ioas.nest_parent(&world.driver()).unwrap();
        let viommu = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
        let vdevice = viommu.vdevice(&device, 5).unwrap();
        let nested = viommu.nested(TABLE, None).unwrap();
        device.attach(0, &nested).unwrap();
        let events = viommu.veventq(EVENTS, 4).unwrap();
        // Roots first: nothing goes while something uses it.
        drop(ioas);
        drop(parent);
        drop(viommu);
        drop(nested);
        drop(vdevice);
        assert_eq!(world.mock.state().tables, 1);
        world.mock.state().order.clear();
        drop(events);
        assert!(
            world.mock.state().order.is_empty(),
            "the device still uses it"
        );
        drop(device);
    }
    // DMA stops first, the identity goes last but for what it named.
    assert_eq!(world.mock.state().order, ["abort", "slice", "tag", "table"]);
    assert_eq!(world.snapshot(), clean);
    assert_eq!(*ram.pins.lock().unwrap(), 0);
}

#[test]
fn unbinding_leaves_a_tombstone_of_the_vdevice() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ioas = world.ioas();
    let device = world.device(1);
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    let viommu = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
    let vdevice = by_id.vdevice_alloc(viommu.id(), device.id(), 5).unwrap();
    let device_id = device.id();
    drop(device);
    // Whoever made it still believes in the ID: it is neither usable nor used again.
    assert_eq!(errno(by_id.destroy(vdevice)), Errno::ENOENT);
    assert_eq!(by_id.ioas_alloc(0), Ok(device_id));
    assert_ne!(by_id.ioas_alloc(0), Ok(vdevice));
    assert!(world.mock.state().names.is_empty());
    // The name is free.
    let other = world.device(2);
    let named = viommu.vdevice(&other, 5).unwrap();
    let id = named.id();
    drop(other);
    assert_ne!(by_id.ioas_alloc(0), Ok(id), "the handle is there");
    drop(named);
    assert_eq!(by_id.ioas_alloc(0), Ok(id), "nobody names it any more");
}

#[test]
fn closing_ends_everything_whatever_handles_are_left() {
    let mock = Mock::new(0);
    let context = Context::new(100, 4).unwrap();
    let driver = Arc::clone(&mock) as Arc<dyn super::Driver>;
    let clean = mock.hardware();
    let ioas = context.ioas().unwrap();
    let ram = Pieces::whole(0, 8 * K4);
    ioas.map(Iova(0), ram.clone(), 0, 8 * K4, RW).unwrap();
    let device = bind_to(&context, &mock, 1, |_| {}).unwrap();
    let parent = ioas.nest_parent(&driver).unwrap();
    let viommu = parent.viommu(&driver, SLICE, NONE).unwrap();
    let vdevice = viommu.vdevice(&device, 5).unwrap();
    let nested = viommu.nested(TABLE, None).unwrap();
    device.attach(0, &nested).unwrap();
    let queue = viommu.hw_queue(SLICE, 0, crate::addr::Gpa(0), K4).unwrap();
    let second = viommu.hw_queue(SLICE, 1, crate::addr::Gpa(K4), K4).unwrap();
    let pins = ioas.access().unwrap();
    pins.pin(super::span(0, K4), true).unwrap();
    let faults = context.fault_queue(4).unwrap();
    let tombstone = bind_to(&context, &mock, 2, |_| {}).unwrap();
    let dead = viommu.vdevice(&tombstone, 6).unwrap();
    drop(tombstone);
    mock.state().order.clear();
    assert_eq!(context.close(), Ok(()));
    assert_eq!(mock.state().order.first(), Some(&"abort"));
    assert_eq!(mock.hardware(), clean);
    assert_eq!(*ram.pins.lock().unwrap(), 0);
    // What handles named is not there any more, and dropping them does nothing.
    assert_eq!(errno(ioas.unmap_all()), Errno::ENOENT);
    assert_eq!(errno(device.attach(0, &nested)), Errno::ENOENT);
    assert_eq!(errno(viommu.vdevice(&device, 1)), Errno::ENOENT);
    drop((device, vdevice, queue, second, pins, faults, dead));
    assert_eq!(mock.hardware(), clean);
}

#[test]
fn a_device_that_cannot_be_stopped_keeps_what_it_reaches() {
    let mock = Mock::new(0);
    let context = Context::new(100, 4).unwrap();
    let ioas = context.ioas().unwrap();
    let ram = Pieces::whole(0, K4);
    ioas.map(Iova(0), ram.clone(), 0, K4, RW).unwrap();
    let device = bind_to(&context, &mock, 1, |_| {}).unwrap();
    device.attach(0, &ioas).unwrap();
    let id = device.id();
    mock.state().abort_fails = true;
    assert_eq!(errno(device.detach(0)), Errno::EIO);
    drop(device);
    let record = context.record();
    assert!(
        matches!(record, Some(Item::Record { record: Record::Stuck { device, .. }, .. }) if device == id)
    );
    drop(ioas);
    assert_eq!(mock.state().tables, 1);
    assert!(context.close().is_err());
    assert_eq!((mock.state().tables, *ram.pins.lock().unwrap()), (1, 1));
}

#[test]
fn a_tag_that_was_not_forgotten_is_never_used_again_and_its_table_is_lost() {
    let world = World::new();
    let ioas = world.ioas();
    let device = world.device(1);
    world.mock.state().free_tag_fails = true;
    device.attach(0, &ioas).unwrap();
    device.detach(0).unwrap();
    world.mock.state().free_tag_fails = false;
    assert_eq!(world.mock.state().lost_tables, 1);
    let tags: Vec<_> = world.mock.state().tags.iter().copied().collect();
    assert_eq!(tags, [1]);
    device.attach(0, &ioas).unwrap();
    assert_eq!(world.mock.state().tags.len(), 2);
}

#[test]
fn objects_of_two_contexts_do_not_meet() {
    let world = World::new();
    let other = Context::new(10, 1).unwrap();
    let theirs = other.ioas().unwrap();
    let device = world.device(1);
    assert_eq!(device.attach(0, &theirs), Err(Error::NoSuchObject(1)));
    let ours = world.ioas();
    ours.map(Iova(0), memory(0, K4), 0, K4, RW).unwrap();
    let range = super::span(0, K4);
    assert_eq!(errno(theirs.copy(None, &ours, range, RW)), Errno::ENOENT);
}

#[test]
fn bind_rows() {
    use super::super::driver::ReservedKind;
    let world = World::new();
    let other = Context::new(10, 1).unwrap();
    let bind = |change: &dyn Fn(&mut super::DeviceInfo<'_>)| {
        bind_to(&world.context, &world.mock, 1, |info| change(info))
    };
    assert_eq!(errno(bind(&|it| it.coherent = false)), Errno::EINVAL);
    assert_eq!(
        errno(bind(&|it| it.isolated_messages = false)),
        Errno::EPERM
    );
    assert_eq!(errno(bind(&|it| it.streams = &[])), Errno::ENODEV);
    const BOTH: [super::ReservedRegion; 2] = [
        super::region(0, 1, ReservedKind::SoftwareMsi),
        super::region(4, 5, ReservedKind::Msi),
    ];
    const TWO: [super::ReservedRegion; 2] = [BOTH[0], BOTH[0]];
    assert_eq!(errno(bind(&|it| it.reserved = &BOTH)), Errno::EINVAL);
    assert_eq!(errno(bind(&|it| it.reserved = &TWO)), Errno::EINVAL);
    let device = bind(&|_| {}).unwrap();
    // The whole group is this context's.
    let taken = bind_to(&other, &world.mock, 2, |it| it.group = 1);
    assert_eq!(errno(taken), Errno::EBUSY);
    let same = bind_to(&world.context, &world.mock, 2, |it| it.group = 1).unwrap();
    drop(device);
    assert_eq!(errno(bind_to(&other, &world.mock, 1, |_| {})), Errno::EBUSY);
    drop(same);
    bind_to(&other, &world.mock, 1, |_| {}).unwrap();
}

#[test]
fn fault_queue_alloc_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    assert_eq!(errno(by_id.fault_queue_alloc(1, 4)), Errno::EOPNOTSUPP);
    assert_eq!(errno(by_id.fault_queue_alloc(0, 0)), Errno::EINVAL);
    assert_eq!(errno(by_id.fault_queue_alloc(0, 1 << 20)), Errno::EINVAL);
    let queue = by_id.fault_queue_alloc(0, 4).unwrap();
    let id = queue.id();
    assert_eq!(errno(by_id.destroy(id)), Errno::EBUSY, "it is open");
    let ioas = world.ioas();
    let hwpt = ioas
        .paging(&world.driver(), HwptFlags::empty(), Some(&queue))
        .unwrap();
    drop(queue);
    assert_eq!(errno(by_id.destroy(id)), Errno::EBUSY, "a HWPT has it");
    drop(hwpt);
    assert_eq!(by_id.destroy(id), Ok(()));
}
