//! What `cargo xtask test` runs on the host: each crate's own tests, counted one by one as libtest prints them.

use crate::progress::Step;
use crate::project;
use crate::source_checks::{self, cargo, tail};
use crate::tasks::test::{Kind, Selection, Verdict};
use anyhow::{Context, Result, ensure};
use duct::Expression;
use std::io::{BufRead, BufReader};
use std::time::Instant;

/// How much random tests do in a long run: sequences of the object model's operations, lives of the SMMUv3 driver, and
/// cases of the others, of which each does its share of 256 in a normal one.
const LONG: [(&str, &str); 3] = [
    ("LIFECYCLE_CASES", "1000000"),
    ("MODEL_LIVES", "1000000"),
    ("PROPTEST_CASES", "25600"),
];

/// Tests of the locks in every order, which are built with `loom`'s in their place (`iommu::sync`) and run by themselves.
const ORDERS: [&str; 4] = [
    "iommu::object::tests::orders::loom_a_tag_is_given_out_again_only_after_it_was_forgotten",
    "iommu::object::tests::orders::loom_no_two_objects_have_one_id",
    "iommu::smmuv3::shared::orders::loom_a_refusal_is_its_own_producers_whoever_finds_it",
    "iommu::smmuv3::shared::orders::loom_each_producer_returns_with_all_of_its_own_complete",
];

/// Runs those of [`ORDERS`] that are selected. One that is not there has failed.
fn run_orders(selection: &Selection, report: &mut dyn FnMut(Verdict)) -> Result<()> {
    let mut missing = ORDERS.to_vec();
    missing.retain(|name| selection.takes(name));
    if missing.is_empty() {
        return Ok(());
    }
    let target = project::root().join("target/loom");
    let command = cargo(&["test", "-p", "iommu", "--lib", "loom_"])
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    let mut seen = |verdict: Verdict| {
        missing.retain(|name| *name != verdict.name);
        report(verdict);
    };
    run_libtest("host::builds_for_loom", command, selection, &mut seen)?;
    for name in missing {
        report(verdict(name.to_owned(), Some("did not run".to_owned())));
    }
    Ok(())
}

/// Runs what is selected.
pub fn run(selection: &Selection, long: bool, report: &mut dyn FnMut(Verdict)) -> Result<()> {
    for check in source_checks::selected(selection) {
        report(source_checks::run(check));
    }
    if !selection.takes_kind(Kind::Host) {
        return Ok(());
    }
    run_orders(selection, report)?;
    if selection.is_everything() {
        let args: &[&str] = &["test", "--workspace", "--no-fail-fast"];
        return run_libtest("host::builds", tests(args, long), selection, report);
    }
    // Compile and ask first: a pattern may name none of them.
    let names = names(selection)?;
    if names.is_empty() {
        return Ok(());
    }
    let mut args = vec!["test", "--workspace", "--no-fail-fast", "--", "--exact"];
    args.extend(names.iter().map(|name| name.own.as_str()));
    run_libtest("host::builds", tests(&args, long), selection, report)
}

fn tests(args: &[&str], long: bool) -> Expression {
    let counts = if long { &LONG[..] } else { &[] };
    let run = cargo(args);
    counts
        .iter()
        .fold(run, |run, (name, count)| run.env(name, count))
}

/// Names of what is selected.
pub fn list(selection: &Selection) -> Result<Vec<(String, Kind)>> {
    let mut all: Vec<_> = source_checks::selected(selection)
        .map(|check| (check.name.to_owned(), Kind::Source))
        .collect();
    if selection.takes_kind(Kind::Host) {
        let orders = ORDERS.iter().filter(|name| selection.takes(name));
        all.extend(orders.map(|name| ((*name).to_owned(), Kind::Host)));
        let names = names(selection)?.into_iter();
        all.extend(names.map(|name| (name.full, Kind::Host)));
    }
    Ok(all)
}

/// Tests that are ignored here: they need QEMU, and `cases::qtest` runs them.
const ELSEWHERE: &str = "qemu::";

/// A test of a crate.
struct Name {
    /// With its crate before it.
    full: String,
    /// As libtest knows it.
    own: String,
}

/// The selected ones, without running any.
fn names(selection: &Selection) -> Result<Vec<Name>> {
    let list = cargo(&["test", "--workspace", "--", "--list", "--format", "terse"]);
    let step = Step::start("the host's tests: build");
    let out = list
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .context("cannot run cargo")?;
    step.over();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        out.status.success(),
        "the tests do not build:\n{}",
        tail(&text)
    );
    let mut parser = Parser::default();
    let mut found = Vec::new();
    for line in text.lines() {
        parser.heading(line);
        if let Some(own) = line.strip_suffix(": test") {
            let full = parser.full(own);
            if selection.takes(&full) && !full.starts_with(ELSEWHERE) {
                let own = own.to_owned();
                found.push(Name { full, own });
            }
        }
    }
    Ok(found)
}

