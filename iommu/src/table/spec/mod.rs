//! Layouts of descriptors, one file a format. Definitions only.

pub mod second_stage;
pub mod vmsa;
