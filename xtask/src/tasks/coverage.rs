//! `cargo xtask coverage`: which lines of `iommu` its own tests run, by cargo-llvm-cov. Less than the bound fails.

use super::Outcome;
use crate::progress::Step;
use crate::project;
use crate::setup::{cargo_tool, kit};
use anyhow::{Context, Result, ensure};
use duct::Expression;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `cargo xtask coverage`.
#[derive(clap::Args)]
pub struct Coverage {
    /// Also name the lines that no test runs.
    #[arg(long)]
    missing: bool,
}

/// Of the lines, in percent.
const BOUND: f64 = 90.0;
const PACKAGE: &str = "iommu";

impl Coverage {
    /// Prints a line a file, and the total.
    pub fn run(self) -> Outcome {
        let tool = Tool::find()?;
        let step = Step::start(format!("the tests of `{PACKAGE}`, counting lines"));
        let tests = tool.run(&["--no-report", "--quiet"]);
        let out = tests
            // A line counts once: few random cases do.
            .env("LIFECYCLE_CASES", "1000")
            .env("MODEL_LIVES", "1000")
            .stderr_to_stdout()
            .stdout_capture()
            .unchecked()
            .run()?;
        step.over();
        ensure!(
            out.status.success(),
            "the tests of `{PACKAGE}` fail:\n{}",
            String::from_utf8_lossy(&out.stdout)
        );
        let report = tool.run(&["report", "--json", "--summary-only"]).read()?;
        let report = Report::parse(&report)?;
        for (path, lines) in &report.files {
            println!("{}: {lines}", short(path).display());
        }
        if self.missing {
            let text = tool.run(&["report", "--show-missing-lines"]).read()?;
            let (_, lines) = text
                .split_once("Uncovered Lines:")
                .unwrap_or(("", "\nnone"));
            let root = format!("{}/", project::root().display());
            println!("not run:{}", lines.replace(&root, ""));
        }
        println!("{PACKAGE}: {}, at least {BOUND} %", report.total);
        Ok(if report.total.percent() >= BOUND {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// cargo-llvm-cov, with the LLVM that reads what rustc writes.
struct Tool {
    program: PathBuf,
    cov: PathBuf,
    profdata: PathBuf,
}

impl Tool {
    fn find() -> Result<Self> {
        let [cov, profdata] = kit::llvm()?;
        Ok(Self {
            program: cargo_tool("cargo-llvm-cov", "0.9.1")?,
            cov,
            profdata,
        })
    }

    fn run(&self, args: &[&str]) -> Expression {
        let command = [&["llvm-cov"], args, &["--package", PACKAGE]].concat();
        duct::cmd(&self.program, command)
            .dir(project::root())
            .env("LLVM_COV", &self.cov)
            .env("LLVM_PROFDATA", &self.profdata)
    }
}

fn short(path: &Path) -> &Path {
    path.strip_prefix(project::root()).unwrap_or(path)
}

/// Lines that can run, and that did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
struct Lines {
    count: u64,
    covered: u64,
}

impl Lines {
    fn percent(self) -> f64 {
        100.0 * self.covered as f64 / self.count.max(1) as f64
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, covered } = self;
        write!(f, "{:.1} % ({covered} of {count} lines)", self.percent())
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Report {
    files: Vec<(PathBuf, Lines)>,
    total: Lines,
}

impl Report {
    /// Of `llvm-cov export`.
    fn parse(text: &str) -> Result<Self> {
        let json: serde_json::Value = serde_json::from_str(text).context("a report of llvm-cov")?;
        let data = &json["data"][0];
        let lines = |of: &serde_json::Value| {
            serde_json::from_value::<Lines>(of["lines"].clone()).context("no count of lines")
        };
        let files = data["files"].as_array().context("no files")?;
        let files = files.iter().map(|file| {
            let path = file["filename"].as_str().context("no name of a file")?;
            Ok((PathBuf::from(path), lines(&file["summary"])?))
        });
        Ok(Self {
            files: files.collect::<Result<_>>()?,
            total: lines(&data["totals"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_of_llvm_is_read() {
        let text = r#"{"data":[{"files":[{"filename":"/p/a.rs","summary":{"lines":{"count":8,"covered":7,"percent":87.5},
            "regions":{"count":1}}}],"totals":{"lines":{"count":40,"covered":39,"percent":97.5}}}]}"#;
        let lines = |count, covered| Lines { count, covered };
        let report = Report::parse(text).expect("a report");
        assert_eq!(report.files, [("/p/a.rs".into(), lines(8, 7))]);
        assert_eq!(report.total, lines(40, 39));
        assert_eq!(report.total.to_string(), "97.5 % (39 of 40 lines)");
    }

    #[test]
    fn report_without_lines_is_no_report() {
        assert!(Report::parse("{}").is_err());
        assert!(Report::parse(r#"{"data":[{"files":[],"totals":{}}]}"#).is_err());
    }
}
