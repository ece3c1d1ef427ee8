//! What a PASID reaches, and what is forgotten of it.

use iommu::addr::Hpa;
use iommu::fault::{FaultReason, Stage};
use iommu::id::{CacheTag, IommuIndex};
use iommu::model::vtd::{Config, Denied};
use iommu::physical::{
    Drained, FirstStage, Granule, Invalidated, Invalidation, IommuError, PhysicalIommu,
    StreamConfig,
};
use iommu::table::SecondStageAttributes;
use iommu::vtd::event;

use super::{
    DEVICE, NO_FIRST, NO_PASID, NO_SECOND, NO_TABLE, OWN, PAGE, RAM, Rig, first_stage, from, map,
    on_second, span, stage_two,
};

const VA: u64 = 0x7f12_3456_7000;

fn forgotten(tag: u16, va: u64, leaf: bool) -> Invalidation {
    Invalidation::StageOneRange {
        tag: CacheTag(tag),
        asid: None,
        range: span(va, PAGE),
        granule: Granule::Size4K,
        level: 0,
        leaf,
    }
}

#[test]
fn each_pasid_goes_through_a_table_of_its_own_kind() {
    for coherent in [true, false] {
        let mut rig = Rig::new(Config {
            coherent,
            ..Config::nesting()
        });
        assert!(rig.driver.caps().nested);
        assert_eq!(rig.driver.caps().pasid_bits, 15);
        let parent = rig.parent();
        let mut second = rig.second();
        map(&mut second, 0x5000, OWN, PAGE);
        let guest = rig.first();
        // With its flags set: a walk that does not snoop may not set them.
        rig.enter(RAM, guest, VA, 0x2_0067);
        let host = rig.first() + RAM;
        rig.enter(0, host, VA, OWN + 0x3067);
        let flags = |rig: &Rig, base, root: u64| {
            let mut table = root;
            for level in (1..4).rev() {
                let at = base + table + (VA >> (12 + 9 * level) & 511) * 8;
                let entry = rig.memory.device_read(at, true).unwrap();
                rig.memory.device_write(at, entry | 0x20, true).unwrap();
                table = entry & !0xfff;
            }
        };
        flags(&rig, RAM, guest);
        flags(&rig, 0, host);
        let driver = &mut rig.driver;
        driver
            .attach(DEVICE, StreamConfig::StageTwo(stage_two(&parent, 3)))
            .unwrap();
        driver
            .attach_pasid(DEVICE, 1, StreamConfig::StageTwo(stage_two(&second, 4)))
            .unwrap();
        let first = first_stage(host);
        let own = StreamConfig::FirstStage {
            tag: CacheTag(5),
            first,
        };
        driver.attach_pasid(DEVICE, 0x7fff, own).unwrap();
        driver
            .attach_pasid(DEVICE, 77, on_second(&parent, 6, guest))
            .unwrap();
        assert_eq!(rig.reach(0, 0x1008), Ok(RAM + 0x1008));
        assert_eq!(rig.reach(1, 0x5008), Ok(OWN + 8));
        assert_eq!(rig.reach(0x7fff, VA + 8), Ok(OWN + 0x3008));
        assert_eq!(rig.reach(77, VA + 8), Ok(RAM + 0x2_0008));
        // Without an entry, without a table, past what the directory has.
        assert_eq!(rig.reach(2, 0x5000), Err(NO_PASID));
        assert_eq!(rig.reach(0x100, 0x5000), Err(NO_TABLE));
        assert_eq!(rig.reach(0x8000, 0x5000), Err(Denied::Fault(0x46)));
        // Each reaches its own.
        assert_eq!(rig.reach(1, 0x1000), Err(NO_SECOND));
        assert_eq!(rig.reach(77, 0x1000), Err(NO_FIRST));
        assert_eq!(rig.reach(0x7fff, 0x5000), Err(NO_FIRST));
        let nothing = StreamConfig::Refuse;
        rig.driver.attach_pasid(DEVICE, 1, nothing).unwrap();
        assert_eq!(rig.reach(1, 0x5008), Err(NO_PASID));
        rig.driver.attach(DEVICE, nothing).unwrap();
        assert_eq!(rig.reach(0, 0x1008), Err(NO_PASID));
        assert_eq!(rig.reach(77, VA + 8), Ok(RAM + 0x2_0008));
        rig.driver.attach_pasid(DEVICE, 77, nothing).unwrap();
        rig.driver.attach_pasid(DEVICE, 0x7fff, nothing).unwrap();
        // Nothing is left: the context goes too.
        assert_eq!(rig.reach(77, VA), Err(Denied::Fault(0x41)));
    }
}

