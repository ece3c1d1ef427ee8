//! Every pair of configurations, every subset of the stores of every step (which has every prefix in it).
//!
//! What an image means is decided here from the tables of §5.2 and §5.4, with bit positions of its own.

use alloc::vec;
use alloc::vec::Vec;

use super::*;

/// What transactions of a stream meet: the fields that matter, and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Meaning {
    Abort,
    Fields(Vec<u64>),
}

fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & (u64::MAX >> (63 - (high - low)))
}

fn meaning_of_entry(words: &Words) -> Meaning {
    let [w0, w1, w2, w3, ..] = *words;
    let config = bits(w0, 3, 1);
    if w0 & 1 == 0 || config < 4 {
        return Meaning::Abort;
    }
    // EATS, S2FWB, SHCFG, MTCFG, MemAttr, ALLOCCFG and the other overrides: whatever passes has them.
    let mut fields = vec![
        config,
        bits(w1, 18, 8),
        bits(w1, 26, 20),
        bits(w1, 29, 28),
        bits(w1, 63, 32),
    ];
    if config & 1 != 0 {
        fields.extend([bits(w0, 5, 4), bits(w0, 51, 6), bits(w0, 63, 59)]);
        fields.extend([bits(w1, 7, 0), bits(w1, 27, 27), bits(w1, 31, 30)]);
        fields.push(bits(w2, 15, 0));
    }
    if config & 2 != 0 {
        fields.extend([w2, w3]);
    }
    Meaning::Fields(fields)
}

fn meaning_of_context(words: &Words) -> Meaning {
    let w0 = words[0];
    if bits(w0, 31, 31) == 0 {
        return Meaning::Abort;
    }
    let mut fields = vec![bits(w0, 15, 14), bits(w0, 30, 30), bits(w0, 63, 32)];
    if bits(w0, 14, 14) == 0 {
        fields.extend([bits(w0, 13, 0), words[1]]);
    }
    if bits(w0, 30, 30) == 0 {
        fields.extend([bits(w0, 29, 16), words[2]]);
    }
    fields.extend(&words[3..]);
    Meaning::Fields(fields)
}

/// Entries of every kind, with fields that differ alone and together, and with dirt where nothing looks.
fn entries() -> Vec<Words> {
    let one = |config: u64, table: u64, low: u64, vmid: u64| -> Words {
        [
            1 | config << 1 | table | 3 << 59,
            low | 1 << 44,
            vmid,
            0,
            0,
            0,
            0,
            0,
        ]
    };
    let two = |vmid: u64, root: u64| -> Words {
        [0xd, 1 << 44, 0x046c_3559_0000_0000 | vmid, root, 0, 0, 0, 0]
    };
    let nested = |table: u64, low: u64, vmid: u64, root: u64| -> Words {
        [
            0xf | table,
            low | 1 << 44 | 1 << 19,
            0x046c_3559_0000_0000 | vmid,
            root,
            0,
            0,
            0,
            0,
        ]
    };
    let mut all = vec![
        [0; 8],
        [1, 0, 0, 0, 0, 0, 0, 0],
        // Aborts with a whole old entry behind it, as a closed stream has; an invalid one as well.
        [1, 1 << 44, 0x046c_3559_0000_0007, 0x8000, 0, 0, 0, 0],
        [0xe, 1 << 44, 0x046c_3559_0000_0007, 0x8000, 0, 0, 0, 0],
        // Bypass.
        [0x9, 1 << 44, 0, 0, 0, 0, 0, 0],
        [0x9, 0, 0xffff, u64::MAX, 0, 0, 0, 0],
    ];
    for table in [0x4000, 0x1_0000] {
        for low in [0xd6, 0xd5] {
            all.push(one(5, table, low, 7));
            all.push(nested(table, low, 7, 0x8000));
        }
        all.push(one(5, table, 0xd6, 8));
        all.push(nested(table, 0xd6, 8, 0x8000));
        all.push(nested(table, 0xd6, 8, 0x9000));
        all.push(nested(table, 0xd6 | 1 << 28, 7, 0x8000));
        all.push(nested(table, 0xd6 | 1 << 27, 7, 0x8000));
    }
    for (vmid, root) in [(7, 0x8000), (8, 0x8000), (7, 0x9000), (8, 0x9000)] {
        all.push(two(vmid, root));
    }
    // Stage 2 with stage 1's fields left behind.
    let mut dirty = two(7, 0x8000);
    dirty[1] |= 0xff;
    all.push(dirty);
    all
}

fn contexts() -> Vec<Words> {
    let mut all = vec![[0; 8], [1 << 30, 0x4000, 0x5000, 0xff, 0, 0, 0, 0]];
    let base = 1 << 31 | 1 << 41 | 3 << 45;
    for asid in [5u64, 6] {
        for ttb in [0x4000, 0x6000] {
            for mair in [0xff, 0xff44] {
                // Lower table alone, both, upper table alone.
                for (disabled, upper) in [(1 << 30, 0), (0, 0x7000), (1 << 14, 0x7000)] {
                    let sizes = 25 | 25 << 16;
                    all.push([
                        base | asid << 48 | disabled | sizes,
                        ttb,
                        upper,
                        mair,
                        0,
                        0,
                        0,
                        0,
                    ]);
                }
            }
        }
    }
    all
}

