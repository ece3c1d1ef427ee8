//! What the SMMUv3 driver costs the hardware: registers, commands and CMD_SYNCs of each operation, on the model of an SMMU
//! as QEMU has one.
//!
//! Prints one line each, `key value`: `OPERATION_WHAT` with WHAT one of `commands` (CMD_SYNCs not included), `syncs`,
//! `writes`, `reads`; `deny_accesses` and `deny_allocations`; `stream_table_bytes` and `stream_bits` with one bus in use.
//! Commands and all accesses are counted by the model. OPERATIONs: `attach` a device to a stage 2, `attach_first` that of
//! a bus, `retarget` it to another stage 2, `detach` it; `unmap_N` of N pages with range commands, `unmap_N_single`
//! without; `batch` of [`BATCH`] unmaps.

use std::sync::Arc;

use iommu::addr::{Hpa, Iova, Span};
use iommu::hal::Platform;
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::model::memory::Memory;
use iommu::model::smmu::{Config, SmmuModel};
use iommu::physical::{Invalidated, Invalidation, PhysicalIommu, StageTwo, StreamConfig};
use iommu::smmuv3::{Smmu, deny_all};
use iommu::table::{Attributes, StageTwoTable};

const PAGE: u64 = 4096;
/// Memory that is mapped, no larger block fits.
const RAM: u64 = 0x2000_1000;
const RAM_BYTES: u64 = 0x100_0000;
const INPUT: u64 = 0x4000_0000;
const TAG: CacheTag = CacheTag(1);
/// Unmaps in one batch.
const BATCH: u64 = 8;

/// As QEMU's: what is written to a register is in force at once.
fn qemu() -> Config {
    Config {
        update_reads: 0,
        ..Config::default()
    }
}

type Table = StageTwoTable<Memory>;

struct Machine {
    memory: Memory,
    smmu: SmmuModel,
    driver: Smmu<Memory, SmmuModel>,
}

impl Machine {
    fn new(config: Config) -> Self {
        let memory = Memory::coherent();
        memory.add_ram(RAM, RAM_BYTES);
        let smmu = SmmuModel::new(config, &memory);
        let driver = Smmu::start(IommuIndex(0), smmu.clone(), Arc::new(memory.clone()));
        Self {
            driver: driver.expect("it starts"),
            memory,
            smmu,
        }
    }

    fn table(&self) -> Table {
        StageTwoTable::new(Arc::new(self.memory.clone()), 39, true).expect("memory")
    }

    /// Prints what `action` makes the driver do.
    fn counted(&mut self, name: &str, action: impl FnOnce(&mut Self)) {
        let (model, accesses, driver) = self.counts();
        action(self);
        let (model_after, accesses_after, driver_after) = self.counts();
        let writes = driver_after.0 - driver.0;
        let reads = driver_after.1 - driver.1;
        assert_eq!(
            writes + reads,
            accesses_after - accesses,
            "the driver miscounts"
        );
        println!("{name}_commands {}", model_after.0 - model.0);
        println!("{name}_syncs {}", model_after.1 - model.1);
        println!("{name}_writes {writes}");
        println!("{name}_reads {reads}");
    }

    /// Commands and CMD_SYNCs; accesses; writes and reads as the driver counts them.
    fn counts(&self) -> ((u64, u64), u64, (u64, u64)) {
        let (model, driver) = (self.smmu.counters(), self.driver.counters());
        (
            (model.commands, model.syncs),
            self.smmu.accesses(),
            (driver.register_writes, driver.register_reads),
        )
    }

    fn attach(&mut self, device: u32, config: StreamConfig) {
        self.driver
            .attach(DeviceId(device), config)
            .expect("attached");
    }

    /// Maps and unmaps `pages` from `at` on; what has to be forgotten.
    fn cut(table: &mut Table, at: u64, pages: u64) -> Invalidation {
        let range = Span::<Iova>::new(Iova(at), pages * PAGE).expect("no wrap");
        table.map(range, Hpa(RAM), Attributes::DMA).expect("free");
        let unmapped = table.unmap(range);
        let stale = unmapped.invalidation(TAG);
        // Nothing of the model's walks this table.
        table.release(unmapped, Invalidated::complete());
        stale
    }

    fn unmap(&mut self, name: &str, pages: u64) {
        let mut table = self.table();
        let stale = Self::cut(&mut table, INPUT, pages);
        self.counted(name, |machine| {
            machine.driver.invalidate(&[stale]).expect("forgotten");
        });
    }
}

fn stage_two(table: &Table, tag: u16) -> StreamConfig {
    StreamConfig::StageTwo(StageTwo {
        tag: CacheTag(tag),
        root: table.root(),
        input_bits: table.input_bits(),
        ats: false,
    })
}

fn deny() {
    let memory = Memory::coherent();
    let smmu = SmmuModel::new(qemu(), &memory);
    deny_all(&smmu, || memory.now_ns()).expect("it is there");
    println!("deny_accesses {}", smmu.accesses());
    println!("deny_allocations {}", memory.allocations());
}

fn devices() {
    let mut machine = Machine::new(qemu());
    let (first, second) = (machine.table(), machine.table());
    let (one, two) = (stage_two(&first, 1), stage_two(&second, 2));
    machine.counted("attach_first", |machine| machine.attach(0x8, one));
    machine.counted("attach", |machine| machine.attach(0x10, one));
    machine.counted("retarget", |machine| machine.attach(0x10, two));
    machine.counted("detach", |machine| {
        machine.attach(0x10, StreamConfig::Abort);
    });
    let counters = machine.driver.counters();
    println!("stream_table_bytes {}", counters.stream_table_bytes);
    println!("stream_bits {}", machine.driver.caps().device_id_bits);
    let violations = machine.smmu.violations();
    assert!(violations.is_empty(), "{violations:?}");
}

fn unmaps() {
    let mut ranges = Machine::new(qemu());
    let mut single = Machine::new(Config {
        range_invalidation: false,
        ..qemu()
    });
    for pages in [1, 33, 512] {
        ranges.unmap(&format!("unmap_{pages}"), pages);
        single.unmap(&format!("unmap_{pages}_single"), pages);
    }
    let mut table = ranges.table();
    let places = (0..BATCH).map(|at| INPUT + at * 0x20_0000);
    let batch: Vec<_> = places.map(|at| Machine::cut(&mut table, at, 16)).collect();
    ranges.counted("batch", |machine| {
        machine.driver.invalidate(&batch).expect("forgotten");
    });
}

fn main() {
    deny();
    devices();
    unmaps();
}
