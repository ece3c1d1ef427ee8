//! Scalable mode.

use super::{DEVICE, RAM, Rig, ZEROS, parts, setup, stage_two, start};
use iommu::addr::Hpa;
use iommu::fault::FaultReason;
use iommu::hal::Platform;
use iommu::id::{DeviceId, IommuIndex};
use iommu::model::vtd::{Config, Denied};
use iommu::physical::{PhysicalIommu, StreamConfig};
use iommu::vtd::{Setup, StartError, deny_all, event};

#[test]
fn a_unit_that_nests_is_in_scalable_mode_from_the_denial_on() {
    let config = Config {
        scalable: true,
        first_stage: true,
        nesting: true,
        ..Config::default()
    };
    let (memory, vtd) = parts(config);
    deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    let closed = Err(Denied::Fault(0x39));
    assert_eq!(vtd.translate(DEVICE, RAM, true), closed);
    let mut rig = Rig {
        driver: start(&memory, &vtd, setup(None)).unwrap(),
        memory,
        vtd,
    };
    assert!(rig.driver.features().nested);
    rig.driver
        .attach(DeviceId(0x300), StreamConfig::Refuse)
        .unwrap();
    let before = rig.driver.counters();
    let table = rig.open();
    let opened = rig.driver.counters();
    assert_eq!(opened.descriptors, before.descriptors, "nothing was cached");
    // Root and context table; a directory, its table, and the page for copies.
    assert_eq!(opened.table_bytes, 5 * 4096);
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Ok(RAM));
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
        .unwrap();
    let shut = rig.driver.counters();
    assert_eq!(shut.descriptors - opened.descriptors, 3);
    assert_eq!(shut.waits - opened.waits, 1);
    // A record with and one without.
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(0x41)));
    let (faults, _) = rig.drain();
    assert_eq!(faults[0].reason, FaultReason::BadDeviceEntry);
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Abort)
        .unwrap();
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(0x41)));
    assert!(rig.drain().0.is_empty());
    // Devices of the other half of the bus have a table of their own.
    rig.driver
        .attach(DeviceId(0x3f8), stage_two(&table))
        .unwrap();
    assert_eq!(rig.vtd.translate(0x3f8, 0, true), Ok(RAM));
    assert_eq!(rig.vtd.counters().bypassed, 0);
}

#[test]
fn scalable_mode_is_refused_where_it_is_not() {
    let (memory, vtd) = parts(Config::default());
    let setup = Setup {
        scalable: Some(true),
        ..setup(None)
    };
    let error = start(&memory, &vtd, setup).err();
    assert!(
        matches!(error, Some(StartError::NoScalableMode(_))),
        "{error:?}"
    );
}

/// 7.1.3, by Linux's words for them (`dma_remap_sm_fault_reasons`).
#[test]
fn reasons_of_scalable_mode_are_decoded() {
    use FaultReason as R;
    use iommu::fault::Stage;
    let cases = [
        (0x38, R::FetchAbort, Stage::None),
        (0x39, R::BadDeviceEntry, Stage::None),
        (0x40, R::FetchAbort, Stage::None),
        (0x42, R::BadDeviceEntry, Stage::None),
        (0x51, R::BadContext, Stage::None),
        (0x5b, R::BadContext, Stage::None),
        (0x70, R::FetchAbort, Stage::One),
        (0x71, R::Translation, Stage::One),
        (0x78, R::FetchAbort, Stage::Two),
        (0x79, R::Translation, Stage::Two),
        (0x80, R::AddressSize, Stage::One),
        (0x81, R::Permission, Stage::One),
        (0x84, R::AddressSize, Stage::Two),
        (0x85, R::Permission, Stage::One),
        (0x86, R::Permission, Stage::One),
        (0x87, R::Other(0x87), Stage::None),
    ];
    for (number, reason, stage) in cases {
        // A read with PASID 0x12345 of 3:02.0.
        let second = 1 << 63 | 1 << 62 | 0x1_2345 << 40 | number << 32 | 1 << 31 | 0x310;
        let fault = event::decode(IommuIndex(2), [0x7000, second]);
        assert_eq!((fault.reason, fault.stage), (reason, stage), "{number:#x}");
        assert_eq!(fault.pasid, Some(0x1_2345));
        assert_eq!((fault.device, fault.write), (DeviceId(0x310), false));
    }
}
