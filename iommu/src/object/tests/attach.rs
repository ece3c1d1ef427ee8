//! Attachments: the errors of attach and replace, groups, PASIDs, automatic tables, and the state after a failure.

use super::super::driver::{HwptFlags, ReservedKind, StageOne, Target};
use super::super::mock::{Mock, SLICE};
use super::super::{Errno, Error, Item, Record};
use super::{K4, NONE, RW, TABLE, World, bind_to, errno, memory, region};
use crate::addr::Iova;
use crate::id::DeviceId;

const PLAIN: HwptFlags = HwptFlags::empty();

impl World {
    fn target(&self, stream: u32, pasid: u32) -> Target {
        let state = self.mock.state();
        *state
            .attached
            .get(&(stream, pasid))
            .unwrap_or(&Target::Refuse)
    }
}

#[test]
fn attach_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    let (ioas, other) = (world.ioas(), world.ioas());
    let device = world.device_like(1, |it| it.group = 7);
    let friend = world.device_like(2, |it| it.group = 7);
    let hwpt = ioas.paging(&world.driver(), PLAIN, None).unwrap();
    let second = ioas.paging(&world.driver(), PLAIN, None).unwrap();
    assert_eq!(errno(by_id.attach(device.id(), 0, 99)), Errno::ENOENT);
    assert_eq!(errno(by_id.attach(99, 0, hwpt.id())), Errno::ENOENT);
    assert_eq!(
        errno(by_id.attach(device.id(), 0, friend.id())),
        Errno::EINVAL
    );
    assert_eq!(
        errno(device.replace(0, &hwpt)),
        Errno::EINVAL,
        "nothing attached"
    );
    device.set_in_reset(true).unwrap();
    assert_eq!(
        errno(friend.attach(0, &hwpt)),
        Errno::EBUSY,
        "the group is being reset"
    );
    device.set_in_reset(false).unwrap();
    device.attach(0, &hwpt).unwrap();
    assert_eq!(errno(device.attach(0, &hwpt)), Errno::EBUSY);
    assert_eq!(errno(device.attach(0, &other)), Errno::EBUSY);
    assert_eq!(
        errno(friend.replace(0, &second)),
        Errno::EINVAL,
        "it is not attached itself"
    );
    assert_eq!(friend.attach(0, &second), Err(Error::OtherAttachment(0)));
    assert_eq!(errno(friend.attach(0, &second)), Errno::EINVAL);
    assert_eq!(world.target(2, 0), Target::Refuse);
    friend.attach(0, &hwpt).unwrap();
    assert_eq!(world.target(2, 0), world.target(1, 0));
    // A replacement moves the whole group; the same one is no change.
    assert_eq!(device.replace(0, &hwpt), Ok(hwpt.id()));
    friend.replace(0, &second).unwrap();
    assert_eq!(world.target(2, 0), world.target(1, 0));
    assert_eq!(errno(by_id.destroy(second.id())), Errno::EBUSY);
    device.detach(0).unwrap();
    assert_eq!(
        (world.target(1, 0), device.detach(0)),
        (Target::Refuse, Ok(()))
    );
    assert_ne!(world.target(2, 0), Target::Refuse);
}

#[test]
fn attach_eaddrinuse_reserved() {
    let world = World::new();
    let ioas = world.ioas();
    let device = world.device_like(1, |it| {
        it.reserved = const {
            &[
                region(0x1000, 0x1fff, ReservedKind::Reserved),
                region(0x8000, 0x8fff, ReservedKind::Msi),
            ]
        };
    });
    ioas.map(Iova(0x8000), memory(0, K4), 0, K4, RW).unwrap();
    let hwpt = ioas.paging(&world.driver(), PLAIN, None).unwrap();
    let before = world.snapshot();
    assert_eq!(errno(device.attach(0, &hwpt)), Errno::EADDRINUSE);
    assert_eq!(errno(device.attach(0, &ioas)), Errno::EADDRINUSE);
    assert_eq!(world.snapshot(), before);
    ioas.unmap_all().unwrap();
    device.attach(0, &hwpt).unwrap();
    assert_eq!(
        errno(ioas.map(Iova(0x8000), memory(0, K4), 0, K4, RW)),
        Errno::EINVAL
    );
    // They go along to another address space, and back after a failure.
    let narrow = world.ioas();
    narrow.allow(&[(0x1000, 0x2000)]).unwrap();
    let before = world.snapshot();
    assert_eq!(errno(device.replace(0, &narrow)), Errno::EADDRINUSE);
    assert_eq!(world.snapshot(), before);
    narrow.allow(&[]).unwrap();
    device.replace(0, &narrow).unwrap();
    ioas.map(Iova(0x8000), memory(0, K4), 0, K4, RW).unwrap();
    assert_eq!(
        errno(narrow.map(Iova(0x8000), memory(0, K4), 0, K4, RW)),
        Errno::EINVAL
    );
}

