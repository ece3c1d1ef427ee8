//! Each fallible step of each operation fails once: the state before equals the state after, in the objects and in the
//! hardware.

use super::super::by_id::{HwptRequest, MapRequest};
use super::super::driver::{HwptFlags, ReservedKind, UserData};
use super::super::mock::{DIRECT_DATA, EVENTS, NESTED_DATA, Pieces, QUEUES, SLICE, translate};
use super::super::room::inject;
use super::super::{Device, Error, FaultQueue, HwptNested, HwptPaging, Ioas, Vdevice, Viommu};
use super::{K4, NONE, RW, World, bind_to, memory, region, span};
use crate::addr::{Gpa, Hpa, Iova};
use crate::id::DeviceId;

/// Something of everything. The fields go in this order.
struct Rich {
    pair: [Device; 2],
    named: Device,
    idle: Device,
    nested: HwptNested,
    _vdevice: Vdevice,
    viommu: Viommu,
    hwpt: HwptPaging,
    parent: HwptPaging,
    pasids: HwptPaging,
    ioas: Ioas,
    other: Ioas,
    faults: FaultQueue,
    world: World,
}

impl Rich {
    fn new() -> Self {
        let world = World::new();
        world.mock.state().direct_nested = true;
        const STREAMS: [DeviceId; 2] = [DeviceId(2), DeviceId(3)];
        let ioas = world.ioas();
        let other = world.ioas();
        ioas.set_message_window(Iova(0x10_0000), Iova(0x10_ffff))
            .unwrap();
        ioas.doorbell(Hpa(0x808_0000)).unwrap();
        let pieces = Pieces::new(&[(0x1_0000, K4), (0x4_0000, 2 * K4)], true);
        ioas.map(Iova(0), pieces, 0, 3 * K4, RW).unwrap();
        ioas.map(Iova(0x3000), memory(0x8_0000, K4), 0, K4, RW)
            .unwrap();
        let pair = [1, 2].map(|stream| {
            world.device_like(stream, |it| {
                it.group = 7;
                it.reserved = const {
                    &[
                        region(0x20_0000, 0x20_ffff, ReservedKind::Reserved),
                        region(0x30_0000, 0x30_ffff, ReservedKind::SoftwareMsi),
                    ]
                };
                if stream == 2 {
                    it.streams = &STREAMS;
                }
            })
        });
        let named = world.device(5);
        let idle = world.device(6);
        let driver = world.driver();
        let faults = world.context.fault_queue(4).unwrap();
        let parent = ioas.nest_parent(&driver).unwrap();
        let viommu = parent.viommu(&driver, SLICE, NONE).unwrap();
        let vdevice = viommu.vdevice(&named, 5).unwrap();
        let stage_one = translate(0x4000);
        let nested = viommu.nested(stage_one, Some(&faults)).unwrap();
        let hwpt = ioas.paging(&driver, HwptFlags::empty(), None).unwrap();
        let pasids = other.paging(&driver, HwptFlags::PASID, None).unwrap();
        for device in &pair {
            device.attach(0, &hwpt).unwrap();
        }
        Self {
            pair,
            named,
            idle,
            nested,
            _vdevice: vdevice,
            viommu,
            hwpt,
            parent,
            pasids,
            ioas,
            other,
            faults,
            world,
        }
    }
}

/// Runs `operation` with each of its steps failing; `at_least` guards against a test that injects nothing.
fn each_failure(at_least: usize, operation: impl Fn(&Rich) -> Result<(), Error>) {
    let mut failures = 0;
    for n in 0.. {
        let rich = Rich::new();
        let before = rich.world.snapshot();
        let (result, failed) = inject::at(n, || operation(&rich));
        if !failed {
            result.unwrap();
            assert!(failures >= at_least, "{failures} steps");
            return;
        }
        if result.is_err() {
            failures += 1;
            assert_eq!(rich.world.snapshot(), before, "step {n}");
            // And it works afterwards.
            operation(&rich).unwrap();
        }
    }
}

fn map(ioas: &Ioas, iova: u64) -> MapRequest {
    MapRequest {
        flags: 7,
        ioas: ioas.id(),
        reserved: 0,
        length: 2 * K4,
        iova,
    }
}

