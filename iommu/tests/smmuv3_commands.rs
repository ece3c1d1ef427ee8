//! Batches of commands of the SMMUv3 driver against a fake SMMU: what is sent, what is complete, who fails.

mod fake;

use std::sync::Arc;

use fake::{Fake, GERROR};
use iommu::addr::{Hpa, Iova, Span};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{
    Granule, Incomplete, Invalidation, IommuError, PhysicalIommu, StageOneConfig, StageTwo,
    StreamConfig,
};
use iommu::smmuv3::{Smmu, StartError};

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

/// Entries of which each kind takes another number of commands, none at all among them.
fn mixed() -> Vec<Invalidation> {
    let tag = CacheTag(3);
    let range = |pages: u64| Span::<Iova>::new(Iova(0x40_0000), pages << 12).unwrap();
    vec![
        Invalidation::Tag(tag),
        Invalidation::StageTwoRange {
            tag,
            range: range(33),
            leaf: true,
        },
        Invalidation::AddressSpace { tag, asid: 4 },
        Invalidation::StageTwoRange {
            tag,
            range: range(0),
            leaf: true,
        },
        Invalidation::StageOneRange {
            tag,
            asid: None,
            range: range(1023),
            granule: Granule::Size4K,
            level: 0,
            leaf: false,
        },
        Invalidation::Contexts(DeviceId(8)),
        Invalidation::Device(DeviceId(8)),
    ]
}

#[test]
fn the_number_of_complete_entries_is_exact_wherever_a_command_is_refused() {
    let batch = mixed();
    let (fake, mut smmu) = started();
    let mut owner = Vec::new();
    for (index, entry) in batch.iter().enumerate() {
        smmu.submit(std::slice::from_ref(entry)).unwrap();
        let commands = fake.commands().len() - 1;
        owner.extend(std::iter::repeat_n(index, commands));
    }
    assert_eq!(owner, [0, 1, 1, 2, 4, 4, 5, 6]);
    for code in [1, 0x7f] {
        for (place, index) in owner.iter().enumerate() {
            fake.state().refuse = Some((place, code));
            let result = smmu.submit(&batch);
            let incomplete = Incomplete {
                complete: *index,
                error: IommuError::Command(code as u8),
            };
            assert_eq!(result, Err(incomplete), "command {place}");
            assert_eq!(fake.commands().len(), owner.len() + 1, "the rest was done");
        }
    }
    // Fetches that fail for a while are read again; CERROR_NONE is nothing.
    for code in [0, 2] {
        for place in 0..=owner.len() {
            fake.state().refuse = Some((place, code));
            smmu.submit(&batch).unwrap();
            assert_eq!(fake.commands().len(), owner.len() + 1);
        }
    }
    assert_eq!(smmu.counters().refusals, 2 * owner.len() as u64);
}

#[test]
fn what_was_consumed_without_its_sync_is_not_complete() {
    let batch = mixed();
    let (fake, mut smmu) = started();
    for credits in [0, 1, 5, 8] {
        fake.state().credits = Some(credits);
        let incomplete = Incomplete {
            complete: 0,
            error: IommuError::Timeout,
        };
        assert_eq!(smmu.submit(&batch), Err(incomplete));
        // The rest is consumed later, and is nobody else's completion.
        fake.state().credits = None;
        fake.commands();
        smmu.submit(&[Invalidation::Tag(CacheTag(9))]).unwrap();
        let commands = fake.commands();
        assert_eq!(
            commands[commands.len() - 2..],
            [[0x9_0000_0028, 0], [0x46, 0]]
        );
    }
}

#[test]
fn an_entry_that_the_smmu_has_no_command_for_stops_the_batch_before_it() {
    let (fake, mut smmu) = started();
    let bad = [
        (
            Invalidation::DeviceTlb {
                device: DeviceId(8),
                pasid: None,
                range: None,
            },
            IommuError::Unsupported,
        ),
        (
            Invalidation::Context {
                device: DeviceId(8),
                pasid: 1,
                leaf: true,
            },
            IommuError::Unsupported,
        ),
        (
            Invalidation::Device(DeviceId(0x1_0000)),
            IommuError::NoSuchDevice(DeviceId(0x1_0000)),
        ),
    ];
    for (entry, error) in bad {
        let good = Invalidation::Tag(CacheTag(1));
        let result = smmu.submit(&[good, good, entry, good]);
        assert_eq!(result, Err(Incomplete { complete: 2, error }));
        assert_eq!(fake.commands().len(), 3);
        assert_eq!(
            smmu.submit(&[entry]),
            Err(Incomplete { complete: 0, error })
        );
        assert!(fake.commands().is_empty());
    }
    // 8-bit tags, no stage 1.
    let fake = Fake::with(0x0, 0x0d40_0019);
    let mut smmu = start(&fake).unwrap();
    for entry in [
        Invalidation::Tag(CacheTag(0x100)),
        Invalidation::StageOne(CacheTag(1)),
        Invalidation::AddressSpace {
            tag: CacheTag(1),
            asid: 1,
        },
    ] {
        assert_eq!(smmu.invalidate(&[entry]), Err(IommuError::Unsupported));
    }
}

