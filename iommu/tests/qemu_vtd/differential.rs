//! Random images on the crate's model and on QEMU: equal, or explained by what QEMU is known to do ([`causes`]).
//!
//! [`causes`]: crate::causes

use crate::answer::{self, Answer, Expected, Outcome};
use crate::devices::{READING, SLOTS};
use crate::image::Image;
use crate::machine;
use crate::predict;
use crate::tally::Tally;

fn judge(tally: &mut Tally, image: &Image, expected: &Expected, found: &[Answer; 2]) {
    tally.images += 1;
    let mut needed = Vec::new();
    for (index, (answer, found)) in expected.answers.iter().zip(found).enumerate() {
        if answer == found {
            let arrived = matches!(answer.outcome, Outcome::Written | Outcome::Read(1..));
            tally.arrived += u32::from(arrived);
            if let Some(record) = answer.record {
                *tally.records.entry((record[1] >> 32) as u8).or_default() += 1;
            }
            continue;
        }
        let (predicted, causes, _) = predict::answer(image, expected, index);
        if predicted != *found || causes.is_empty() {
            return tally.open.push(format!(
                "image {}: request {index}\n  model {answer:x?}\n  found {found:x?}\n  thought {predicted:x?} {causes:?}\n  {image:x?}\n",
                image.seed
            ));
        }
        needed.extend(causes);
    }
    match needed.is_empty() {
        true => tally.equal += 1,
        false => tally.explained += 1,
    }
    for cause in needed {
        *tally.causes.entry(cause).or_default() += 1;
    }
}

/// `count` images from the seed `from` on, in one of the modes.
pub fn compare(from: u64, count: u64, scalable: bool) -> Tally {
    let options = if scalable { ",scalable-mode=on" } else { "" };
    let machine = machine::start(options);
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
            let slots = READING.map(|source| machine::slots(&machine, source, batch.len() * 2));
            for (slot, (image, expected, mut found)) in batch.drain(..).enumerate() {
                for (index, access) in image.accesses.iter().enumerate() {
                    let reader = READING.iter().position(|source| *source == access.source);
                    if let Some(reader) = reader {
                        found[index].outcome = Outcome::Read(slots[reader][slot * 2 + index]);
                    }
                }
                judge(&mut tally, &image, &expected, &found);
            }
        }
    }
    machine.end();
    tally
}
