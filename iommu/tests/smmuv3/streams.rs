//! What the entry of a stream becomes, by which stores and commands.

use std::sync::Arc;

use super::{ROOT, stage_two, start, started};
use crate::fake::{Act, CMDQ_PROD, Fake};
use iommu::addr::Hpa;
use iommu::id::{CacheTag, DeviceId};
use iommu::physical::{
    Granule, Invalidated, IommuError, PhysicalIommu, StageOneConfig, StageTwo, StreamConfig,
};
use iommu::smmuv3::{CacheTagAllocator, ContextDescriptor, ContextTable, StageOneTable};

#[test]
fn the_stream_table_of_65536_streams_is_small() {
    let (fake, mut smmu) = started();
    assert_eq!(smmu.counters().stream_table_bytes, 4096);
    let layout = smmu.layout();
    assert!(layout.two_level);
    assert_eq!((layout.stream_bits, layout.stream_table.len), (16, 4096));
    assert_eq!(smmu.caps().device_id_bits, 16);
    smmu.attach(DeviceId(0x8), stage_two(1)).unwrap();
    smmu.attach(DeviceId(0x10), stage_two(1)).unwrap();
    assert_eq!(smmu.counters().stream_table_bytes, 20 << 10);
    assert!(fake.state().transaction(0x8).is_some());
    assert_eq!(fake.state().transaction(0x9), None);
    assert_eq!(fake.state().transaction(0x108), None);
    // The last of the bus: the descriptor spans all of it.
    smmu.attach(DeviceId(0xff), stage_two(1)).unwrap();
    assert!(fake.state().transaction(0xff).is_some());
    assert_eq!(smmu.counters().stream_table_bytes, 20 << 10);
    // Another bus has another table, and the first one keeps its own.
    smmu.attach(DeviceId(0x108), stage_two(1)).unwrap();
    assert_eq!(smmu.counters().stream_table_bytes, 36 << 10);
    for (stream, open) in [(8, true), (9, false), (0x108, true), (0x109, false)] {
        assert_eq!(fake.state().transaction(stream).is_some(), open);
    }
}

#[test]
fn an_entry_is_filled_forgotten_and_then_opened_by_its_first_word() {
    let (fake, mut smmu) = started();
    smmu.attach(DeviceId(0x8), StreamConfig::Abort).unwrap();
    fake.acts();
    fake.commands();
    smmu.attach(DeviceId(0x8), stage_two(7)).unwrap();
    let mut acts = fake.acts();
    let base = acts.iter().find_map(|act| match act {
        Act::Store(at, _) => Some(*at - 8),
        _ => None,
    });
    let base = base.unwrap();
    acts.retain(|act| match act {
        Act::Store(at, _) => (base..base + 64).contains(at),
        Act::Write(CMDQ_PROD, _) => true,
        _ => false,
    });
    assert_eq!(
        acts,
        [
            Act::Store(base + 8, 0x1000_0000_0000),
            Act::Store(base + 16, 0x046c_3559_0000_0007),
            Act::Store(base + 24, ROOT),
            acts[3],
            Act::Store(base, 0xd),
            acts[5],
        ]
    );
    let forget = [[0x3 | 0x8 << 32, 1], [0x46, 0]];
    assert_eq!(fake.commands(), [forget, forget].concat());
    let entry = fake.state().transaction(8).unwrap();
    assert_eq!(entry[3], ROOT);
}

fn nested(tag: u16, contexts: u64) -> StreamConfig {
    let StreamConfig::StageTwo(two) = stage_two(tag) else {
        unreachable!("is one");
    };
    StreamConfig::Nested {
        stage_two: two,
        stage_one: StageOneConfig {
            contexts,
            inner: 1,
            outer: 1,
            shareability: 3,
            ..StageOneConfig::default()
        },
    }
}

