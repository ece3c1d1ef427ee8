//! `cargo xtask setup`.

use super::Outcome;

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Setup {}

impl Setup {
    /// Does it.
    pub fn run(self) -> Outcome {
        anyhow::bail!("`setup` is not there yet")
    }
}
