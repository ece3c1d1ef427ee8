//! `cargo xtask mutants`: changes of the code of `iommu`, one at a time, as cargo-mutants finds them. One that no test notices
//! fails, unless `.cargo/mutants.toml` says why none can.
//!
//! All that can be are in one build, chosen at run time, and each meets the tests that reach its place. What is left
//! (constants) is cargo-mutants' own, a build each.

mod combined;
mod configuration;
mod judge;
mod schema;
mod single;

use super::Outcome;
use crate::progress::Step;
use crate::project;
use crate::setup::cargo_tool;
use anyhow::{Context, Result, ensure};
use combined::Combined;
use judge::{Tests, Verdict};
use schema::{Id, Mutant};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

const PACKAGE: &str = "iommu";
/// A change that one random case in hundreds notices is found by tests that mean it. Each mutant meets the same cases.
const QUICK: [(&str, &str); 3] = [
    ("LIFECYCLE_CASES", "100"),
    ("MODEL_LIVES", "100"),
    ("PROPTEST_RNG_SEED", "1"),
];
/// In the output folder: the configuration of a run.
const CONFIGURATION: &str = "mutants.toml";

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub struct Mutants {
    /// Only these files, whether `.cargo/mutants.toml` names them or not.
    files: Vec<String>,
    /// Only changes whose description matches this regular expression, as `in Spare<B>::fill$`.
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Leave out what needs a build of its own.
    #[arg(long)]
    together: bool,
    /// Only what needs a build of its own.
    #[arg(long, conflicts_with = "together")]
    alone: bool,
    /// Print the changes, and try none.
    #[arg(long)]
    list: bool,
}

impl Mutants {
    /// The mutants that no test noticed, and how many each verdict has.
    pub fn run(self) -> Outcome {
        let output = project::target().join("mutants");
        let _alone = project::lock(&output)?;
        let path = project::root().join(".cargo/mutants.toml");
        let rules = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let program = cargo_tool("cargo-mutants", "27.1.0")?;
        let path = output.join(CONFIGURATION);
        fs::write(&path, configuration::without_exclusions(&rules)?)?;
        let every = find(&program, &path, None)?;
        let names: Vec<_> = every.iter().map(|(_, it)| it.name.as_str()).collect();
        let stale = configuration::stale(&rules, &names)?;
        ensure!(
            stale.is_empty(),
            "rules of .cargo/mutants.toml that exclude nothing:\n{}",
            stale.join("\n")
        );
        fs::write(&path, self.configuration(rules)?)?;
        let all = find(&program, &path, self.only.as_deref())?;
        if self.list {
            for (_, mutant) in &all {
                println!("{}", mutant.name);
            }
            return Ok(ExitCode::SUCCESS);
        }
        let combined = Combined::build(&output, &all, !self.alone)?;
        let tests = Tests::trace(&combined, &output)?;
        for name in &tests.broken {
            println!("fails without a mutant, and is left out: {name}");
        }
        let mut counts = BTreeMap::<_, usize>::new();
        let mut survivors = Vec::new();
        let mut own = Vec::new();
        let step = Step::start(format!(
            "{} mutants meet their tests",
            combined.within.len()
        ));
        for (id, mutant) in &all {
            if combined.unviable.contains(id) {
                *counts.entry("no program").or_default() += 1;
                continue;
            }
            if !combined.within.contains(id) {
                own.push(mutant.name.as_str());
                continue;
            }
            if self.alone {
                *counts.entry("can be judged together").or_default() += 1;
                continue;
            }
            let (noticed, word) = match tests.judge(*id)? {
                Verdict::Caught => (true, "caught"),
                Verdict::TimedOut => (true, "does not end"),
                Verdict::Missed => (false, "missed"),
                Verdict::NotReached => (false, "not reached"),
            };
            *counts.entry(word).or_default() += 1;
            if !noticed {
                let line = format!("{}: {word}", mutant.name);
                eprintln!("{line}");
                survivors.push(line);
            }
        }
        step.done();
        if self.together {
            counts.insert("needs a build of its own", own.len());
        } else if !own.is_empty() {
            let found = single::run(&program, &output, &own)?;
            counts.insert("built alone", own.len());
            survivors.extend(found);
        }
        for line in &survivors {
            println!("{line}");
        }
        let counts: Vec<_> = counts
            .iter()
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        println!("{} mutants: {}", all.len(), counts.join(", "));
        println!("{} survivors without a reason", survivors.len());
        Ok(if survivors.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// The rules, for `files` alone if there are some: what the command line of cargo-mutants names is added to what its
    /// configuration does.
    fn configuration(&self, rules: String) -> Result<String> {
        for file in &self.files {
            let there = project::root().join(file).is_file();
            ensure!(there, "no file {file} in {}", project::root().display());
        }
        match self.files.is_empty() {
            true => Ok(rules),
            false => configuration::with(&rules, "examine_globs", &self.files),
        }
    }
}

/// All that cargo-mutants would try, with a number each.
fn find(program: &Path, configuration: &Path, only: Option<&str>) -> Result<Vec<(Id, Mutant)>> {
    let mut command = Command::new(program);
    command
        .args(["mutants", "--list", "--json", "--config"])
        .arg(configuration);
    if let Some(only) = only {
        command.arg("--re").arg(only);
    }
    let list = command.current_dir(project::root()).output();
    let list = list.context("cannot run cargo-mutants")?;
    let said = String::from_utf8_lossy(&list.stderr);
    ensure!(list.status.success(), "cargo-mutants gave up: {said}");
    let mutants: Vec<Mutant> =
        serde_json::from_slice(&list.stdout).context("cargo-mutants' list")?;
    Ok((1..).zip(mutants).collect())
}
