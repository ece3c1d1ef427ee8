//! `cargo xtask bench`.

use super::Outcome;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Bench {}

impl Bench {
    /// Does it.
    pub fn run(self) -> Outcome {
        anyhow::bail!("`bench` is not there yet")
    }
}
