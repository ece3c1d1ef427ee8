//! `cargo xtask test`: every test, on the host and in QEMU, one line each and an honest count at the end.

use super::Outcome;
use crate::cases::{self, Context};
use crate::host_tests;
use crate::progress::Step;
use crate::project;
use anyhow::Result;
use serde_json::json;
use std::fs;
use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Test {
    /// Only cases whose name contains one of these; `*` stands for anything.
    patterns: Vec<String>,
    /// Only those of this kind.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Name the cases and run none.
    #[arg(long)]
    list: bool,
    /// One JSON object a case on the standard output; the closing line goes to the standard error.
    #[arg(long)]
    json: bool,
    /// The long ones as well, and random tests for about an hour.
    #[arg(long)]
    long: bool,
}

/// Where a case runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// A check of the sources: format, lints, documentation.
    Source,
    /// A test of a crate on the host.
    Host,
    /// A test in QEMU.
    Machine,
}

/// How one case ended.
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Where it ran.
    pub kind: Kind,
    /// What went wrong, if something did.
    pub failure: Option<String>,
    /// How long it took, where that is known.
    pub time: Option<Duration>,
    /// What a failure left behind.
    pub folder: Option<PathBuf>,
    /// What there is to say of it beside that.
    pub notes: Vec<String>,
}

/// Which cases are wanted.
pub struct Selection {
    patterns: Vec<String>,
    kind: Option<Kind>,
}

impl Selection {
    /// Whether `name` is.
    pub fn takes(&self, name: &str) -> bool {
        self.is_everything() || self.patterns.iter().any(|pattern| matches(pattern, name))
    }

    /// Whether any of this kind may be.
    pub fn takes_kind(&self, kind: Kind) -> bool {
        self.kind.is_none_or(|only| only == kind)
    }

    /// Whether all are, of the kinds that are.
    pub fn is_everything(&self) -> bool {
        self.patterns.is_empty()
    }
}

/// The parts of `pattern` between `*` stand in `name` in this order.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = name;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

impl Test {
    /// Runs them; the exit code tells whether all passed.
    pub fn run(self) -> Outcome {
        let selection = Selection {
            patterns: self.patterns.clone(),
            kind: self.kind,
        };
        if self.list {
            return self.list(&selection);
        }
        let mut report = Report {
            json: self.json,
            passed: 0,
            failed: Vec::new(),
        };
        host_tests::run(&selection, self.long, &mut |verdict| report.add(verdict))?;
        let cases = self.cases(&selection);
        if !cases.is_empty() {
            let folder = project::target().join("machine-tests");
            let _alone = project::lock(&folder)?;
            for case in cases {
                report.add(run_case(&case, &folder)?);
            }
        }
        report.close()
    }

    fn cases(&self, selection: &Selection) -> Vec<cases::Case> {
        let mut all = cases::all();
        all.retain(|case| {
            selection.takes_kind(Kind::Machine)
                && selection.takes(case.name)
                && (self.long || !case.long)
        });
        all
    }

    fn list(&self, selection: &Selection) -> Outcome {
        let host = host_tests::list(selection)?;
        let machine = self
            .cases(selection)
            .into_iter()
            .map(|case| (case.name.to_owned(), Kind::Machine));
        for (name, kind) in host.into_iter().chain(machine) {
            match self.json {
                true => println!("{}", json!({ "name": name, "kind": kind.name() })),
                false => println!("{name}"),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn run_case(case: &cases::Case, folder: &Path) -> Result<Verdict> {
    let folder = folder.join(case.name.replace("::", "/"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let context = Context::new(folder.clone());
    let start = Instant::now();
    let step = Step::start(case.name);
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(&context)));
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some("the test itself panicked".into()),
    };
    step.over();
    let time = Some(start.elapsed());
    let kept = folder.exists().then(|| folder.clone());
    if failure.is_none() && folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    Ok(Verdict {
        name: case.name.to_owned(),
        kind: Kind::Machine,
        folder: kept.filter(|_| failure.is_some()),
        failure,
        time,
        notes: context.notes(),
    })
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Host => "host",
            Self::Machine => "machine",
        }
    }
}

struct Report {
    json: bool,
    passed: usize,
    failed: Vec<String>,
}

impl Report {
    fn add(&mut self, verdict: Verdict) {
        let Verdict {
            name,
            kind,
            failure,
            time,
            folder,
            notes,
        } = verdict;
        if self.json {
            println!(
                "{}",
                json!({
                    "name": name,
                    "kind": kind.name(),
                    "result": if failure.is_none() { "passed" } else { "failed" },
                    "seconds": time.map(|time| time.as_secs_f64()),
                    "failure": failure,
                    "folder": folder,
                    "notes": notes,
                })
            );
        } else {
            let color = |code: &str, text: &str| match std::io::stdout().is_terminal() {
                true => format!("\x1b[{code}m{text}\x1b[0m"),
                false => text.to_owned(),
            };
            let mark = if failure.is_none() {
                color("32", "pass")
            } else {
                color("31", "FAIL")
            };
            let time = time
                .map(|time| format!(" ({:.2} s)", time.as_secs_f32()))
                .unwrap_or_default();
            println!("{mark} {name}{time}");
            for line in &notes {
                println!("     {line}");
            }
            for line in failure.iter().flat_map(|text| text.lines()) {
                println!("     {line}");
            }
            if let Some(folder) = &folder {
                println!("     console, command line and trace: {}", folder.display());
            }
        }
        match failure {
            None => self.passed += 1,
            Some(_) => self.failed.push(name),
        }
    }

    fn close(self) -> Outcome {
        let line = format!("{} passed, {} failed", self.passed, self.failed.len());
        if self.json {
            eprintln!("{line}");
        } else {
            for name in &self.failed {
                println!("failed: {name}");
            }
            println!("{line}");
        }
        // Nothing run is nothing shown.
        let good = self.failed.is_empty() && self.passed > 0;
        Ok(if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn pattern_is_a_part_of_the_name_with_stars() {
        assert!(matches("boot", "boot::boots_at_el2"));
        assert!(matches("boot*el2", "boot::boots_at_el2"));
        assert!(matches("", "anything"));
        assert!(!matches("el2*boot", "boot::boots_at_el2"));
        assert!(!matches("edu", "boot::boots_at_el2"));
    }
}
