//! A driver out of a `PhysicalIommu`, with tables of the real format, in memory that counts.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use super::super::driver::{DeviceInfo, Driver, HwInfo, HwptFlags, UserData};
use super::super::unit::{Backend, Unit};
use super::super::{Context, Errno, Error};
use super::{K4, M2, RW, errno, memory};
use crate::addr::{Hpa, Iova};
use crate::fault::Fault;
use crate::hal::{DmaBuffer, Platform};
use crate::id::{DeviceId, IommuIndex};
use crate::physical::{
    Caps, Drained, HardwareErrors, Invalidation, IommuError, PhysicalIommu, StreamConfig,
};

#[derive(Default)]
struct Counts {
    live: usize,
    next: u64,
    budget: Option<usize>,
}

#[derive(Clone, Default)]
struct Ram(Arc<Mutex<Counts>>);

struct Frame {
    ram: Ram,
    base: u64,
    words: Vec<u64>,
}

impl Platform for Ram {
    type Buffer = Frame;
    fn allocate(&self, len: usize) -> Option<Frame> {
        let mut counts = self.0.lock().unwrap();
        if let Some(left) = &mut counts.budget {
            *left = left.checked_sub(1)?;
        }
        counts.live += 1;
        counts.next += len as u64;
        Some(Frame {
            ram: self.clone(),
            base: counts.next,
            words: alloc::vec![0; len / 8],
        })
    }
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        0
    }
}

impl DmaBuffer for Frame {
    fn hpa(&self) -> Hpa {
        Hpa(self.base)
    }
    fn len(&self) -> usize {
        self.words.len() * 8
    }
    fn read64(&self, offset: usize) -> u64 {
        self.words[offset / 8]
    }
    fn write64(&mut self, offset: usize, value: u64) {
        self.words[offset / 8] = value;
    }
    fn clean(&self, _offset: usize, _len: usize) {}
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.ram.0.lock().unwrap().live -= 1;
    }
}

#[derive(Default)]
struct Hardware {
    streams: Vec<(DeviceId, StreamConfig)>,
    invalidated: Vec<Invalidation>,
    deaf: bool,
}

impl PhysicalIommu for Hardware {
    fn caps(&self) -> Caps {
        Caps {
            output_bits: 44,
            device_id_bits: 16,
            cache_tag_bits: 8,
            nested: false,
            coherent: true,
            range_invalidation: true,
            address_space_bits: 0,
            pasid_bits: 0,
            ats: false,
        }
    }
    fn attach(&mut self, device: DeviceId, config: StreamConfig) -> Result<(), IommuError> {
        self.streams.push((device, config));
        Ok(())
    }
    fn invalidate(&mut self, batch: &[Invalidation]) -> Result<(), IommuError> {
        self.invalidated.extend_from_slice(batch);
        if self.deaf {
            return Err(IommuError::Timeout);
        }
        Ok(())
    }
    fn drain_faults(&mut self, _faults: &mut [Fault]) -> Drained {
        Drained::default()
    }
    fn serve_errors(&mut self) -> Result<HardwareErrors, IommuError> {
        Ok(HardwareErrors::default())
    }
}

impl Backend for Hardware {
    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error> {
        match kind {
            0 => Ok(HwInfo {
                kind: 0xfeed,
                words: [0; 5],
                len: 0,
                dirty_tracking: false,
            }),
            _ => Err(Error::Unsupported(kind)),
        }
    }
}

struct World {
    ram: Ram,
    unit: Arc<Unit<Ram, Hardware>>,
    context: Context,
}

fn world() -> World {
    let ram = Ram::default();
    let platform = Arc::new(ram.clone());
    let unit = Unit::new(IommuIndex(0), Hardware::default(), platform, 39);
    World {
        ram,
        unit: Arc::new(unit),
        context: Context::new(16, 4).unwrap(),
    }
}

impl World {
    fn driver(&self) -> Arc<dyn Driver> {
        Arc::clone(&self.unit) as Arc<dyn Driver>
    }

    fn bind(&self, context: &Context) -> Result<super::Device, Error> {
        context.bind(&DeviceInfo {
            driver: self.driver(),
            streams: &[DeviceId(8)],
            group: 1,
            pasid_bits: 0,
            ats: false,
            reserved: &[],
            coherent: true,
            isolated_messages: true,
            shares_page_requests: false,
        })
    }

    fn live(&self) -> usize {
        self.ram.0.lock().unwrap().live
    }
}

