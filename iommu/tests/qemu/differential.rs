//! Random images on the crate's model and on QEMU: equal, or explained by what QEMU is known to do ([`causes`]).
//!
//! [`causes`]: crate::causes

use crate::answer::{self, Answer, Expected, Outcome};
use crate::causes::Causes;
use crate::devices::{READING, SLOTS};
use crate::image::{Format, Image};
use crate::machine;
use crate::predict;
use crate::tally::Tally;

fn judge(tally: &mut Tally, image: &Image, expected: &Expected, found: &[Answer; 2]) {
    tally.images += 1;
    let plain = predict::answers(image, expected, Causes::default());
    if plain != expected.answers {
        let what = "the model does not do what the document says";
        return tally
            .open
            .push(told(image, what, &expected.answers, &plain));
    }
    if *found == expected.answers {
        tally.equal += 1;
        for answer in found {
            tally.arrived += u32::from(matches!(
                answer.outcome,
                Outcome::Written | Outcome::Read(1..)
            ));
            for event in &answer.events {
                *tally.records.entry(event[0] as u8).or_default() += 1;
            }
        }
        return;
    }
    match predict::explain(image, expected, found) {
        Ok(causes) => {
            tally.explained += 1;
            for cause in causes.iter() {
                *tally.causes.entry(cause).or_default() += 1;
            }
        }
        Err(predicted) => {
            let what = format!("QEMU was thought to do {predicted:x?}");
            let told = told(image, &what, &expected.answers, found);
            tally.open.push(told);
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
    let machine = machine::start();
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
            let slots = READING.map(|stream| machine::slots(&machine, stream, batch.len()));
            for (slot, (image, expected, mut found)) in batch.drain(..).enumerate() {
                for (access, answer) in image.accesses.iter().zip(&mut found) {
                    let reader = READING.iter().position(|stream| *stream == access.stream);
                    if let Some(reader) = reader {
                        answer.outcome = Outcome::Read(slots[reader][slot]);
                    }
                }
                judge(&mut tally, &image, &expected, &found);
            }
        }
    }
    tally
}
