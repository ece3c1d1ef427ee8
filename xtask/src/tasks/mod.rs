//! The tasks, one file each. A task returns the exit code, or an error that is printed as one line.

pub mod bench;
pub mod build;
mod cd;
pub mod check;
pub mod coverage;
pub mod image;
pub mod medium;
pub mod mutants;
mod program;
pub mod run;
pub mod setup;
pub mod test;

/// What a task ends with.
pub type Outcome = anyhow::Result<std::process::ExitCode>;
