//! One entry in place of another: no request in between is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use iommu::addr::Hpa;
use iommu::hal::{DmaBuffer, Platform};
use iommu::id::IommuIndex;
use iommu::model::memory::{Buffer, Memory};
use iommu::model::vtd::{Config, VtdModel};
use iommu::physical::{PhysicalIommu, StageTwo, StreamConfig};
use iommu::vtd::errata::Errata;
use iommu::vtd::{Setup, Vtd};

use super::{DEVICE, OWN, PAGE, RAM, Rig, from, map, on_second, stage_two};

/// At every barrier, and whenever the queue is waited for, devices go on with their requests.
struct Busy {
    memory: Memory,
    vtd: VtdModel,
    on: AtomicBool,
    asked: AtomicU64,
    refused: AtomicU64,
}

struct BusyBuffer(Buffer);

impl DmaBuffer for BusyBuffer {
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
    fn clean(&self, offset: usize, len: usize) {
        self.0.clean(offset, len);
    }
    fn discard(&self, offset: usize, len: usize) {
        self.0.discard(offset, len);
    }
}

impl Busy {
    fn ask(&self) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        for pasid in [0, 3] {
            let went = self.vtd.translate_as(from(pasid), 0x5000, true);
            let good = matches!(went, Ok(to) if to == OWN || to == RAM + 0x5000);
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.refused.fetch_add((!good).into(), Ordering::Relaxed);
        }
    }
}

impl Platform for Busy {
    type Buffer = BusyBuffer;
    fn allocate(&self, len: usize) -> Option<BusyBuffer> {
        self.memory.allocate(len).map(BusyBuffer)
    }
    fn write_barrier(&self) {
        self.ask();
        self.memory.write_barrier();
        self.ask();
    }
    fn read_barrier(&self) {
        self.ask();
    }
    fn now_ns(&self) -> u64 {
        self.ask();
        self.memory.now_ns()
    }
}

#[test]
fn nobody_notices_that_an_entry_takes_the_place_of_another() {
    let rig = Rig::new(Config::nesting());
    let (memory, vtd) = (
        rig.memory.clone(),
        VtdModel::new(Config::nesting(), &rig.memory),
    );
    let platform = Arc::new(Busy {
        memory,
        vtd: vtd.clone(),
        on: AtomicBool::new(false),
        asked: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let setup = Setup {
        address_bits: 46,
        interrupts: None,
        scalable: None,
        errata: Errata::default(),
    };
    let driver = Vtd::start(IommuIndex(1), vtd.clone(), Arc::clone(&platform), setup);
    let mut driver = driver.expect("it starts");
    let parent = rig.parent();
    let mut other = rig.second();
    map(&mut other, 0x5000, OWN, PAGE);
    let guest = rig.first();
    rig.page(guest, 0x5000, 0x5000);
    let second = |table: StageTwo| StreamConfig::StageTwo(table);
    let configs = [
        second(stage_two(&parent, 3)),
        second(stage_two(&other, 4)),
        on_second(&parent, 5, guest),
        on_second(&parent, 6, guest),
    ];
    driver.attach(DEVICE, configs[0]).expect("attached");
    driver
        .attach_pasid(DEVICE, 3, configs[1])
        .expect("attached");
    platform.on.store(true, Ordering::Relaxed);
    let allocations = rig.memory.allocations();
    for round in 0..16 {
        let config = configs[(round * 7 + round / 4 + 2) % 4];
        driver.attach(DEVICE, config).expect("attached");
        let config = configs[(round * 5 + round / 3 + 1) % 4];
        driver.attach_pasid(DEVICE, 3, config).expect("attached");
    }
    let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
    assert_eq!(count(&platform.refused), 0, "of {}", count(&platform.asked));
    assert!(count(&platform.asked) > 300);
    // Where one was copied to is where the next one is copied to.
    assert_eq!(rig.memory.allocations(), allocations);
    // Through one that refuses, somebody would.
    driver
        .attach(DEVICE, StreamConfig::Refuse)
        .expect("refused");
    assert!(count(&platform.refused) > 0);
    assert_eq!(driver.caps().cache_tag_bits, 16);
}
