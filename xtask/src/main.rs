//! `cargo xtask`: the host tool. One subcommand, one file in `tasks/`.
//!
//! How one walks through it: [`Command`] names the tasks; each is a `clap::Args` struct in its own file with a
//! `run(self)` that does the work. What several tasks share stands beside `tasks/`: [`setup`] fetches what the machine
//! lacks, [`config`] reads configurations, [`symbols`] and [`initrd`] make parts of images, [`qemu`] is the machine;
//! [`source_checks`], [`host_tests`] and [`cases`] are the tests, [`figures`] what is measured; [`project`] says where things lie,
//! [`progress`] how a step is shown.

mod arch;
mod bochs;
mod cases;
mod config;
mod figures;
mod host_tests;
mod initrd;
mod progress;
mod project;
mod qemu;
mod setup;
mod source_checks;
mod symbols;
mod tasks;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Builds, runs and tests Sluice.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set up what is missing: bare-metal target, QEMU, kernel, firmware.
    Setup(tasks::setup::Setup),
    /// Build the hypervisor and the small guests.
    Build(tasks::build::Build),
    /// Check a configuration with all its rules.
    Check(tasks::check::Check),
    /// Pack hypervisor, configuration and guests into one bootable file.
    Image(tasks::image::Image),
    /// Boot a configuration in QEMU.
    Run(tasks::run::Run),
    /// Run the tests: on the host, and in QEMU.
    Test(tasks::test::Test),
    /// Measure the figures.
    Bench(tasks::bench::Bench),
    /// Measure which lines of `iommu` its tests run.
    Coverage(tasks::coverage::Coverage),
    /// Change `iommu` in small ways, each of which a test must notice.
    Mutants(tasks::mutants::Mutants),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(task) => task.run(),
        Command::Build(task) => task.run(),
        Command::Check(task) => task.run(),
        Command::Image(task) => task.run(),
        Command::Run(task) => task.run(),
        Command::Test(task) => task.run(),
        Command::Bench(task) => task.run(),
        Command::Coverage(task) => task.run(),
        Command::Mutants(task) => task.run(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
