//! The SMMUv3 driver against a fake SMMU: what it does, in which order, and what it does not do.

mod fake;

use std::sync::Arc;

use fake::{Act, CMDQ_PROD, CR0, EVENTQ_CONS, Fake, GBPA, GERROR};
use iommu::addr::{Gpa, Hpa, Iova, Span};
use iommu::fault::{Fault, FaultReason, Stage};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{
    Drained, Granule, Invalidated, Invalidation, IommuError, PhysicalIommu, StageOneConfig,
    StageTwo, StreamConfig,
};
use iommu::smmuv3::{
    CacheTagAllocator, ContextDescriptor, ContextTable, Smmu, StageOneTable, StartError, deny_all,
    event,
};

type Driver = Smmu<Fake, Fake>;

const ROOT: u64 = 0x8_1234_5000;

fn start(fake: &Fake) -> Result<Driver, StartError> {
    Smmu::start(IommuIndex(0), fake.clone(), Arc::new(fake.clone()))
}

fn started() -> (Fake, Driver) {
    let fake = Fake::new();
    let smmu = start(&fake).expect("QEMU's SMMU is good enough");
    fake.acts();
    fake.commands();
    (fake, smmu)
}

fn stage_two(tag: u16) -> StreamConfig {
    StreamConfig::StageTwo(StageTwo {
        tag: CacheTag(tag),
        root: Hpa(ROOT),
        input_bits: 39,
        ats: false,
    })
}

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
fn all_dma_is_denied_after_three_accesses_and_before_any_allocation() {
    let fake = Fake::new();
    deny_all(&fake, || 0).unwrap();
    let abort = 1 << 31 | 1 << 20 | 1 << 12;
    assert_eq!(
        fake.acts(),
        [Act::Write(GBPA, abort), Act::Read(GBPA), Act::Read(CR0)]
    );
    assert_eq!(fake.state().transaction(8), None);

    let smmu = start(&fake).unwrap();
    let acts = fake.acts();
    let first = acts
        .iter()
        .position(|act| matches!(act, Act::Allocate(_)))
        .unwrap();
    assert_eq!(
        acts[..3],
        [Act::Write(GBPA, abort), Act::Read(GBPA), Act::Read(CR0)]
    );
    assert!(first >= 3);
    let enabled = acts
        .iter()
        .position(|act| *act == Act::Write(CR0, 0b1101))
        .unwrap();
    let tables = acts
        .iter()
        .position(|act| matches!(act, Act::Write(0x80, _)))
        .unwrap();
    let sync = acts
        .iter()
        .position(|act| matches!(act, Act::Write(CMDQ_PROD, 3)))
        .unwrap();
    assert!(
        tables < sync && sync < enabled,
        "tables, then forget everything, then translation"
    );
    assert_eq!(
        fake.state().register_of_gbpa() >> 20 & 1,
        1,
        "GBPA stays closed"
    );
    drop(smmu);
}

trait Peek {
    fn register_of_gbpa(&self) -> u64;
}

impl Peek for fake::State {
    fn register_of_gbpa(&self) -> u64 {
        self.registers[&GBPA]
    }
}

#[test]
fn an_smmu_that_firmware_left_on_goes_to_abort_without_a_gap() {
    let fake = Fake::with(CR0, 1);
    deny_all(&fake, || 0).unwrap();
    let acts = fake.acts();
    let abort = acts
        .iter()
        .position(|act| matches!(act, Act::Write(GBPA, _)))
        .unwrap();
    let off = acts
        .iter()
        .position(|act| *act == Act::Write(CR0, 0))
        .unwrap();
    assert!(abort < off);
    assert_eq!(fake.state().transaction(8), None);
}

