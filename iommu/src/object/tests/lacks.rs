//! What is kept here and not by Linux 7.3.4; each test names its promise.

use alloc::sync::Arc;
use alloc::vec;

use super::super::by_id::{HwptRequest, InvalidateRequest, MapRequest};
use super::super::driver::{Answer, Driver, Format, HwptFlags, Target, UserData};
use super::super::mock::{DIRECT_DATA, ENTRY, EVENTS, Mock, OP_ATC, OP_TLB, SLICE};
use super::super::{BATCH, Context, Delivery, Errno, Item, PageRequest, Record};
use super::{K4, NONE, RW, TABLE, World, bind_to, errno, memory, span};
use crate::addr::{Gpa, Hpa, Iova};
use crate::fault::{Fault, FaultReason, Stage};
use crate::id::{DeviceId, IommuIndex};
use crate::physical::{Invalidation, PriRequest};

#[test]
fn one_nest_parent_serves_slices_on_several_iommus() {
    let world = World::new();
    let far = Mock::new(1);
    let far_driver = Arc::clone(&far) as Arc<dyn Driver>;
    // Numbers of tags differ between the two.
    let taken = far.alloc_tag(Format::Mock).unwrap();
    let ioas = world.ioas();
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    let here = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
    let there = parent.viommu(&far_driver, SLICE, NONE).unwrap();
    let near_device = world.device(1);
    let far_device = bind_to(&world.context, &far, 1, |_| {}).unwrap();
    let _names = (
        here.vdevice(&near_device, 5).unwrap(),
        there.vdevice(&far_device, 5).unwrap(),
    );
    let stages = (
        here.nested(TABLE, None).unwrap(),
        there.nested(TABLE, None).unwrap(),
    );
    near_device.attach(0, &stages.0).unwrap();
    far_device.attach(0, &stages.1).unwrap();
    assert_eq!(
        world.mock.state().tables + far.state().tables,
        1,
        "one table"
    );
    let target = |mock: &Mock| match mock.state().attached[&(1, 0)] {
        Target::Nested { tag, parent, .. } => (tag, parent),
        other => panic!("{other:?}"),
    };
    let (near, distant) = (target(&world.mock), target(&far));
    assert_eq!(near.1, distant.1);
    assert_ne!(near.0, distant.0);
    // What is unmapped leaves the caches of both, under each one's own tag, stage 1 included.
    ioas.map(Iova(0), memory(0, K4), 0, K4, RW).unwrap();
    ioas.unmap_all().unwrap();
    let flushed = |mock: &Mock| {
        let state = mock.state();
        state
            .flushes
            .iter()
            .map(|it| (it.0, it.2))
            .collect::<vec::Vec<_>>()
    };
    assert_eq!(flushed(&world.mock), [(near.0, true)]);
    assert_eq!(flushed(&far), [(distant.0, true)]);
    far.free_tag(taken, Format::Mock).unwrap();
}

