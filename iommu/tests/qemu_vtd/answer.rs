//! What a unit does with an image: the same steps for the crate's model and for QEMU.

use iommu::hal::{Mmio, Platform};
use iommu::model::memory::Memory;
use iommu::model::vtd::{Completion, Config, VtdModel};

use crate::devices::{WRITTEN, Written};
use crate::driven::Machine;
use crate::image::{Access, DATA, INTERRUPTS, Image, RAM_BYTES};
use crate::machine;
use crate::predict;
use crate::qtest::number;

/// As the device and memory see a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Written where the model says.
    Written,
    /// Written, but not to where the model says.
    Elsewhere,
    /// A write that was refused.
    Refused,
    /// A read; what was read is 0 if it was refused.
    Read(u32),
}

/// What came of one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub outcome: Outcome,
    /// The fault record, without its PASID.
    pub record: Option<[u64; 2]>,
}

/// FSTS, the fault record, and what is compared of it: all but PV and PP.
const FSTS: usize = 0x34;
const RECORD: usize = 0x220;
const COMPARED: u64 = !0x0fff_ff00_8000_0000;

/// Memory and registers, as a CPU uses them.
trait Side: Mmio {
    fn store(&self, at: u64, value: u64);
    fn barrier(&self) {}
}

/// Turns translation on with the root table of `image`, with nothing cached (11.4).
fn open(side: &impl Side, image: &Image) {
    side.write32(0x18, 0);
    side.write64(0x20, image.root);
    side.write32(0x18, 1 << 30);
    forget(side);
    side.write32(0x18, 1 << 31);
}

/// CCMD, then IOTLB: all of both. Reads end them.
fn forget(side: &impl Side) {
    side.write64(0x28, 1 << 63 | 1 << 61);
    assert_eq!(side.read64(0x28) >> 63, 0);
    side.write64(0xf8, 1 << 63 | 1 << 60);
    assert_eq!(side.read64(0xf8) >> 63, 0);
}

struct Model {
    memory: Memory,
    vtd: VtdModel,
}

impl Mmio for Model {
    fn read32(&self, offset: usize) -> u32 {
        self.vtd.read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        self.vtd.write32(offset, value);
    }
    fn read64(&self, offset: usize) -> u64 {
        self.vtd.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.vtd.write64(offset, value);
    }
}

impl Side for Model {
    fn store(&self, at: u64, value: u64) {
        self.memory.store(at, value);
    }
    fn barrier(&self) {
        self.memory.write_barrier();
    }
}

impl Side for Machine {
    fn store(&self, at: u64, value: u64) {
        Machine::store(self, at, value);
    }
}

/// The features of QEMU's unit.
fn features() -> Config {
    Config {
        output_bits: 48,
        fault_records: (RECORD, 1),
        collapse: true,
        completion: Completion::AtOnce,
        update_reads: 0,
        late_writes: false,
        scalable: true,
        walk_snoop: false,
        rid_pasid: false,
        strict: false,
        ..Config::default()
    }
}

impl Model {
    fn new(image: &Image, data: &[(u64, u32)]) -> Self {
        let memory = Memory::coherent();
        memory.set_strict(false);
        memory.add_ram(0, RAM_BYTES);
        let vtd = VtdModel::new(features(), &memory);
        let model = Self { memory, vtd };
        fill(&model, image, data);
        open(&model, image);
        model
    }
}

fn fill(side: &impl Side, image: &Image, data: &[(u64, u32)]) {
    for (at, word) in &image.words {
        side.store(*at, *word);
    }
    for (at, word) in data {
        side.store(at & !7, u64::from(*word) << (at % 8 * 8));
    }
    side.barrier();
}

/// What the model does.
pub struct Expected {
    /// What was in memory where a request leads.
    data: Vec<(u64, u32)>,
    /// Where each leads in RAM.
    pub places: [Option<u64>; 2],
    pub answers: [Answer; 2],
}

