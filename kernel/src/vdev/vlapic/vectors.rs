//! A set of vectors, as ISR, TMR and IRR show it: eight registers of 32.

/// Vectors 0 to 255.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    /// Adds `vector`.
    pub const fn insert(&mut self, vector: u8) {
        self.0[vector as usize / 32] |= 1 << (vector % 32);
    }

    /// Takes `vector` out.
    pub const fn remove(&mut self, vector: u8) {
        self.0[vector as usize / 32] &= !(1 << (vector % 32));
    }

    /// Whether `vector` is in it.
    pub const fn contains(&self, vector: u8) -> bool {
        self.0[vector as usize / 32] >> (vector % 32) & 1 != 0
    }

    /// The most urgent one.
    pub fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&bits| bits != 0)?;
        Some((word * 32 + 31) as u8 - self.0[word].leading_zeros() as u8)
    }

    /// Register `index` of the eight.
    pub const fn word(&self, index: u32) -> u32 {
        self.0[index as usize % 8]
    }
}
