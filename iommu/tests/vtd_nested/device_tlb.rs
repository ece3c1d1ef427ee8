//! Device TLBs (ATS): what leaves a table, or takes the place of another, leaves the devices too.

use iommu::id::CacheTag;
use iommu::model::vtd::{Config, Denied};
use iommu::physical::{
    FirstStage, Granule, Invalidated, Invalidation, IommuError, PhysicalIommu, StageTwo,
    StreamConfig,
};

use super::{DEVICE, NO_FIRST, NO_SECOND, OWN, PAGE, RAM, Rig, SOURCE, first_stage, from, map};
use super::{on_second, span, stage_two};

const VA: u64 = 0x7f12_3456_7000;
/// DTE is clear.
const NO_REQUEST: Denied = Denied::Fault(0x44);

fn rig() -> Rig {
    Rig::new(Config {
        device_tlbs: true,
        ..Config::nesting()
    })
}

pub(super) fn trusted(config: StreamConfig) -> StreamConfig {
    match config {
        StreamConfig::StageTwo(stage) => StreamConfig::StageTwo(StageTwo { ats: true, ..stage }),
        StreamConfig::FirstStage { tag, first } => StreamConfig::FirstStage {
            tag,
            first: FirstStage { ats: true, ..first },
        },
        StreamConfig::FirstOnSecond { second, first } => StreamConfig::FirstOnSecond {
            second,
            first: FirstStage { ats: true, ..first },
        },
        other => other,
    }
}

fn first_range(tag: u16, va: u64, pages: u64) -> Invalidation {
    Invalidation::StageOneRange {
        tag: CacheTag(tag),
        asid: None,
        range: span(va, pages * PAGE),
        granule: Granule::Size4K,
        level: 0,
        leaf: true,
    }
}

#[test]
fn who_is_not_trusted_is_refused_and_costs_no_descriptor() {
    let mut rig = rig();
    assert!(rig.driver.caps().ats);
    let parent = rig.parent();
    let second = StreamConfig::StageTwo(stage_two(&parent, 3));
    rig.driver.attach(DEVICE, second).unwrap();
    assert_eq!(rig.vtd.ask(from(0), 0, true), Err(NO_REQUEST));
    assert_eq!(rig.vtd.translated(from(0), 0), Err(NO_REQUEST));
    rig.vtd.take_log();
    rig.driver
        .invalidate(&[Invalidation::Tag(CacheTag(3))])
        .unwrap();
    rig.driver.attach(DEVICE, StreamConfig::Refuse).unwrap();
    let log = rig.vtd.take_log();
    assert!(
        log.iter().all(|it| !matches!(it[0] & 0xf, 3 | 8)),
        "{log:x?}"
    );
}

#[test]
fn what_leaves_a_second_stage_leaves_the_device_after_the_iotlb() {
    let mut rig = rig();
    let mut table = rig.second();
    for page in 0..8 {
        map(&mut table, page * PAGE, RAM + page * PAGE, PAGE);
    }
    let config = trusted(StreamConfig::StageTwo(stage_two(&table, 3)));
    rig.driver.attach(DEVICE, config).unwrap();
    for page in 0..8 {
        let went = rig.vtd.translated(from(0), page * PAGE);
        assert_eq!(went, Ok(RAM + page * PAGE));
    }
    let source = u64::from(SOURCE);
    // Of so many pages: ADDR and S (6.5.2.5).
    let cuts = [(0, 1, 0), (2, 2, 0x2001), (4, 4, 0x5001)];
    for (first, count, word) in cuts {
        rig.vtd.take_log();
        let cut = table.unmap(span(first * PAGE, count * PAGE));
        let stale = Invalidation::StageTwoRange {
            tag: CacheTag(3),
            range: cut.stale(),
            leaf: cut.leaf_only(),
        };
        assert!(rig.vtd.translated(from(0), first * PAGE).is_ok());
        rig.driver.invalidate(&[stale]).unwrap();
        table.release(cut, Invalidated::complete());
        let log = rig.vtd.take_log();
        let kinds: Vec<_> = log.iter().map(|it| it[0] & 0xf).collect();
        assert_eq!(kinds, [2, 3, 5]);
        assert_eq!(log[1], [source << 32 | 1 << 16 | 3, word]);
        for page in first..first + count {
            assert_eq!(rig.vtd.translated(from(0), page * PAGE), Err(NO_SECOND));
        }
    }
    assert_eq!(
        rig.vtd.translated(from(0), PAGE),
        Ok(RAM + PAGE),
        "it keeps the rest"
    );
}

#[test]
fn what_leaves_a_first_stage_leaves_the_devices_by_pasid() {
    let mut rig = rig();
    let host = rig.first() + RAM;
    rig.enter(0, host, VA, OWN | 0x7);
    rig.enter(0, host, VA + PAGE, (OWN + PAGE) | 0x7);
    let config = trusted(StreamConfig::FirstStage {
        tag: CacheTag(5),
        first: first_stage(host),
    });
    for pasid in [0, 5, 6] {
        match pasid {
            0 => rig.driver.attach(DEVICE, config).unwrap(),
            _ => rig.driver.attach_pasid(DEVICE, pasid, config).unwrap(),
        }
        assert_eq!(rig.vtd.translated(from(pasid), VA), Ok(OWN));
        assert_eq!(rig.vtd.translated(from(pasid), VA + PAGE), Ok(OWN + PAGE));
    }
    rig.enter(0, host, VA, 0);
    rig.vtd.take_log();
    rig.driver.invalidate(&[first_range(5, VA, 1)]).unwrap();
    let log = rig.vtd.take_log();
    let kinds: Vec<_> = log.iter().map(|it| it[0] & 0xf).collect();
    assert_eq!(kinds, [6, 6, 6, 3, 8, 8, 5]);
    let source = u64::from(SOURCE);
    assert_eq!(log[3], [source << 32 | 1 << 16 | 3, VA]);
    assert_eq!(log[4], [5 << 32 | source << 16 | 1 << 4 | 8, VA]);
    for pasid in [0, 5, 6] {
        assert_eq!(rig.vtd.translated(from(pasid), VA), Err(NO_FIRST));
        assert_eq!(rig.vtd.translated(from(pasid), VA + PAGE), Ok(OWN + PAGE));
    }
}