#[test]
fn records_have_the_pasid() {
    let mut rig = Rig::new(Config::nesting());
    let parent = rig.parent();
    let guest = rig.first();
    rig.page(guest, VA, 0x4000_0000);
    rig.driver
        .attach_pasid(DEVICE, 5, on_second(&parent, 6, guest))
        .unwrap();
    assert_eq!(rig.reach(5, VA + PAGE), Err(NO_FIRST));
    assert_eq!(rig.reach(5, VA), Err(NO_SECOND), "past the guest's memory");
    assert_eq!(rig.reach(5, 1 << 47), Err(Denied::Fault(0x80)));
    let privileged = rig.vtd.translate_as(from(5).privileged(), VA, false);
    assert_eq!(privileged, Err(Denied::Fault(0x5d)));
    let mut faults = [event::decode(IommuIndex(0), [0; 2]); 4];
    let Drained { count, .. } = rig.driver.drain_faults(&mut faults);
    assert_eq!(count, 4);
    let found = faults.map(|it| (it.pasid, it.reason, it.stage));
    let (one, two) = (Stage::One, Stage::Two);
    assert_eq!(found[0], (Some(5), FaultReason::Translation, one));
    assert_eq!(found[1], (Some(5), FaultReason::Translation, two));
    assert_eq!(found[2], (Some(5), FaultReason::AddressSize, one));
    assert_eq!(found[3].1, FaultReason::BadContext);
    assert!(faults[3].privileged && !faults[3].write);
}

#[test]
fn what_a_guest_takes_away_is_gone_when_it_was_told() {
    let mut rig = Rig::new(Config::nesting());
    let parent = rig.parent();
    let roots = [rig.first(), rig.first()];
    for (at, root) in roots.iter().enumerate() {
        rig.page(*root, VA, 0x1_0000 + at as u64 * PAGE);
        rig.page(*root, VA + PAGE, 0x2_0000);
    }
    // One table at two PASIDs; another under a domain of its own.
    for (pasid, tag, root) in [(1, 6, roots[0]), (2, 6, roots[0]), (3, 7, roots[1])] {
        let config = on_second(&parent, tag, root);
        rig.driver.attach_pasid(DEVICE, pasid, config).unwrap();
    }
    let warm = |rig: &Rig| [1, 2, 3].map(|pasid| rig.reach(pasid, VA));
    assert_eq!(
        warm(&rig),
        [Ok(RAM + 0x1_0000), Ok(RAM + 0x1_0000), Ok(RAM + 0x1_1000)]
    );
    for root in roots {
        rig.enter(RAM, root, VA, 0);
    }
    assert!(warm(&rig).iter().all(Result::is_ok), "nobody was told");
    rig.vtd.take_log();
    rig.driver.invalidate(&[forgotten(6, VA, true)]).unwrap();
    // A descriptor of both PASIDs (6.5.2.4: page-selective, IH), and a wait.
    let log = rig.vtd.take_log();
    let expected = [1, 2].map(|pasid: u64| [pasid << 32 | 6 << 16 | 3 << 4 | 6, VA | 1 << 6]);
    assert_eq!(log[..2], expected);
    assert_eq!(log.len(), 3);
    assert_eq!(
        warm(&rig),
        [Err(NO_FIRST), Err(NO_FIRST), Ok(RAM + 0x1_1000)]
    );
    rig.driver
        .invalidate(&[Invalidation::StageOne(CacheTag(7))])
        .unwrap();
    assert_eq!(rig.reach(3, VA), Err(NO_FIRST));
    assert_eq!(rig.vtd.take_log()[0], [3 << 32 | 7 << 16 | 2 << 4 | 6, 0]);
    // A table on the way goes only without IH.
    assert_eq!(rig.reach(3, VA + PAGE), Ok(RAM + 0x2_0000));
    let top = RAM + roots[1] + (VA >> 39 & 511) * 8;
    rig.memory.device_write(top, 0, true).unwrap();
    rig.driver
        .invalidate(&[forgotten(7, VA + PAGE, true)])
        .unwrap();
    assert!(rig.reach(3, VA + PAGE).is_ok());
    rig.driver
        .invalidate(&[forgotten(7, VA + PAGE, false)])
        .unwrap();
    assert_eq!(rig.reach(3, VA + PAGE), Err(NO_FIRST));
    // Domains that nobody has take no descriptor.
    rig.vtd.take_log();
    let nobody = [
        Invalidation::StageOne(CacheTag(8)),
        Invalidation::StageOne(CacheTag(9)),
    ];
    rig.driver.invalidate(&nobody).unwrap();
    assert!(rig.vtd.take_log().is_empty());
}

