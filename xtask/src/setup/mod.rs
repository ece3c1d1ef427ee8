//! What the work needs from outside the checkout, each fetched once, when it is first needed.
//!
//! [`toolchain`] compiles for the bare machine; [`kit`] holds QEMU, a kernel, firmware. Both ask [`apt`] for what the
//! machine lacks, and [`sources`] tells where apt may get it.

pub mod apt;
pub mod kit;
mod sources;
pub mod toolchain;

use anyhow::{Context, Result};
use std::fs::{self, File};

/// Keeps other set-ups of the same user waiting while it lives.
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

/// Waits until no other set-up is under way.
pub fn lock() -> Result<Lock> {
    let dir = crate::project::cache()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = File::create(dir.join("lock"))?;
    file.lock()?;
    Ok(Lock(file))
}
