//! `cargo xtask mutants`: cargo-mutants on what `.cargo/mutants.toml` names, or on single files. A change of the code that
//! no test notices fails, unless that file says why none can.

use super::Outcome;
use crate::project;
use crate::setup::cargo_tool;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

/// In the output folder: the configuration of a run for single files.
const CONFIGURATION: &str = "files.toml";

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub struct Mutants {
    /// Only these files, whether `.cargo/mutants.toml` names them or not.
    files: Vec<String>,
    /// The tests that every change meets, as arguments of `cargo test`. Those that pass them meet all tests.
    #[arg(
        long,
        value_name = "ARGUMENTS",
        default_value = "--lib",
        allow_hyphen_values = true
    )]
    first: String,
    /// Only changes whose description matches this regular expression, as `in Spare<B>::fill$`.
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// For cargo-mutants, as `--list`.
    #[arg(last = true)]
    args: Vec<String>,
}

/// What cargo-mutants found, by its exit code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Every change was noticed, or there was none.
    AllCaught,
    /// No test noticed some change, or a test did not end.
    Survivors,
}

impl Found {
    fn new(status: ExitStatus) -> Result<Self> {
        match status.code() {
            Some(0) => Ok(Self::AllCaught),
            Some(2 | 3) => Ok(Self::Survivors),
            _ => bail!("cargo-mutants gave up: {status}"),
        }
    }
}

impl Mutants {
    /// Its output, and its exit code: thousands of builds take hours, those of one file minutes.
    pub fn run(self) -> Outcome {
        let output = project::target().join("mutants");
        let _alone = project::lock(&output)?;
        if !self.files.is_empty() {
            fs::write(output.join(CONFIGURATION), self.configuration()?)?;
        }
        let program = cargo_tool("cargo-mutants", "27.1.0")?;
        // A change that one random case in hundreds notices is found by tests that mean it.
        let quick = [
            ("LIFECYCLE_CASES", "100"),
            ("MODEL_LIVES", "100"),
            ("PROPTEST_CASES", "16"),
        ];
        let mut command = self.command(&program, &output);
        command.args(first(&self.first)).envs(quick);
        let mut found = Found::new(command.status().context("cannot run cargo-mutants")?)?;
        if found == Found::Survivors {
            let mut command = self.command(&program, &output);
            // Leaves out what the first run caught.
            command.arg("--iterate").envs(quick[..2].iter().copied());
            found = Found::new(command.status().context("cannot run cargo-mutants")?)?;
        }
        Ok(match found {
            Found::AllCaught => ExitCode::SUCCESS,
            Found::Survivors => ExitCode::FAILURE,
        })
    }

    fn command(&self, program: &Path, output: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("mutants").arg("--output").arg(output);
        if !self.files.is_empty() {
            command.arg("--config").arg(output.join(CONFIGURATION));
        }
        if let Some(only) = &self.only {
            command.arg("--re").arg(only);
        }
        command.args(&self.args).current_dir(project::root());
        // What others wrote is built once, not for each run.
        command.env("CARGO_TARGET_DIR", output.join("build"));
        command
    }

    /// `.cargo/mutants.toml` for `files` alone: what the command line names is added to what the file does.
    fn configuration(&self) -> Result<String> {
        for file in &self.files {
            let there = project::root().join(file).is_file();
            ensure!(there, "no file {file} in {}", project::root().display());
        }
        let path = project::root().join(".cargo/mutants.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        only_files(&text, &self.files)
    }
}

/// How cargo-mutants is told the arguments of `cargo test`: those for cargo count when the tests are built, too.
fn first(arguments: &str) -> Vec<String> {
    let (cargo, tests) = arguments.split_once("-- ").unwrap_or((arguments, ""));
    let mut told: Vec<_> = cargo
        .split_whitespace()
        .map(|argument| format!("--cargo-arg={argument}"))
        .collect();
    if !tests.is_empty() {
        told.extend(["--", "--"].map(String::from));
        told.extend(tests.split_whitespace().map(String::from));
    }
    told
}

/// A configuration with its rules, for `files` instead of its own.
fn only_files(configuration: &str, files: &[String]) -> Result<String> {
    let mut table: toml::Table = configuration.parse().context(".cargo/mutants.toml")?;
    table.insert("examine_globs".into(), files.to_vec().into());
    Ok(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::{first, only_files};

    #[test]
    fn what_is_for_cargo_and_what_is_for_the_tests_is_told_apart() {
        assert_eq!(first("--lib"), ["--cargo-arg=--lib"]);
        let both = first("--lib --test=ats -- table:: ring::");
        let cargo = ["--cargo-arg=--lib", "--cargo-arg=--test=ats"];
        assert_eq!(both[..2], cargo);
        assert_eq!(both[2..], ["--", "--", "table::", "ring::"]);
    }

    #[test]
    fn the_rules_stay_and_the_files_are_others() {
        let text = "examine_globs = ['a/*.rs']\nexclude_re = [\n# Why.\n'b \\|']\n";
        let files = ["c.rs", "d/e.rs"].map(String::from);
        let made = only_files(text, &files).expect("TOML");
        let table: toml::Table = made.parse().expect("TOML");
        assert_eq!(table["examine_globs"].as_array().map(Vec::len), Some(2));
        assert_eq!(table["examine_globs"][1].as_str(), Some("d/e.rs"));
        assert_eq!(table["exclude_re"][0].as_str(), Some("b \\|"));
    }
}