#[test]
fn two_slices_of_one_vm_do_not_share_an_asid_space() {
    let world = World::new();
    let ioas = world.ioas();
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    let slices = [(); 2].map(|()| parent.viommu(&world.driver(), SLICE, NONE).unwrap());
    for slice in &slices {
        slice
            .invalidate(ENTRY, &[[OP_TLB, 7, 0, 0]])
            .result
            .unwrap();
    }
    let tags: vec::Vec<_> = world
        .mock
        .state()
        .submitted
        .iter()
        .map(|it| match it {
            Invalidation::StageOneAddress { tag, .. } => u64::from(tag.0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_ne!(
        tags[0], tags[1],
        "the same guest tag, in different host ones"
    );
    // Nor with a device that goes through the parent alone.
    let device = world.device(1);
    device.attach(0, &parent).unwrap();
    let Target::Paging { tag, .. } = world.mock.state().attached[&(1, 0)] else {
        panic!("our table");
    };
    assert!(!tags.contains(&u64::from(tag.0)));
}

#[test]
fn entry_num_is_exact_whatever_fails_where() {
    let world = World::new();
    let ioas = world.ioas();
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    let viommu = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
    let count = 2 * BATCH + 3;
    // A bad entry at each place: all before it are complete, and none after it.
    for bad in 0..count {
        let mut entries = vec![[OP_TLB, 1, 0, 0]; count];
        entries[bad] = [OP_ATC, 0x77, 0, 0];
        world.mock.state().submitted.clear();
        let progress = viommu.invalidate(ENTRY, &entries);
        assert_eq!(errno(progress.result), Errno::EIO);
        assert_eq!(progress.complete, bad);
        assert_eq!(world.mock.state().submitted.len(), bad);
    }
    // The hardware stops at each place, also while a bad entry is ahead.
    for stop in 0..count {
        for bad in [None, Some(stop), Some(count - 1)] {
            let mut entries = vec![[OP_TLB, 1, 0, 0]; count];
            if let Some(bad) = bad {
                entries[bad][0] = 99;
            }
            world.mock.state().submitted.clear();
            world.mock.state().submit_fails = Some(stop);
            let progress = viommu.invalidate(ENTRY, &entries);
            assert_eq!(errno(progress.result), Errno::EIO);
            assert_eq!(progress.complete, world.mock.state().submitted.len());
            assert_eq!(progress.complete, stop);
            world.mock.state().submit_fails = None;
        }
    }
}

#[test]
fn an_empty_array_probes_the_type_on_every_backend() {
    let world = World::new();
    world.mock.state().direct_nested = true;
    let by_id = world.context.by_id();
    let ioas = world.ioas();
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    let viommu = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
    let device = world.device(1);
    let data = UserData {
        kind: DIRECT_DATA,
        bytes: &[0; 8],
    };
    let nested = by_id.hwpt_alloc(&HwptRequest {
        device: device.id(),
        pt: parent.id(),
        data,
        ..HwptRequest::default()
    });
    let probe = |id, data_type| {
        let request = InvalidateRequest {
            id,
            data_type,
            ..InvalidateRequest::default()
        };
        let progress = by_id.hwpt_invalidate(&request);
        assert_eq!(progress.complete, 0);
        progress.result
    };
    for (id, kind) in [(viommu.id(), ENTRY), (nested.unwrap(), 0)] {
        assert_eq!(probe(id, kind), Ok(()));
        assert_eq!(errno(probe(id, 77)), Errno::EINVAL);
    }
    assert_eq!(world.mock.state().submissions, 0);
}

#[test]
fn the_message_window_is_chosen_for_each_address_space() {
    let world = World::new();
    let (low, high) = (world.ioas(), world.ioas());
    low.set_message_window(Iova(0x808_0000), Iova(0x80a_ffff))
        .unwrap();
    high.set_message_window(Iova(0x1_0000_0000), Iova(0x1_0000_0fff))
        .unwrap();
    assert_eq!(low.doorbell(Hpa(0x2000_0040)), Ok(Iova(0x808_0040)));
    assert_eq!(high.doorbell(Hpa(0x2000_0040)), Ok(Iova(0x1_0000_0040)));
    // A device's own proposal gives way to the choice.
    let device = world.device_like(1, |it| {
        use super::super::driver::ReservedKind::SoftwareMsi;
        it.reserved = const { &[super::region(0x800_0000, 0x80f_ffff, SoftwareMsi)] };
    });
    high.map(Iova(0x800_0000), memory(0, K4), 0, K4, RW)
        .unwrap();
    device.attach(0, &high).unwrap();
    device.detach(0).unwrap();
    let free = world.ioas();
    device.attach(0, &free).unwrap();
    assert_eq!(free.doorbell(Hpa(0x2000_0040)), Ok(Iova(0x800_0040)));
}

#[test]
fn more_than_64_doorbell_pages_work() {
    let world = World::new();
    let ioas = world.ioas();
    ioas.set_message_window(Iova(0x100_0000), Iova(0x112_bfff))
        .unwrap();
    let first = ioas
        .paging(&world.driver(), HwptFlags::empty(), None)
        .unwrap();
    let at = |page: u64| {
        (
            Hpa(0x2000_0000 + page * 0x1_0000),
            Iova(0x100_0000 + page * K4),
        )
    };
    for page in 0..300 {
        let (doorbell, iova) = at(page);
        assert_eq!(ioas.doorbell(doorbell), Ok(iova));
    }
    assert_eq!(
        errno(ioas.doorbell(Hpa(0x1000))),
        Errno::ENOSPC,
        "as many as were asked for"
    );
    // The same in a table that comes later.
    let second = ioas
        .paging(&world.driver(), HwptFlags::empty(), None)
        .unwrap();
    for page in 0..300 {
        let (doorbell, iova) = at(page);
        assert_eq!(first.walk(iova), Some(doorbell));
        assert_eq!(second.walk(iova), Some(doorbell));
        assert_eq!(ioas.doorbell(doorbell), Ok(iova));
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
        ipa: Some(Gpa(0x7000)),
        write: true,
        privileged: false,
        instruction: false,
        stalled: false,
        tag: 0,
        raw: [0; 4],
    }
}

#[test]
fn stage_two_faults_queue_errors_and_lost_events_reach_the_owner() {
    let world = World::new();
    let ioas = world.ioas();
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    let viommu = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
    let device = world.device(1);
    let _vdevice = viommu.vdevice(&device, 5).unwrap();
    let nested = viommu.nested(TABLE, None).unwrap();
    device.attach(0, &nested).unwrap();
    let queue = viommu.veventq(EVENTS, 1).unwrap();
    assert_eq!(world.context.deliver(&fault(Stage::Two)), Delivery::Record);
    assert!(
        queue.pop().is_none(),
        "our stage 2 is not the guest's business"
    );
    viommu.queue_error(0x51);
    for _ in 0..2 {
        world.context.deliver(&fault(Stage::One));
    }
    world.context.faults_lost(IommuIndex(0));
    let record = || match world.context.record() {
        Some(Item::Record { record, .. }) => record,
        other => panic!("{other:?}"),
    };
    let veventq = queue.id();
    assert_eq!(record(), Record::Fault(fault(Stage::Two)));
    let viommu = viommu.id();
    assert_eq!(
        record(),
        Record::QueueError {
            viommu,
            error: 0x51
        }
    );
    assert_eq!(
        record(),
        Record::EventsLost { veventq },
        "the queue was full"
    );
    assert_eq!(
        record(),
        Record::EventsLost { veventq },
        "the hardware's was"
    );
    assert_eq!(record(), Record::FaultsLost(IommuIndex(0)));
    assert!(world.context.record().is_none());
    // The guest sees the loss too.
    assert!(matches!(
        queue.pop(),
        Some(Item::Record { sequence: 0, .. })
    ));
    assert_eq!(queue.pop(), Some(Item::Lost { sequence: 2 }));
}

#[test]
fn every_queue_and_list_has_a_bound_and_says_what_it_dropped() {
    let world = World {
        context: Context::new(100, 2).unwrap(),
        mock: Mock::new(0),
    };
    let ioas = world.ioas();
    let faults = world.context.fault_queue(2).unwrap();
    let hwpt = ioas
        .paging(&world.driver(), HwptFlags::empty(), Some(&faults))
        .unwrap();
    let device = world.device(1);
    device.attach(0, &hwpt).unwrap();
    let put = |group, last| {
        let asked = PriRequest {
            iommu: IommuIndex(0),
            device: DeviceId(1),
            pasid: None,
            address: Iova(0),
            group,
            last,
            read: true,
            write: false,
            execute: false,
            privileged: false,
        };
        let delivery = world.context.deliver_request(&asked);
        assert_eq!(delivery, Delivery::PageRequest(faults.id()));
    };
    put(1, true);
    put(2, false);
    put(2, true);
    // The group that does not fit is answered as a whole, and its part in the queue is gone.
    let answers = || world.mock.state().answers.len();
    assert_eq!(answers(), 1);
    assert_eq!(
        world.mock.state().answers[0],
        (DeviceId(1), 2, Answer::Invalid)
    );
    let lost = Record::RequestsLost {
        fault_queue: faults.id(),
    };
    assert!(matches!(world.context.record(), Some(Item::Record { record, .. }) if record == lost));
    put(3, true);
    assert_eq!(answers(), 1);
    let mut out = [PageRequest::default(); 2];
    assert_eq!(
        (faults.read(&mut out), faults.read(&mut out)),
        (Ok(1), Ok(1))
    );
    put(4, true);
    assert_eq!(answers(), 2, "what is not answered counts");
    // The owner's list itself.
    for _ in 0..4 {
        world.context.deliver(&fault(Stage::Two));
    }
    let sequence = |item| match item {
        Some(Item::Record { sequence, .. }) => (sequence, false),
        Some(Item::Lost { sequence }) => (sequence, true),
        None => panic!("nothing"),
    };
    let read = [(); 3].map(|()| sequence(world.context.record()));
    assert_eq!(read, [(1, false), (2, false), (5, true)]);
}

#[test]
fn reserved_words_are_checked_everywhere() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ioas = by_id.ioas_alloc(0).unwrap();
    let device = world.device(1);
    let id = device.id();
    let map = MapRequest {
        flags: 7,
        ioas,
        reserved: 1,
        length: K4,
        iova: 0,
    };
    let hwpt = HwptRequest {
        device: id,
        pt: ioas,
        ..HwptRequest::default()
    };
    let invalidate = InvalidateRequest {
        id: ioas,
        reserved: 1,
        ..InvalidateRequest::default()
    };
    let refused = [
        errno(by_id.ioas_allow_iovas(ioas, 1, &[])),
        errno(by_id.ioas_iova_ranges(ioas, 1, &mut [])),
        errno(by_id.ioas_map(&map, memory(0, K4), 0)),
        errno(by_id.ioas_copy(&map, ioas, 0)),
        errno(by_id.option(1, ioas, 1, None)),
        errno(by_id.hwpt_alloc(&HwptRequest {
            reserved: 1,
            ..hwpt
        })),
        errno(by_id.hwpt_alloc(&HwptRequest {
            reserved2: 1,
            ..hwpt
        })),
        errno(by_id.hw_info(0, id, 0, [1, 0, 0])),
        errno(by_id.set_dirty_tracking(0, ioas, 1)),
        errno(by_id.get_dirty_bitmap((0, ioas, 1), span(0, K4), K4, &mut [])),
        errno(by_id.hwpt_invalidate(&invalidate).result),
        errno(by_id.viommu_alloc((0, 1), SLICE, id, ioas, &[])),
        errno(by_id.veventq_alloc((0, 1), ioas, EVENTS, 1)),
    ];
    assert!(refused.iter().all(|it| *it == Errno::EOPNOTSUPP));
}
