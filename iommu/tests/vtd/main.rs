//! The VT-d driver on the crate's model: from the first access to the last, and when the hardware fails.

mod broken;
mod faults;
mod interrupts;
mod life;
mod scalable;
mod start;

use std::sync::Arc;

use iommu::addr::{Hpa, Iova, Span};
use iommu::fault::Fault;
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, Denied, VtdModel};
use iommu::physical::{Drained, PhysicalIommu, StageTwo, StreamConfig};
use iommu::table::{PageTable, SecondStage, SecondStageAttributes, Shape};
use iommu::vtd::errata::Errata;
use iommu::vtd::interrupt_remap::{Destinations, Route, Source};
use iommu::vtd::{Setup, StartError, Vtd, event};

type Driver = Vtd<Memory, VtdModel>;
type Table = PageTable<Memory, SecondStage>;

const RAM: u64 = 0x2000_0000;
const ZEROS: u64 = 0x1000_0000;
const DEVICE: u16 = 0x310;
const TAG: CacheTag = CacheTag(5);
const EVERYTHING: Denied = Denied::Fault(1);

fn setup(interrupts: Option<Destinations>) -> Setup {
    Setup {
        address_bits: 46,
        interrupts,
        scalable: None,
        errata: Errata::default(),
    }
}

/// Memory with 16 MiB of the test's own and a page of zeros, and a unit out of reset.
fn parts(config: Config) -> (Memory, VtdModel) {
    let memory = if config.coherent {
        Memory::coherent()
    } else {
        Memory::non_coherent()
    };
    memory.add_ram(RAM, 0x100_0000);
    memory.add_ram(ZEROS, 0x1000);
    let vtd = VtdModel::new(config, &memory);
    (memory, vtd)
}

fn start(memory: &Memory, vtd: &VtdModel, setup: Setup) -> Result<Driver, StartError> {
    Vtd::start(IommuIndex(0), vtd.clone(), Arc::new(memory.clone()), setup)
}

struct Rig {
    driver: Driver,
    memory: Memory,
    vtd: VtdModel,
}

impl Rig {
    fn new(config: Config) -> Self {
        Self::with(config, None)
    }

    fn with(config: Config, interrupts: Option<Destinations>) -> Self {
        let (memory, vtd) = parts(config);
        let driver = start(&memory, &vtd, setup(interrupts)).expect("it starts");
        Self {
            driver,
            memory,
            vtd,
        }
    }

    fn table(&self) -> Table {
        let shape = Shape {
            coherent: self.driver.features().coherent,
            largest: self.driver.features().largest,
            ..Shape::new(39)
        };
        PageTable::with_shape(Arc::new(self.memory.clone()), shape).expect("memory is there")
    }

    /// A table with one page at 0, and [`DEVICE`] on it.
    fn open(&mut self) -> Table {
        let mut table = self.table();
        map(&mut table, 0, RAM, 0x1000);
        self.driver
            .attach(DeviceId(DEVICE.into()), stage_two(&table))
            .expect("attached");
        table
    }

    fn drain(&mut self) -> (Vec<Fault>, bool) {
        let (mut all, mut any) = (Vec::new(), false);
        loop {
            let mut faults = [event::decode(IommuIndex(0), [0; 2]); 3];
            let Drained { count, lost, more } = self.driver.drain_faults(&mut faults);
            all.extend_from_slice(&faults[..count]);
            any |= lost;
            if !more {
                return (all, any);
            }
        }
    }
}

fn map(table: &mut Table, at: u64, to: u64, len: u64) {
    table
        .map(span(at, len), Hpa(to), SecondStageAttributes::DMA)
        .expect("mapped");
}

fn span(at: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(at), len).expect("no wrap")
}

fn stage_two(table: &Table) -> StreamConfig {
    StreamConfig::StageTwo(StageTwo {
        tag: TAG,
        root: table.root(),
        input_bits: table.input_bits(),
        ats: false,
    })
}

fn route(vector: u8) -> Route {
    Route {
        destination: 3,
        vector,
        level: false,
        source: Source::Requester {
            id: DEVICE,
            phantom: 0,
        },
    }
}
