//! `cargo xtask run`.

use super::Outcome;

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Run {}

impl Run {
    /// Does it.
    pub fn run(self) -> Outcome {
        anyhow::bail!("`run` is not there yet")
    }
}
