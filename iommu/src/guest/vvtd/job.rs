//! What was begun, and goes on in parts.

use super::work::Part;

/// Sources whose entries are to be read anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    All,
    /// Those that do not differ from the first in bits that are set in the second.
    Like(u16, u16),
}

impl Which {
    /// A source, without the low bits of the function number that FM says (6.5.2.1).
    pub fn of(source: u16, functions: u8) -> Self {
        let ignored = [0, 0b100, 0b110, 0b111][usize::from(functions & 3)];
        Self::Like(source, !ignored)
    }

    pub fn has(self, source: u32) -> bool {
        match self {
            Self::All => true,
            Self::Like(wanted, mask) => (source as u16 ^ wanted) & mask == 0,
        }
    }
}

/// Which of a source's entries: PASID 0 is that of requests without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pasids {
    All,
    One(u32),
}

impl Pasids {
    /// Where to begin.
    pub fn first(self) -> u32 {
        match self {
            Self::All => 0,
            Self::One(pasid) => pasid,
        }
    }
}

/// What follows a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    Nothing,
    /// GSTS.TES is what GCMD.TE is.
    Translation,
    /// The descriptor at the head is complete.
    Descriptor,
    ContextCommand,
    TranslationCommand,
}

/// What was begun. What started it is not read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Job {
    /// The next source, or shadow.
    pub next: usize,
    pub what: What,
    pub then: Then,
}

/// On what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Sources {
        which: Which,
        pasids: Pasids,
        /// The PASID of the present source that is next.
        at: u32,
    },
    Tables {
        domain: Option<u16>,
        /// What is left of the present shadow, if it was begun.
        rest: Option<Part>,
        first: u64,
        last: u64,
    },
}

impl Job {
    pub fn devices(which: Which, then: Then) -> Self {
        Self::entries(which, Pasids::All, then)
    }

    /// The entries of some PASIDs.
    pub fn entries(which: Which, pasids: Pasids, then: Then) -> Self {
        Self {
            next: 0,
            what: What::Sources {
                which,
                pasids,
                at: pasids.first(),
            },
            then,
        }
    }

    /// The tables of `domain`, or all of them, for the addresses `first..=last`.
    pub fn tables(domain: Option<u16>, first: u64, last: u64, then: Then) -> Self {
        Self {
            next: 0,
            what: What::Tables {
                domain,
                rest: None,
                first,
                last,
            },
            then,
        }
    }
}