/// Walks through the update; `seen` gets every image that a reader may put together.
fn walk(old: &Words, update: &Update, mut seen: impl FnMut(&Words, usize)) -> Words {
    let mut at = *old;
    for (step, image) in update.images().iter().enumerate() {
        let stores: Vec<usize> = (0..WORDS)
            .filter(|word| at[*word] != image[*word])
            .collect();
        let told = (0..WORDS).filter(|word| update.changes[step] >> word & 1 != 0);
        assert!(
            told.eq(stores.iter().copied()),
            "step {step} of {update:x?}"
        );
        for subset in 0..1u32 << stores.len() {
            let mut mixed = at;
            for (bit, word) in stores.iter().enumerate() {
                if subset >> bit & 1 != 0 {
                    mixed[*word] = image[*word];
                }
            }
            seen(&mixed, step);
        }
        at = *image;
    }
    at
}

fn every_pair(all: &[Words], kind: Kind, meaning: fn(&Words) -> Meaning) -> (usize, usize) {
    let (mut hitless, mut closed) = (0, 0);
    for old in all {
        for new in all {
            let update = Update::new(old, new, kind);
            let (before, after) = (meaning(old), meaning(new));
            let mut changed = 0;
            let end = walk(old, &update, |image, step| {
                let now = meaning(image);
                let fits =
                    now == before || now == after || (!update.hitless && now == Meaning::Abort);
                assert!(
                    fits,
                    "step {step}: {old:x?} to {new:x?} by {image:x?}: {now:?}"
                );
                changed += usize::from(now != before);
            });
            assert_eq!(&end, new);
            if update.hitless {
                hitless += 1;
            } else {
                closed += 1;
                assert_ne!(before, after);
            }
            for word in [INVALID, super::closed(kind)] {
                let shut = Update::close(old, word);
                let end = walk(old, &shut, |image, _| {
                    let now = meaning(image);
                    assert!(now == before || now == Meaning::Abort);
                });
                assert_eq!(meaning(&end), Meaning::Abort);
            }
        }
    }
    (hitless, closed)
}

#[test]
fn every_image_of_every_update_of_an_entry_means_old_or_new_or_abort() {
    let all = entries();
    let (hitless, closed) = every_pair(&all, Kind::StreamTableEntry, meaning_of_entry);
    assert!(hitless > closed, "{hitless} {closed}");
}

#[test]
fn every_image_of_every_update_of_a_context_means_old_or_new_or_abort() {
    every_pair(&contexts(), Kind::ContextDescriptor, meaning_of_context);
}

/// The updates that a guest's life is made of.
#[test]
fn what_can_be_hitless_is() {
    let stage_two = [0xd, 1 << 44, 0x046c_3559_0000_0007, 0x8000, 0, 0, 0, 0];
    let nested = |table: u64| {
        [
            0xf | table,
            0xd6 | 1 << 44 | 1 << 19,
            0x046c_3559_0000_0007,
            0x8000,
            0,
            0,
            0,
            0,
        ]
    };
    let hitless = |old: &Words, new: &Words| Update::new(old, new, Kind::StreamTableEntry).hitless;
    assert!(hitless(&stage_two, &nested(0x4000)));
    assert!(hitless(&nested(0x4000), &stage_two));
    assert!(hitless(&nested(0x4000), &nested(0x8000)));
    assert!(hitless(&[1, 0, 0, 0, 0, 0, 0, 0], &stage_two));
    assert!(hitless(&[0; 8], &nested(0x4000)));
    let mut other_root = stage_two;
    other_root[3] = 0x9000;
    assert!(hitless(&stage_two, &other_root), "one word");
    other_root[2] += 1;
    assert!(!hitless(&stage_two, &other_root), "two words");

    // A new table under the same ASID is one word; a new ASID as well; both are two.
    let context = |asid: u64, table: u64| [1 << 31 | 1 << 30 | asid << 48, table, 0, 0, 0, 0, 0, 0];
    let hitless = |old: &Words, new: &Words| Update::new(old, new, Kind::ContextDescriptor).hitless;
    assert!(hitless(&context(1, 0x4000), &context(1, 0x5000)));
    assert!(hitless(&context(1, 0x4000), &context(2, 0x4000)));
    assert!(!hitless(&context(1, 0x4000), &context(2, 0x5000)));
    assert!(hitless(&[0; 8], &context(2, 0x5000)));
}

#[test]
fn a_step_of_the_switch_is_one_store() {
    for old in entries() {
        for new in entries() {
            let update = Update::new(&old, &new, Kind::StreamTableEntry);
            let [filled, switched, _] = update.images();
            let stores = filled.iter().zip(switched).filter(|(a, b)| a != b).count();
            if update.hitless {
                assert!(stores <= 1);
            }
        }
    }
}