#[test]
fn a_device_that_does_not_answer_fails_the_entry_that_asked_it() {
    let fake = Fake::with(0x0, 0x0d44_101b | 1 << 10);
    let mut smmu = start(&fake).unwrap();
    let ask = Invalidation::DeviceTlb {
        device: DeviceId(8),
        pasid: None,
        range: Span::<Iova>::new(Iova(0x3000), 0x2000),
    };
    let tag = Invalidation::Tag(CacheTag(1));
    // A device that may have nothing is not asked.
    fake.commands();
    smmu.submit(&[tag, ask]).unwrap();
    let told = fake.commands();
    assert!(told.iter().all(|it| it[0] as u8 != 0x40), "{told:x?}");
    let StreamConfig::StageTwo(two) = stage_two(7) else {
        unreachable!("it is one");
    };
    let config = StreamConfig::StageTwo(StageTwo { ats: true, ..two });
    smmu.attach(DeviceId(8), config).unwrap();
    fake.commands();
    smmu.submit(&[tag, ask]).unwrap();
    let sync = [0x46, 0];
    assert_eq!(
        fake.commands(),
        [[0x28 | 1 << 32, 0], sync, [0x8_0000_0040, 3], sync]
    );
    // The CMD_SYNC ends with CERROR_ATC_INV_SYNC once: the device is asked alone, and then all of it again.
    fake.state().refuse = Some((4, 3));
    smmu.submit(&[tag, ask, tag]).unwrap();
    let told = fake.commands();
    let asked: Vec<_> = told.iter().filter(|it| it[0] as u8 == 0x40).collect();
    let [one, other] = [[0x8_0000_0040, 3], [0x8_0000_0040, 52]];
    assert_eq!(asked, [&one, &other, &one]);
}

#[test]
fn a_stage_2_invalidation_takes_what_a_stage_1_was_combined_with() {
    let (fake, mut smmu) = started();
    let page = |tag| Invalidation::StageTwoRange {
        tag: CacheTag(tag),
        range: Span::<Iova>::new(Iova(0x1000), 0x1000).unwrap(),
        leaf: true,
    };
    let s2 = |tag: u64| [0x2a | tag << 32, 0x1001];
    let (sync, nh_all) = ([0x46, 0], [0x10 | 7 << 32, 0]);
    let sent = |smmu: &mut Driver, batch: &[Invalidation]| {
        fake.commands();
        smmu.submit(batch).unwrap();
        fake.commands()
    };
    smmu.attach(DeviceId(8), stage_two(7)).unwrap();
    assert_eq!(sent(&mut smmu, &[page(7)]), [s2(7), sync]);
    smmu.attach(DeviceId(8), nested(7, 0x4000)).unwrap();
    // QEMU keeps where a guest's table is with the configuration.
    let cd_all = [0x06 | 8 << 32, 0];
    assert_eq!(
        sent(&mut smmu, &[page(7), page(9), page(7)]),
        [s2(7), s2(9), s2(7), sync, nh_all, cd_all, sync]
    );
    assert_eq!(sent(&mut smmu, &[page(9)]), [s2(9), sync], "another tag");
    // Entries may be left although no stream has a stage 1 any more.
    smmu.attach(DeviceId(8), stage_two(7)).unwrap();
    assert_eq!(sent(&mut smmu, &[page(7)]), [s2(7), sync, nh_all, sync]);
    sent(&mut smmu, &[Invalidation::Tag(CacheTag(7))]);
    assert_eq!(sent(&mut smmu, &[page(7)]), [s2(7), sync]);
    // A refused CMD_TLBI_NH_ALL: the entry before the range is complete, the range is not.
    smmu.attach(DeviceId(8), nested(7, 0x4000)).unwrap();
    fake.state().refuse = Some((3, 1));
    let incomplete = Incomplete {
        complete: 1,
        error: IommuError::Command(1),
    };
    assert_eq!(smmu.submit(&[page(9), page(7)]), Err(incomplete));
}

#[test]
fn a_block_that_the_emulator_cached_in_pages_goes_whole() {
    let entry = |asid| Invalidation::StageOneAddress {
        tag: CacheTag(5),
        asid,
        address: Iova(0x7_4020_1000),
        leaf: true,
    };
    let (fake, mut smmu) = started();
    smmu.submit(&[entry(Some(2)), entry(None)]).unwrap();
    // 1 GiB around it: SCALE 18 of 4 KiB.
    assert_eq!(
        fake.commands()[..2],
        [
            [0x0002_0005_0120_0012, 0x7_4000_0401],
            [0x0000_0005_0120_0013, 0x7_4000_0401]
        ]
    );
    // Without range commands, all of the address space.
    let fake = Fake::with(0xc, 0x1014);
    let mut smmu = start(&fake).unwrap();
    fake.commands();
    smmu.submit(&[entry(Some(2)), entry(None)]).unwrap();
    let whole = [[0x0002_0005_0000_0011, 0], [0x0000_0005_0000_0010, 0]];
    assert_eq!(fake.commands()[..2], whole);
}