#[test]
fn a_stream_changes_between_the_guests_tables_without_ever_being_refused() {
    let (fake, mut smmu) = started();
    smmu.attach(DeviceId(0x8), stage_two(7)).unwrap();
    for config in [nested(7, 0x4000), nested(7, 0x8000), stage_two(7)] {
        assert!(fake.state().transaction(8).is_some());
        fake.state().watched = Some(8);
        smmu.attach(DeviceId(0x8), config).unwrap();
        let seen = std::mem::take(&mut fake.state().seen);
        assert!(
            seen.len() > 1 && seen.iter().all(Option::is_some),
            "{seen:x?}"
        );
    }
    // Another tag and another first stage at once: not possible, so it is refused in between.
    let mut other = nested(8, 0x4000);
    if let StreamConfig::Nested { stage_two, .. } = &mut other {
        stage_two.root = Hpa(ROOT + 0x1000);
    }
    smmu.attach(DeviceId(0x8), other).unwrap();
    assert!(fake.state().seen.iter().any(Option::is_none));
    assert_eq!(fake.state().transaction(8).unwrap()[3], ROOT + 0x1000);
}

#[test]
fn a_stage_1_that_does_not_fit_the_smmu_closes_the_stream() {
    let (fake, mut smmu) = started();
    let change = |change: fn(&mut StageOneConfig)| {
        let mut config = nested(7, 0x4000);
        if let StreamConfig::Nested { stage_one, .. } = &mut config {
            change(stage_one);
        }
        config
    };
    let bad = [
        change(|one| one.contexts_log2 = 1),
        change(|one| one.format = 3),
        change(|one| one.default_context = 3),
        change(|one| one.contexts = 0x20),
        change(|one| one.contexts = 1 << 52),
        change(|one| one.no_stall = true),
        change(|one| one.ats = true),
        change(|one| one.inner = 4),
        change(|one| one.outer = 4),
        change(|one| one.shareability = 4),
    ];
    for config in bad {
        smmu.attach(DeviceId(0x8), nested(7, 0x4000)).unwrap();
        assert!(fake.state().transaction(8).is_some());
        assert_eq!(
            smmu.attach(DeviceId(0x8), config),
            Err(IommuError::Unsupported),
            "{config:?}"
        );
        assert_eq!(fake.state().transaction(8), None);
    }
}

#[test]
fn nesting_is_refused_where_an_erratum_is_against_it() {
    let fake = Fake::with(0x18, 0x4870_043b);
    let mut smmu = start(&fake).unwrap();
    assert!(!smmu.caps().nested && smmu.features().stage_one);
    assert_eq!(
        smmu.attach(DeviceId(8), nested(7, 0x4000)),
        Err(IommuError::Unsupported)
    );
}

#[test]
fn a_context_is_changed_in_one_store_where_it_can_be() {
    let (fake, mut smmu) = started();
    let platform = Arc::new(fake.clone());
    let features = smmu.features();
    let mut table = ContextTable::new(&*platform, 0, &features).unwrap();
    let stage_one = table.stage_one();
    smmu.attach(
        DeviceId(8),
        StreamConfig::StageOne {
            tag: CacheTag(1),
            stage_one,
        },
    )
    .unwrap();
    let descriptor = |root, asid| {
        let table = StageOneTable {
            asid,
            root: Hpa(root),
            input_bits: 39,
            granule: Granule::Size4K,
            attributes: 0xff,
        };
        ContextDescriptor::new(&table, &features).unwrap()
    };
    let mut stores = |descriptor: &ContextDescriptor| {
        fake.acts();
        smmu.set_context(DeviceId(8), &mut table, 0, descriptor)
            .unwrap();
        let at = |word| {
            fake.state()
                .memory
                .get(&(stage_one.contexts + word * 8))
                .copied()
        };
        for (word, value) in descriptor.0.iter().enumerate() {
            assert_eq!(at(word as u64).unwrap_or(0), *value);
        }
        let near = stage_one.contexts..stage_one.contexts + 64;
        let acts = fake.acts();
        let stored = acts
            .iter()
            .filter(|act| matches!(act, Act::Store(at, _) if near.contains(at)));
        stored.count()
    };
    assert_eq!(stores(&descriptor(0x8_0000_0000, 1)), 3);
    assert_eq!(stores(&descriptor(0x8_0000_1000, 1)), 1);
    assert_eq!(stores(&descriptor(0x8_0000_1000, 2)), 1);
    assert_eq!(
        stores(&descriptor(0x8_0000_2000, 3)),
        3,
        "closed, filled, opened"
    );
    assert_eq!(stores(&ContextDescriptor::invalid()), 3);
    let beyond = smmu.set_context(DeviceId(8), &mut table, 1, &ContextDescriptor::invalid());
    assert_eq!(beyond, Err(IommuError::Unsupported));
    fake.commands();
    smmu.set_context(DeviceId(8), &mut table, 0, &descriptor(0x8_0000_0000, 1))
        .unwrap();
    let forget = [[0x5 | 0x8 << 32, 1], [0x46, 0]];
    assert_eq!(fake.commands(), [forget, forget].concat());
    smmu.attach(DeviceId(8), StreamConfig::Abort).unwrap();
}

