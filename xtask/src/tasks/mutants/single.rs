//! Mutants that need a build each: cargo-mutants' own way, the crate's unit tests first, then all of its tests.

use super::configuration::with;
use super::{CONFIGURATION, QUICK};
use crate::project;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Tries the mutants of these names, and says which no test noticed.
pub fn run(program: &Path, output: &Path, names: &[&str]) -> Result<Vec<String>> {
    let path = output.join(CONFIGURATION);
    let exact: Vec<_> = names.iter().map(|name| exactly(name)).collect();
    let text = fs::read_to_string(&path)?;
    fs::write(&path, with(&text, "examine_re", &exact)?)?;
    let run = |args: &[&str]| {
        let status = Command::new(program)
            .arg("mutants")
            .arg("--output")
            .arg(output)
            .arg("--config")
            .arg(&path)
            .args(args)
            .current_dir(project::root())
            .envs(QUICK)
            // What others wrote is built once, not for each run.
            .env("CARGO_TARGET_DIR", output.join("single"))
            .status()
            .context("cannot run cargo-mutants")?;
        // All caught; some missed; some did not end.
        match status.code() {
            Some(0) => Ok(false),
            Some(2 | 3) => Ok(true),
            _ => bail!("cargo-mutants gave up: {status}"),
        }
    };
    // The second leaves out what the first caught.
    if !run(&["--cargo-arg=--lib"])? || !run(&["--iterate"])? {
        return Ok(Vec::new());
    }
    let missed = fs::read_to_string(output.join("mutants.out/missed.txt"))?;
    let lines = missed.lines().map(|name| format!("{name}: missed"));
    Ok(lines.collect())
}

/// A regular expression of one text.
fn exactly(text: &str) -> String {
    let plain = |char: char| match char.is_alphanumeric() {
        true => char.to_string(),
        false => format!("\\x{{{:x}}}", u32::from(char)),
    };
    format!("^{}$", text.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::exactly;

    #[test]
    fn a_name_is_no_pattern() {
        assert_eq!(
            exactly("a.rs:1 < é"),
            r"^a\x{2e}rs\x{3a}1\x{20}\x{3c}\x{20}é$"
        );
    }
}
