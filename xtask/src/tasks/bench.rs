//! `cargo xtask bench`: the figures, each with its bound and what others need for the same.
//!
//! Every figure is exact (a count or a size), so a bound that holds once holds always.

use super::Outcome;
use super::build::{self, Profile};
use anyhow::{Context, Result};
use object::{Object, ObjectSection, SectionFlags, SectionKind, elf};
use serde_json::json;
use std::fs;
use std::process::ExitCode;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Bench {
    /// Only figures whose id contains one of these.
    ids: Vec<String>,
    /// One JSON object a figure.
    #[arg(long)]
    json: bool,
}

/// One figure.
struct Figure {
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    /// More than this is a failure.
    bound: Option<f64>,
    /// Who else was measured, and with what result.
    peers: &'static [(&'static str, f64)],
    measure: fn() -> Result<f64>,
}

const FIGURES: &[Figure] = &[Figure {
    id: "B19",
    what: "image: code, constants and data of the release build",
    unit: "KiB",
    bound: Some(256.0),
    peers: &[("Bao", 92.0)],
    measure: image_size,
}];

impl Bench {
    /// Measures; a figure beyond its bound, or one that cannot be had, fails.
    pub fn run(self) -> Outcome {
        let wanted = |id: &str| {
            self.ids.is_empty() || self.ids.iter().any(|part| id.contains(part.as_str()))
        };
        let mut good = true;
        for figure in FIGURES.iter().filter(|figure| wanted(figure.id)) {
            let value = (figure.measure)().with_context(|| figure.id)?;
            let held = figure.bound.is_none_or(|bound| value <= bound);
            good &= held;
            self.show(figure, value, held);
        }
        Ok(if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn show(&self, figure: &Figure, value: f64, held: bool) {
        let Figure {
            id,
            what,
            unit,
            bound,
            peers,
            ..
        } = figure;
        if self.json {
            let peers: serde_json::Map<_, _> = peers
                .iter()
                .map(|(name, value)| ((*name).into(), json!(value)))
                .collect();
            let line = json!({ "id": id, "what": what, "value": value, "unit": unit, "bound": bound, "peers": peers });
            println!("{line}");
            return;
        }
        let mut line = format!("{id}: {what}: {value:.1} {unit}");
        if let Some(bound) = bound {
            line += &format!(", at most {bound}{}", if held { "" } else { ": EXCEEDED" });
        }
        for (name, value) in *peers {
            line += &format!(", {name} {value}");
        }
        println!("{line}");
    }
}

/// KiB of all sections that are loaded and not zero.
fn image_size() -> Result<f64> {
    let program = build::hypervisor(Profile::Release)?;
    let bytes =
        fs::read(&program.elf).with_context(|| format!("cannot read {}", program.elf.display()))?;
    let file = object::File::parse(bytes.as_slice()).context("no ELF file")?;
    let loaded = file.sections().filter(|section| {
        let alloc = matches!(section.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & elf::SHF_ALLOC.0 != 0);
        alloc && section.kind() != SectionKind::UninitializedData
    });
    let total: u64 = loaded.map(|section| section.size()).sum();
    Ok(f64::from(u32::try_from(total)?) / 1024.0)
}
