//! Open queues: their descriptors, and the records that go through them.

use super::super::queues::{read_events, read_faults, write_faults};
use super::super::{Queue, vfio};
use super::{Errno, World, argument, field};
use crate::addr::Iova;
use crate::fault::{Fault, FaultReason, Stage};
use crate::id::{DeviceId, IommuIndex};
use crate::object::Delivery;
use crate::physical::PriRequest;

#[test]
fn a_queue_without_a_descriptor_is_no_queue() {
    let mut world = World::new();
    let (.., slice) = world.slice();
    let events = [(8, 4, slice), (12, 4, 0xbeef_beef), (16, 4, 4)];
    world.outside.descriptors = 0;
    assert_eq!(world.errno(0x3b8e, 16, &[]), Errno::ENOSPC);
    assert_eq!(world.errno(0x3b93, 32, &events), Errno::ENOSPC);
    world.outside.descriptors = 2;
    // The type is free again, and so are the IDs.
    let made = world.done(0x3b93, 32, &events);
    assert_eq!((field(&made, 20, 4), field(&made, 24, 4)), (slice + 1, 11));
    let made = world.done(0x3b8e, 16, &[]);
    assert_eq!((field(&made, 8, 4), field(&made, 12, 4)), (slice + 2, 12));
    // An open one is in use; a closed one is destroyed by its ID.
    for id in [slice + 1, slice + 2] {
        assert_eq!(world.errno(0x3b80, 8, &[(4, 4, id)]), Errno::EBUSY);
    }
    world.outside.open.clear();
    for id in [slice + 1, slice + 2] {
        world.done(0x3b80, 8, &[(4, 4, id)]);
    }
}

/// A device that goes through a guest's stage 1, with a name and both queues.
fn driven() -> World {
    let mut world = World::new();
    let (.., slice) = world.slice();
    world.done(
        0x3b93,
        32,
        &[(8, 4, slice), (12, 4, 0xbeef_beef), (16, 4, 2)],
    );
    let faults = field(&world.done(0x3b8e, 16, &[]), 8, 4);
    let fields = [(4, 4, slice), (8, 4, world.id()), (16, 8, 7)];
    world.done(0x3b91, 24, &fields);
    world.store(super::BASE, &0x4000u64.to_le_bytes());
    let fields = [
        (4, 4, 4),
        (8, 4, world.id()),
        (12, 4, slice),
        (24, 4, 0xdead),
        (28, 4, 8),
        (32, 8, super::BASE),
        (40, 4, faults),
    ];
    let nested = field(&world.done(0x3b89, 48, &fields), 16, 4);
    let mut attach = argument(12, &[(8, 4, nested)]);
    let device = world.device.id();
    vfio::ioctl(&world.context, device, vfio::ATTACH, &mut attach).unwrap();
    assert_eq!(field(&attach, 8, 4), nested);
    world
}

