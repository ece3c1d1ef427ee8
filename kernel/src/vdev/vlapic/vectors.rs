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

    /// Register `index` of the eight.
    pub const fn word(&self, index: u32) -> u32 {
        self.words[index as usize % 8]
    }
}