#[test]
fn what_the_host_takes_away_is_gone_from_both_stages() {
    let mut rig = Rig::new(Config::nesting());
    let mut parent = rig.parent();
    let guest = rig.first();
    rig.page(guest, VA, 0x1_0000);
    rig.page(guest, VA + PAGE, 0x1_1000);
    rig.driver
        .attach(DEVICE, on_second(&parent, 6, guest))
        .unwrap();
    assert_eq!(rig.reach(0, VA), Ok(RAM + 0x1_0000));
    assert_eq!(rig.reach(0, VA + PAGE), Ok(RAM + 0x1_1000));
    let cut = parent.unmap(span(0x1_0000, PAGE));
    let stale = Invalidation::StageTwoRange {
        tag: CacheTag(6),
        range: cut.stale(),
        leaf: false,
    };
    assert_eq!(rig.reach(0, VA), Ok(RAM + 0x1_0000), "nobody was told");
    rig.driver.invalidate(&[stale]).unwrap();
    parent.release(cut, Invalidated::complete());
    assert_eq!(rig.reach(0, VA), Err(NO_SECOND));
    assert_eq!(rig.reach(0, VA + PAGE), Ok(RAM + 0x1_1000));
    // The table itself: a fault of its reading.
    let tables = rig.tables.get();
    let cut = parent.unmap(span(tables, RAM - RAM + 8 * PAGE));
    let stale = Invalidation::StageTwoRange {
        tag: CacheTag(6),
        range: cut.stale(),
        leaf: cut.leaf_only(),
    };
    rig.driver
        .invalidate(&[stale, Invalidation::Tag(CacheTag(6))])
        .unwrap();
    parent.release(cut, Invalidated::complete());
    assert_eq!(rig.reach(0, VA + PAGE), Err(Denied::Fault(0x75)));
    // What may be read only does not take the flags that a walk sets.
    let reads = SecondStageAttributes {
        write: false,
        ..SecondStageAttributes::DMA
    };
    parent
        .map(span(tables, 8 * PAGE), Hpa(RAM + tables), reads)
        .unwrap();
    rig.page(guest, VA + PAGE, 0x1_1000);
    assert_eq!(rig.reach(0, VA + PAGE), Err(Denied::Fault(0x77)));
}

