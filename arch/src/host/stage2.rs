//! Stage 2: nothing walks tables here, so nothing caches them.

pub use crate::aarch64::stage2::Stage2Config;

/// Does nothing.
pub fn activate(_config: &Stage2Config) {}

/// Does nothing.
pub fn invalidate_all(_vmid: u16) {}

/// Does nothing.
pub fn invalidate_range(_ipa: u64, _len: u64) {}
