//! Which invalidation takes what from which cache, as a table; sets of caches.

use alloc::vec::Vec;

use super::{DeviceCache, DeviceCaches, device_range_of};
use crate::addr::{Iova, Span};
use crate::id::{CacheTag, DeviceId};
use crate::physical::{Granule, HOST, Invalidation, StageTwo, StreamConfig};

const ONE: DeviceId = DeviceId(0x108);
const TWO: DeviceId = DeviceId(0x110);
const TAG: CacheTag = CacheTag(7);

/// What `device` may have of a second stage under `tag`.
fn second(device: DeviceId, tag: CacheTag) -> DeviceCache {
    let config = StreamConfig::StageTwo(StageTwo {
        tag,
        root: crate::addr::Hpa(0x1000),
        input_bits: 40,
        ats: true,
    });
    DeviceCache::of(&config, device).expect("it has ATS")
}

fn span(base: u64, len: u64) -> Span<Iova> {
    Span {
        base: Iova(base),
        len,
    }
}

fn stage_one_range(tag: CacheTag, asid: Option<u16>) -> Invalidation {
    Invalidation::StageOneRange {
        tag,
        asid,
        range: span(0x5000, 0x1000),
        granule: Granule::Size4K,
        level: 3,
        leaf: true,
    }
}

fn stage_one_address(tag: CacheTag, asid: Option<u16>) -> Invalidation {
    Invalidation::StageOneAddress {
        tag,
        asid,
        address: Iova(0x5000),
        leaf: true,
    }
}

#[test]
fn each_invalidation_cuts_what_it_is_about_and_nothing_else() {
    let two = |tag| Invalidation::StageTwoRange {
        tag,
        range: span(0x5000, 0x1000),
        leaf: true,
    };
    let space = |tag, asid| Invalidation::AddressSpace { tag, asid };
    // Of a second stage under TAG, of one under HOST's tag, of a context with ASID 3: whether it goes.
    let rows = [
        (two(TAG), [true, false, false]),
        (two(HOST), [false, true, false]),
        (Invalidation::Tag(TAG), [true, false, false]),
        (Invalidation::Tag(HOST), [false, true, true]),
        (Invalidation::StageOne(TAG), [false; 3]),
        (Invalidation::StageOne(HOST), [false, false, true]),
        (space(TAG, 3), [false; 3]),
        (space(HOST, 3), [false, false, true]),
        (space(HOST, 4), [false; 3]),
        (stage_one_address(TAG, Some(3)), [false; 3]),
        (stage_one_address(TAG, None), [false; 3]),
        (stage_one_address(HOST, None), [false, false, true]),
        (stage_one_address(HOST, Some(3)), [false, false, true]),
        (stage_one_address(HOST, Some(4)), [false; 3]),
        (stage_one_range(HOST, None), [false, false, true]),
        (stage_one_range(HOST, Some(4)), [false; 3]),
        (Invalidation::Contexts(ONE), [false; 3]),
        (Invalidation::Device(ONE), [false; 3]),
    ];
    let caches = [
        second(ONE, TAG),
        second(ONE, HOST),
        DeviceCache::context(ONE, 1, 3),
    ];
    for (entry, cut) in rows {
        assert_eq!(caches.map(|it| it.is_cut(&entry)), cut, "{entry:?}");
        assert_eq!(caches.map(|it| it.concerns(&[entry])), cut, "{entry:?}");
    }
    assert_eq!(
        caches.map(|it| it.is_context()),
        [false, false, true],
        "of the host's own"
    );
}

#[test]
fn what_is_asked_of_a_device_concerns_that_device() {
    let own = [
        Invalidation::DeviceTlb {
            device: ONE,
            pasid: None,
            range: None,
        },
        Invalidation::DeviceTlbOfPasids {
            device: ONE,
            range: None,
        },
    ];
    for entry in own {
        assert!(second(ONE, TAG).concerns(&[entry]));
        assert!(!second(TWO, TAG).concerns(&[entry]));
        assert!(second(TWO, TAG).concerns(&[entry, Invalidation::Tag(TAG)]));
    }
    assert!(!second(ONE, TAG).concerns(&[]));
}

#[test]
fn a_range_of_nothing_is_a_page_and_not_everything() {
    assert_eq!(device_range_of(span(0x5678, 0)), Some((Iova(0x5000), 0)));
    assert_eq!(
        device_range_of(span(0x5000, 0x1000)),
        Some((Iova(0x5000), 0))
    );
    assert_eq!(
        device_range_of(span(0x5000, 0x2000)),
        Some((Iova(0x4000), 2))
    );
}

#[test]
fn a_context_in_place_of_another_is_all_that_is_left_at_its_pasid() {
    let kept = |pasid, asid| {
        let mut caches = DeviceCaches::default();
        let all = [
            second(ONE, TAG),
            DeviceCache::context(ONE, 0, 3),
            DeviceCache::context(ONE, 1, 3),
            DeviceCache::context(ONE, 1, 4),
            DeviceCache::context(ONE, 2, 3),
            DeviceCache::context(TWO, 1, 3),
        ];
        for cache in all {
            assert_eq!(caches.add(cache), Ok(true));
            assert_eq!(caches.add(cache), Ok(false));
        }
        caches.retain_context(ONE, pasid, asid);
        all.map(|it| caches.0.contains(&it))
    };
    assert_eq!(kept(1, Some(4)), [true, true, false, true, true, true]);
    assert_eq!(kept(1, None), [true, true, false, false, true, true]);
    assert_eq!(kept(0, None), [true, false, true, true, true, true]);
    assert_eq!(kept(9, Some(3)), [true; 6]);
}

#[test]
fn they_are_gone_through_in_order_and_each_once() {
    let mut caches = DeviceCaches::default();
    let all = [
        DeviceCache::context(TWO, 1, 3),
        second(ONE, TAG),
        DeviceCache::context(ONE, 2, 3),
        DeviceCache::context(ONE, 1, 3),
    ];
    for cache in all {
        assert_eq!(caches.add(cache), Ok(true));
    }
    let walk = |wanted: fn(&DeviceCache) -> bool| {
        let mut seen = Vec::new();
        let mut last = None;
        // One more than there are, so that a walk that does not end is seen.
        while let Some(cache) = caches.next(last, wanted)
            && seen.len() <= all.len()
        {
            seen.push(cache);
            last = Some(cache);
        }
        seen
    };
    let mut sorted = all.to_vec();
    sorted.sort();
    assert_eq!(walk(|_| true), sorted);
    let contexts: Vec<_> = sorted
        .iter()
        .copied()
        .filter(DeviceCache::is_context)
        .collect();
    assert_eq!(contexts.len(), 3);
    assert_eq!(walk(DeviceCache::is_context), contexts);
    // By devices: each that has something of the batch.
    let batch = [Invalidation::AddressSpace { tag: HOST, asid: 3 }];
    assert_eq!(caches.next_device(None, &batch), Some(ONE));
    assert_eq!(caches.next_device(Some(ONE), &batch), Some(TWO));
    assert_eq!(caches.next_device(Some(TWO), &batch), None);
    let batch = [Invalidation::Tag(TAG)];
    assert_eq!(caches.next_device(None, &batch), Some(ONE));
    assert_eq!(caches.next_device(Some(ONE), &batch), None);
    assert!(caches.has(ONE) && caches.has(TWO) && !caches.has(DeviceId(0)));
}
