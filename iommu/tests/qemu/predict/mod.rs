//! A third walker: an image and its transactions by the document (IHI 0070), with a set of QEMU's deviations in force. With
//! none it does what the crate's model does; with all of them, what QEMU does.

mod entries;
mod walk;

use std::collections::BTreeMap;

use crate::answer::{Answer, Expected, Outcome};
use crate::causes::{Cause, Causes, TABLE};
use crate::devices::WRITTEN;
use crate::image::{Access, Image};
use crate::machine::{RAM, RAM_BYTES};

/// IDR5.OAS, and so IAS, in bits.
const OAS: u8 = 44;
const SIZES: [u8; 8] = [32, 36, 40, 42, 44, 48, 52, 52];

/// `virt`'s window for 64-bit BARs: nobody is there, and PCI takes writes and answers reads with ones. Only a block that the
/// document does not have leads to it.
const PCI: std::ops::Range<u64> = 0x80_0000_0000..0x100_0000_0000;

/// Event numbers.
const WALK_ABORT: u64 = 0x0b;
const TRANSLATION: u64 = 0x10;
const ADDRESS_SIZE: u64 = 0x11;
const PERMISSION: u64 = 0x13;

/// CLASS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Cd = 0,
    Table = 1,
    Input = 2,
}

/// Why a transaction ends: a record, or nothing.
type End = Option<[u64; 4]>;

/// Why a walk ends, before it is known who hears of it.
#[derive(Clone, Copy)]
struct Fault {
    number: u64,
    two: bool,
    class: Class,
    /// IPA or FetchAddr.
    at: u64,
}

/// A stage in force.
#[derive(Clone, Copy)]
struct Stage {
    granule: u8,
    bits: u8,
    start: u8,
    root: u64,
    output: u8,
    affd: bool,
    record: bool,
}

impl Stage {
    fn stride(&self) -> u8 {
        self.granule - 3
    }

    fn shift(&self, level: u8) -> u8 {
        self.granule + self.stride() * (3 - level)
    }

    fn table_bytes(&self) -> u64 {
        8 << (self.bits - self.shift(self.start))
    }
}

/// What a translation that was cached allows: QEMU's entries.
#[derive(Clone, Copy)]
struct Cached {
    at: u64,
    /// Reads and writes by the first stage in force.
    first: [bool; 2],
    /// Writes by the second one.
    second_writes: bool,
}

struct Walker<'a> {
    image: &'a Image,
    causes: Causes,
    data: BTreeMap<u64, u32>,
    cached: Option<Cached>,
    /// The transaction that is on its way.
    now: Access,
}

/// What happens with `causes` in force.
pub fn answers(image: &Image, expected: &Expected, causes: Causes) -> [Answer; 2] {
    run(image, expected, causes).0
}

/// Where QEMU writes data, beside what was there before.
pub fn written(image: &Image, expected: &Expected) -> impl Iterator<Item = u64> {
    run(image, expected, Causes::all()).1.into_keys()
}

/// What happens, and the data that are in memory then.
fn run(image: &Image, expected: &Expected, causes: Causes) -> ([Answer; 2], BTreeMap<u64, u32>) {
    let mut walker = Walker {
        image,
        causes,
        data: expected.data.iter().copied().collect(),
        cached: None,
        now: image.accesses[0],
    };
    let mut index = 0;
    let answers = image.accesses.map(|access| {
        if index == 1 && image.cold {
            walker.cached = None;
        }
        let place = expected.places[index];
        index += 1;
        walker.now = access;
        let found = walker.translate();
        let outcome = walker.land(found.ok(), place);
        Answer {
            outcome,
            events: found.err().flatten().into_iter().collect(),
        }
    });
    (answers, walker.data)
}

/// The causes that it takes to come to `found`.
///
/// # Errors
/// What all of them together come to, where that is something else.
pub fn explain(
    image: &Image,
    expected: &Expected,
    found: &[Answer; 2],
) -> Result<Causes, Box<[Answer; 2]>> {
    let all = answers(image, expected, Causes::all());
    if all != *found {
        return Err(Box::new(all));
    }
    let needed = TABLE.iter().fold(Causes::all(), |set, row| {
        let less = set.without(row.cause);
        if answers(image, expected, less) == *found {
            less
        } else {
            set
        }
    });
    Ok(needed)
}

fn bits(word: u64, high: u32, low: u32) -> u64 {
    word >> low & (u64::MAX >> (63 - (high - low)))
}

fn in_ram(at: u64) -> bool {
    (RAM..RAM + RAM_BYTES).contains(&at)
}

impl Walker<'_> {
    fn has(&self, cause: Cause) -> bool {
        self.causes.has(cause)
    }

    /// A word of memory; `None` where there is nothing. What is below RAM reads as 0.
    fn word(&self, at: u64) -> Option<u64> {
        let there = at < RAM + RAM_BYTES;
        there.then(|| self.image.words.get(&at).copied().unwrap_or(0))
    }

    fn words(&self, at: u64) -> Option<[u64; 8]> {
        self.word(at)?;
        Some(std::array::from_fn(|word| {
            self.word(at + word as u64 * 8).unwrap_or(0)
        }))
    }

    fn land(&mut self, at: Option<u64>, place: Option<u64>) -> Outcome {
        if at.is_some_and(|at| PCI.contains(&at)) {
            return if self.now.write {
                Outcome::Elsewhere
            } else {
                Outcome::Read(u32::MAX)
            };
        }
        let at = at.filter(|at| in_ram(*at));
        match (self.now.write, at) {
            (true, None) => Outcome::Refused,
            (true, Some(at)) => {
                self.data.insert(at, WRITTEN);
                if place == Some(at) {
                    Outcome::Written
                } else {
                    Outcome::Elsewhere
                }
            }
            (false, None) => Outcome::Read(0),
            (false, Some(at)) => {
                let word = self.image.words.get(&(at & !7)).copied().unwrap_or(0);
                let held = (word >> (at % 8 * 8)) as u32;
                Outcome::Read(self.data.get(&at).copied().unwrap_or(held))
            }
        }
    }

    fn event(&self, number: u64) -> [u64; 4] {
        [number | u64::from(self.now.stream) << 32, 0, 0, 0]
    }

    /// The record of a fault of translation. `fetched` for a CD and what belongs to it.
    fn record(&self, fault: Fault, fetched: bool) -> [u64; 4] {
        let mut event = self.event(fault.number);
        let read = !self.now.write || fetched && self.has(Cause::FetchIsRead);
        event[1] = u64::from(read) << 35 | u64::from(fault.two) << 39 | (fault.class as u64) << 40;
        event[2] = self.now.iova;
        event[3] = if fault.number == WALK_ABORT || self.has(Cause::WholeIpa) {
            fault.at
        } else {
            fault.at & !0xfff
        };
        event
    }
    fn tell_second(&self, two: &Stage, fault: Fault, fetched: bool) -> End {
        let told = two.record || fault.number == WALK_ABORT;
        told.then(|| self.record(fault, fetched))
    }

    /// A transaction that finds a cached translation, as QEMU has it.
    fn warm(&self, cached: Cached, first: bool, second: bool) -> Result<u64, End> {
        if !self.now.write {
            return if cached.first[0] {
                Ok(cached.at)
            } else {
                Err(None)
            };
        }
        if cached.first[1] && cached.second_writes {
            return Ok(cached.at);
        }
        let two = cached.first[1];
        let fault = Fault {
            number: PERMISSION,
            two,
            class: Class::Input,
            at: 0,
        };
        let told = if two { second } else { first };
        Err(told.then(|| self.record(fault, false)))
    }
}
