//! Random images on the crate's model and on QEMU: equal, or explained by what QEMU is known to do ([`causes`]).
//!
//! [`causes`]: crate::causes

use std::collections::BTreeMap;

use crate::answer::{self, Answer, Expected, Outcome};
use crate::causes::{Cause, Causes, TABLE};
use crate::devices::{READING, SLOTS};
use crate::image::{Format, Image};
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
    /// Records that both wrote alike, by event number.
    pub events: BTreeMap<u8, u32>,
    /// Images that each cause was needed for.
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
        for (number, count) in other.events {
            *self.events.entry(number).or_default() += count;
        }
        for (cause, count) in other.causes {
            *self.causes.entry(cause).or_default() += count;
        }
        self.open.extend(other.open);
    }

    /// In words, a line each.
    pub fn report(&self) -> Vec<String> {
        let Self {
            images,
            equal,
            explained,
            arrived,
            ..
        } = self;
        let open = self.open.len();
        let list = |items: Vec<String>| items.join(", ");
        let events = self.events.iter();
        let causes = TABLE.iter().map(|row| {
            let count = self.causes.get(&row.cause).copied().unwrap_or(0);
            format!("{:?} {count}", row.cause)
        });
        vec![
            format!("{images} images: {equal} equal, {explained} explained, {open} open"),
            format!(
                "of the equal ones, {arrived} transactions arrived; records by number: {}",
                list(
                    events
                        .map(|(number, count)| format!("{number:#04x} {count}"))
                        .collect()
                )
            ),
            format!(
                "causes in QEMU, by the images that need them: {}",
                list(causes.collect())
            ),
        ]
    }

    fn judge(&mut self, image: &Image, expected: &Expected, found: &[Answer; 2]) {
        self.images += 1;
        let plain = predict::answers(image, expected, Causes::default());
        if plain != expected.answers {
            let what = "the model does not do what the document says";
            return self.open.push(told(image, what, &expected.answers, &plain));
        }
        if *found == expected.answers {
            self.equal += 1;
            for answer in found {
                self.arrived += u32::from(matches!(
                    answer.outcome,
                    Outcome::Written | Outcome::Read(1..)
                ));
                for event in &answer.events {
                    *self.events.entry(event[0] as u8).or_default() += 1;
                }
            }
            return;
        }
        match predict::explain(image, expected, found) {
            Ok(causes) => {
                self.explained += 1;
                for cause in causes.iter() {
                    *self.causes.entry(cause).or_default() += 1;
                }
            }
            Err(predicted) => {
                let what = format!("QEMU was thought to do {predicted:x?}");
                let told = told(image, &what, &expected.answers, found);
                self.open.push(told);
            }
        }
    }
}

fn told(image: &Image, what: &str, model: &[Answer; 2], found: &[Answer; 2]) -> String {
    let Image {
        seed,
        format,
        base,
        config,
        entry,
        context,
        accesses,
        cold,
        words,
    } = image;
    format!(
        "{format:?} image {seed}: {what}\n  model {model:x?}\n  found {found:x?}\n  {accesses:x?} cold {cold} base {base:x} config {config:x}\n  entry {entry:x?}\n  context {context:x?}\n  words {words:x?}\n"
    )
}

/// `count` images from the seed `from` on.
pub fn compare(format: Format, from: u64, count: u64) -> Tally {
    let machine = Machine::start();
    let mut tally = Tally::default();
    let mut batch = Vec::new();
    let mut seed = from;
    let mut left = count;
    while left > 0 {
        let image = Image::random(seed, format);
        seed += 1;
        // Some lead to memory of the tables themselves.
        if let Some(expected) = answer::of_model(&image) {
            let found = answer::of_qemu(&machine, &image, &expected, batch.len());
            batch.push((image, expected, found));
            left -= 1;
        }
        if batch.len() == SLOTS || left == 0 {
            let slots = READING.map(|stream| machine.slots(stream, batch.len()));
            for (slot, (image, expected, mut found)) in batch.drain(..).enumerate() {
                for (access, answer) in image.accesses.iter().zip(&mut found) {
                    let reader = READING.iter().position(|stream| *stream == access.stream);
                    if let Some(reader) = reader {
                        answer.outcome = Outcome::Read(slots[reader][slot]);
                    }
                }
                tally.judge(&image, &expected, &found);
            }
        }
    }
    tally
}
