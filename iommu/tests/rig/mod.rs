//! A driver on a model SMMU with memory behind it, for scenarios.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use iommu::addr::{Hpa, Iova, Span};
use iommu::fault::Fault;
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::model::memory::{Buffer, Memory};
use iommu::model::smmu::{Config, Denied, SmmuModel};
use iommu::physical::{Drained, Invalidated, PhysicalIommu, StageTwo, StreamConfig};
use iommu::smmuv3::{Smmu, StartError, event};
use iommu::table::{Attributes, StageTwoTable, Unmapped};

pub type Driver = Smmu<Memory, SmmuModel>;
pub type Table = StageTwoTable<Memory>;

/// Memory of the test's own that devices are let into.
pub const RAM: u64 = 0x2000_0000;
pub const RAM_BYTES: u64 = 0x100_0000;

pub struct Rig {
    pub memory: Memory,
    pub platform: Arc<Memory>,
    pub smmu: SmmuModel,
    pub driver: Driver,
}

pub fn parts(config: Config) -> (Memory, SmmuModel) {
    let memory = if config.coherent {
        Memory::coherent()
    } else {
        Memory::non_coherent()
    };
    memory.add_ram(RAM, RAM_BYTES);
    let smmu = SmmuModel::new(config, &memory);
    (memory, smmu)
}

pub fn start(memory: &Memory, smmu: &SmmuModel) -> Result<Driver, StartError> {
    Smmu::start(IommuIndex(0), smmu.clone(), Arc::new(memory.clone()))
}

fn start_described(
    memory: &Memory,
    smmu: &SmmuModel,
    coherent: bool,
) -> Result<Driver, StartError> {
    let platform = Arc::new(memory.clone());
    Smmu::start_described(IommuIndex(0), smmu.clone(), platform, coherent)
}

impl Rig {
    pub fn new(config: Config) -> Self {
        Self::described(config, true)
    }

    /// `coherent`: what firmware says of it.
    pub fn described(config: Config, coherent: bool) -> Self {
        let (memory, smmu) = parts(config);
        let driver = start_described(&memory, &smmu, coherent).expect("it starts");
        Self {
            platform: Arc::new(memory.clone()),
            memory,
            smmu,
            driver,
        }
    }

    pub fn table(&self, bits: u8) -> Table {
        let coherent = self.driver.features().coherent;
        StageTwoTable::new(Arc::clone(&self.platform), bits, coherent).expect("memory is there")
    }

    /// Lets `device` through `table`.
    pub fn attach(&mut self, device: u32, table: &Table, tag: u16) {
        let config = stage_two(table, tag);
        self.driver
            .attach(DeviceId(device), config)
            .expect("attached");
    }

    pub fn abort(&mut self, device: u32) {
        self.driver
            .attach(DeviceId(device), StreamConfig::Abort)
            .expect("closed");
    }

    /// Unmaps, invalidates, releases.
    pub fn unmap(&mut self, table: &mut Table, at: u64, len: u64, tag: u16) {
        let cut = table.unmap(span(at, len));
        self.forget(table, cut, tag);
    }

    pub fn forget(&mut self, table: &mut Table, cut: Unmapped<Buffer>, tag: u16) {
        let stale = cut.invalidation(CacheTag(tag));
        self.driver.invalidate(&[stale]).expect("forgotten");
        table.release(cut, Invalidated::complete());
    }

    pub fn drain(&mut self) -> (Vec<Fault>, bool) {
        let mut all = Vec::new();
        let mut any_lost = false;
        loop {
            let mut faults = [event::decode(IommuIndex(0), [0; 4]); 7];
            let Drained { count, lost, more } = self.driver.drain_faults(&mut faults);
            all.extend_from_slice(&faults[..count]);
            any_lost |= lost;
            if !more {
                return (all, any_lost);
            }
        }
    }
}

pub fn span(at: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(at), len).expect("no wrap")
}

pub fn stage_two(table: &Table, tag: u16) -> StreamConfig {
    StreamConfig::StageTwo(StageTwo {
        tag: CacheTag(tag),
        root: table.root(),
        input_bits: table.input_bits(),
        ats: false,
    })
}

pub const READ_ONLY: Attributes = Attributes {
    write: false,
    ..Attributes::DMA
};

pub fn map(table: &mut Table, at: u64, to: u64, len: u64) {
    table
        .map(span(at, len), Hpa(to), Attributes::DMA)
        .expect("mapped");
}

/// The words of a panic.
pub fn panic_of(act: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(act)).expect_err("it panics");
    payload.downcast::<String>().map_or_else(
        |other| format!("{:?}", other.downcast::<&str>()),
        |text| *text,
    )
}

pub fn translation(stage_two: bool) -> Denied {
    Denied::Fault {
        number: 0x10,
        stage_two,
    }
}