#[test]
fn a_silent_device_is_silent_at_all_its_pasids() {
    let mut rig = Rig::new(Config::nesting());
    let parent = rig.parent();
    let config = |tag| StreamConfig::StageTwo(stage_two(&parent, tag));
    for pasid in 0..40 {
        match pasid {
            0 => rig.driver.attach(DEVICE, config(3)).unwrap(),
            _ => rig.driver.attach_pasid(DEVICE, pasid, config(3)).unwrap(),
        }
        assert!(rig.reach(pasid, 0).is_ok());
    }
    let closed = Err(Denied::Fault(0x41));
    rig.driver.attach(DEVICE, StreamConfig::Abort).unwrap();
    let mut faults = [event::decode(IommuIndex(0), [0; 2]); 4];
    for pasid in 0..40 {
        assert_eq!(rig.reach(pasid, 0), closed);
    }
    // What changes meanwhile is in force afterwards.
    rig.driver.attach_pasid(DEVICE, 50, config(3)).unwrap();
    rig.driver
        .attach_pasid(DEVICE, 7, StreamConfig::Refuse)
        .unwrap();
    assert_eq!(rig.reach(50, 0), closed);
    assert_eq!(rig.driver.drain_faults(&mut faults).count, 0);
    rig.driver.attach(DEVICE, StreamConfig::Refuse).unwrap();
    for (pasid, reached) in [
        (0, Err(NO_PASID)),
        (1, Ok(RAM)),
        (7, Err(NO_PASID)),
        (39, Ok(RAM)),
        (50, Ok(RAM)),
    ] {
        assert_eq!(rig.reach(pasid, 0), reached, "{pasid}");
    }
    rig.driver.drain_faults(&mut faults);
    // One PASID that is silent.
    rig.driver
        .attach_pasid(DEVICE, 39, StreamConfig::Abort)
        .unwrap();
    assert_eq!(rig.reach(39, 0), Err(NO_PASID));
    assert_eq!(rig.driver.drain_faults(&mut faults).count, 0);
}

#[test]
fn what_the_unit_lacks_is_refused() {
    let parent_of = |rig: &Rig| rig.parent();
    let mut rig = Rig::new(Config::nesting());
    let parent = parent_of(&rig);
    let guest = rig.first();
    rig.page(guest, VA, 0x1_0000);
    let good = first_stage(guest);
    let bad = [
        FirstStage {
            input_bits: 57,
            ..good
        },
        FirstStage {
            input_bits: 39,
            ..good
        },
        FirstStage {
            root: guest + 8,
            ..good
        },
        FirstStage {
            root: 1 << 39,
            ..good
        },
        FirstStage {
            supervisor: true,
            ..good
        },
        FirstStage {
            extended_accessed: true,
            ..good
        },
        FirstStage { ats: true, ..good },
    ];
    let second = stage_two(&parent, 6);
    let config = |first| StreamConfig::FirstOnSecond { second, first };
    rig.driver.attach_pasid(DEVICE, 4, config(good)).unwrap();
    for first in bad {
        rig.driver.attach_pasid(DEVICE, 4, config(good)).unwrap();
        assert!(rig.reach(4, VA).is_ok());
        let refused = rig.driver.attach_pasid(DEVICE, 4, config(first));
        assert_eq!(refused, Err(IommuError::Unsupported), "{first:?}");
        assert!(rig.reach(4, VA).is_err(), "{first:?}");
    }
    for (pasid, tag) in [(0, 6), (0x8000, 6), (1, 0)] {
        let second = stage_two(&parent, tag);
        let refused = rig.driver.attach_pasid(
            DEVICE,
            pasid,
            StreamConfig::FirstOnSecond {
                second,
                first: good,
            },
        );
        assert_eq!(refused, Err(IommuError::Unsupported), "{pasid} {tag}");
    }
    // All of it where the unit has it.
    let mut rig = Rig::new(Config {
        five_levels: true,
        supervisor: true,
        extended_accessed: true,
        ..Config::nesting()
    });
    let parent = parent_of(&rig);
    let guest = rig.first();
    rig.page(guest, VA, 0x1_0000);
    // A root above it, whose first entry leads there; a page for privileged requests alone.
    let top = rig.first();
    rig.memory
        .device_write(RAM + top, guest | 0x7, true)
        .unwrap();
    rig.enter(RAM, guest, VA + PAGE, 0x1_1000 | 0x1);
    let first = FirstStage {
        root: top,
        input_bits: 57,
        supervisor: true,
        write_protect: true,
        extended_accessed: true,
        ats: false,
    };
    let second = stage_two(&parent, 6);
    rig.driver
        .attach_pasid(DEVICE, 9, StreamConfig::FirstOnSecond { second, first })
        .unwrap();
    assert_eq!(rig.reach(9, VA), Ok(RAM + 0x1_0000));
    assert_eq!(rig.reach(9, VA + PAGE), Err(Denied::Fault(0x81)));
    let privileged = |write| rig.vtd.translate_as(from(9).privileged(), VA + PAGE, write);
    assert_eq!(privileged(false), Ok(RAM + 0x1_1000));
    assert_eq!(privileged(true), Err(Denied::Fault(0x85)), "WPE");
}

