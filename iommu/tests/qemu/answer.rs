//! What an SMMU does with an image: the same steps for the crate's model and for QEMU.

use iommu::hal::{Mmio, Platform};
use iommu::model::memory::Memory;
use iommu::model::smmu::{Completion, Config, SmmuModel};

use crate::devices::{WRITTEN, Written};
use crate::driven::Machine;
use crate::image::{Access, COMMANDS, DATA, EVENTS, Image};
use crate::machine::{self, RAM, RAM_BYTES};
use crate::predict;
use crate::qtest::number;

/// log2 of the entries of both queues.
const QUEUE: u32 = 7;

/// What came of one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub outcome: Outcome,
    /// Event records.
    pub events: Vec<[u64; 4]>,
}

/// As the device and memory see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Written where the model says.
    Written,
    /// Written to some other place.
    Elsewhere,
    /// A write that was refused.
    Refused,
    /// A read; what was read is 0 if it was refused.
    Read(u32),
}

/// Memory and registers, as a CPU uses them.
trait Side: Mmio {
    fn store(&self, at: u64, value: u64);
    fn barrier(&self) {}
    /// Waits until the register at `offset` is `value`.
    fn wait(&self, offset: usize, value: u32);
}

/// Turns translation on with the stream table of `image`, with nothing cached.
fn open(side: &impl Side, image: &Image) {
    control(side, 0);
    side.write32(0x2c, 0b110);
    side.write64(0x80, image.base);
    side.write32(0x88, image.config);
    side.write64(0x90, COMMANDS | u64::from(QUEUE));
    side.write32(0x98, 0);
    side.write32(0x9c, 0);
    side.write64(0xa0, EVENTS | u64::from(QUEUE));
    side.write32(0x1_00a8, 0);
    side.write32(0x1_00ac, 0);
    control(side, 0b1100);
    forget(side, 0);
    control(side, 0b1101);
}

/// Writes CR0.
fn control(side: &impl Side, value: u32) {
    side.write32(0x20, value);
    side.wait(0x24, value);
}

/// Invalidates everything, for the first time or for the second: CMD_CFGI_ALL, CMD_TLBI_NSNH_ALL, CMD_SYNC.
fn forget(side: &impl Side, time: u32) {
    let slots = (time * 3..).zip([[0x4, 31], [0x30, 0], [0x46, 0]]);
    for (slot, command) in slots {
        for (index, word) in (0..).zip(command) {
            side.store(COMMANDS + u64::from(slot) * 16 + index * 8, word);
        }
    }
    let end = time * 3 + 3;
    side.barrier();
    side.write32(0x98, end);
    side.wait(0x9c, end);
}

struct Model {
    memory: Memory,
    smmu: SmmuModel,
}

impl Mmio for Model {
    fn read32(&self, offset: usize) -> u32 {
        self.smmu.read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        self.smmu.write32(offset, value);
    }
    fn read64(&self, offset: usize) -> u64 {
        self.smmu.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.smmu.write64(offset, value);
    }
}

impl Side for Model {
    fn store(&self, at: u64, value: u64) {
        self.memory.store(at, value);
    }
    fn barrier(&self) {
        self.memory.write_barrier();
    }
    fn wait(&self, offset: usize, value: u32) {
        let tries = (0..1000)
            .take_while(|_| self.read32(offset) != value)
            .count();
        assert!(
            tries < 1000,
            "the register at {offset:#x} does not become {value:#x}"
        );
    }
}

impl Side for Machine {
    fn store(&self, at: u64, value: u64) {
        Machine::store(self, at, value);
    }
    /// Every write has had its effect when it is answered; [`of_qemu`] looks at the end of an image.
    fn wait(&self, _offset: usize, _value: u32) {}
}

/// The features of QEMU's SMMU.
fn features() -> Config {
    Config {
        bbml: 2,
        iidr: 0,
        completion: Completion::AtOnce,
        speculate: false,
        torn_fetches: false,
        strict: false,
        ..Config::default()
    }
}

