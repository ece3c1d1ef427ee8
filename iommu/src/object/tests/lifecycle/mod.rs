//! Random sequences of operations by ID, against a model that shares nothing with the objects: it keeps who refers to
//! whom, counts nothing, and answers each operation from that.
//!
//! 10^4 sequences; `LIFECYCLE_CASES` in the environment says how many others.

mod model;

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::by_id::{HwptRequest, InvalidateRequest, MapRequest};
use super::super::driver::{Target, UserData};
use super::super::mock::{ENTRY, EVENTS, Mock, NESTED_DATA, OP_ATC, OP_TLB, SLICE};
use super::super::{Context, Device};
use super::{K4, bind_to, memory};
use model::{Answer, Model, Thing};

/// Devices 0 and 1 are behind IOMMU 0, device 2 behind IOMMU 1.
const DEVICES: usize = 3;

fn iommu_of(device: usize) -> usize {
    device / 2
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Ioas,
    Destroy(u32),
    Map(u32, u64),
    Unmap(u32, u64),
    Hwpt {
        pt: u32,
        device: usize,
        nest: bool,
    },
    Nested {
        pt: u32,
        device: usize,
    },
    Viommu {
        parent: u32,
        device: usize,
    },
    Vdevice {
        viommu: u32,
        device: usize,
        virt_id: u64,
    },
    Veventq(u32),
    Invalidate(u32, u64),
    Attach {
        device: usize,
        pt: u32,
    },
    Detach(usize),
    /// Unbinds a device that is bound, and binds one that is not.
    Toggle(usize),
}

/// One operation out of a random number. Its ID is mostly one of the right kind, and at times any.
fn op(random: u64, model: &Model) -> Op {
    let mut left = random;
    let mut pick = |from: u32| {
        let picked = (left % u64::from(from)) as u32;
        left /= u64::from(from);
        picked
    };
    let kind = pick(30);
    let (device, virt_id, nest) = (pick(3) as usize, u64::from(pick(3)), pick(4) > 0);
    let (any, which) = (pick(8) == 0, pick(64));
    let id = |of: fn(&Thing) -> bool| {
        let fits: Vec<_> = model.things.iter().filter(|it| any || of(it.1)).collect();
        match fits.len() {
            0 => which % 14,
            len => *fits[which as usize % len].0,
        }
    };
    let ioas = |it: &Thing| matches!(it, Thing::Ioas(_));
    let parent = |it: &Thing| matches!(it, Thing::Paging { nest: true, .. });
    let viommu = |it: &Thing| matches!(it, Thing::Viommu { .. });
    let target =
        |it: &Thing| matches!(it, Thing::Ioas(_) | Thing::Paging { .. } | Thing::Nested(_));
    match kind {
        0 => Op::Ioas,
        1..4 => Op::Destroy(id(|_| true)),
        4 => Op::Map(id(ioas), virt_id),
        5 => Op::Unmap(id(ioas), virt_id),
        6..8 => Op::Hwpt {
            pt: id(ioas),
            device,
            nest,
        },
        8..12 => Op::Nested {
            pt: id(viommu),
            device,
        },
        12..15 => Op::Viommu {
            parent: id(parent),
            device,
        },
        15..19 => Op::Vdevice {
            viommu: id(viommu),
            device,
            virt_id,
        },
        19 => Op::Veventq(id(viommu)),
        20..22 => Op::Invalidate(id(viommu), virt_id),
        22..27 => Op::Attach {
            device,
            pt: id(target),
        },
        27..29 => Op::Detach(device),
        _ => Op::Toggle(device),
    }
}

/// The objects themselves.
struct Real {
    context: Context,
    mocks: [Arc<Mock>; 2],
    devices: [Option<Device>; DEVICES],
}

impl Real {
    fn device(&self, device: usize) -> u32 {
        self.devices[device].as_ref().map_or(0, Device::id)
    }

