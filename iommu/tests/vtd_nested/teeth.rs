//! Drivers that leave a descriptor out: the model has to notice each of them, or it proves nothing about ours.

use std::sync::Arc;

use iommu::addr::Hpa;
use iommu::hal::{DmaBuffer, Platform};
use iommu::id::{CacheTag, IommuIndex};
use iommu::model::memory::{Buffer, Memory};
use iommu::model::vtd::{Config, VtdModel};
use iommu::physical::{Granule, Invalidation, PhysicalIommu, StreamConfig};
use iommu::vtd::errata::Errata;
use iommu::vtd::{Setup, Vtd};

use super::device_tlb::trusted;
use super::{DEVICE, PAGE, RAM, Rig, first_stage, from, on_second, span, stage_two};

/// Descriptors of this type become invalidations of one interrupt that nobody has.
struct Broken(Memory, Option<u64>);

struct BrokenBuffer(Buffer, Option<u64>);

/// Bytes of the queue with its status page: nothing else of the driver's is so large.
const QUEUE_BYTES: usize = 8192;

impl Platform for Broken {
    type Buffer = BrokenBuffer;
    fn allocate(&self, len: usize) -> Option<BrokenBuffer> {
        self.0
            .allocate(len)
            .map(|buffer| BrokenBuffer(buffer, self.1))
    }
    fn write_barrier(&self) {
        self.0.write_barrier();
    }
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        self.0.now_ns() * 1_000
    }
}

impl DmaBuffer for BrokenBuffer {
    fn hpa(&self) -> Hpa {
        self.0.hpa()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn read64(&self, offset: usize) -> u64 {
        self.0.read64(offset)
    }
    fn write64(&mut self, offset: usize, value: u64) {
        self.0.write64(offset, value);
    }
    fn write64_pairs(&mut self, offset: usize, pairs: &[[u64; 2]]) {
        for (at, [first, second]) in (offset..).step_by(16).zip(pairs) {
            let broken = self.len() == QUEUE_BYTES && self.1 == Some(first & 0xf);
            // 6.5.2.8: index 0xffff.
            let words = if broken {
                [0xffff_0000_0014, 0]
            } else {
                [*first, *second]
            };
            self.0.write64(at, words[0]);
            self.0.write64(at + 8, words[1]);
        }
    }
    fn clean(&self, offset: usize, len: usize) {
        self.0.clean(offset, len);
    }
    fn discard(&self, offset: usize, len: usize) {
        self.0.discard(offset, len);
    }
}

const VA: u64 = 0x7f12_3456_7000;

/// A short life of a PASID; whether all was as it should be.
fn lives(left_out: Option<u64>) -> bool {
    let config = Config {
        strict: false,
        device_tlbs: true,
        ..Config::nesting()
    };
    let rig = Rig::new(config);
    rig.memory.set_strict(false);
    let vtd = VtdModel::new(config, &rig.memory);
    let platform = Arc::new(Broken(rig.memory.clone(), left_out));
    let setup = Setup {
        address_bits: 46,
        interrupts: None,
        scalable: None,
        errata: Errata::default(),
    };
    let Ok(mut driver) = Vtd::start(IommuIndex(0), vtd.clone(), platform, setup) else {
        return false;
    };
    let parent = rig.parent();
    let roots = [rig.first(), rig.first()];
    rig.page(roots[0], VA, 0x1000);
    rig.page(roots[1], VA, 0x2000);
    let host = rig.first() + RAM;
    rig.enter(0, host, VA, (RAM + 0x3000) | 0x7);
    // By the unit's caches and by the device's own.
    let reach = |pasid| {
        let (unit, own) = (
            vtd.translate_as(from(pasid), VA, true).ok(),
            vtd.translated(from(pasid), VA).ok(),
        );
        if unit == own { unit } else { Some(u64::MAX) }
    };
    let own = StreamConfig::FirstStage {
        tag: CacheTag(8),
        first: first_stage(host),
    };
    let mut good = true;
    // In place of each other, with what each leaves behind.
    let steps = [
        (on_second(&parent, 6, roots[0]), Some(RAM + 0x1000)),
        (on_second(&parent, 7, roots[1]), Some(RAM + 0x2000)),
        (own, Some(RAM + 0x3000)),
        (StreamConfig::Refuse, None),
        (on_second(&parent, 6, roots[1]), Some(RAM + 0x2000)),
        (StreamConfig::StageTwo(stage_two(&parent, 3)), None),
        (own, Some(RAM + 0x3000)),
    ];
    for (config, to) in steps {
        good &= driver.attach_pasid(DEVICE, 5, trusted(config)).is_ok();
        good &= reach(5) == to;
    }
    // What is taken out of a table is gone once it was told.
    rig.enter(0, host, VA, 0);
    let range = span(VA, PAGE);
    let gone = Invalidation::StageOneRange {
        tag: CacheTag(8),
        asid: None,
        range,
        granule: Granule::Size4K,
        level: 0,
        leaf: true,
    };
    good &= driver.invalidate(&[gone]).is_ok();
    good &= reach(5).is_none();
    // A domain that comes back for another table.
    good &= driver
        .attach_pasid(DEVICE, 5, trusted(on_second(&parent, 6, roots[0])))
        .is_ok();
    good &= reach(5) == Some(RAM + 0x1000);
    good &= driver.attach_pasid(DEVICE, 5, StreamConfig::Refuse).is_ok();
    good &= driver
        .attach_pasid(DEVICE, 5, trusted(on_second(&parent, 6, roots[1])))
        .is_ok();
    good &= reach(5) == Some(RAM + 0x2000);
    // What has no PASID, as well.
    for (root, to) in [(0, 0x1000), (1, 0x2000)] {
        let config = trusted(on_second(&parent, 9 + root as u16, roots[root]));
        good &= driver.attach(DEVICE, config).is_ok();
        good &= reach(0) == Some(RAM + to);
    }
    // A silent device has PASIDs that are not in force.
    good &= driver.attach(DEVICE, StreamConfig::Abort).is_ok();
    good &= reach(5).is_none();
    good && vtd.violations().is_empty()
}

#[test]
fn each_descriptor_left_out_is_noticed() {
    assert!(lives(None));
    // Contexts, IOTLB, device TLBs, waits, PASID-based IOTLB, PASID cache, device TLBs by PASID.
    for kind in [1, 2, 3, 5, 6, 7, 8] {
        assert!(!lives(Some(kind)), "{kind}");
    }
}
