//! What the work needs from outside the checkout, each fetched once, when it is first needed.
//!
//! [`toolchain`] compiles for the bare machine, at times with [`debian_rust`]; [`kit`] holds QEMU and firmware, [`linux`] what Linux
//! guests are made of.
//! They ask [`apt`] for what the machine lacks, and [`sources`] tells where apt may get it.

pub mod apt;
mod cargo_tool;
mod debian_rust;
pub mod kit;
pub mod linux;
mod sources;
pub mod toolchain;

pub use cargo_tool::cargo_tool;

use crate::project::{self, Lock};
use anyhow::Result;

/// Waits until no other set-up of the same user is under way.
fn lock() -> Result<Lock> {
    project::lock(&project::cache()?)
}
