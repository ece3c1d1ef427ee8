//! Faults and their ring.

use super::{DEVICE, RAM, Rig, TAG};
use iommu::addr::Iova;
use iommu::fault::FaultReason;
use iommu::hal::Platform;
use iommu::id::DeviceId;
use iommu::model::vtd::{Config, Denied};
use iommu::physical::{Invalidation, PhysicalIommu};

#[test]
fn faults_come_in_order_around_the_ring_and_say_what_happened() {
    let mut rig = Rig::new(Config::default());
    let _table = rig.open();
    rig.driver.set_fault_message(Some((0xfee0_1000, 0x55)));
    for round in 0..5u64 {
        for index in 0..5u64 {
            let _ = rig
                .vtd
                .translate(DEVICE, (round * 8 + index + 1) << 12, index % 2 == 0);
        }
        let (faults, lost) = rig.drain();
        let seen: Vec<_> = faults.iter().map(|it| (it.iova, it.write)).collect();
        let expected: Vec<_> = (0..5)
            .map(|index| (Some(Iova((round * 8 + index + 1) << 12)), index % 2 == 0))
            .collect();
        assert_eq!((seen, lost), (expected, false));
        assert!(
            faults
                .iter()
                .all(|it| it.reason == FaultReason::Translation)
        );
        assert_eq!(
            rig.vtd.take_messages(),
            [(0xfee0_1000, 0x55)],
            "one a burst"
        );
    }
    // Masked, and told when it is not any more.
    rig.driver.set_fault_message(None);
    let _ = rig.vtd.translate(DEVICE, 0x5000, true);
    assert!(rig.vtd.take_messages().is_empty());
    rig.driver.set_fault_message(Some((0x1_fee0_1000, 0x56)));
    assert_eq!(rig.vtd.take_messages(), [(0x1_fee0_1000, 0x56)]);
}

#[test]
fn the_fault_of_every_kind_of_bad_entry_is_decoded() {
    let mut rig = Rig::new(Config::default());
    let table = rig.open();
    let root = rig.driver.layout().root.base.0;
    let context = rig.memory.load(root + 3 * 16) & !0xfff;
    let entry = context + 0x10 * 16;
    let good = [rig.memory.load(entry), rig.memory.load(entry + 8)];
    let leaf = |rig: &Rig| {
        let mut at = table.root().0;
        for _ in 0..2 {
            at = rig.memory.load(at) & 0xf_ffff_ffff_f000;
        }
        at
    };
    use FaultReason as R;
    let cases: [(u64, u64, u8, R); 7] = [
        (root + 3 * 16, 0, 1, R::BadDeviceEntry),
        (root + 3 * 16, context | 3, 10, R::BadDeviceEntry),
        (root + 3 * 16, 0x70_0000_0001, 9, R::FetchAbort),
        (entry, 0, 2, R::BadDeviceEntry),
        (entry, good[0] | 0xc, 3, R::BadDeviceEntry),
        (entry, good[0] | 0x10, 11, R::BadDeviceEntry),
        (leaf(&rig), RAM | 3 | 1 << 11, 12, R::Other(12)),
    ];
    for (at, word, reason, expected) in cases {
        let old = rig.memory.load(at);
        rig.memory.store(at, word);
        rig.memory.write_barrier();
        rig.driver
            .invalidate(&[Invalidation::Device(DeviceId(0)), Invalidation::Tag(TAG)])
            .unwrap();
        let denied = rig.vtd.translate(DEVICE, 0, true);
        assert_eq!(denied, Err(Denied::Fault(reason)));
        let (faults, _) = rig.drain();
        assert_eq!(
            (faults[0].reason, faults[0].device),
            (expected, DeviceId(DEVICE.into()))
        );
        rig.memory.store(at, old);
        rig.memory.write_barrier();
    }
}
