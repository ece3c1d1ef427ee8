//! IDs and tags of several CPUs, in every order that the locks allow (C1).

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex as Hidden;

use super::super::driver::{Driver, Format, HwInfo};
use super::super::unit::{Backend, Unit};
use super::super::{Context, Error};
use crate::addr::Hpa;
use crate::fault::Fault;
use crate::hal::{DmaBuffer, Platform};
use crate::id::{CacheTag, DeviceId, IommuIndex};
use crate::physical::{
    Caps, Drained, HardwareErrors, Incomplete, Invalidate, Invalidation, IommuError, PhysicalIommu,
    StreamConfig,
};

fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(test);
}

#[test]
fn loom_no_two_objects_have_one_id() {
    explore(|| {
        let context = Arc::new(Context::new(8, 1).unwrap());
        let work = |context: &Context| {
            let by_id = context.by_id();
            let first = by_id.ioas_alloc(0).unwrap();
            let second = by_id.ioas_alloc(0).unwrap();
            assert_ne!(first, second);
            by_id.destroy(first).unwrap();
            second
        };
        let other = {
            let context = Arc::clone(&context);
            loom::thread::spawn(move || work(&context))
        };
        let mine = work(&context);
        let theirs = other.join().unwrap();
        assert_ne!(mine, theirs);
        // Both are still there, and nothing else is.
        for id in [mine, theirs] {
            context.by_id().destroy(id).unwrap();
        }
        for id in 1..=8 {
            assert!(context.by_id().destroy(id).is_err());
        }
    });
}

/// An IOMMU that forgets late: what it was told is forgotten when the invalidation returns, with other CPUs in between.
#[derive(Clone, Default)]
struct Hardware(Arc<Hidden<Vec<CacheTag>>>);

impl Invalidate for Hardware {
    fn submit(&self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        loom::thread::yield_now();
        let mut stale = self.0.lock().unwrap();
        stale.retain(|tag| !batch.contains(&Invalidation::Tag(*tag)));
        Ok(())
    }
}

impl PhysicalIommu for Hardware {
    fn caps(&self) -> Caps {
        Caps {
            output_bits: 44,
            device_id_bits: 16,
            // Two tags, of which 0 is nobody's.
            cache_tag_bits: 1,
            nested: false,
            coherent: true,
            range_invalidation: true,
            address_space_bits: 0,
            pasid_bits: 0,
            ats: false,
        }
    }
    fn attach(&mut self, _device: DeviceId, _config: StreamConfig) -> Result<(), IommuError> {
        Ok(())
    }
    fn invalidate(&mut self, batch: &[Invalidation]) -> Result<(), IommuError> {
        Invalidate::submit(self, batch).map_err(|it| it.error)
    }
    fn invalidator(&self) -> Option<Arc<dyn Invalidate>> {
        Some(Arc::new(self.clone()))
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
        Err(Error::Unsupported(kind))
    }
}

struct NoMemory;
struct Nothing;

impl Platform for NoMemory {
    type Buffer = Nothing;
    fn allocate(&self, _len: usize) -> Option<Nothing> {
        None
    }
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        0
    }
}

impl DmaBuffer for Nothing {
    fn hpa(&self) -> Hpa {
        Hpa(0)
    }
    fn len(&self) -> usize {
        0
    }
    fn read64(&self, _offset: usize) -> u64 {
        0
    }
    fn write64(&mut self, _offset: usize, _value: u64) {}
    fn clean(&self, _offset: usize, _len: usize) {}
}

#[test]
fn loom_a_tag_is_given_out_again_only_after_it_was_forgotten() {
    explore(|| {
        let hardware = Hardware::default();
        let unit = Unit::new(IommuIndex(0), hardware.clone(), Arc::new(NoMemory), 39);
        let unit = Arc::new(unit);
        let work = |unit: &Unit<NoMemory, Hardware>, stale: &Hidden<Vec<CacheTag>>| {
            let Ok(tag) = unit.alloc_tag(Format::ArmStageTwo) else {
                // The other one has it.
                return;
            };
            {
                let mut stale = stale.lock().unwrap();
                assert!(!stale.contains(&tag), "somebody else's entries are there");
                stale.push(tag);
            }
            unit.free_tag(tag, Format::ArmStageTwo).unwrap();
        };
        let other = {
            let (unit, stale) = (Arc::clone(&unit), Arc::clone(&hardware.0));
            loom::thread::spawn(move || work(&unit, &stale))
        };
        work(&unit, &hardware.0);
        other.join().unwrap();
        assert_eq!(unit.alloc_tag(Format::ArmStageTwo), Ok(CacheTag(1)));
    });
}
