//! What the SMMU records, and what it says of itself.

use super::started;
use crate::fake::{EVENTQ_CONS, EVENTQ_PROD, GERROR};
use iommu::addr::{Gpa, Hpa, Iova};
use iommu::fault::{Fault, FaultReason, Stage};
use iommu::id::{DeviceId, IommuIndex};
use iommu::physical::{Drained, IommuError, PhysicalIommu};
use iommu::smmuv3::event;

fn blank() -> Fault {
    event::decode(IommuIndex(9), [0; 4])
}

/// A translation fault of stage 2, as QEMU writes it.
fn record(stream: u64) -> [u64; 4] {
    [
        0x10 | stream << 32,
        1 << 39 | 2 << 40,
        0x1234_5678,
        0x1234_5678,
    ]
}

#[test]
fn events_come_in_bounded_batches_and_in_order() {
    let (fake, mut smmu) = started();
    let mut expected = 0;
    let mut sent = 0;
    // Over the end of the ring more than once, in batches that do not divide it.
    for _ in 0..40 {
        for _ in 0..100 {
            fake.state().event(record(sent), false);
            sent += 1;
        }
        loop {
            let mut faults = [blank(); 7];
            let drained = smmu.drain_faults(&mut faults);
            assert!(!drained.lost);
            for fault in &faults[..drained.count] {
                assert_eq!(fault.device, DeviceId(expected));
                expected += 1;
            }
            if !drained.more {
                break;
            }
            assert_eq!(drained.count, 7);
        }
        assert_eq!(u64::from(expected), sent);
    }
    assert_eq!(smmu.counters().events, sent);
    assert_eq!(smmu.drain_faults(&mut [blank(); 7]), Drained::default());
}

#[test]
fn an_overflow_by_the_document_is_reported_once_and_acknowledged() {
    let (fake, mut smmu) = started();
    let mut faults = [blank(); 1024];
    for round in 0..3 {
        for stream in 0..1100 {
            fake.state().event(record(stream), false);
        }
        let drained = smmu.drain_faults(&mut faults);
        assert_eq!(
            drained,
            Drained {
                count: 1024,
                lost: true,
                more: false
            },
            "round {round}"
        );
        let cons = fake.state().registers[&EVENTQ_CONS];
        assert_eq!(cons >> 31, (round + 1) & 1, "OVACKFLG follows OVFLG");
        assert_eq!(smmu.drain_faults(&mut faults), Drained::default());
    }
    assert_eq!(smmu.counters().losses, 3);
}

#[test]
fn an_overflow_as_qemu_has_it_is_reported_once_and_acknowledged() {
    let (fake, mut smmu) = started();
    let mut faults = [blank(); 1024];
    for _ in 0..3 {
        for stream in 0..1025 {
            fake.state().event(record(stream), true);
        }
        let drained = smmu.drain_faults(&mut faults);
        assert_eq!(
            drained,
            Drained {
                count: 1024,
                lost: true,
                more: false
            }
        );
        assert_eq!(smmu.drain_faults(&mut faults), Drained::default());
    }
    for stream in 0..1025 {
        fake.state().event(record(stream), true);
    }
    let errors = smmu.handle_gerror().unwrap();
    assert!(errors.events_lost() && !errors.command() && !errors.service_failure());
    assert!(smmu.handle_gerror().unwrap().is_empty());
    assert!(
        smmu.drain_faults(&mut faults).lost,
        "the interrupt handler's find is not forgotten"
    );
}

#[test]
fn registers_of_a_gone_smmu_bring_no_events() {
    let (fake, mut smmu) = started();
    fake.state().event(record(1), false);
    fake.state().gone = true;
    assert_eq!(smmu.drain_faults(&mut [blank(); 4]), Drained::default());
    assert_eq!(smmu.handle_gerror(), Err(IommuError::Gone));
    fake.state().gone = false;
    // A producer more than a whole queue ahead is nonsense too.
    fake.state().registers.insert(EVENTQ_PROD, 0x601);
    assert_eq!(smmu.drain_faults(&mut [blank(); 4]).count, 0);
}

#[test]
fn service_failure_is_told() {
    let (fake, mut smmu) = started();
    let toggled = fake.state().registers.get(&GERROR).copied().unwrap_or(0) ^ 1 << 8;
    fake.state().registers.insert(GERROR, toggled);
    assert!(smmu.handle_gerror().unwrap().service_failure());
    assert!(smmu.handle_gerror().unwrap().is_empty());
}

