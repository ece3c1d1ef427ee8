//! `cargo xtask check`: a configuration with all its rules, before anything boots.

use super::Outcome;
use crate::config::{self, Checked, Made, Report};
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
}

impl Check {
    /// Prints every problem of every file.
    pub fn run(self) -> Outcome {
        let mut code = ExitCode::SUCCESS;
        for path in &self.files {
            match checked(path, &Made::new())? {
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
pub fn checked(path: &Path, made: &Made) -> Result<Option<Checked>> {
    told(config::check(path, made)?)
}

/// The same without the rules, which know the places of AArch64's machines and guests only.
pub fn well_formed(path: &Path) -> Result<Option<Checked>> {
    told(config::read(path)?)
}

fn told(checked: Result<Checked, Report>) -> Result<Option<Checked>> {
    match checked {
        Ok(checked) => Ok(Some(checked)),
        Err(report) => {
            let plural = if report.findings.len() == 1 { "" } else { "s" };
            eprint!("{}", report.render(stderr().is_terminal()));
            eprintln!("{}: {} problem{plural}", report.path, report.findings.len());
            Ok(None)
        }
    }
}