    fn apply(&mut self, op: Op) -> Answer {
        let by_id = self.context.by_id();
        let done = |result: Result<(), super::super::Error>| result.map(|()| 0);
        let result = match op {
            Op::Ioas => by_id.ioas_alloc(0),
            Op::Destroy(id) => done(by_id.destroy(id)),
            Op::Map(ioas, slot) => {
                let iova = slot * K4;
                let request = MapRequest {
                    flags: 7,
                    ioas,
                    reserved: 0,
                    length: K4,
                    iova,
                };
                done(by_id.ioas_map(&request, memory(iova, K4), 0).map(drop))
            }
            Op::Unmap(ioas, slot) => done(by_id.ioas_unmap(ioas, slot * K4, K4).map(drop)),
            Op::Hwpt { pt, device, nest } => by_id.hwpt_alloc(&HwptRequest {
                flags: nest.into(),
                device: self.device(device),
                pt,
                ..HwptRequest::default()
            }),
            Op::Nested { pt, device } => by_id.hwpt_alloc(&HwptRequest {
                device: self.device(device),
                pt,
                data: UserData {
                    kind: NESTED_DATA,
                    bytes: &[0, 64, 0, 0, 0, 0, 0, 0],
                },
                ..HwptRequest::default()
            }),
            Op::Viommu { parent, device } => {
                by_id.viommu_alloc((0, 0), SLICE, self.device(device), parent, &[])
            }
            Op::Vdevice {
                viommu,
                device,
                virt_id,
            } => by_id.vdevice_alloc(viommu, self.device(device), virt_id),
            Op::Veventq(viommu) => by_id
                .veventq_alloc((0, 0), viommu, EVENTS, 2)
                .map(|it| it.id()),
            Op::Invalidate(id, virt_id) => {
                let words = [OP_TLB, 0, OP_ATC, virt_id].map(u64::to_le_bytes);
                let progress = by_id.hwpt_invalidate(&InvalidateRequest {
                    id,
                    bytes: words.as_flattened(),
                    data_type: ENTRY,
                    entry_len: 16,
                    entry_num: 2,
                    reserved: 0,
                });
                progress.result.map(|()| progress.complete as u32)
            }
            Op::Attach { device, pt } => by_id.attach(self.device(device), 0, pt),
            Op::Detach(device) => done(by_id.detach(self.device(device), 0)),
            Op::Toggle(device) => match self.devices[device].take() {
                Some(device) => done(device.unbind()),
                None => {
                    let mock = &self.mocks[iommu_of(device)];
                    let bound = bind_to(&self.context, mock, device as u32, |_| {});
                    bound.map(|bound| {
                        let id = bound.id();
                        self.devices[device] = Some(bound);
                        id
                    })
                }
            },
        };
        result.map_err(|error| error.errno())
    }
}

/// What the hardware holds follows from who refers to whom.
fn check_hardware(model: &Model, real: &Real) {
    let tables = model.things.values();
    let tables = tables
        .filter(|it| matches!(it, Thing::Paging { .. }))
        .count();
    let held: usize = real.mocks.iter().map(|mock| mock.state().tables).sum();
    assert_eq!(held, tables);
    for (iommu, mock) in real.mocks.iter().enumerate() {
        let slices = model.things.values();
        let slices =
            slices.filter(|it| matches!(it, Thing::Viommu { iommu: it, .. } if *it == iommu));
        let mut direct = BTreeSet::new();
        for device in (0..DEVICES).filter(|device| iommu_of(*device) == iommu) {
            let target = mock.state().attached.get(&(device as u32, 0)).copied();
            let target = target.unwrap_or(Target::Refuse);
            match model.attached[device].map(|id| (id, &model.things[&id])) {
                None => assert_eq!(target, Target::Refuse),
                Some((id, Thing::Paging { .. })) => {
                    direct.insert(id);
                    assert!(matches!(target, Target::Paging { .. }));
                }
                Some(_) => assert!(matches!(target, Target::Nested { .. })),
            }
        }
        assert_eq!(mock.state().tags.len(), slices.count() + direct.len());
        assert_eq!(mock.state().lost_tables, 0);
    }
}

fn cases() -> u32 {
    let cases = std::env::var("LIFECYCLE_CASES").ok();
    cases.and_then(|cases| cases.parse().ok()).unwrap_or(10_000)
}

/// Where sequences begin, so that something can be done.
const BEGIN: [Op; 6] = [
    Op::Toggle(0),
    Op::Toggle(2),
    Op::Ioas,
    Op::Hwpt {
        pt: 3,
        device: 0,
        nest: true,
    },
    Op::Viommu {
        parent: 4,
        device: 0,
    },
    Op::Vdevice {
        viommu: 5,
        device: 0,
        virt_id: 0,
    },
];

fn run(randoms: &[u64]) {
    let mut model = Model::default();
    let mut real = Real {
        context: Context::new(1000, 4).unwrap(),
        mocks: [Mock::new(0), Mock::new(1)],
        devices: [None, None, None],
    };
    let clean = [0, 1].map(|at: usize| real.mocks[at].hardware());
    for step in 0..BEGIN.len() + randoms.len() {
        let op = match BEGIN.get(step) {
            Some(op) => *op,
            None => op(randoms[step - BEGIN.len()], &model),
        };
        // Before the operation changes what it is about.
        let submits = match op {
            Op::Invalidate(id, virt_id) => model.invalidate(id, virt_id).0,
            _ => 0,
        };
        assert_eq!(real.apply(op), model.apply(op), "{op:?}");
        let drain = |mock: &Arc<Mock>| mock.state().submitted.drain(..).count();
        assert_eq!(real.mocks.iter().map(drain).sum::<usize>(), submits);
        check_hardware(&model, &real);
    }
    let Real {
        context,
        mocks,
        devices,
    } = real;
    assert_eq!(context.close(), Ok(()));
    assert_eq!([0, 1].map(|at: usize| mocks[at].hardware()), clean);
    drop(devices);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn sequences_answer_as_the_model_does(randoms in prop::collection::vec(any::<u64>(), 1..58)) {
        run(&randoms);
    }
}