#[test]
fn a_partitions_way_through_the_objects() {
    let world = world();
    let ioas = world.context.ioas().unwrap();
    // RAM in the largest blocks, and the translater's page where the guest expects it.
    ioas.map(
        Iova(0x4000_0000),
        memory(0x8000_0000, 64 * M2),
        0,
        64 * M2,
        RW,
    )
    .unwrap();
    ioas.set_message_window(Iova(0x809_0000), Iova(0x809_0fff))
        .unwrap();
    assert_eq!(ioas.doorbell(Hpa(0x808_0040)), Ok(Iova(0x809_0040)));
    let parent = ioas.nest_parent(&world.driver()).unwrap();
    assert_eq!(parent.walk(Iova(0x4020_1000)), Some(Hpa(0x8020_1000)));
    assert_eq!(parent.walk(Iova(0x809_0040)), Some(Hpa(0x808_0040)));
    let device = world.bind(&world.context).unwrap();
    let other = Context::new(4, 1).unwrap();
    assert_eq!(errno(world.bind(&other)), Errno::EBUSY);
    device.attach(0, &parent).unwrap();
    let last = |unit: &Unit<Ram, Hardware>| unit.physical().lock().streams.last().copied();
    let Some((DeviceId(8), StreamConfig::StageTwo(two))) = last(&world.unit) else {
        panic!("not attached");
    };
    assert_eq!(two.input_bits, 39);
    assert_ne!(two.tag.0, 0);
    ioas.unmap_all().unwrap();
    let invalidated = world.unit.physical().lock().invalidated.pop();
    let range = |it| matches!(it, Some(Invalidation::StageTwoRange { tag, .. }) if tag == two.tag);
    assert!(range(invalidated));
    drop(device);
    assert_eq!(last(&world.unit), Some((DeviceId(8), StreamConfig::Refuse)));
    // The tag is free only after everything under it was forgotten.
    let invalidated = world.unit.physical().lock().invalidated.pop();
    assert_eq!(invalidated, Some(Invalidation::Tag(two.tag)));
    drop((ioas, parent));
    assert_eq!(world.live(), 0);
}

#[test]
fn what_a_guest_owns_needs_another_driver() {
    let world = world();
    let ioas = world.context.ioas().unwrap();
    let driver = world.driver();
    let none = UserData::default();
    let parent = ioas.nest_parent(&driver).unwrap();
    assert_eq!(errno(parent.viommu(&driver, 1, none)), Errno::EOPNOTSUPP);
    assert_eq!(errno(parent.set_dirty_tracking(true)), Errno::EOPNOTSUPP);
    let pasid = ioas.paging(&driver, HwptFlags::PASID, None);
    assert_eq!(errno(pasid), Errno::EOPNOTSUPP);
}

#[test]
fn each_frame_that_cannot_be_had_leaves_nothing_behind() {
    let world = world();
    let ioas = world.context.ioas().unwrap();
    ioas.map(Iova(0), memory(0, 3 * K4), 0, 3 * K4, RW).unwrap();
    let mut frames = 0;
    let hwpt = loop {
        world.ram.0.lock().unwrap().budget = Some(frames);
        match ioas.nest_parent(&world.driver()) {
            Ok(hwpt) => break hwpt,
            Err(error) => assert_eq!(error.errno(), Errno::ENOMEM),
        }
        assert_eq!(world.live(), 0);
        frames += 1;
    };
    assert!(frames > 4);
    // A mapping that needs new tables.
    world.ram.0.lock().unwrap().budget = Some(0);
    let far = || ioas.map(Iova(0x10_0000_0000), memory(0, K4), 0, K4, RW);
    assert_eq!(errno(far()), Errno::ENOMEM);
    assert_eq!(hwpt.walk(Iova(0x10_0000_0000)), None);
    world.ram.0.lock().unwrap().budget = None;
    far().unwrap();
}

#[test]
fn a_deaf_iommu_loses_tables_and_never_frees_them() {
    let world = world();
    let ioas = world.context.ioas().unwrap();
    ioas.map(Iova(0), memory(0, K4), 0, K4, RW).unwrap();
    let device = world.bind(&world.context).unwrap();
    device.attach(0, &ioas).unwrap();
    world.unit.physical().lock().deaf = true;
    assert_eq!(errno(ioas.unmap_all()), Errno::EIO);
    drop(device);
    drop(ioas);
    assert!(world.live() > 0);
}
