//! An SMMU that is gone, does not answer, or has lost its state.

use super::PAGE;
use crate::rig::{RAM, Rig, map, parts, start};
use iommu::id::{CacheTag, DeviceId};
use iommu::model::smmu::{Config, Denied};
use iommu::physical::{Invalidation, IommuError, PhysicalIommu, StreamConfig};
use iommu::smmuv3::StartError;

#[test]
fn a_device_that_is_gone_is_said_to_be_gone_without_waiting() {
    let mut rig = Rig::new(Config::default());
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    rig.smmu.gone(true);
    let before = rig.driver.counters().register_reads;
    let tag = Invalidation::Tag(CacheTag(3));
    assert_eq!(rig.driver.invalidate(&[tag]), Err(IommuError::Gone));
    assert_eq!(
        rig.driver.attach(DeviceId(9), StreamConfig::Abort),
        Err(IommuError::Gone)
    );
    assert_eq!(rig.driver.serve_errors(), Err(IommuError::Gone));
    assert!(rig.drain().0.is_empty());
    assert!(rig.driver.counters().register_reads - before < 40);
    let live = rig.memory.live();
    let Rig { driver, memory, .. } = rig;
    drop(driver);
    assert_eq!(
        memory.live(),
        live,
        "it may still read its tables: they are lost"
    );
}

#[test]
fn a_start_that_is_not_acknowledged_ends_in_a_timeout() {
    let (memory, smmu) = parts(Config::default());
    smmu.deaf(true);
    let error = start(&memory, &smmu).err();
    assert_eq!(error, Some(StartError::Hardware(IommuError::Timeout)));
    assert_eq!(memory.live().0, 0, "GBPA comes before memory");
}

#[test]
fn power_that_was_lost_is_noticed() {
    let mut rig = Rig::new(Config::default());
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    rig.smmu.power_cycle();
    // Nothing can be complete on an SMMU that is off.
    let tag = Invalidation::Tag(CacheTag(3));
    assert!(rig.driver.invalidate(&[tag]).is_err());
}

#[test]
fn an_smmu_that_lost_its_state_refuses_and_has_it_again() {
    for coherent in [true, false] {
        let mut rig = Rig::new(Config {
            coherent,
            ..Config::default()
        });
        let mut table = rig.table(39);
        map(&mut table, 0x1000, RAM, PAGE);
        rig.attach(8, &table, 3);
        rig.driver
            .attach(DeviceId(0x200), StreamConfig::Abort)
            .unwrap();
        assert_eq!(rig.driver.check(), Ok(false));
        // Records and commands that it had, at any place of its queues.
        for at in 0..5 {
            assert!(rig.smmu.dma_read(8, 0x2000, 1).is_err());
            rig.smmu.power_cycle();
            rig.smmu.plant_bypass(9);
            assert!(rig.smmu.dma_read(9, RAM, 1).is_ok(), "as out of reset");
            assert_eq!(rig.driver.check(), Ok(true), "{at}");
            assert_eq!(rig.driver.check(), Ok(false));
            assert!(rig.smmu.dma_write(8, 0x1000, &[1]).is_ok());
            assert!(rig.smmu.dma_write(9, RAM, &[1]).is_err());
            assert_eq!(
                rig.smmu.dma_write(0x200, RAM, &[1]),
                Err(Denied::StreamAbort)
            );
            let (faults, lost) = rig.drain();
            assert!(lost, "records of before may be gone");
            assert_eq!(faults.len(), 1, "of stream 9");
        }
        // What it is told from now on, it does.
        rig.unmap(&mut table, 0x1000, PAGE, 3);
        assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    }
}

#[test]
fn a_stream_is_closed_on_an_smmu_that_lost_its_state() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    rig.attach(8, &table, 3);
    rig.attach(9, &table, 3);
    rig.smmu.power_cycle();
    rig.driver
        .attach(DeviceId(8), StreamConfig::Refuse)
        .unwrap();
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    assert!(rig.smmu.dma_read(9, 0x1000, 1).is_ok());
    assert_eq!(rig.driver.check(), Ok(false));
}

#[test]
fn an_smmu_that_comes_back_broken_refuses_for_good_and_holds_nobody_up() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    rig.attach(8, &table, 3);
    rig.smmu.power_cycle();
    rig.smmu.hang(true);
    assert_eq!(rig.driver.check(), Err(IommuError::Stopped));
    assert_eq!(rig.smmu.dma_read(8, 0x1000, 1), Err(Denied::GlobalAbort));
    let tag = Invalidation::Tag(CacheTag(3));
    assert_eq!(rig.driver.invalidate(&[tag]), Err(IommuError::Stopped));
    assert_eq!(rig.driver.attach(DeviceId(8), StreamConfig::Refuse), Ok(()));
    rig.smmu.gone(true);
    assert_eq!(rig.driver.check(), Err(IommuError::Gone));
    // Power once more: it refuses again, and this time goes on.
    rig.smmu.gone(false);
    rig.smmu.power_cycle();
    rig.smmu.hang(false);
    assert_eq!(rig.driver.check(), Ok(true));
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_err());
    rig.attach(8, &table, 3);
    assert!(rig.smmu.dma_read(8, 0x1000, 1).is_ok());
    rig.smmu.power_cycle();
    rig.smmu.deaf(true);
    assert_eq!(
        rig.driver.check(),
        Err(IommuError::Timeout),
        "not even that"
    );
}