#[test]
fn every_event_is_decoded() {
    use FaultReason as R;
    let base = |kind: u64| [kind | 0x42 << 32, 0, 0x1111_2222, 0x3333_4444];
    let cases = [
        (0x01, R::Unsupported, Stage::None, true),
        (0x02, R::BadDeviceEntry, Stage::None, false),
        (0x03, R::FetchAbort, Stage::None, false),
        (0x04, R::BadDeviceEntry, Stage::None, false),
        (0x05, R::Unsupported, Stage::None, true),
        (0x06, R::Unsupported, Stage::None, false),
        (0x07, R::Unsupported, Stage::None, true),
        (0x08, R::BadContext, Stage::None, false),
        (0x09, R::FetchAbort, Stage::None, false),
        (0x0a, R::BadContext, Stage::None, false),
        (0x0b, R::FetchAbort, Stage::One, true),
        (0x10, R::Translation, Stage::One, true),
        (0x11, R::AddressSize, Stage::One, true),
        (0x12, R::AccessFlag, Stage::One, true),
        (0x13, R::Permission, Stage::One, true),
        (0x20, R::Other(0x20), Stage::One, true),
        (0x21, R::Other(0x21), Stage::None, false),
        (0x24, R::Other(0x24), Stage::None, true),
        (0x25, R::FetchAbort, Stage::None, false),
        (0xe3, R::Other(0xe3), Stage::None, false),
    ];
    for (kind, reason, stage, address) in cases {
        let fault = event::decode(IommuIndex(3), base(kind));
        assert_eq!(fault.iommu, IommuIndex(3));
        assert_eq!(
            (fault.device, fault.reason, fault.stage),
            (DeviceId(0x42), reason, stage),
            "{kind:#x}"
        );
        assert_eq!(
            fault.iova,
            address.then_some(Iova(0x1111_2222)),
            "{kind:#x}"
        );
        assert_eq!(fault.raw, base(kind));
        assert_eq!((fault.ipa, fault.pasid, fault.stalled), (None, None, false));
    }
}

#[test]
fn a_stage_2_fault_has_its_address_and_direction() {
    let mut raw = record(5);
    let write = event::decode(IommuIndex(0), raw);
    assert_eq!(write.stage, Stage::Two);
    assert_eq!(write.iova, Some(Iova(0x1234_5678)));
    assert_eq!(
        write.ipa,
        Some(Gpa(0x1234_5000)),
        "low bits are not significant"
    );
    assert!(write.write);
    raw[1] |= 1 << 35;
    assert!(!event::decode(IommuIndex(0), raw).write);
    raw[0] |= 1 << 11 | 0x3_0201 << 12;
    assert_eq!(event::decode(IommuIndex(0), raw).pasid, Some(0x3_0201));
    raw[1] |= 1 << 31 | 0xabcd;
    let stalled = event::decode(IommuIndex(0), raw);
    assert!(stalled.stalled);
    assert_eq!(stalled.tag, 0xabcd);
}

#[test]
fn a_stage_2_fault_on_a_stage_1_fetch_is_stage_2_without_its_bit() {
    let raw = [0x10, 1 << 40, 0x1000, 0x7f5_4321];
    let fault = event::decode(IommuIndex(0), raw);
    assert_eq!(
        (fault.stage, fault.ipa),
        (Stage::Two, Some(Gpa(0x7f5_4000)))
    );
    let raw = [0x0b, 1 << 40, 0x1000, 0x7f5_4328];
    assert_eq!(event::decode(IommuIndex(0), raw).stage, Stage::One);
    assert_eq!(event::fetch_address(raw), Some(Hpa(0x7f5_4328)));
}

#[test]
fn the_fetch_address_is_found_in_either_place() {
    assert_eq!(
        event::fetch_address([0x09, 0, 0, 0x4000_0040]),
        Some(Hpa(0x4000_0040))
    );
    assert_eq!(
        event::fetch_address([0x09, 0, 0x4000_0040, 0]),
        Some(Hpa(0x4000_0040))
    );
    assert_eq!(
        event::fetch_address([0x03, 0, 0, 0x4000_0040]),
        Some(Hpa(0x4000_0040))
    );
    assert_eq!(event::fetch_address([0x10, 0, 1, 2]), None);
}