#[test]
fn of_both_stages_all_goes_that_a_pasid_has() {
    let mut rig = rig();
    let mut parent = rig.parent();
    let guest = rig.first();
    rig.page(guest, VA, 0x1000);
    rig.page(guest, VA + PAGE, 0x2000);
    let config = trusted(on_second(&parent, 6, guest));
    rig.driver.attach_pasid(DEVICE, 5, config).unwrap();
    assert_eq!(rig.vtd.translated(from(5), VA), Ok(RAM + 0x1000));
    let cut = parent.unmap(span(0x1000, PAGE));
    let stale = Invalidation::StageTwoRange {
        tag: CacheTag(6),
        range: cut.stale(),
        leaf: false,
    };
    rig.driver.invalidate(&[stale]).unwrap();
    parent.release(cut, Invalidated::complete());
    assert_eq!(rig.vtd.translated(from(5), VA), Err(NO_SECOND));
    // One table in place of another.
    let other = rig.first();
    rig.page(other, VA + PAGE, 0x3000);
    assert_eq!(rig.vtd.translated(from(5), VA + PAGE), Ok(RAM + 0x2000));
    let config = trusted(on_second(&parent, 7, other));
    rig.driver.attach_pasid(DEVICE, 5, config).unwrap();
    assert_eq!(rig.vtd.translated(from(5), VA + PAGE), Ok(RAM + 0x3000));
    // Nothing in between passes, and nothing of before is there when it opens again.
    rig.driver.attach(DEVICE, StreamConfig::Abort).unwrap();
    assert!(rig.vtd.translated(from(5), VA + PAGE).is_err());
    rig.page(other, VA + PAGE, 0x4000);
    rig.driver
        .attach_pasid(DEVICE, 5, StreamConfig::Refuse)
        .unwrap();
    rig.driver.attach(DEVICE, StreamConfig::Refuse).unwrap();
    rig.driver.attach_pasid(DEVICE, 5, config).unwrap();
    assert_eq!(rig.vtd.translated(from(5), VA + PAGE), Ok(RAM + 0x4000));
}

#[test]
fn a_devices_pasids_are_all_cached_or_none_is() {
    let mut rig = rig();
    let parent = rig.parent();
    let plain = StreamConfig::StageTwo(stage_two(&parent, 3));
    rig.driver.attach(DEVICE, trusted(plain)).unwrap();
    assert_eq!(rig.vtd.translated(from(0), 0), Ok(RAM));
    let refused = rig.driver.attach_pasid(DEVICE, 5, plain);
    assert_eq!(refused, Err(IommuError::Unsupported));
    assert_eq!(rig.vtd.translated(from(0), 0), Ok(RAM));
    // One that has no other becomes the other.
    rig.driver.attach(DEVICE, plain).unwrap();
    assert_eq!(rig.vtd.translated(from(0), 0), Err(NO_REQUEST));
    assert_eq!(rig.reach(0, 0), Ok(RAM));
    rig.driver.attach_pasid(DEVICE, 5, plain).unwrap();
    assert_eq!(
        rig.driver.attach(DEVICE, trusted(plain)),
        Err(IommuError::Unsupported)
    );
    assert!(rig.reach(0, 0).is_err());
    assert_eq!(rig.reach(5, 0), Ok(RAM));
}

#[test]
fn a_device_that_does_not_forget_is_refused_everything() {
    let mut rig = rig();
    let parent = rig.parent();
    let config = |tag| trusted(StreamConfig::StageTwo(stage_two(&parent, tag)));
    rig.driver.attach(DEVICE, config(3)).unwrap();
    rig.driver.attach_pasid(DEVICE, 5, config(3)).unwrap();
    assert!(rig.vtd.translated(from(5), 0).is_ok());
    rig.vtd.time_out(SOURCE);
    let told = rig.driver.invalidate(&[Invalidation::Tag(CacheTag(3))]);
    assert_eq!(told, Err(IommuError::DeviceTlb(DEVICE)));
    // Its owner refuses it then; here in place of a table.
    rig.vtd.time_out(SOURCE);
    let put = rig.driver.attach_pasid(DEVICE, 5, config(4));
    assert!(put.is_err());
    assert!(rig.vtd.translated(from(5), 0).is_err());
    assert!(rig.vtd.translated(from(0), 0).is_err());
    assert!(rig.reach(0, 0).is_err());
    // It is told before it opens again.
    rig.driver.attach(DEVICE, StreamConfig::Refuse).unwrap();
    rig.driver.attach(DEVICE, config(3)).unwrap();
    assert_eq!(rig.vtd.translated(from(0), 0), Ok(RAM));
}
