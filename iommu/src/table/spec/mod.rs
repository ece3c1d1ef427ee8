//! Layouts of descriptors, one file a format. Definitions only.

pub mod ept;
pub mod npt;
pub mod second_stage;
pub mod vmsa;
