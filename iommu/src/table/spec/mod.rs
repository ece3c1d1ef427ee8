//! Layouts of descriptors, one file a format. Definitions only.

pub mod ept;
pub mod npt;
pub mod second_stage;
pub mod vmsa;

/// Widest output address of [`ept`], [`npt`] and [`second_stage`], in bits.
pub const PC_OUTPUT_BITS: u8 = 52;

/// Bits of an address in one of their entries, whatever it leads to.
pub const PC_ADDRESS: u64 = ((1 << PC_OUTPUT_BITS) - 1) & !0xfff;

/// The bit by which one of their entries above the pages is a leaf: `SIZE`, and `PS` of VT-d (9.8).
pub const PC_SIZE: u64 = 1 << 7;
