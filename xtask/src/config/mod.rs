//! A configuration on the host: read with every error of form, checked with every rule, shown with its places.
//!
//! [`check`] is the way in. [`parse`] keeps what was written where; [`facts`], [`qemu`] and [`tree`] say what the machine has,
//! [`files`] and [`payload`] what the guests are made of; the rules themselves are `kernel::config`'s, the same that run
//! at boot on AArch64, and [`x86_64`] asks the code that starts guests there. [`hints`] and [`report`] put words and places to what they find.

mod facts;
pub mod files;
mod hints;
mod parse;
pub mod payload;
mod qemu;
mod report;
pub mod tree;
mod virtuals;
mod x86_64;

pub use files::Made;
pub use report::Report;

use crate::arch::Arch;
use anyhow::{Context, Result};
use kernel::config::{Machine, validate};
use std::fs;
use std::path::{Path, PathBuf};

/// A configuration that breaks no rule.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What it says.
    pub machine: Machine,
    /// The folder that its paths count from.
    pub folder: PathBuf,
}

/// Reads and checks the configuration at `path`, for a machine with `arch`. Files in `made` are looked into; others of ours only have to have a
/// known name.
pub fn check(path: &Path, made: &Made, arch: Arch) -> Result<Result<Checked, Report>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let shown = path.display().to_string();
    Ok(check_text(&shown, text, &folder, made, arch))
}

/// [`check`] on a text.
pub fn check_text(
    path: &str,
    text: String,
    folder: &Path,
    made: &Made,
    arch: Arch,
) -> Result<Checked, Report> {
    let mut parsed = parse::parse(&text);
    let mut findings = std::mem::take(&mut parsed.findings);
    let mut checked = None;
    if let (Some(machine), true) = (parsed.machine.take(), parsed.complete) {
        let hardware = facts::hardware(&machine.machine, arch, &parsed, folder, &mut findings);
        let mut facts = hardware.facts;
        facts.files = files::facts(&machine, folder, made, arch);
        if machine.machine.qemu.is_some() {
            facts::reserve_image(&mut facts);
        }
        let problems = validate(&machine, &facts);
        let told = problems.iter().filter(|p| !(hardware.unknown)(&p.rule));
        findings.extend(told.map(|p| hints::finding(p, &machine, &facts, &parsed)));
        // What follows from something else that is wrong is not worth a second message.
        if arch == Arch::X86_64 && findings.is_empty() {
            x86_64::start(&machine, folder, made, &parsed, &mut findings);
        }
        checked = Some(Checked {
            machine,
            folder: folder.to_owned(),
        });
    }
    match checked {
        Some(checked) if findings.is_empty() => Ok(checked),
        _ => {
            findings.sort_by_key(|finding| finding.span.start);
            drop(parsed);
            Err(Report {
                path: path.to_owned(),
                text,
                findings,
            })
        }
    }
}

#[cfg(test)]
mod tests;