impl Model {
    fn new(image: &Image, data: &[(u64, u32)]) -> Self {
        let memory = Memory::coherent();
        memory.set_strict(false);
        memory.add_ram(RAM, RAM_BYTES);
        let smmu = SmmuModel::new(features(), &memory);
        let model = Self { memory, smmu };
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
    /// What was in memory where a transaction leads.
    pub data: Vec<(u64, u32)>,
    /// Where each leads.
    pub places: [Option<u64>; 2],
    pub answers: [Answer; 2],
}

/// Asks the model. `None` for an image whose transactions would reach what is not theirs.
pub fn of_model(image: &Image) -> Option<Expected> {
    let probe = Model::new(image, &[]);
    let places = image.accesses.map(|access| {
        let Access {
            stream,
            iova,
            write,
        } = access;
        probe.smmu.translate(stream, iova, write).ok()
    });
    let end = RAM + RAM_BYTES;
    let theirs =
        |at: &u64| (DATA..end).contains(at) || *at >= end && *at < 0x40_0000_0000 || *at >> 40 != 0;
    if !places.iter().flatten().all(theirs) {
        return None;
    }
    let places = places.map(|place| place.filter(|at| *at < end));
    // Something that says where it is, and is not 0.
    let data = places
        .iter()
        .flatten()
        .map(|at| (*at, 0x8000_0001 | *at as u32))
        .collect::<Vec<_>>();
    let model = Model::new(image, &data);
    let mut taken = 0;
    let mut index = 0;
    let answers = image.accesses.map(|access| {
        if index == 1 && image.cold {
            forget(&model, 1);
        }
        index += 1;
        let Access {
            stream,
            iova,
            write,
        } = access;
        let outcome = if write {
            let written = model.smmu.dma_write(stream, iova, &WRITTEN.to_le_bytes());
            written.map_or(Outcome::Refused, |()| Outcome::Written)
        } else {
            let read = model.smmu.dma_read(stream, iova, 4);
            let bytes = read.ok().and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            Outcome::Read(bytes.map_or(0, u32::from_le_bytes))
        };
        let end = model.read32(PRODUCED);
        let records = std::mem::replace(&mut taken, end)..end;
        let events = records.map(|slot| {
            let at = EVENTS + u64::from(slot) * 32;
            [0, 8, 16, 24].map(|word| model.memory.load(at + word))
        });
        Answer {
            outcome,
            events: events.collect(),
        }
    });
    Some(Expected {
        data,
        places,
        answers,
    })
}

/// EVENTQ_PROD.
const PRODUCED: usize = 0x1_00a8;

/// Records that one transaction may cause.
const MOST_RECORDS: usize = 4;

/// Asks QEMU. What was read comes later: it is in slot `slot` of the stream that reads.
pub fn of_qemu(machine: &Machine, image: &Image, expected: &Expected, slot: usize) -> [Answer; 2] {
    control(machine, 0);
    fill(machine, image, &expected.data);
    open(machine, image);
    let mut taken = 0;
    let mut index = 0;
    let answers = image.accesses.map(|access| {
        if index == 1 && image.cold {
            forget(machine, 1);
        }
        let place = expected.places[index].unwrap_or(RAM);
        index += 1;
        let Access {
            stream,
            iova,
            write,
        } = access;
        let after = [
            machine::register(PRODUCED),
            format!(
                "read {:#x} {}",
                EVENTS + taken as u64 * 32,
                MOST_RECORDS * 32
            ),
            machine::register(0x24),
            machine::register(0x9c),
        ];
        let (outcome, answers) = if write {
            let (written, answers) = machine.dma_write(stream, iova, place, &after);
            let outcome = match written {
                Written::There => Outcome::Written,
                Written::Elsewhere => Outcome::Elsewhere,
                Written::Refused => Outcome::Refused,
            };
            (outcome, answers)
        } else {
            let answers = machine.dma_read(stream, iova, slot, &after);
            (Outcome::Read(0), answers)
        };
        assert_eq!(number(&answers[2]), 0b1101, "CR0ACK");
        let commands = if index == 2 && image.cold { 6 } else { 3 };
        assert_eq!(number(&answers[3]), commands, "CMDQ_CONS");
        let end = number(&answers[0]) as usize;
        let count = end - std::mem::replace(&mut taken, end);
        assert!(count <= MOST_RECORDS, "{count} records");
        Answer {
            outcome,
            events: records(&answers[1]).take(count).collect(),
        }
    });
    // The next image finds zeros.
    let data = predict::written(image, expected).map(|at| at & !7);
    for at in data.chain(image.words.keys().copied()) {
        machine.store(at, 0);
    }
    answers
}

/// Records in a line of bytes in hexadecimal.
fn records(line: &str) -> impl Iterator<Item = [u64; 4]> {
    let digits = line.trim_start_matches("0x").as_bytes();
    let (records, _) = digits.as_chunks::<64>();
    records.iter().map(|record| {
        let (words, _) = record.as_chunks::<16>();
        std::array::from_fn(|index| {
            let text = std::str::from_utf8(&words[index]).expect("hexadecimal");
            number(text).swap_bytes()
        })
    })
}
