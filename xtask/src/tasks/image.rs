//! `cargo xtask image`.

use super::Outcome;

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub struct Image {}

impl Image {
    /// Does it.
    pub fn run(self) -> Outcome {
        anyhow::bail!("`image` is not there yet")
    }
}
