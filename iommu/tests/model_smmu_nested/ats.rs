//! What a device keeps by ATS of a guest's stage 1, and who may send what is translated.

use super::rig::{RAM, Rig, span};
use super::{Guest, PAGE, PAGE_RW, VA, fault};
use iommu::id::{CacheTag, DeviceId};
use iommu::model::smmu::Config;
use iommu::physical::{Invalidation, StageOneConfig};

#[test]
fn what_a_device_keeps_by_ats_goes_with_its_own_invalidation() {
    let mut guest = Guest::new(Config {
        ats: true,
        ..Config::default()
    });
    let root = guest.new_table();
    guest.map_page(root, VA, 0x5000 | PAGE_RW);
    guest.context(0, 5, root);
    let without = guest.nested(0);
    guest.attach(8, 3, without);
    assert_eq!(
        guest.rig.smmu.ats_translate(8, VA, false),
        Err(fault(0x05, false))
    );
    guest.attach(
        8,
        3,
        StageOneConfig {
            ats: true,
            ..without
        },
    );
    assert_eq!(guest.rig.smmu.ats_translate(8, VA, false), Ok(RAM + 0x5000));
    guest.map_page(root, VA, 0x9000 | PAGE_RW);
    // What a guest does to its own stage 1, it tells the device itself.
    guest.forget(Invalidation::StageOne(CacheTag(3)));
    assert_eq!(guest.rig.smmu.ats_translate(8, VA, false), Ok(RAM + 0x5000));
    guest.forget(Invalidation::DeviceTlb {
        device: DeviceId(8),
        pasid: None,
        range: Some(span(VA, PAGE)),
    });
    assert_eq!(guest.rig.smmu.ats_translate(8, VA, false), Ok(RAM + 0x9000));
}

#[test]
fn a_translated_write_passes_for_nobody_who_was_not_let() {
    for ats in [false, true] {
        let mut rig = Rig::new(Config {
            ats,
            ..Config::default()
        });
        let table = rig.table(39);
        rig.attach(8, &table, 3);
        for device in [8, 9] {
            let wrote = rig.smmu.translated_write(device, RAM, &[1]);
            assert!(wrote.is_err(), "stream {device}, ATS {ats}: {wrote:?}");
        }
        assert_eq!(rig.memory.device_read(RAM, true), Ok(0));
    }
}
