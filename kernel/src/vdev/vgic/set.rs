//! A set of interrupts, cheap to test for emptiness and to walk when few are in it: two levels of bits.

use alloc::{vec, vec::Vec};

/// Numbers below a bound that is fixed when it is made.
pub(super) struct IrqSet {
    /// Bit `n`: `words[n]` is not zero.
    summary: Vec<u64>,
    words: Vec<u64>,
    len: usize,
}

impl IrqSet {
    /// An empty set of numbers below `bound`.
    pub fn new(bound: usize) -> Self {
        let words = bound.div_ceil(64);
        Self {
            summary: vec![0; words.div_ceil(64)],
            words: vec![0; words],
            len: 0,
        }
    }

    /// Adds `n`, which is not in it.
    pub fn insert(&mut self, n: usize) {
        self.len += 1;
        self.words[n / 64] |= 1 << (n % 64);
        self.summary[n / 4096] |= 1 << (n / 64 % 64);
    }

    /// Takes `n` out, which is in it.
    pub fn remove(&mut self, n: usize) {
        self.len -= 1;
        self.words[n / 64] &= !(1 << (n % 64));
        if self.words[n / 64] == 0 {
            self.summary[n / 4096] &= !(1 << (n / 64 % 64));
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The members, lowest first.
    pub fn iter(&self) -> Members<'_> {
        Members {
            set: self,
            next: 0,
            word: 0,
            words: 0,
            bits: 0,
        }
    }
}

/// The members of a set. By hand: two adaptors in each other cost some hundred instructions a walk, and every interrupt of a
/// guest takes one.
pub(super) struct Members<'a> {
    set: &'a IrqSet,
    /// Word of the summary that comes next.
    next: usize,
    /// Word that `bits` is of.
    word: usize,
    /// What is left of the summary's word before `next`.
    words: u64,
    /// What is left of `word`.
    bits: u64,
}

impl Iterator for Members<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.bits == 0 {
            while self.words == 0 {
                self.words = *self.set.summary.get(self.next)?;
                self.next += 1;
            }
            self.word = (self.next - 1) * 64 + self.words.trailing_zeros() as usize;
            self.words &= self.words - 1;
            self.bits = *self.set.words.get(self.word)?;
        }
        let bit = self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(self.word * 64 + bit)
    }
}

#[cfg(test)]
mod tests {
    use super::IrqSet;

    #[test]
    fn members_come_in_order_whatever_words_they_are_in() {
        let numbers = [0, 1, 63, 64, 127, 4095, 4096, 8191, 12_000];
        let mut set = IrqSet::new(12_001);
        assert_eq!(set.iter().next(), None);
        for &n in numbers.iter().rev() {
            set.insert(n);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), numbers);
        for n in [1, 64, 4096] {
            set.remove(n);
        }
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [0, 63, 127, 4095, 8191, 12_000]
        );
    }
}