#[test]
fn no_run_is_longer_than_an_erratum_allows() {
    let fake = Fake::with(0x18, 0x4872_143b);
    let mut smmu = start(&fake).unwrap();
    fake.commands();
    let batch: Vec<_> = (0..200)
        .map(|tag| Invalidation::Tag(CacheTag(tag)))
        .collect();
    smmu.submit(&batch).unwrap();
    let commands = fake.commands();
    let runs = commands.split(|command| command[0] == 0x46);
    assert!(runs.clone().all(|run| run.len() <= 63));
    assert_eq!(runs.flatten().count(), 200);
    fake.state().refuse = Some((130, 1));
    assert_eq!(
        smmu.submit(&batch).unwrap_err().complete,
        128,
        "two CMD_SYNCs before it"
    );
}

#[test]
fn cpus_invalidate_side_by_side_and_only_the_guilty_one_fails() {
    let (fake, smmu) = started();
    fake.state().illegal = Some(0x11);
    let tag = |tag| Invalidation::Tag(CacheTag(tag));
    let threads: Vec<_> = (0..4u16)
        .map(|thread| {
            let smmu = smmu.invalidator().unwrap();
            std::thread::spawn(move || {
                for round in 0..100u16 {
                    let mut batch = vec![tag(thread), tag(round), tag(thread)];
                    // One of them past the end of the queue.
                    if thread == 3 && round % 10 == 0 {
                        batch.extend((0..400).map(tag));
                    }
                    if thread == 0 {
                        let asid = Invalidation::AddressSpace {
                            tag: CacheTag(0),
                            asid: 1,
                        };
                        batch.insert(usize::from(round % 4), asid);
                        let incomplete = Incomplete {
                            complete: usize::from(round % 4),
                            error: IommuError::Command(1),
                        };
                        assert_eq!(smmu.submit(&batch), Err(incomplete));
                    } else {
                        assert_eq!(smmu.submit(&batch), Ok(()));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let commands = fake.commands();
    let done = commands.iter().filter(|command| command[0] as u8 == 0x28);
    assert_eq!(done.count(), 4 * 300 + 10 * 400);
    // Handles outlive the driver, and say so.
    let late = smmu.invalidator().unwrap();
    drop(smmu);
    let stopped = Incomplete {
        complete: 0,
        error: IommuError::Stopped,
    };
    assert_eq!(late.submit(&[tag(1)]), Err(stopped));
}

#[test]
fn after_a_service_failure_nothing_is_waited_for_and_streams_can_be_closed() {
    let (fake, mut smmu) = started();
    smmu.attach(DeviceId(8), stage_two(1)).unwrap();
    fake.state().registers.insert(GERROR, 1 << 8);
    fake.state().stuck = true;
    let before = fake.state().now;
    let tag = Invalidation::Tag(CacheTag(1));
    assert_eq!(smmu.invalidate(&[tag]), Err(IommuError::Stopped));
    assert!(smmu.serve_errors().unwrap().stopped);
    assert_eq!(smmu.invalidate(&[tag]), Err(IommuError::Stopped));
    assert_eq!(
        smmu.attach(DeviceId(8), stage_two(2)),
        Err(IommuError::Stopped)
    );
    assert_eq!(smmu.attach(DeviceId(8), StreamConfig::Abort), Ok(()));
    assert!(fake.state().now - before < 10_000_000, "nobody waited");
}

#[test]
fn every_global_error_is_acknowledged() {
    for bit in [2, 3, 4, 5, 6, 7] {
        let (fake, mut smmu) = started();
        fake.state().registers.insert(GERROR, 1 << bit);
        let errors = smmu.handle_gerror().unwrap();
        assert_eq!(errors.0, 1 << bit);
        assert_eq!(errors.events_lost(), bit == 2);
        assert!(smmu.handle_gerror().unwrap().is_empty());
        smmu.invalidate(&[Invalidation::Tag(CacheTag(1))]).unwrap();
    }
}

#[test]
fn stalls_and_page_requests_are_answered_where_there_are_any() {
    use iommu::smmuv3::command::{PageResponse, Resume};
    let (fake, smmu) = started();
    let device = DeviceId(8);
    let none = Err(IommuError::Unsupported);
    assert_eq!(smmu.resume(device, 1, Resume::Retry), none);
    assert_eq!(smmu.end_stalls(device), none);
    let answer = |smmu: &Driver| smmu.answer_page_request(device, None, 5, PageResponse::Success);
    assert_eq!(answer(&smmu), none);
    assert!(fake.commands().is_empty());
    let fake = Fake::with(0x0, 0x0c45_101b);
    let smmu = start(&fake).unwrap();
    fake.commands();
    smmu.resume(device, 1, Resume::Retry).unwrap();
    smmu.end_stalls(device).unwrap();
    answer(&smmu).unwrap();
    let sync = [0x46, 0];
    assert_eq!(
        fake.commands(),
        [
            [0x8_0000_1044, 1],
            sync,
            [0x8_0000_0045, 0],
            sync,
            [0x8_0000_0041, 0x2005],
            sync
        ]
    );
}
