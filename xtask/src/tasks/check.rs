//! `cargo xtask check`: a configuration with all its rules, before anything boots.

use super::Outcome;
use crate::arch::Arch;
use crate::config::{self, Checked, Made};
use anyhow::Result;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `cargo xtask check`.
#[derive(clap::Args)]
pub struct Check {
    /// Configurations to check.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The machine.
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
}

impl Check {
    /// Prints every problem of every file.
    pub fn run(self) -> Outcome {
        let mut code = ExitCode::SUCCESS;
        for path in &self.files {
            match checked(path, &Made::new(), self.arch)? {
                Some(checked) => println!(
                    "{}: {} partitions, no problem",
                    path.display(),
                    checked.machine.partitions.len()
                ),
                None => code = ExitCode::FAILURE,
            }
        }
        Ok(code)
    }
}

/// The configuration at `path`, or `None` after every problem was printed.
pub fn checked(path: &Path, made: &Made, arch: Arch) -> Result<Option<Checked>> {
    match config::check(path, made, arch)? {
        Ok(checked) => Ok(Some(checked)),
        Err(report) => {
            let plural = if report.findings.len() == 1 { "" } else { "s" };
            eprint!("{}", report.render(stderr().is_terminal()));
            eprintln!("{}: {} problem{plural}", report.path, report.findings.len());
            Ok(None)
        }
    }
}
