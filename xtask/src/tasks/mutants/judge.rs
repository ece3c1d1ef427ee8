//! Which tests reach a mutant, and whether one of them notices.

use super::combined::Combined;
use super::schema::Id;
use crate::progress::Step;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a mutant's tests said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Caught,
    /// A test did not end.
    TimedOut,
    Missed,
    /// No test runs its place.
    NotReached,
}

struct Test {
    program: PathBuf,
    name: String,
    time: Duration,
    reaches: BTreeSet<Id>,
}

/// The tests, and where they run.
pub struct Tests {
    folder: PathBuf,
    /// The fastest first.
    tests: Vec<Test>,
    /// Those that fail without a mutant.
    pub broken: Vec<String>,
}

/// How a run of tests ended.
#[derive(PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    TimedOut,
}

impl Tests {
    /// Runs each test once, and notes the mutants that it reaches.
    pub fn trace(combined: &Combined, output: &Path) -> Result<Self> {
        let step = Step::start("which test reaches which mutant");
        let mut found = Self {
            folder: combined.folder.clone(),
            tests: Vec::new(),
            broken: Vec::new(),
        };
        let trace = output.join("trace.txt");
        for program in &combined.programs {
            let list = Command::new(program)
                .args(["--list", "--format=terse"])
                .current_dir(&found.folder)
                .output()
                .with_context(|| format!("cannot run {}", program.display()))?;
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            for name in list.lines().filter_map(|line| line.strip_suffix(": test")) {
                fs::write(&trace, "")?;
                let start = Instant::now();
                let limit = Duration::from_secs(600);
                let end =
                    found.run(program, &[name], ("MUTANT_TRACE", trace.as_os_str()), limit)?;
                let reached = fs::read_to_string(&trace)?;
                let test = Test {
                    program: program.clone(),
                    name: name.to_owned(),
                    time: start.elapsed(),
                    reaches: reached.lines().filter_map(|id| id.parse().ok()).collect(),
                };
                match end {
                    End::Passed => found.tests.push(test),
                    _ => found.broken.push(test.name),
                }
            }
        }
        ensure!(
            !found.tests.is_empty() || combined.programs.is_empty(),
            "no test passes"
        );
        found.tests.sort_by_key(|test| test.time);
        step.done();
        Ok(found)
    }

    /// Runs the tests that reach `mutant`, fast ones first and together, until one notices.
    pub fn judge(&self, mutant: Id) -> Result<Verdict> {
        let mut left: Vec<_> = self
            .tests
            .iter()
            .filter(|test| test.reaches.contains(&mutant))
            .collect();
        if left.is_empty() {
            return Ok(Verdict::NotReached);
        }
        let id = mutant.to_string();
        // How long those may take that run in one process: longer, the more have passed.
        let mut together = Duration::from_millis(200);
        while let Some(first) = left.first() {
            let program = first.program.clone();
            let mut time = Duration::ZERO;
            let mut names = Vec::new();
            left.retain(|test| {
                let fits = names.is_empty() || time + test.time <= together;
                let takes = test.program == program && fits;
                if takes {
                    time += test.time;
                    names.push(test.name.as_str());
                }
                !takes
            });
            let limit = 5 * time + Duration::from_secs(5);
            match self.run(&program, &names, ("MUTANT", id.as_ref()), limit)? {
                End::Passed => together = (2 * together).min(Duration::from_secs(10)),
                End::Failed => return Ok(Verdict::Caught),
                End::TimedOut => return Ok(Verdict::TimedOut),
            }
        }
        Ok(Verdict::Missed)
    }

    /// `limit` is of the CPU's time: others may use the machine. A mutant may ask for all memory, or wait for ever.
    fn run(
        &self,
        program: &Path,
        names: &[&str],
        env: (&str, &std::ffi::OsStr),
        limit: Duration,
    ) -> Result<End> {
        const LIMITED: &str =
            r#"ulimit -v 6000000 -t "$1"; wait=$2; shift 2; exec timeout -k 1 "$wait" "$@""#;
        let seconds = limit.as_secs();
        let status = Command::new("bash")
            .args([
                "-c",
                LIMITED,
                "bash",
                &seconds.to_string(),
                &(4 * seconds + 30).to_string(),
            ])
            .arg(program)
            .args(["--exact", "--test-threads=1", "--quiet"])
            .args(names)
            .current_dir(&self.folder)
            .envs(super::QUICK)
            .env(env.0, env.1)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("cannot run bash")?;
        Ok(match status.code() {
            Some(0) => End::Passed,
            // timeout's own, and its word for SIGXCPU and SIGKILL.
            Some(124 | 137 | 152) | None => End::TimedOut,
            _ => End::Failed,
        })
    }
}
