//! The driver on a model SMMU that is slow, broken, gone, out of memory or flooded with events.

mod allocation;
mod commands;
mod events;
mod gone;
mod memory;
#[path = "../rig/mod.rs"]
mod rig;

const PAGE: u64 = 4096;

/// GERROR (§6.3.19).
const CMDQ_ERR: u32 = 1;
const EVENTQ_ABT_ERR: u32 = 1 << 2;
const SFM_ERR: u32 = 1 << 8;
