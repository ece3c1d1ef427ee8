//! Memory that cannot be had.

use super::PAGE;
use crate::rig::{RAM, Rig, map, parts, span, stage_two, start, translation};
use iommu::id::{CacheTag, DeviceId};
use iommu::model::smmu::{Config, Denied};
use iommu::physical::{Invalidation, PhysicalIommu};
use iommu::smmuv3::StartError;

#[test]
fn the_nth_allocation_fails_and_the_start_is_undone() {
    for all in [false, true] {
        let mut failures = 0;
        for nth in 0..20 {
            let (memory, smmu) = parts(Config::default());
            memory.fail_allocation(nth, all);
            match start(&memory, &smmu) {
                Ok(driver) => drop(driver),
                Err(error) => {
                    assert_eq!(error, StartError::OutOfMemory);
                    failures += 1;
                }
            }
            assert_eq!(memory.live(), (0, 0));
            assert_eq!(smmu.dma_read(8, RAM, 1), Err(Denied::GlobalAbort));
        }
        assert_eq!(failures, 3, "two queues and a stream table");
    }
}

#[test]
fn the_nth_allocation_fails_in_attach_and_map_and_nothing_has_changed() {
    for nth in 0..8 {
        let mut rig = Rig::new(Config::default());
        let mut table = rig.table(39);
        map(&mut table, 0x1000, RAM, PAGE);
        rig.attach(8, &table, 3);
        let live = rig.memory.live();
        rig.memory.fail_allocation(nth, true);
        // Another bus needs a level 2 table.
        let attached = rig.driver.attach(DeviceId(0x200), stage_two(&table, 3));
        let mapped = table.map(
            span(0x40_0000_0000, 3 * PAGE),
            iommu::addr::Hpa(RAM),
            iommu::table::Attributes::DMA,
        );
        rig.memory.heal();
        let opened = rig.smmu.dma_read(0x200, 0x1000, 1).is_ok();
        assert_eq!(attached.is_ok(), opened);
        assert_eq!(nth > 0, opened);
        let reached = rig.smmu.dma_read(8, 0x40_0000_0000, 1).is_ok();
        assert_eq!(mapped.is_ok(), reached);
        if attached.is_err() && mapped.is_err() {
            assert!(rig.memory.live().0 <= live.0 + 4, "spare tables at most");
        }
        // What worked before works still.
        assert!(rig.smmu.dma_read(8, 0x1000, 1).is_ok());
        // And now it succeeds.
        rig.attach(0x200, &table, 3);
        if mapped.is_err() {
            map(&mut table, 0x40_0000_0000, RAM, 3 * PAGE);
            rig.driver
                .invalidate(&[Invalidation::Tag(CacheTag(3))])
                .unwrap();
        }
        assert!(rig.smmu.dma_read(0x200, 0x40_0000_2000, 1).is_ok());
    }
}

#[test]
fn unmap_needs_no_memory() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x4000_0000, RAM, 0x4000_0000);
    rig.attach(8, &table, 3);
    rig.smmu.translate(8, 0x4000_0000, true).unwrap();
    rig.memory.fail_allocation(0, true);
    rig.unmap(&mut table, 0x4000_5000, PAGE, 3);
    assert_eq!(
        rig.smmu.translate(8, 0x4000_5000, true),
        Err(translation(true))
    );
    assert_eq!(rig.smmu.translate(8, 0x4000_6000, true), Ok(RAM + 0x6000));
    assert_eq!(
        rig.smmu.translate(8, 0x7fff_f000, true),
        Ok(RAM + 0x3fff_f000)
    );
}
