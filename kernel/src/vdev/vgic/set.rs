//! A set of interrupts, small to test for emptiness and cheap to walk when few are in it: two levels of bits.

use alloc::{vec, vec::Vec};

/// Numbers below a bound that is fixed when it is made.
pub(super) struct IrqSet {
    /// Bit `n`: `words[n]` is not zero.
    summary: Vec<u64>,
    words: Vec<u64>,
}

impl IrqSet {
    /// An empty set of numbers below `bound`.
    pub fn new(bound: usize) -> Self {
        let words = bound.div_ceil(64);
        Self {
            summary: vec![0; words.div_ceil(64)],
            words: vec![0; words],
        }
    }

    /// Adds `n`.
    pub fn insert(&mut self, n: usize) {
        self.words[n / 64] |= 1 << (n % 64);
        self.summary[n / 4096] |= 1 << (n / 64 % 64);
    }

    /// Takes `n` out.
    pub fn remove(&mut self, n: usize) {
        self.words[n / 64] &= !(1 << (n % 64));
        if self.words[n / 64] == 0 {
            self.summary[n / 4096] &= !(1 << (n / 64 % 64));
        }
    }

    /// Whether nothing is in it: one word for each 4096 numbers is looked at.
    pub fn is_empty(&self) -> bool {
        self.summary.iter().all(|&word| word == 0)
    }

    /// The members, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        bits(&self.summary)
            .flat_map(|word| bits(&self.words[word..=word]).map(move |bit| word * 64 + bit))
    }
}

/// Positions of the set bits.
fn bits(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(index, &word)| {
        let mut left = word;
        core::iter::from_fn(move || {
            let bit = left
                .checked_ilog2()
                .map(|_| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(index * 64 + bit)
        })
    })
}