/// Whatever allocation fails, the PASID is refused, the others go on, and it works once there is memory.
#[test]
fn any_allocation_may_fail() {
    for nth in 0.. {
        let mut rig = Rig::new(Config::nesting());
        let parent = rig.parent();
        let guest = rig.first();
        rig.page(guest, VA, 0x1_0000);
        rig.memory.fail_allocation(nth, false);
        let mut failed = 0;
        for (pasid, tag) in [(0, 3), (5, 4), (0x100, 5)] {
            let config = on_second(&parent, tag, guest);
            let attached = match pasid {
                0 => rig.driver.attach(DEVICE, config),
                _ => rig.driver.attach_pasid(DEVICE, pasid, config),
            };
            if attached.is_err() {
                assert_eq!(attached, Err(IommuError::OutOfMemory));
                failed += 1;
            }
            assert_eq!(rig.reach(pasid, VA).is_ok(), attached.is_ok(), "{nth}");
        }
        rig.memory.heal();
        assert!(failed <= 1);
        for (pasid, tag) in [(5, 4), (0x100, 5)] {
            let config = on_second(&parent, tag, guest);
            rig.driver.attach_pasid(DEVICE, pasid, config).unwrap();
            assert_eq!(rig.reach(pasid, VA), Ok(RAM + 0x1_0000));
        }
        if failed == 0 {
            assert_eq!(nth, 5, "context table, spare, directory, two tables");
            return;
        }
    }
}

/// The driver's own 64 bytes, by what Linux's `pasid.h` sets where (`pasid_set_*`).
#[test]
fn entries_are_those_of_linux() {
    let mut rig = Rig::new(Config {
        five_levels: true,
        supervisor: true,
        extended_accessed: true,
        ..Config::nesting()
    });
    let parent = rig.parent();
    let first = FirstStage {
        root: 0x1234_5000,
        input_bits: 57,
        supervisor: true,
        write_protect: true,
        extended_accessed: true,
        ats: false,
    };
    let second = stage_two(&parent, 0x42);
    let attached =
        rig.driver
            .attach_pasid(DEVICE, 67, StreamConfig::FirstOnSecond { second, first });
    attached.unwrap();
    let load = |at| rig.memory.load(at);
    let context = load(load(rig.driver.layout().root.base.0 + 3 * 16) & !0xfff | (0x10 << 5));
    // P, PASIDE, PDTS 2 of `context_*`.
    assert_eq!(context & 0xfff, 1 | 1 << 3 | 2 << 9);
    // PASID 67: the second table, its fourth entry.
    let table = load((context & !0xfff) + 8);
    assert_eq!(table & 0xfff, 1);
    let entry = (table & !0xfff) + 3 * 64;
    let words: Vec<_> = (0..8).map(|word| load(entry + word * 8)).collect();
    let root = parent.root().0;
    // AW 1 (39 bits), PGTT 3; DID and PWSNP; SRE, FLPM 1, WPE, EAFE.
    assert_eq!(words[0], root | 3 << 6 | 1 << 2 | 1);
    assert_eq!(words[1], 0x42 | 1 << 23);
    assert_eq!(words[2], 0x1234_5000 | 1 << 7 | 1 << 4 | 1 << 2 | 1);
    assert_eq!(words[3..], [0; 5]);
}
