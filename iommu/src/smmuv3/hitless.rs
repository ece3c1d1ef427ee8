//! How a live entry becomes another: which 64-bit stores, in which order (IHI 0070, §3.21.3).
//!
//! An SMMU reads an entry whenever it likes, each 64-bit word on its own, and keeps what it read until it is told to
//! forget. So an update is a few steps, each of stores followed by an invalidation of the entry that is complete before
//! the next step starts; within a step, the SMMU may see any of its stores and not the others. Every image that it can
//! see then means what the old entry meant, or what the new one means, or abort.
//!
//! Where the two differ, in bits that both use, in one word at most, the update is *hitless*: words are first filled in
//! where the old entry has no use for them, then the one word is stored, then what only the old entry used is cleared.
//! Otherwise the entry is closed first: the stream is refused until the last store.
//!
//! "Used" errs towards used: that can cost a hitless update, never a wrong image. STE.MEV is exempt: it says that records
//! of like faults may be merged, and no transaction goes elsewhere for it.

use super::spec::cd::CD0;
use super::spec::ste::{STE0, STE1, STE2};

/// Words of an STE and of a CD alike.
pub(crate) const WORDS: usize = 8;
/// An entry or a descriptor.
pub(crate) type Words = [u64; WORDS];

/// The word that says whether an entry is valid, among those that a step changes.
pub(crate) const FIRST: u8 = 1;

/// Most steps of an update.
const STEPS: usize = 3;

/// What kind of structure is updated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    StreamTableEntry,
    ContextDescriptor,
}

/// An update in steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Update {
    images: [Words; STEPS],
    /// The words that each step changes, a bit each.
    changes: [u8; STEPS],
    /// No image of it means abort unless the old or the new one does.
    pub(super) hitless: bool,
}

macro_rules! mask {
    ($($field:expr),* $(,)?) => {{
        let mut mask = 0;
        $(mask |= $field.mask << $field.shift;)*
        mask
    }};
}

impl Update {
    /// From `old` to `new`.
    pub(crate) fn new(old: &Words, new: &Words, kind: Kind) -> Self {
        let (used_old, used_new) = (used(old, kind), used(new, kind));
        // Each copied to where it stays.
        let mut update = Self {
            images: [*old, *old, *new],
            changes: [0; STEPS],
            hitless: false,
        };
        let [filled, switched, _] = &mut update.images;
        let [fills, switches, ends] = &mut update.changes;
        // Words that differ, and those that do in bits that both use.
        let (mut different, mut critical) = (0, 0);
        for word in 0..WORDS {
            if old[word] == new[word] {
                continue;
            }
            let bit = 1 << word;
            different |= bit;
            let used = used_old[word];
            if (old[word] ^ new[word]) & used & used_new[word] != 0 {
                critical += 1;
                switched[word] = new[word];
                *switches |= bit;
                continue;
            }
            let mixed = old[word] & used | new[word] & !used;
            (filled[word], switched[word]) = (mixed, mixed);
            *fills |= if mixed != old[word] { bit } else { 0 };
            *ends |= if mixed != new[word] { bit } else { 0 };
        }
        update.hitless = critical <= 1;
        if !update.hitless {
            let shut = closed(kind);
            (*filled, *switched) = (*old, *new);
            (filled[0], switched[0]) = (shut, shut);
            let first = |word: u64| u8::from(word != shut);
            update.changes = [first(old[0]), different & !FIRST, first(new[0])];
        }
        update
    }

    /// One store: everything is refused from then on, silently if `word` is [`ABORTED`], with an event if it is
    /// [`INVALID`]. The other words stay.
    pub(crate) fn close(old: &Words, word: u64) -> Self {
        let mut shut = *old;
        shut[0] = word;
        let mut changes = [0; STEPS];
        changes[0] = u8::from(old[0] != word);
        Self {
            images: [shut; STEPS],
            changes,
            hitless: true,
        }
    }

    /// What memory holds after each step; a step that changes nothing is none.
    #[cfg(test)]
    pub(crate) fn images(&self) -> &[Words; STEPS] {
        &self.images
    }

    /// The steps that there are: what memory holds after each, and the words that it changes, a bit each.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&Words, u8)> {
        let steps = self.images.iter().zip(&self.changes);
        steps.filter_map(|(image, changes)| (*changes != 0).then_some((image, *changes)))
    }
}

/// Word 0 of an STE that refuses everything without an event.
pub(super) const ABORTED: u64 = STE0::V::SET.value | STE0::CONFIG::Abort.value;
/// Word 0 of an STE or CD that is not valid: everything is refused with an event.
pub(crate) const INVALID: u64 = 0;

/// Word 0 while an update is under way: there is nothing to record then, where it can be said.
fn closed(kind: Kind) -> u64 {
    match kind {
        Kind::StreamTableEntry => ABORTED,
        Kind::ContextDescriptor => INVALID,
    }
}

/// The bits that an SMMU looks at.
fn used(words: &Words, kind: Kind) -> Words {
    match kind {
        Kind::StreamTableEntry => used_of_entry(words),
        Kind::ContextDescriptor => used_of_context(words),
    }
}

fn used_of_entry(words: &Words) -> Words {
    const CONFIG: u64 = mask!(STE0::V, STE0::CONFIG);
    /// Only where stage 1 translates.
    const STAGE_ONE: u64 = mask!(
        STE1::S1DSS,
        STE1::S1CIR,
        STE1::S1COR,
        STE1::S1CSH,
        STE1::S1STALLD,
        STE1::STRW
    );
    const MERGE: u64 = mask!(STE1::MEV);
    let mut used = [0; WORDS];
    let valid = words[0] & mask!(STE0::V) != 0;
    if !valid {
        used[0] = mask!(STE0::V);
        return used;
    }
    used[0] = CONFIG;
    let config = words[0] >> STE0::CONFIG.shift & STE0::CONFIG.mask;
    let (one, two, passes) = (config & 1 != 0, config & 2 != 0, config & 4 != 0);
    if !passes {
        return used;
    }
    used[1] = !(STAGE_ONE | MERGE);
    used[4..].fill(u64::MAX);
    if one {
        used[0] = u64::MAX;
        used[1] |= STAGE_ONE;
        used[2] |= mask!(STE2::S2VMID);
    }
    if two {
        used[2] = u64::MAX;
        used[3] = u64::MAX;
    }
    used
}

fn used_of_context(words: &Words) -> Words {
    const LOWER: u64 = mask!(CD0::T0SZ, CD0::TG0, CD0::IR0, CD0::OR0, CD0::SH0);
    const UPPER: u64 = mask!(CD0::T1SZ, CD0::TG1, CD0::IR1, CD0::OR1, CD0::SH1);
    let mut used = [0; WORDS];
    if words[0] & mask!(CD0::V) == 0 {
        used[0] = mask!(CD0::V);
        return used;
    }
    used = [u64::MAX; WORDS];
    if words[0] & mask!(CD0::EPD0) != 0 {
        used[0] &= !LOWER;
        used[1] = 0;
    }
    if words[0] & mask!(CD0::EPD1) != 0 {
        used[0] &= !UPPER;
        used[2] = 0;
    }
    used
}

#[cfg(test)]
mod tests;