#[test]
fn a_stream_is_closed_by_one_store_one_command_and_one_sync() {
    let (fake, mut smmu) = started();
    smmu.attach(DeviceId(0x8), stage_two(1)).unwrap();
    assert!(fake.state().transaction(8).is_some());
    fake.acts();
    let (before, sent) = (smmu.counters(), smmu.sent());
    smmu.attach(DeviceId(0x8), StreamConfig::Abort).unwrap();
    let after = smmu.counters();
    // CMD_CFGI_STE and CMD_SYNC, and no other.
    let now = smmu.sent().into_iter().enumerate();
    let more = now.filter(|(opcode, count)| *count != sent[*opcode]);
    assert!(more.map(|(opcode, _)| opcode).eq([0x03, 0x46]));
    assert_eq!(
        (after.commands - before.commands, after.syncs - before.syncs),
        (1, 1)
    );
    assert_eq!(after.register_writes - before.register_writes, 1);
    assert_eq!(after.register_reads - before.register_reads, 1);
    assert_eq!(fake.state().transaction(8), None);
}

#[test]
fn what_does_not_fit_the_smmu_closes_the_stream() {
    let (fake, mut smmu) = started();
    let bad = [
        StageTwo {
            tag: CacheTag(1),
            root: Hpa(ROOT + 8),
            input_bits: 39,
            ats: false,
        },
        StageTwo {
            tag: CacheTag(1),
            root: Hpa(1 << 44),
            input_bits: 39,
            ats: false,
        },
        StageTwo {
            tag: CacheTag(1),
            root: Hpa(ROOT),
            input_bits: 31,
            ats: false,
        },
        StageTwo {
            tag: CacheTag(1),
            root: Hpa(ROOT),
            input_bits: 45,
            ats: false,
        },
    ];
    for two in bad {
        smmu.attach(DeviceId(0x8), stage_two(1)).unwrap();
        assert!(fake.state().transaction(8).is_some());
        let result = smmu.attach(DeviceId(0x8), StreamConfig::StageTwo(two));
        assert_eq!(result, Err(IommuError::Unsupported));
        assert_eq!(fake.state().transaction(8), None);
    }
    let result = smmu.attach(DeviceId(0x1_0000), stage_two(1));
    assert_eq!(result, Err(IommuError::NoSuchDevice(DeviceId(0x1_0000))));
}

#[test]
fn an_8_bit_vmid_is_not_exceeded() {
    let fake = Fake::with(0x0, 0x0d44_101b & !(1 << 18));
    let mut smmu = start(&fake).unwrap();
    assert_eq!(smmu.caps().cache_tag_bits, 8);
    assert_eq!(
        smmu.attach(DeviceId(8), stage_two(0x100)),
        Err(IommuError::Unsupported)
    );
}

#[test]
fn a_level_2_table_that_cannot_be_allocated_leaves_the_stream_refused() {
    let (fake, mut smmu) = started();
    fake.state().budget = Some(0);
    assert_eq!(
        smmu.attach(DeviceId(8), stage_two(1)),
        Err(IommuError::OutOfMemory)
    );
    assert_eq!(fake.state().transaction(8), None);
    fake.state().budget = None;
    smmu.attach(DeviceId(8), stage_two(1)).unwrap();
}

