//! `cargo xtask check`.

use super::Outcome;

/// Arguments of `cargo xtask check`.
#[derive(clap::Args)]
pub struct Check {}

impl Check {
    /// Does it.
    pub fn run(self) -> Outcome {
        anyhow::bail!("`check` is not there yet")
    }
}
