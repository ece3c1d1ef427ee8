//! PASIDs of VT-d's scalable mode: second stages, first stages, and guests' first stages on second stages of ours, by the driver
//! on a model unit that is strict.

mod departures;
mod device_tlb;
mod driver;
mod hitless;
mod objects;
mod page_requests;
mod random;
mod teeth;
#[path = "../vtd_unit/mod.rs"]
mod vtd_unit;
mod waiting;

use std::cell::Cell;
use std::sync::Arc;

use iommu::addr::{Hpa, Iova, Span};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, Denied, Initiator, VtdModel};
use iommu::physical::{FirstStage, StageTwo, StreamConfig};
use iommu::table::{PageTable, SecondStage, SecondStageAttributes, Shape};
use iommu::vtd::errata::Errata;
use iommu::vtd::{Setup, StartError, Vtd};

type Driver = Vtd<Memory, VtdModel>;
type Second = PageTable<Memory, SecondStage>;

const PAGE: u64 = 4096;
/// The guest's memory, and the host's own beside it.
const RAM: u64 = 0x2000_0000;
const RAM_BYTES: u64 = 0x80_0000;
const OWN: u64 = 0x3000_0000;
const SOURCE: u16 = 0x310;
const DEVICE: DeviceId = DeviceId(SOURCE as u32);

/// Nothing for this PASID, nothing in the first stage, nothing in the second.
const NO_PASID: Denied = Denied::Fault(0x59);
const NO_TABLE: Denied = Denied::Fault(0x51);
const NO_FIRST: Denied = Denied::Fault(0x71);
const NO_SECOND: Denied = Denied::Fault(0x79);

struct Rig {
    driver: Driver,
    memory: Memory,
    vtd: VtdModel,
    /// Tables of a guest's, from the end of its memory downwards.
    tables: Cell<u64>,
}

fn start(memory: &Memory, vtd: &VtdModel) -> Result<Driver, StartError> {
    let setup = Setup {
        address_bits: 46,
        interrupts: None,
        scalable: None,
        errata: Errata::default(),
    };
    Vtd::start(IommuIndex(0), vtd.clone(), Arc::new(memory.clone()), setup)
}

impl Rig {
    fn new(config: Config) -> Self {
        let memory = match config.coherent {
            true => Memory::coherent(),
            false => Memory::non_coherent(),
        };
        memory.add_ram(RAM, RAM_BYTES);
        memory.add_ram(OWN, 0x10_0000);
        let vtd = VtdModel::new(config, &memory);
        let driver = start(&memory, &vtd).expect("it starts");
        Self {
            driver,
            memory,
            vtd,
            tables: Cell::new(RAM_BYTES),
        }
    }

    fn second(&self) -> Second {
        let shape = Shape {
            coherent: self.driver.features().coherent,
            largest: self.driver.features().largest,
            ..Shape::new(39)
        };
        PageTable::with_shape(Arc::new(self.memory.clone()), shape).expect("memory is there")
    }

    /// A second stage with the guest's memory from 0 on.
    fn parent(&self) -> Second {
        let mut table = self.second();
        map(&mut table, 0, RAM, RAM_BYTES);
        table
    }

    /// A first stage without entries, in the guest's memory.
    fn first(&self) -> u64 {
        let at = self.tables.get() - PAGE;
        self.tables.set(at);
        for word in (at..at + PAGE).step_by(8) {
            self.memory.device_write(RAM + word, 0, true).expect("RAM");
        }
        at
    }

    /// Stores an entry that the page at `va` goes by, with the tables that lead there: by hand, as a guest does (9.7). Tables
    /// are at `base` plus what an entry says.
    fn enter(&self, base: u64, root: u64, va: u64, entry: u64) {
        let mut table = root;
        for level in (1..4).rev() {
            let at = base + table + (va >> (12 + 9 * level) & 511) * 8;
            let mut next = self.memory.device_read(at, true).expect("RAM");
            if next & 1 == 0 {
                next = (self.first() + RAM - base) | 0x7;
                self.memory.device_write(at, next, true).expect("RAM");
            }
            table = next & 0x000f_ffff_ffff_f000;
        }
        let at = base + table + (va >> 12 & 511) * 8;
        self.memory.device_write(at, entry, true).expect("RAM");
    }

    /// A guest's page, readable and writable by users.
    fn page(&self, root: u64, va: u64, gpa: u64) {
        self.enter(RAM, root, va, gpa | 0x7);
    }

    /// Where a write with a PASID goes; 0 is without.
    fn reach(&self, pasid: u32, at: u64) -> Result<u64, Denied> {
        self.vtd.translate_as(from(pasid), at, true)
    }
}

fn from(pasid: u32) -> Initiator {
    let from = Initiator::from(SOURCE);
    match pasid {
        0 => from,
        _ => from.with_pasid(pasid),
    }
}

fn map(table: &mut Second, at: u64, to: u64, len: u64) {
    table
        .map(span(at, len), Hpa(to), SecondStageAttributes::DMA)
        .expect("mapped");
}

fn span(at: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(at), len).expect("no wrap")
}

fn stage_two(table: &Second, tag: u16) -> StageTwo {
    StageTwo {
        tag: CacheTag(tag),
        root: table.root(),
        input_bits: table.input_bits(),
        ats: false,
    }
}

fn first_stage(root: u64) -> FirstStage {
    FirstStage {
        root,
        input_bits: 48,
        ..FirstStage::default()
    }
}

fn on_second(parent: &Second, tag: u16, root: u64) -> StreamConfig {
    StreamConfig::FirstOnSecond {
        second: stage_two(parent, tag),
        first: first_stage(root),
    }
}
