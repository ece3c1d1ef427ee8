//! Counts that never grow: the figures of `cargo xtask bench` that take seconds.

use super::{Case, case};
use crate::figures::{
    Source, driver, linux, machine, machine_x86_64, tables, viommu, viommu_x86_64,
};
use anyhow::{Result, ensure};

pub const CASES: &[Case] = &[
    case("figures::tables", |_| hold(&tables::COUNTS)),
    case("figures::driver", |_| hold(&driver::COUNTS)),
    case("figures::machine", |_| hold(&machine::MACHINE)),
    case("figures::machine_x86_64", |_| {
        hold(&machine_x86_64::MACHINE_X86_64)
    }),
    case("figures::disk", |_| hold(&linux::DISK)),
    case("figures::viommu", |_| hold(&viommu::VIOMMU)),
    case("figures::viommu_x86_64", |_| {
        hold(&viommu_x86_64::VIOMMU_X86_64)
    }),
    case("figures::storm", |_| hold(&viommu::STORM)),
    case("figures::flood", |_| hold(&viommu::FLOOD)),
    case("figures::events", |_| hold(&viommu::EVENTS)),
];

/// None of them is beyond its bound.
fn hold(source: &Source) -> Result<()> {
    let figures = (source.measure)()?;
    let beyond: Vec<String> = figures
        .iter()
        .filter(|figure| !figure.holds())
        .map(ToString::to_string)
        .collect();
    ensure!(beyond.is_empty(), "{}", beyond.join("\n"));
    Ok(())
}
