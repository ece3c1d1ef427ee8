//! The SMMUv3 driver against a fake SMMU: what it does, in which order, and what it does not do.

mod contexts;
mod events;
#[path = "../fake/mod.rs"]
mod fake;
mod queue;
mod streams;

use std::sync::Arc;

use fake::{Act, CMDQ_PROD, CR0, Fake, GBPA};
use iommu::addr::Hpa;
use iommu::id::{CacheTag, IommuIndex};
use iommu::physical::{IommuError, StageTwo, StreamConfig};
use iommu::smmuv3::{Smmu, StartError, deny_all};

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
