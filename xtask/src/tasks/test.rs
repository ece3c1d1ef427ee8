//! `cargo xtask test`.

use super::Outcome;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Test {}

impl Test {
    /// Does it.
    pub fn run(self) -> Outcome {
        anyhow::bail!("`test` is not there yet")
    }
}
