//! Random images on the crate's model and on QEMU: equal, or explained by what QEMU is known to do ([`causes`]).
//!
//! [`causes`]: crate::causes

use std::collections::BTreeMap;

use crate::answer::{self, Answer, Expected, Outcome};
use crate::causes::{Cause, TABLE};
use crate::devices::{READING, SLOTS};
use crate::image::Image;
use crate::machine::Machine;
use crate::predict;

/// What came of many images.
#[derive(Default)]
pub struct Tally {
    pub images: u32,
    pub equal: u32,
    pub explained: u32,
    /// Writes and reads that arrived, of both.
    pub arrived: u32,
    /// Records that both wrote alike, by reason.
    pub records: BTreeMap<u8, u32>,
    /// Requests that each cause explains.
    pub causes: BTreeMap<Cause, u32>,
    /// Images that nothing explains.
    pub open: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.images += other.images;
        self.equal += other.equal;
        self.explained += other.explained;
        self.arrived += other.arrived;
        for (number, count) in other.records {
            *self.records.entry(number).or_default() += count;
        }
        for (cause, count) in other.causes {
            *self.causes.entry(cause).or_default() += count;
        }
        self.open.extend(other.open);
    }

    /// In words, a line each.
    pub fn report(&self) -> Vec<String> {
        let records = self.records.iter();
        let records: Vec<_> = records
            .map(|(number, count)| format!("{number:#x} {count}"))
            .collect();
        let causes: Vec<_> = TABLE
            .iter()
            .map(|row| {
                let count = self.causes.get(&row.cause).copied().unwrap_or(0);
                format!("{:?} {count}", row.cause)
            })
            .collect();
        vec![
            format!(
                "{} images: {} equal, {} explained, {} open",
                self.images,
                self.equal,
                self.explained,
                self.open.len()
            ),
            format!(
                "{} requests arrived alike; records alike by reason: {}",
                self.arrived,
                records.join(", ")
            ),
            format!("causes in QEMU, by requests: {}", causes.join(", ")),
        ]
    }

    fn judge(&mut self, image: &Image, expected: &Expected, found: &[Answer; 2]) {
        self.images += 1;
        let mut needed = Vec::new();
        for (index, (answer, found)) in expected.answers.iter().zip(found).enumerate() {
            if answer == found {
                let arrived = matches!(answer.outcome, Outcome::Written | Outcome::Read(1..));
                self.arrived += u32::from(arrived);
                if let Some(record) = answer.record {
                    *self.records.entry((record[1] >> 32) as u8).or_default() += 1;
                }
                continue;
            }
            let (predicted, causes, _) = predict::answer(image, expected, index);
            if predicted != *found || causes.is_empty() {
                return self.open.push(format!(
                    "image {}: request {index}\n  model {answer:x?}\n  found {found:x?}\n  thought {predicted:x?} {causes:?}\n  {image:x?}\n",
                    image.seed
                ));
            }
            needed.extend(causes);
        }
        match needed.is_empty() {
            true => self.equal += 1,
            false => self.explained += 1,
        }
        for cause in needed {
            *self.causes.entry(cause).or_default() += 1;
        }
    }
}

/// `count` images from the seed `from` on, in one of the modes.
pub fn compare(from: u64, count: u64, scalable: bool) -> Tally {
    let options = if scalable { ",scalable-mode=on" } else { "" };
    let machine = Machine::start(options);
    let mut tally = Tally::default();
    let mut batch = Vec::new();
    let mut seed = from;
    let mut left = count;
    while left > 0 {
        let image = Image::random(seed, scalable);
        seed += 1;
        // Some lead to memory of the tables themselves.
        if let Some(expected) = answer::of_model(&image) {
            let found = answer::of_qemu(&machine, &image, &expected, batch.len());
            batch.push((image, expected, found));
            left -= 1;
        }
        // Two slots an image.
        if batch.len() == SLOTS / 2 || left == 0 {
            let slots = READING.map(|source| machine.slots(source, batch.len() * 2));
            for (slot, (image, expected, mut found)) in batch.drain(..).enumerate() {
                for (index, access) in image.accesses.iter().enumerate() {
                    let reader = READING.iter().position(|source| *source == access.source);
                    if let Some(reader) = reader {
                        found[index].outcome = Outcome::Read(slots[reader][slot * 2 + index]);
                    }
                }
                tally.judge(&image, &expected, &found);
            }
        }
    }
    machine.end();
    tally
}
