//! The figures that `cargo xtask bench` shows: one file a way of measuring, each with its list of [`Source`]s.
//!
//! Every figure is exact (a count or a size), so a bound that holds once holds always; [`linux`] says how near its own are.

pub mod driver;
mod image;
pub mod linux;
pub mod machine;
pub mod machine_x86_64;
pub mod tables;
mod trace;
mod trusted;
pub mod viommu;
pub mod viommu_x86_64;
mod vsmmu;
mod vvtd;

use crate::progress::Step;
use crate::project;
use crate::setup::kit;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
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

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: f64| match value.fract() == 0.0 {
            true => format!("{value}"),
            false => format!("{value:.1}"),
        };
        let value = number(self.value);
        write!(f, "{}: {}: {value} {}", self.id, self.what, self.unit)?;
        if let Some(bound) = self.bound {
            let mark = if self.holds() { "" } else { ": EXCEEDED" };
            write!(f, ", at most {}{mark}", number(bound))?;
        }
        for (name, value) in &self.peers {
            write!(f, ", {name} {}", number(*value))?;
        }
        Ok(())
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
    vsmmu::INSTRUCTIONS,
    vsmmu::FLOOD,
    vvtd::COUNTS,
    machine::MACHINE,
    machine_x86_64::MACHINE_X86_64,
    viommu::VIOMMU,
    viommu_x86_64::VIOMMU_X86_64,
    viommu_x86_64::FLOOD_X86_64,
    viommu::STORM,
    viommu::FLOOD,
    viommu::EVENTS,
    linux::DISK,
    image::SIZE,
    image::SIZE_X86_64,
    trusted::TRUSTED,
];

/// What an example is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Built {
    /// For counts, which are the same however it is built.
    Soon,
    /// For speed, apart from everything else: a library is measured at its best.
    Fast,
}

/// Builds an example of `iommu`.
fn example(name: &str, built: Built) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = ["build", "--quiet", "--package", "iommu", "--example", name];
    let mut args = args.map(OsString::from).to_vec();
    let folder = match built {
        Built::Soon => project::target().join("debug"),
        Built::Fast => {
            let target = project::target().join("measure");
            args.extend(["--profile", "bench", "--target-dir"].map(OsString::from));
            args.push(target.clone().into());
            // Where cargo puts that profile.
            target.join("release")
        }
    };
    let step = Step::start(format!("build {name}"));
    let done = duct::cmd(cargo, args)
        .dir(project::root())
        .unchecked()
        .run()
        .context("cannot run cargo")?;
    step.over();
    ensure!(
        done.status.success(),
        "example `{name}` of package `iommu` does not build"
    );
    Ok(folder.join("examples").join(name))
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

/// Instructions that callgrind counts from the entry of `function` to its return.
fn collected(example: &Path, args: &[&str], function: &str) -> Result<f64> {
    let step = Step::start(format!("callgrind {function}"));
    let out = kit::valgrind()?
        .command()
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*::{function}"))
        .arg(example)
        .args(args)
        .output()
        .context("cannot run valgrind")?;
    step.over();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    match counted(&text) {
        Some(count @ 1..) if out.status.success() => Ok(f64::from(count)),
        _ => bail!(
            "callgrind counts nothing in {function}: {}",
            text.lines().last().unwrap_or_default()
        ),
    }
}

/// The number of `==123== Collected : 456`.
fn counted(text: &str) -> Option<u32> {
    let line = text
        .lines()
        .find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn count_of_callgrind_is_read() {
        let text = "==7== Events    : Ir\n==7== Collected : 2104832\n==7== \n==7== I   refs:      2,104,832\n";
        assert_eq!(counted(text), Some(2_104_832));
        assert_eq!(counted("==7== nothing"), None);
    }
}
