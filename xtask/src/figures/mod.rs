//! The figures that `cargo xtask bench` shows: one file a way of measuring, each with its list of [`Source`]s.
//!
//! Every figure is exact (a count or a size), so a bound that holds once holds always.

mod driver;
mod image;
mod machine;
mod tables;
mod trace;
mod trusted;

use crate::progress::Step;
use crate::project;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// One figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// Its name for good.
    pub id: &'static str,
    /// What was measured.
    pub what: &'static str,
    /// What came out.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// More than this is a failure.
    pub bound: Option<f64>,
    /// Who else was measured, and with what result.
    pub peers: Vec<(&'static str, f64)>,
}

impl Figure {
    /// Whether the bound holds.
    pub fn holds(&self) -> bool {
        self.bound.is_none_or(|bound| self.value <= bound)
    }
}

/// Figures that are measured together.
pub struct Source {
    /// Their ids.
    pub ids: &'static [&'static str],
    /// All of them.
    pub measure: fn() -> Result<Vec<Figure>>,
}

/// All of them.
pub const SOURCES: &[Source] = &[
    tables::COUNTS,
    tables::INSTRUCTIONS,
    driver::COUNTS,
    machine::MACHINE,
    image::SIZE,
    trusted::TRUSTED,
];

/// Builds an example of `iommu` for speed, apart from everything else that is built.
fn example(name: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = project::target().join("measure");
    let args = [
        "build",
        "--quiet",
        "--profile",
        "bench",
        "--package",
        "iommu",
    ];
    let mut args = args.map(OsString::from).to_vec();
    args.extend(["--example", name, "--target-dir"].map(OsString::from));
    args.push(folder.clone().into());
    let step = Step::start(format!("build {name}"));
    let built = duct::cmd(cargo, args)
        .dir(project::root())
        .unchecked()
        .run()
        .context("cannot run cargo")?;
    step.over();
    ensure!(
        built.status.success(),
        "example `{name}` of package `iommu` does not build"
    );
    // Where cargo puts the profile `bench`.
    Ok(folder.join("release/examples").join(name))
}

/// `key value` lines.
fn lines(command: &mut Command) -> Result<BTreeMap<String, f64>> {
    let out = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect())
}