#[test]
fn a_failed_replacement_leaves_the_old_attachment() {
    let world = World::new();
    let ioas = world.ioas();
    const A: [DeviceId; 2] = [DeviceId(1), DeviceId(2)];
    const B: [DeviceId; 1] = [DeviceId(3)];
    let device = world.device_like(1, |it| (it.group, it.streams) = (7, &A));
    let friend = world.device_like(3, |it| (it.group, it.streams) = (7, &B));
    let hwpt = ioas.paging(&world.driver(), PLAIN, None).unwrap();
    let other = world.ioas().paging(&world.driver(), PLAIN, None).unwrap();
    device.attach(0, &hwpt).unwrap();
    friend.attach(0, &hwpt).unwrap();
    let before = world.snapshot();
    for fails in 0..3 {
        world.mock.state().attach_fails = Some(fails);
        assert_eq!(errno(device.replace(0, &other)), Errno::EIO);
        assert_eq!(world.snapshot(), before);
    }
    // Nothing can be attached any more, the old one neither: contained, and said.
    assert!(world.context.record().is_none());
    world.mock.state().attach_broken = true;
    assert_eq!(errno(device.replace(0, &other)), Errno::EIO);
    assert_eq!(world.target(1, 0), Target::Refuse);
    let record = world.context.record();
    let contained = |device| matches!(record, Some(Item::Record { record: Record::Contained { device: it, .. }, .. }) if it == device);
    assert!(contained(device.id()));
}

#[test]
fn devices_that_share_a_stream_share_its_attachment() {
    let world = World::new();
    let ioas = world.ioas();
    let device = world.device_like(1, |it| it.group = 7);
    let alias = world.device_like(1, |it| it.group = 7);
    assert_eq!(
        errno(bind_to(&world.context, &world.mock, 1, |it| it.group = 8)),
        Errno::EBUSY
    );
    let hwpt = ioas.paging(&world.driver(), PLAIN, None).unwrap();
    device.attach(0, &hwpt).unwrap();
    alias.attach(0, &hwpt).unwrap();
    drop(device);
    assert_ne!(
        world.target(1, 0),
        Target::Refuse,
        "the other still uses it"
    );
    drop(alias);
    assert_eq!(world.target(1, 0), Target::Refuse);
}

#[test]
fn a_silenced_device_stays_silent_until_its_owner_detaches_it() {
    let world = World::new();
    let (ioas, other) = (world.ioas(), world.ioas());
    let hwpt = ioas.paging(&world.driver(), PLAIN, None).unwrap();
    let device = world.device(1);
    device.attach(0, &hwpt).unwrap();
    let open = world.target(1, 0);
    device.silence().unwrap();
    assert_eq!(world.target(1, 0), Target::Abort);
    // Whoever the table belongs to may not end it.
    device.replace(0, &other).unwrap();
    assert_eq!(world.target(1, 0), Target::Abort);
    device.detach(0).unwrap();
    assert_eq!(world.target(1, 0), Target::Refuse, "recorded again");
    device.attach(0, &hwpt).unwrap();
    assert_eq!(world.target(1, 0), open);

    // Without an attachment as well.
    device.detach(0).unwrap();
    device.silence().unwrap();
    assert_eq!(world.target(1, 0), Target::Abort);
    device.attach(0, &hwpt).unwrap();
    assert_eq!(world.target(1, 0), Target::Abort);
    device.detach(0).unwrap();
    device.silence().unwrap();
    device.unbind().unwrap();
    assert_eq!(
        world.target(1, 0),
        Target::Refuse,
        "whoever is next is heard"
    );
}

#[test]
fn a_stream_is_silent_as_long_as_one_of_its_devices_is() {
    let world = World::new();
    let ioas = world.ioas();
    let device = world.device_like(1, |it| it.group = 7);
    let alias = world.device_like(1, |it| it.group = 7);
    device.attach(0, &ioas).unwrap();
    alias.attach(0, &ioas).unwrap();
    let open = world.target(1, 0);
    device.silence().unwrap();
    alias.silence().unwrap();
    alias.detach(0).unwrap();
    assert_eq!(world.target(1, 0), Target::Abort);
    alias.attach(0, &ioas).unwrap();
    assert_eq!(world.target(1, 0), Target::Abort);
    device.detach(0).unwrap();
    assert_eq!(world.target(1, 0), open, "the other uses it");
    world.mock.state().abort_fails = true;
    assert_eq!(errno(alias.silence()), Errno::EIO);
}

