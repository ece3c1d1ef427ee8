//! What `cargo xtask test` says of the sources: format, lints, documentation, on the host and for the bare machines.

use crate::arch::Arch;
use crate::progress::Step;
use crate::project;
use crate::setup::toolchain;
use crate::tasks::test::{Kind, Selection, Verdict};
use anyhow::Result;
use duct::Expression;
use std::env;
use std::ffi::OsString;
use std::time::Instant;

/// A check of the sources: passes when its commands do.
pub struct Check {
    /// As `cargo xtask test` names it.
    pub name: &'static str,
    commands: fn() -> Result<Vec<Expression>>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "source::is_formatted",
        commands: || Ok(vec![cargo(&["fmt", "--all", "--check"])]),
    },
    Check {
        name: "source::has_no_lints_on_the_host",
        commands: || {
            Ok(vec![cargo(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])])
        },
    },
    Check {
        name: "source::has_no_lints_on_the_bare_machine",
        commands: || bare_cargo("clippy", &[], &["--", "-D", "warnings"]),
    },
    Check {
        name: "source::is_documented_on_the_host",
        commands: || {
            let doc = cargo(&[
                "doc",
                "--quiet",
                "--workspace",
                "--exclude",
                "payloads",
                "--no-deps",
                "--document-private-items",
            ]);
            Ok(vec![doc.env("RUSTDOCFLAGS", "-D warnings")])
        },
    },
    Check {
        name: "source::is_documented_on_the_bare_machine",
        commands: || {
            let docs = bare_cargo("doc", &["--no-deps", "--document-private-items"], &[])?;
            let strict = docs
                .into_iter()
                .map(|doc| doc.env("RUSTDOCFLAGS", "-D warnings"));
            Ok(strict.collect())
        },
    },
];

/// What is compiled for which bare machine. The small guests by themselves: together they would share features, and an
/// allocator that they do not have.
const BARE_PACKAGES: [(Arch, &[&str]); 5] = [
    (Arch::Aarch64, HYPERVISOR),
    (Arch::Aarch64, &["-p", "payloads"]),
    (Arch::Aarch64, &["-p", "linux-payloads"]),
    (Arch::X86_64, HYPERVISOR),
    (Arch::X86_64, &["-p", "payloads-x86_64"]),
];
const HYPERVISOR: &[&str] = &["-p", "iommu", "-p", "arch", "-p", "kernel", "-p", "boot"];

/// `cargo SUBCOMMAND` on each group of [`BARE_PACKAGES`].
fn bare_cargo(subcommand: &str, before: &[&str], after: &[&str]) -> Result<Vec<Expression>> {
    let commands = BARE_PACKAGES.map(|(arch, packages)| {
        let bare = toolchain::bare(arch)?;
        let mut args = toolchain::cargo(bare, arch, subcommand);
        let own = [&["--quiet"], before, packages, after].concat();
        args.extend(own.into_iter().map(OsString::from));
        toolchain::expression(bare, &args)
    });
    commands.into_iter().collect()
}

/// The host's cargo.
pub fn cargo(args: &[&str]) -> Expression {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    duct::cmd(cargo, args)
        .dir(project::root())
        .env("CARGO_TERM_COLOR", "never")
}

/// Those that are selected.
pub fn selected(selection: &Selection) -> impl Iterator<Item = &'static Check> {
    CHECKS
        .iter()
        .filter(|check| selection.takes_kind(Kind::Source) && selection.takes(check.name))
}

/// Runs one.
pub fn run(check: &Check) -> Verdict {
    let start = Instant::now();
    let step = Step::start(check.name);
    let run = || -> Result<Option<String>> {
        for command in (check.commands)()? {
            let out = command
                .stderr_to_stdout()
                .stdout_capture()
                .unchecked()
                .run()?;
            if !out.status.success() {
                return Ok(Some(tail(&String::from_utf8_lossy(&out.stdout))));
            }
        }
        Ok(None)
    };
    let failure = run().unwrap_or_else(|error| Some(format!("{error:#}")));
    step.over();
    Verdict {
        name: check.name.to_owned(),
        kind: Kind::Source,
        failure,
        time: Some(start.elapsed()),
        folder: None,
        notes: Vec::new(),
    }
}

/// Lines of a failed command that are shown.
const TAIL: usize = 40;

/// The end of what a command printed.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