/// Asks the model. `None` for an image whose requests would reach what is not theirs.
pub fn of_model(image: &Image) -> Option<Expected> {
    let probe = Model::new(image, &[]);
    let led = image.accesses.map(|access| {
        let Access {
            source,
            iova,
            write,
        } = access;
        probe.vtd.translate(source as u16, iova, write).ok()
    });
    // RAM of their own, or nothing at all: behind interrupts and past all else. No registers.
    let nothing = |at: u64| (INTERRUPTS.end..0xff00_0000).contains(&at) || at >> 40 != 0;
    let theirs = |at: &u64| (DATA..RAM_BYTES).contains(at) || nothing(*at);
    if !led.iter().flatten().all(theirs) {
        return None;
    }
    let places = led.map(|place| place.filter(|at| *at < RAM_BYTES));
    // Something that says where it is, and is not 0.
    let data: Vec<_> = places
        .iter()
        .flatten()
        .map(|at| (*at, 0x8000_0001 | *at as u32))
        .collect();
    if let [Some(first), Some(second)] = places
        && first != second
        && first & !7 == second & !7
    {
        // Each would spoil the other's word.
        return None;
    }
    let model = Model::new(image, &data);
    let mut index = 0;
    let answers = image.accesses.map(|access| {
        if index == 1 && image.cold {
            forget(&model);
        }
        index += 1;
        let source = access.source as u16;
        let outcome = if access.write {
            let written = model
                .vtd
                .dma_write(source, access.iova, &WRITTEN.to_le_bytes());
            // Let through to where nothing is, it is refused by the bus.
            match written.is_ok() && places[index - 1].is_some() {
                true => Outcome::Written,
                false => Outcome::Refused,
            }
        } else {
            let read = model.vtd.dma_read(source, access.iova, 4);
            let bytes = read.ok().and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            Outcome::Read(bytes.map_or(0, u32::from_le_bytes))
        };
        let words = [model.read64(RECORD), model.read64(RECORD + 8)];
        model.write32(RECORD + 12, 1 << 31);
        model.write32(FSTS, 1);
        Answer {
            outcome,
            record: (words[1] >> 63 != 0).then(|| [words[0], words[1] & COMPARED]),
        }
    });
    Some(Expected {
        data,
        places,
        answers,
    })
}

/// Asks QEMU. What was read comes later: it is in slot `slot` of the source that reads.
pub fn of_qemu(machine: &Machine, image: &Image, expected: &Expected, slot: usize) -> [Answer; 2] {
    machine.write32(0x18, 0);
    fill(machine, image, &expected.data);
    open(machine, image);
    let mut index = 0;
    let answers = image.accesses.map(|access| {
        if index == 1 && image.cold {
            forget(machine);
        }
        let place = expected.places[index].unwrap_or(0);
        let after = [
            machine::wide_register(RECORD),
            machine::wide_register(RECORD + 8),
            machine::register(FSTS),
        ];
        let (outcome, answers) = if access.write {
            let (written, answers) = machine.dma_write(access.source, access.iova, place, &after);
            let outcome = match written {
                Written::There => Outcome::Written,
                Written::Elsewhere => Outcome::Elsewhere,
                Written::Refused => Outcome::Refused,
            };
            (outcome, answers)
        } else {
            let slot = slot * 2 + index;
            let answers = machine.dma_read(access.source, access.iova, slot, &after);
            (Outcome::Read(0), answers)
        };
        index += 1;
        let words = [number(&answers[0]), number(&answers[1])];
        machine.write32(RECORD + 12, 1 << 31);
        machine.write32(FSTS, 1);
        Answer {
            outcome,
            record: (words[1] >> 63 != 0).then(|| [words[0], words[1] & COMPARED]),
        }
    });
    // The next image finds zeros.
    let led = [0, 1].map(|index| predict::answer(image, expected, index).2);
    let data = expected.places.iter().chain(&led).flatten();
    let data = data.map(|at| at & !7);
    for at in data.chain(image.words.keys().copied()) {
        machine.store(at, 0);
    }
    answers
}