/// Runs `cargo test` and reports each test when its line comes. What fails to build or dies on the way is a failed case
/// of its own, called `whole`.
fn run_libtest(
    whole: &str,
    command: Expression,
    selection: &Selection,
    report: &mut dyn FnMut(Verdict),
) -> Result<()> {
    let start = Instant::now();
    let reader = command
        .stderr_to_stdout()
        .unchecked()
        .reader()
        .context("cannot run cargo")?;
    let mut parser = Parser::default();
    let mut text = String::new();
    let mut step = Some(Step::start("the host's tests: build"));
    // Why a test failed comes after all of its neighbours: keep the failed ones until then.
    let mut failed = Vec::new();
    for line in BufReader::new(&reader).lines() {
        let line = line?;
        parser.heading(&line);
        if let Some((name, passed)) = result(&line) {
            if let Some(step) = step.take() {
                step.over();
            }
            let name = parser.full(name);
            if !selection.takes(&name) {
                continue;
            }
            match passed {
                true => report(verdict(name, None)),
                false => failed.push(name),
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    if let Some(step) = step.take() {
        step.over();
    }
    let success = reader.try_wait()?.is_some_and(|out| out.status.success());
    if !success && failed.is_empty() {
        let mut all = verdict(whole.to_owned(), Some(tail(&text)));
        all.time = Some(start.elapsed());
        report(all);
    }
    for name in failed {
        let why = reason(&text, &name);
        report(verdict(name, Some(why)));
    }
    Ok(())
}

fn verdict(name: String, failure: Option<String>) -> Verdict {
    Verdict {
        name,
        kind: Kind::Host,
        failure,
        time: None,
        folder: None,
        notes: Vec::new(),
    }
}

/// Follows cargo's headings, which tell whose tests come next.
#[derive(Default)]
struct Parser {
    package: String,
}

impl Parser {
    fn heading(&mut self, line: &str) {
        let line = line.trim_start();
        if let Some(name) = line.strip_prefix("Doc-tests ") {
            self.package = name.to_owned();
        } else if line.starts_with("Running ") {
            // `Running unittests src/lib.rs (target/debug/deps/kernel-0123456789abcdef)`
            let file = line.rsplit(['/', '(']).next().unwrap_or_default();
            if let Some((name, _)) = file.trim_end_matches(')').rsplit_once('-') {
                self.package = name.to_owned();
            }
        }
    }

    fn full(&self, name: &str) -> String {
        format!("{}::{name}", self.package)
    }
}

/// `test NAME ... ok`: its name and whether it passed; ignored ones are none.
fn result(line: &str) -> Option<(&str, bool)> {
    let (name, end) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let name = name.trim_end_matches(" - should panic");
    match end {
        "ok" => Some((name, true)),
        "FAILED" => Some((name, false)),
        _ => None,
    }
}

/// What libtest says of a failed test: the part below `---- NAME stdout ----`.
fn reason(text: &str, full: &str) -> String {
    let own = |line: &&str| {
        let name = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"));
        name.is_some_and(|name| full.ends_with(name))
    };
    let lines = text.lines().skip_while(|line| !own(line)).skip(1);
    let part: Vec<_> = lines
        .take_while(|line| !line.starts_with("---- ") && *line != "failures:")
        .collect();
    tail(part.join("\n").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libtest_are_read() {
        assert_eq!(result("test a::b ... ok"), Some(("a::b", true)));
        assert_eq!(
            result("test a::b - should panic ... ok"),
            Some(("a::b", true))
        );
        assert_eq!(result("test a::b ... FAILED"), Some(("a::b", false)));
        assert_eq!(
            result("test src/lib.rs - x (line 3) ... ok"),
            Some(("src/lib.rs - x (line 3)", true))
        );
        assert_eq!(result("test a::b ... ignored, needs time"), None);
        assert_eq!(result("test result: ok. 7 passed; 0 failed"), None);
    }

    #[test]
    fn headings_name_the_package() {
        let mut parser = Parser::default();
        parser.heading(
            "     Running unittests src/lib.rs (target/debug/deps/kernel-0123456789abcdef)",
        );
        assert_eq!(parser.full("x"), "kernel::x");
        parser.heading(
            "     Running tests/golden.rs (/a b/target/debug/deps/golden-0123456789abcdef)",
        );
        assert_eq!(parser.full("x"), "golden::x");
        parser.heading("   Doc-tests iommu");
        assert_eq!(parser.full("x"), "iommu::x");
    }

    #[test]
    fn reason_of_a_failure_is_its_own_part() {
        let text = "---- a stdout ----\nfirst\n\n---- b stdout ----\nsecond\nmore\n\n\nfailures:\n    a\n    b\n";
        assert_eq!(reason(text, "kernel::a"), "first");
        assert_eq!(reason(text, "kernel::b"), "second\nmore");
    }
}
