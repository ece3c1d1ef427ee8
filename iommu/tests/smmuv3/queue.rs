//! The command queue: every place of it, and every way for it to stop.

use super::{stage_two, started};
use crate::fake::{Act, CMDQ_PROD, GERROR};
use iommu::addr::{Iova, Span};
use iommu::id::{CacheTag, DeviceId};
use iommu::physical::{Invalidation, IommuError, PhysicalIommu};

#[test]
fn one_batch_has_one_sync_however_long_it_is() {
    let (fake, mut smmu) = started();
    let range = |base| Invalidation::StageTwoRange {
        tag: CacheTag(3),
        range: Span::<Iova>::new(Iova(base), 0x1000).unwrap(),
        leaf: true,
    };
    smmu.invalidate(&[]).unwrap();
    assert!(fake.commands().is_empty());
    let batch = [range(0x1000), Invalidation::Tag(CacheTag(4)), range(0x7000)];
    smmu.invalidate(&batch).unwrap();
    assert_eq!(
        fake.commands(),
        [
            [0x3_0000_002a, 0x1001],
            [0x4_0000_0028, 0],
            [0x3_0000_002a, 0x7001],
            [0x46, 0]
        ]
    );
    assert_eq!(
        fake.acts()
            .iter()
            .filter(|act| matches!(act, Act::Write(CMDQ_PROD, _)))
            .count(),
        1
    );
    let long: Vec<_> = (0..1000).map(|page| range(page * 0x1000)).collect();
    smmu.invalidate(&long).unwrap();
    let commands = fake.commands();
    assert_eq!(
        commands.len(),
        1001,
        "past the end of the ring, and none lost"
    );
    assert_eq!(
        commands.iter().filter(|command| command[0] == 0x46).count(),
        1
    );
    for (page, command) in commands[..1000].iter().enumerate() {
        assert_eq!(command[1], (page as u64 * 0x1000) | 1);
    }
}

#[test]
fn every_place_in_the_ring_is_used_in_turn() {
    let (fake, mut smmu) = started();
    for tag in 1..2000u16 {
        smmu.invalidate(&[Invalidation::Tag(CacheTag(tag))])
            .unwrap();
        assert_eq!(
            fake.commands(),
            [[0x28 | u64::from(tag) << 32, 0], [0x46, 0]]
        );
    }
}

#[test]
fn a_queue_that_does_not_move_is_a_timeout_in_bounded_time() {
    let (fake, mut smmu) = started();
    fake.state().stuck = true;
    for _ in 0..200 {
        let before = fake.state().now;
        let result = smmu.invalidate(&[Invalidation::Tag(CacheTag(1))]);
        assert_eq!(result, Err(IommuError::Timeout));
        assert!(fake.state().now - before < 3_000_000_000);
        fake.acts();
        if fake.state().now > 10_000_000_000 {
            break;
        }
    }
    assert_eq!(
        smmu.attach(DeviceId(8), stage_two(1)),
        Err(IommuError::Timeout)
    );
    fake.state().stuck = false;
    assert_eq!(
        fake.state().transaction(8),
        None,
        "closed although nobody could be told"
    );
    smmu.invalidate(&[Invalidation::Tag(CacheTag(1))]).unwrap();
    fake.state().gone = true;
    assert_eq!(
        smmu.invalidate(&[Invalidation::Tag(CacheTag(1))]),
        Err(IommuError::Gone)
    );
}

#[test]
fn a_refused_command_fails_its_batch_and_the_queue_goes_on() {
    let (fake, mut smmu) = started();
    fake.state().illegal = Some(0x28);
    let batch = [
        Invalidation::Tag(CacheTag(1)),
        Invalidation::StageTwoRange {
            tag: CacheTag(2),
            range: Span::<Iova>::new(Iova(0), 0x1000).unwrap(),
            leaf: false,
        },
        Invalidation::Tag(CacheTag(3)),
    ];
    assert_eq!(smmu.invalidate(&batch), Err(IommuError::Command(1)));
    let after = fake.commands();
    assert_eq!(
        after,
        [[0x46, 0], [0x2_0000_002a, 0], [0x46, 0], [0x46, 0]],
        "the rest was done"
    );
    assert_eq!(fake.state().registers[&GERROR] & 1, 0, "toggled twice");
    fake.state().illegal = None;
    smmu.invalidate(&batch).unwrap();
}

#[test]
fn a_queue_that_cannot_be_read_is_an_error_at_once() {
    let (fake, mut smmu) = started();
    fake.state().unreadable = true;
    let result = smmu.invalidate(&[Invalidation::Tag(CacheTag(1))]);
    assert_eq!(result, Err(IommuError::Command(2)));
}