#[test]
fn address_spaces() {
    each_failure(1, |rich| rich.world.context.by_id().ioas_alloc(0).map(drop));
    each_failure(1, |rich| rich.ioas.allow(&[(0x5000, 0x6000)]));
    let pieces = || Pieces::new(&[(0x9_0000, K4), (0xb_0000, K4)], true);
    each_failure(5, |rich| {
        let request = map(&rich.ioas, 0x8000);
        let by_id = rich.world.context.by_id();
        by_id.ioas_map(&request, pieces(), 0).map(drop)
    });
    each_failure(5, |rich| {
        rich.ioas.map_anywhere(pieces(), 0, K4, RW).map(drop)
    });
    each_failure(5, |rich| {
        let request = map(&rich.ioas, 0x8000);
        rich.world
            .context
            .by_id()
            .ioas_copy(&request, rich.ioas.id(), 0x2000)
            .map(drop)
    });
    each_failure(3, |rich| rich.ioas.doorbell(Hpa(0x909_0000)).map(drop));
    each_failure(1, |rich| {
        rich.other.set_message_window(Iova(0), Iova(0xfff))
    });
    // Nothing of this can fail: it takes no memory.
    each_failure(0, |rich| rich.ioas.unmap(span(0, 4 * K4)).map(drop));
}

#[test]
fn tables() {
    let alloc = |flags, pt: fn(&Rich) -> u32, data: UserData<'static>| {
        move |rich: &Rich| {
            let request = HwptRequest {
                flags,
                device: rich.idle.id(),
                pt: pt(rich),
                data,
                fault: rich.faults.id(),
                ..HwptRequest::default()
            };
            rich.world.context.by_id().hwpt_alloc(&request).map(drop)
        }
    };
    each_failure(5, alloc(1, |rich| rich.ioas.id(), NONE));
    each_failure(5, alloc(4, |rich| rich.ioas.id(), NONE));
    const NESTED: UserData<'static> = UserData {
        kind: NESTED_DATA,
        bytes: &[1, 0, 0, 0, 0, 0, 0, 0],
    };
    each_failure(2, alloc(4, |rich| rich.viommu.id(), NESTED));
    const DIRECT: UserData<'static> = UserData {
        kind: DIRECT_DATA,
        ..NESTED
    };
    each_failure(4, alloc(0, |rich| rich.parent.id(), DIRECT));
}

#[test]
fn slices() {
    each_failure(4, |rich| {
        let by_id = rich.world.context.by_id();
        by_id
            .viommu_alloc((0, 0), SLICE, rich.idle.id(), rich.parent.id(), &[])
            .map(drop)
    });
    each_failure(3, |rich| {
        let by_id = rich.world.context.by_id();
        by_id
            .vdevice_alloc(rich.viommu.id(), rich.idle.id(), 9)
            .map(drop)
    });
    each_failure(2, |rich| rich.viommu.veventq(EVENTS, 4).map(drop));
    each_failure(2, |rich| rich.world.context.fault_queue(4).map(drop));
    each_failure(4, |rich| {
        let by_id = rich.world.context.by_id();
        let viommu = rich.viommu.id();
        let queue = by_id.hw_queue_alloc(0, viommu, (QUEUES, 0), Gpa(K4), 2 * K4)?;
        by_id.destroy(queue)
    });
    each_failure(2, |rich| {
        let access = rich.ioas.access()?;
        access.pin(span(0, 3 * K4), true).map(drop)
    });
}

#[test]
fn devices() {
    each_failure(4, |rich| {
        let bound = bind_to(&rich.world.context, &rich.world.mock, 9, |_| {});
        bound.map(drop)
    });
    each_failure(4, |rich| {
        // Into a group that is there.
        bind_to(&rich.world.context, &rich.world.mock, 1, |it| it.group = 7).map(drop)
    });
}

#[test]
fn attachments() {
    let then_detach = |result: Result<u32, Error>, device: &Device| {
        result?;
        device.detach(0)
    };
    each_failure(4, |rich| {
        then_detach(rich.idle.attach(0, &rich.hwpt), &rich.idle)
    });
    each_failure(9, |rich| {
        then_detach(rich.idle.attach(0, &rich.ioas), &rich.idle)
    });
    each_failure(2, |rich| {
        then_detach(rich.named.attach(0, &rich.nested), &rich.named)
    });
    each_failure(3, |rich| {
        rich.idle.attach(3, &rich.pasids)?;
        rich.idle.detach(3)
    });
    // Two devices with three streams move together, and their reserved ranges with them.
    each_failure(8, |rich| {
        rich.pair[0].replace(0, &rich.pasids)?;
        rich.pair[0].replace(0, &rich.pasids).map(drop)
    });
    each_failure(9, |rich| rich.pair[1].replace(0, &rich.other).map(drop));
    each_failure(9, |rich| rich.pair[1].replace(0, &rich.ioas).map(drop));
    each_failure(0, |rich| rich.pair[1].detach(0));
}