#[test]
fn its_own_interrupts_are_wires_whatever_their_message_registers_held() {
    // IDR0.MSI; GERROR_IRQ_CFG0 and EVENTQ_IRQ_CFG0 as somebody left them.
    let fake = Fake::with(0, 0x0d44_101b | 1 << 13);
    for offset in [0x68, 0xb0] {
        fake.state().registers.insert(offset, 0x4000_0000);
    }
    let driver = start(&fake).unwrap();
    let acts = fake.acts();
    let at = |act: Act| acts.iter().position(|other| *other == act);
    let on = acts
        .iter()
        .position(|act| matches!(act, Act::Write(0x50, value) if *value != 0));
    for offset in [0x68, 0xb0] {
        let cleared = at(Act::Write(offset, 0));
        assert!(cleared.is_some() && cleared < on, "{offset:#x}");
    }
    drop(driver);
    // Without messages the registers are reserved, and left alone.
    let (fake, _driver) = started();
    assert!(!fake.state().registers.contains_key(&0x68));
}

#[test]
fn an_update_in_progress_is_waited_for() {
    let fake = Fake::with(GBPA, 1 << 31);
    fake.state().slow_updates = 5;
    deny_all(&fake, || 0).unwrap();
    assert_eq!(fake.state().transaction(8), None);
}

#[test]
fn an_update_that_never_ends_is_an_error_in_time() {
    let fake = Fake::new();
    fake.state().slow_updates = usize::MAX;
    let clock = fake.clone();
    let result = deny_all(&fake, || iommu::hal::Platform::now_ns(&clock));
    assert_eq!(result, Err(StartError::Hardware(IommuError::Timeout)));
    assert!(fake.state().now < 2_000_000_000);
}

#[test]
fn hardware_that_is_not_there_or_cannot_do_the_job_is_refused() {
    let fake = Fake::new();
    fake.state().gone = true;
    assert_eq!(start(&fake).err(), Some(StartError::NotThere(u32::MAX)));
    let cases = [
        (0x0, 0x0d44_101a, StartError::NoStageTwo(0x0d44_101a)),
        (0x0, 0x0d44_1017, StartError::NoAArch64Tables(0x0d44_1017)),
        (0x0, 0x0d64_101b, StartError::BigEndian(0x0d64_101b)),
        (0x4, 0x4273_0010, StartError::PresetTables(0x4273_0010)),
        (0x4, 0x2273_0010, StartError::PresetTables(0x2273_0010)),
        (0x4, 0x0273_0021, StartError::BadSizes(0x0273_0021)),
        (0x4, 0x0013_0010, StartError::BadSizes(0x0013_0010)),
        (0x4, 0xffff_ffff, StartError::NotThere(0x0d44_101b)),
        (0x14, 0x64, StartError::No4KibGranule(0x64)),
    ];
    for (offset, value, error) in cases {
        let fake = Fake::with(offset, value);
        assert_eq!(start(&fake).err(), Some(error));
        assert_eq!(fake.state().transaction(8), None, "refused, and closed");
    }
}

#[test]
fn a_start_without_memory_leaves_everything_closed_and_gives_all_back() {
    for budget in 0..3 {
        let fake = Fake::new();
        fake.state().budget = Some(budget);
        assert_eq!(start(&fake).err(), Some(StartError::OutOfMemory));
        assert_eq!(fake.state().freed.len(), budget);
        assert_eq!(fake.state().transaction(8), None);
    }
}

#[test]
fn a_start_that_is_never_acknowledged_ends_and_keeps_the_memory() {
    let fake = Fake::new();
    fake.state().deaf = true;
    // CR0ACK still says 0, as does IRQ_CTRLACK: the first wait that fails is for CMDQEN.
    assert_eq!(
        start(&fake).err(),
        Some(StartError::Hardware(IommuError::Timeout))
    );
    assert!(fake.state().now < 4_000_000_000, "bounded");
    assert_eq!(
        fake.acts()
            .iter()
            .filter(|act| **act == Act::Write(CR0, 0))
            .count(),
        2
    );
    assert_eq!(fake.state().transaction(8), None);
}

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
    fake.state().registers.insert(fake::EVENTQ_PROD, 0x601);
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
