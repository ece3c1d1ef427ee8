//! Global errors, and more events than there is room for.

use super::{CMDQ_ERR, EVENTQ_ABT_ERR, SFM_ERR};
use crate::rig::Rig;
use iommu::model::smmu::Config;
use iommu::physical::PhysicalIommu;

#[test]
fn each_global_error_is_acknowledged_and_told() {
    let mut rig = Rig::new(Config::default());
    for bit in [2, 3, 4, 5, 6, 7, 8] {
        rig.smmu.raise_global_error(1 << bit);
        let errors = rig.driver.serve_errors().unwrap();
        assert_eq!(errors.raw, 1 << bit);
        assert_eq!(errors.records_lost, 1 << bit == EVENTQ_ABT_ERR);
        assert_eq!(errors.stopped, 1 << bit == SFM_ERR);
        assert!(!errors.command);
        assert_eq!(rig.driver.serve_errors().unwrap().raw, 0);
    }
    rig.smmu.raise_global_error(EVENTQ_ABT_ERR | SFM_ERR);
    assert_eq!(
        rig.driver.serve_errors().unwrap().raw,
        EVENTQ_ABT_ERR | SFM_ERR
    );
    assert!(rig.drain().1, "lost records are told with the faults too");
    assert!(!rig.drain().1, "once");
    let _ = CMDQ_ERR;
}

#[test]
fn no_event_of_a_storm_is_lost_without_a_word() {
    let mut rig = Rig::new(Config::default());
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    let mut delivered = 0u64;
    let mut notices = 0u64;
    let mut next = 0u64;
    for burst in 0..100u64 {
        let before = rig.smmu.counters().events_lost;
        let count = 500 + burst * 10;
        for _ in 0..count {
            assert!(rig.smmu.dma_read(8, next << 12, 1).is_err());
            next += 1;
        }
        let (faults, lost) = rig.drain();
        delivered += faults.len() as u64;
        notices += u64::from(lost);
        let dropped = rig.smmu.counters().events_lost - before;
        assert_eq!(lost, dropped > 0, "burst {burst}");
        // What is kept is the oldest, in order and without a gap.
        let first = next - count;
        for (index, fault) in faults.iter().enumerate() {
            let at = fault.iova.map(|iova| iova.0 >> 12);
            assert_eq!(at, Some(first + index as u64));
        }
    }
    let counters = rig.smmu.counters();
    assert!(next > 99_000);
    assert_eq!(counters.events, next);
    assert_eq!(delivered, counters.events_written);
    assert_eq!(delivered + counters.events_lost, next);
    assert!(notices > 40);
    assert_eq!(rig.driver.counters().events, delivered);
    assert_eq!(rig.driver.counters().losses, notices);
}

#[test]
fn events_that_come_while_the_queue_is_drained_are_not_lost() {
    let mut rig = Rig::new(Config {
        event_queue_log2: 4,
        ..Config::default()
    });
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    let mut seen = 0;
    for round in 0..200u64 {
        assert!(rig.smmu.dma_read(8, round << 12, 1).is_err());
        assert!(rig.smmu.dma_read(8, round << 12, 1).is_err());
        let mut one = [iommu::smmuv3::event::decode(
            iommu::id::IommuIndex(0),
            [0; 4],
        )];
        seen += rig.driver.drain_faults(&mut one).count;
        if round % 8 == 7 {
            let (rest, lost) = rig.drain();
            assert!(!lost);
            seen += rest.len();
        }
    }
    assert_eq!(seen, 400);
}
