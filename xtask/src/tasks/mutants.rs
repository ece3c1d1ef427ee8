//! `cargo xtask mutants`: cargo-mutants on what `.cargo/mutants.toml` names. A change of the code that no test notices
//! fails, unless that file says why none can.

use super::Outcome;
use crate::project;
use crate::setup::cargo_tool;
use anyhow::Context;
use std::process::{Command, ExitCode};

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub struct Mutants {
    /// For cargo-mutants, as `--file iommu/src/smmuv3/spec/ste.rs`, `--list` or `--iterate`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Mutants {
    /// Its output, and its exit code: thousands of builds may take hours.
    pub fn run(self) -> Outcome {
        let output = project::target().join("mutants");
        let _alone = project::lock(&output)?;
        let status = Command::new(cargo_tool("cargo-mutants", "27.1.0")?)
            .arg("mutants")
            .arg("--output")
            .arg(&output)
            .args(self.args)
            .current_dir(project::root())
            // A change that one random case in hundreds notices is found by tests that mean it.
            .env("LIFECYCLE_CASES", "100")
            .env("MODEL_LIVES", "100")
            .status()
            .context("cannot run cargo-mutants")?;
        Ok(match status.success() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}