#[test]
fn attach_pasid_rows() {
    let world = World::new();
    let ioas = world.ioas();
    let device = world.device_like(1, |it| it.pasid_bits = 4);
    let plain = ioas.paging(&world.driver(), PLAIN, None).unwrap();
    let pasids = ioas
        .paging(&world.driver(), HwptFlags::PASID, None)
        .unwrap();
    assert_eq!(
        errno(device.attach(16, &pasids)),
        Errno::EINVAL,
        "no such PASID"
    );
    assert_eq!(errno(device.attach(1, &plain)), Errno::EINVAL);
    assert_eq!(
        errno(device.attach(1, &ioas)),
        Errno::EINVAL,
        "automatic tables neither"
    );
    device.attach(1, &pasids).unwrap();
    assert_eq!(
        errno(device.attach(0, &plain)),
        Errno::EINVAL,
        "beside a PASID"
    );
    device.attach(0, &pasids).unwrap();
    assert_eq!(errno(device.replace(0, &plain)), Errno::EINVAL);
    assert_eq!(errno(device.attach(1, &pasids)), Errno::EBUSY);
    device.detach(1).unwrap();
    assert_eq!(device.detach(1), Ok(()), "silently");
    device.replace(0, &plain).unwrap();
    assert_eq!(
        errno(device.attach(1, &pasids)),
        Errno::EINVAL,
        "the RID's is not compatible"
    );
    assert_eq!(device.detach(15), Ok(()));
}

#[test]
fn an_address_space_attaches_through_tables_that_come_and_go() {
    let world = World::new();
    let ioas = world.ioas();
    let (device, other) = (world.device(1), world.device(2));
    let manual = ioas.paging(&world.driver(), PLAIN, None).unwrap();
    let auto = device.attach(0, &ioas).unwrap();
    assert_ne!(auto, manual.id(), "manual ones are never taken");
    assert_eq!(other.attach(0, &ioas), Ok(auto));
    // A device that cannot use that one gets its own.
    let far = Mock::new(1);
    let third = bind_to(&world.context, &far, 3, |_| {}).unwrap();
    far.state().refuses = true;
    assert_eq!(
        errno(third.attach(0, &ioas)),
        Errno::EINVAL,
        "nor the new one, here"
    );
    far.state().refuses = false;
    assert_eq!(
        third.attach(0, &ioas),
        Ok(auto),
        "one table for both IOMMUs"
    );
    drop((device, other, third));
    assert_eq!(errno(world.context.by_id().destroy(auto)), Errno::ENOENT);
    assert_eq!(world.mock.state().tables, 1);
}

#[test]
fn attach_einval_what_the_device_lacks() {
    let world = World::new();
    let ioas = world.ioas();
    let faults = world.context.fault_queue(4).unwrap();
    let function = world.device_like(1, |it| it.shares_page_requests = true);
    let hwpt = ioas.paging(&world.driver(), PLAIN, Some(&faults)).unwrap();
    assert_eq!(
        errno(function.attach(0, &hwpt)),
        Errno::EINVAL,
        "shared page requests"
    );
    world.mock.state().no_dirty = true;
    let blind = world.device(2);
    world.mock.state().no_dirty = false;
    let dirty = ioas
        .paging(&world.driver(), HwptFlags::DIRTY_TRACKING, None)
        .unwrap();
    assert_eq!(errno(blind.attach(0, &dirty)), Errno::EINVAL);
    world.mock.state().refuses = true;
    assert_eq!(
        errno(blind.attach(0, &hwpt)),
        Errno::EINVAL,
        "another format"
    );
}

#[test]
fn nested_attachments_need_the_name_and_the_iommu() {
    let world = World::new();
    let ioas = world.ioas();
    let device = world.device_like(1, |it| {
        it.reserved = const { &[region(0x8000, 0x8fff, ReservedKind::Msi)] };
    });
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    let viommu = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
    let nested = viommu.nested(TABLE, None).unwrap();
    let bypass = viommu.nested(StageOne::Bypass, None).unwrap();
    assert_eq!(
        errno(device.attach(0, &nested)),
        Errno::ENOENT,
        "no vDEVICE"
    );
    device.attach(0, &bypass).unwrap();
    assert_eq!(errno(device.replace(0, &nested)), Errno::ENOENT);
    let vdevice = viommu.vdevice(&device, 5).unwrap();
    device.replace(0, &nested).unwrap();
    let target = world.target(1, 0);
    assert!(matches!(
        target,
        Target::Nested {
            virt_id: Some(5),
            stage_one: TABLE,
            ..
        }
    ));
    // What it reserves, it reserves in the parent's address space.
    assert_eq!(
        errno(ioas.map(Iova(0x8000), memory(0, K4), 0, K4, RW)),
        Errno::EINVAL
    );
    assert_eq!(
        errno(world.context.by_id().destroy(nested.id())),
        Errno::EBUSY
    );
    drop(vdevice);
    let far = Mock::new(1);
    let other = bind_to(&world.context, &far, 1, |_| {}).unwrap();
    assert_eq!(
        errno(other.attach(0, &bypass)),
        Errno::EINVAL,
        "another IOMMU"
    );
    // Unbinding while a nested table is attached.
    drop(device);
    assert_eq!(world.target(1, 0), Target::Refuse);
}
