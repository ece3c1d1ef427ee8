//! Where things lie: the checkout, its `target/`, and the user's cache folder.

use anyhow::{Context, Result};
use std::env;
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
