//! Where things lie: the checkout, its `target/`, and the user's cache folder.

use crate::progress::Step;
use anyhow::{Context, Result};
use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// The top folder of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies one folder below the top")
}

/// Where cargo builds, and where what we make goes (`CARGO_TARGET_DIR` or `target/`).
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// What is fetched once a user: `$XDG_CACHE_HOME/sluice` or `~/.cache/sluice`.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(
            env::var_os("HOME").context("HOME is not set; set it, or XDG_CACHE_HOME")?,
        )
        .join(".cache"),
    };
    Ok(base.join("sluice"))
}

/// Keeps the other `cargo xtask`s away from a folder while it lives.
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

/// Waits until no other process holds `folder`, and says so when it has to.
pub fn lock(folder: &Path) -> Result<Lock> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let step = Step::start(format!(
                "waiting for another `cargo xtask` that uses {}",
                folder.display()
            ));
            file.lock()?;
            step.done();
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    Ok(Lock(file))
}

/// Writes a file that another process may be reading: that one sees the old bytes or the new ones.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_added_extension(std::process::id().to_string());
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