fn event(at: u64) -> Fault {
    Fault {
        iommu: IommuIndex(0),
        device: DeviceId(1),
        pasid: None,
        reason: FaultReason::Translation,
        stage: Stage::One,
        iova: Some(Iova(at)),
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
fn events_are_read_whole_behind_a_header() {
    let mut world = driven();
    let [Queue::Events(queue), _] = &world.outside.open[..] else {
        panic!("two queues");
    };
    let mut bytes = [0; 64];
    assert_eq!(read_events(queue, 16, &mut bytes), Ok(0));
    assert_eq!(read_events(queue, 16, &mut bytes[..7]), Err(Errno::EINVAL));
    for at in [0x1000, 0x2000, 0x3000] {
        world.context.deliver(&event(at));
    }
    assert_eq!(read_events(queue, 16, &mut bytes[..23]), Err(Errno::EINVAL));
    assert_eq!(read_events(queue, 16, &mut bytes[..47]), Ok(24));
    // Flags, sequence; the name and the address.
    assert_eq!([field(&bytes, 0, 4), field(&bytes, 4, 4)], [0, 0]);
    assert_eq!([field(&bytes, 8, 8), field(&bytes, 16, 8)], [7, 0x1000]);
    assert_eq!(read_events(queue, 16, &mut bytes), Ok(32));
    assert_eq!([field(&bytes, 4, 4), field(&bytes, 16, 8)], [1, 0x2000]);
    // The lost one: a flag, its number, and no payload.
    assert_eq!([field(&bytes, 24, 4), field(&bytes, 28, 4)], [1, 2]);
    world.outside.open.clear();
}

#[test]
fn page_requests_are_read_as_groups_and_answered_by_cookie() {
    let mut world = driven();
    let [_, Queue::Faults(queue)] = &world.outside.open[..] else {
        panic!("two queues");
    };
    let mut bytes = [0xff; 160];
    assert_eq!(read_faults(queue, &mut bytes), Ok(0));
    assert_eq!(read_faults(queue, &mut bytes[..39]), Err(Errno::ESPIPE));
    let ask = |group, last, pasid| {
        let request = PriRequest {
            iommu: IommuIndex(0),
            device: DeviceId(1),
            pasid,
            address: Iova(0x1234_5000),
            group,
            last,
            read: true,
            write: true,
            execute: false,
            privileged: true,
        };
        let delivery = world.context.deliver_request(&request);
        assert!(matches!(delivery, Delivery::PageRequest(_)));
    };
    ask(5, false, Some(9));
    ask(5, true, Some(9));
    ask(6, true, None);
    assert_eq!(read_faults(queue, &mut bytes[..40]), Err(Errno::EINVAL));
    assert_eq!(read_faults(queue, &mut bytes[..80]), Ok(80));
    let device = world.device.id().into();
    let words = |at: usize| {
        let word = |offset| field(&bytes, at + offset, 4);
        [word(0), word(4), word(8), word(12), word(16), word(20)]
    };
    assert_eq!(words(0), [1, device, 9, 5, 11, 0]);
    assert_eq!(words(40), [3, device, 9, 5, 11, 0]);
    let rest = [field(&bytes, 24, 8), field(&bytes, 32, 4)];
    assert_eq!(rest, [0x1234_5000, 0]);
    let first = field(&bytes, 36, 4) as u32;
    assert_eq!(first, field(&bytes, 76, 4) as u32);
    let mut bytes = [0; 40];
    assert_eq!(read_faults(queue, &mut bytes), Ok(40));
    let second = field(&bytes, 36, 4) as u32;
    assert_eq!([field(&bytes, 0, 4), field(&bytes, 8, 4)], [2, 0]);
    let answers = |pairs: &[(u32, u32)]| {
        let words = pairs.iter().flat_map(|(cookie, code)| [*cookie, *code]);
        let bytes: alloc::vec::Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        write_faults(queue, &bytes)
    };
    assert_eq!(write_faults(queue, &[0; 7]), Err(Errno::ESPIPE));
    assert_eq!(answers(&[(first, 2)]), Err(Errno::EINVAL), "a code");
    assert_eq!(answers(&[(77, 0)]), Err(Errno::EINVAL), "a cookie");
    assert_eq!(answers(&[(second, 1), (second, 1), (first, 0)]), Ok(8));
    assert_eq!(answers(&[(first, 0)]), Ok(8));
    assert_eq!(answers(&[]), Ok(0));
    world.outside.open.clear();
}

#[test]
fn vfio_attaches_replaces_and_detaches_by_its_own_rule_of_sizes() {
    let mut world = World::new();
    let ioas = world.ioas();
    let (plain, pasid) = (world.hwpt(ioas, 0), world.hwpt(ioas, 8));
    let device = world.device.id();
    let context = &world.context;
    let ask = |request, size, fields: super::Fields<'_>| {
        let mut bytes = argument(size, fields);
        let result = vfio::ioctl(context, device, request, &mut bytes);
        result.map(|()| bytes)
    };
    let attach = |size, fields: super::Fields<'_>| ask(vfio::ATTACH, size, fields);
    let bytes = attach(12, &[(8, 4, ioas)]).unwrap();
    assert_eq!(field(&bytes, 8, 4), plain + 2, "an automatic one");
    assert!(attach(12, &[(8, 4, plain)]).is_ok(), "replaced");
    let refused = |result: Result<_, Errno>| result.err();
    assert_eq!(refused(attach(11, &[])), Some(Errno::EINVAL));
    assert_eq!(refused(attach(12, &[(4, 4, 2)])), Some(Errno::EINVAL));
    assert_eq!(
        refused(attach(12, &[(4, 4, 1)])),
        Some(Errno::EINVAL),
        "no PASID there"
    );
    assert_eq!(refused(attach(12, &[(8, 4, 999)])), Some(Errno::ENOENT));
    let at = |pt| attach(16, &[(4, 4, 1), (8, 4, pt), (12, 4, 5)]);
    assert_eq!(
        refused(at(pasid)),
        Some(Errno::EINVAL),
        "beside one without PASIDs"
    );
    assert!(attach(12, &[(8, 4, pasid)]).is_ok() && at(pasid).is_ok());
    assert!(ask(vfio::DETACH, 12, &[(4, 4, 1), (8, 4, 5)]).is_ok());
    assert!(ask(vfio::DETACH, 8, &[]).is_ok());
    assert!(ask(vfio::DETACH, 8, &[]).is_ok(), "twice is fine");
    assert_eq!(refused(ask(0x3b76, 64, &[])), Some(Errno::ENOTTY));
    let short = vfio::ioctl(context, device, vfio::ATTACH, &mut [0; 3]);
    assert_eq!(short, Err(Errno::EFAULT));
}
