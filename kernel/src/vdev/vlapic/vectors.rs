//! A set of vectors, as ISR, TMR and IRR show it: eight registers of 32.

/// Vectors 0 to 255.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Vectors {
    words: [u32; 8],
    /// Which of them are not zero: every entry asks for the highest, and mostly there is none.
    used: u8,
}

impl Vectors {
    /// Adds `vector`.
    pub const fn insert(&mut self, vector: u8) {
        let word = vector / 32;
        self.words[word as usize] |= 1 << (vector % 32);
        self.used |= 1 << word;
    }

    /// Takes `vector` out.
    pub const fn remove(&mut self, vector: u8) {
        let word = vector / 32;
        self.words[word as usize] &= !(1 << (vector % 32));
        if self.words[word as usize] == 0 {
            self.used &= !(1 << word);
        }
    }

    /// Whether `vector` is in it.
    pub const fn contains(&self, vector: u8) -> bool {
        self.words[vector as usize / 32] >> (vector % 32) & 1 != 0
    }

    /// The most urgent one.
    pub fn highest(&self) -> Option<u8> {
        let word = self.used.checked_ilog2()?;
        let bit = self.words[word as usize].checked_ilog2()?;
        Some((word * 32 + bit) as u8)
    }

    /// Those of eight registers, but for the first sixteen, which are no interrupts.
    pub fn of(words: [u32; 8]) -> Self {
        let mut vectors = Self { words, used: 0 };
        vectors.words[0] &= !0xffff;
        for (word, bits) in vectors.words.iter().enumerate() {
            vectors.used |= u8::from(*bits != 0) << word;
        }
        vectors
    }

    /// All of both.
    pub fn and(self, other: Self) -> Self {
        Self::of(core::array::from_fn(|word| {
            self.words[word] | other.words[word]
        }))
    }

    /// Those that are not in `other`.
    pub fn without(self, other: Self) -> Self {
        Self::of(core::array::from_fn(|word| {
            self.words[word] & !other.words[word]
        }))
    }

    /// All eight registers.
    pub const fn words(&self) -> [u32; 8] {
        self.words
    }

    /// Register `index` of the eight.
    pub const fn word(&self, index: u32) -> u32 {
        self.words[index as usize % 8]
    }
}