#[test]
fn a_linear_table_serves_where_there_is_no_other() {
    let fake = Fake::with(0x0, 0x0544_101b);
    let mut smmu = start(&fake).unwrap();
    assert_eq!(smmu.counters().stream_table_bytes, 4 << 20);
    assert!(!smmu.layout().two_level);
    smmu.attach(DeviceId(0xffff), stage_two(1)).unwrap();
    assert!(fake.state().transaction(0xffff).is_some());
    assert_eq!(fake.state().transaction(0xfffe), None);
}

#[test]
fn an_smmu_that_does_not_snoop_has_every_store_cleaned() {
    let fake = Fake::with(0x0, 0x0d44_101b & !(1 << 4));
    let mut smmu = start(&fake).unwrap();
    smmu.attach(DeviceId(8), stage_two(1)).unwrap();
    smmu.attach(DeviceId(8), stage_two(2)).unwrap();
    let mut dirty = std::collections::BTreeSet::new();
    let acts = fake.acts();
    // The zeroes of what was allocated: the level 1 table, and the level 2 table before anything leads to it.
    for bytes in [4 << 10, 16 << 10] {
        let zeroes = |act: &&Act| matches!(act, Act::Clean(_, len) if *len == bytes);
        assert!(acts.iter().any(|act| zeroes(&act)), "{bytes} bytes");
    }
    for act in acts {
        match act {
            Act::Store(at, _) => {
                dirty.insert(at);
            }
            Act::Clean(at, len) => dirty.retain(|dirty| !(at..at + len as u64).contains(dirty)),
            Act::Barrier | Act::Write(..) => assert!(dirty.is_empty(), "{dirty:x?} not cleaned"),
            _ => {}
        }
    }
    let walks = fake.state().transaction(8).unwrap()[2] >> 40 & 0x3f;
    assert_eq!(walks, 0b10_0000, "non-cacheable, outer shareable");
}

#[test]
fn an_smmu_that_snoops_costs_no_clean() {
    let (fake, mut smmu) = started();
    smmu.attach(DeviceId(8), stage_two(1)).unwrap();
    smmu.attach(DeviceId(8), stage_two(2)).unwrap();
    let acts = fake.acts();
    assert!(acts.iter().any(|act| matches!(act, Act::Store(..))));
    assert!(!acts.iter().any(|act| matches!(act, Act::Clean(..))));
}

#[test]
fn an_attach_that_the_smmu_refuses_ends_closed() {
    let (fake, mut smmu) = started();
    fake.state().illegal = Some(0x03);
    assert_eq!(
        smmu.attach(DeviceId(8), stage_two(1)),
        Err(IommuError::Command(1))
    );
    fake.state().illegal = None;
    fake.state().cached.clear();
    assert_eq!(fake.state().transaction(8), None);
}

#[test]
fn a_dropped_driver_leaves_the_smmu_refusing() {
    let (fake, mut smmu) = started();
    smmu.attach(DeviceId(8), stage_two(1)).unwrap();
    drop(smmu);
    assert_eq!(fake.state().transaction(8), None);
    assert_eq!(fake.state().freed.len(), 4, "both queues, two tables");
    let (fake, smmu) = started();
    fake.state().gone = true;
    drop(smmu);
    assert!(fake.state().freed.is_empty(), "it may still read them");
}

#[test]
fn a_tag_that_was_forgotten_comes_back() {
    let (_, smmu) = started();
    let mut tags = CacheTagAllocator::new(smmu.caps().cache_tag_bits);
    let all: Vec<_> = std::iter::from_fn(|| tags.allocate()).collect();
    assert_eq!(all.len(), 255);
    assert!(!all.contains(&CacheTag(0)));
    tags.free(CacheTag(9), Invalidated::complete());
    assert_eq!(tags.allocate(), Some(CacheTag(9)));
}
