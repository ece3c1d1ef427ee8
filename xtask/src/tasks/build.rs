//! `cargo xtask build`.

use super::Outcome;

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Build {}

impl Build {
    /// Does it.
    pub fn run(self) -> Outcome {
        anyhow::bail!("`build` is not there yet")
    }
}
