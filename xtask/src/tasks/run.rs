//! `cargo xtask run`: packs a configuration, boots it in QEMU and shows its console.

use super::Outcome;
use super::build::Profile;
use super::{image, medium};
use crate::arch::Arch;
use crate::project;
use crate::qemu::{Guest, Machine};
use crate::setup::kit;
use anyhow::{Context, Result, bail, ensure};
use kernel::config;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Run {
    /// `demo`, `linux`, another name in boot/configs, or the path of a configuration.
    #[arg(default_value = "demo")]
    configuration: String,
    /// Seconds after which a run that has not ended by itself has failed. None with a shell.
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Build without optimisation.
    #[arg(long)]
    debug: bool,
    /// The machine.
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
}

impl Run {
    /// Boots it. With a Linux partition the console is the terminal's; else the small guests say how it went, and the
    /// exit code repeats it.
    pub fn run(self) -> Outcome {
        let path = configuration(&self.configuration)?;
        let profile = if self.debug {
            Profile::Debug
        } else {
            Profile::Release
        };
        let Some(packed) = image::pack(&path, None, self.arch, profile)? else {
            return Ok(ExitCode::FAILURE);
        };
        let described = &packed.checked.machine;
        let qemu = described.machine.qemu.as_ref().with_context(|| {
            let path = path.display();
            format!("{path} has no [machine.qemu], so QEMU cannot stand for it: pack it with `cargo xtask image {path}`")
        })?;
        let work = project::target().join("run");
        let _alone = project::lock(&work)?;
        let mut machine =
            Machine::of_config(qemu, packed.path.clone(), &packed.checked.folder, &work)?;
        machine.arch = self.arch;
        // There it is firmware that gives virtual functions their addresses, and SeaBIOS does not.
        if self.arch == Arch::X86_64 && !described.machine.sriov.is_empty() {
            medium::by_uefi(&mut machine)?;
        }
        if described
            .partitions
            .iter()
            .any(|partition| partition.kernel.is_some())
        {
            return interactive(&machine);
        }
        let limit = Duration::from_secs(self.limit);
        let mut guest = Guest::start_with(&kit::qemu(self.arch)?, &machine, &work, limit, true)?;
        guest.wait_off(limit)?;
        verdict(&guest.console(), described)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The path of a configuration that is named or given.
fn configuration(name: &str) -> Result<PathBuf> {
    let given = PathBuf::from(name);
    let own = project::root()
        .join("boot/configs")
        .join(format!("{name}.toml"));
    match () {
        () if given.is_file() => Ok(given),
        () if own.is_file() => Ok(own),
        () => bail!(
            "no configuration `{name}`: it is neither a file nor one of {}",
            known()
        ),
    }
}

fn known() -> String {
    let entries = std::fs::read_dir(project::root().join("boot/configs"));
    let entries = entries.into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names.join(", ")
}

/// The terminal is the console's.
fn interactive(machine: &Machine) -> Outcome {
    let mut command = kit::qemu(machine.arch)?.command();
    command
        .args(machine.args("mon:stdio"))
        .stdin(Stdio::inherit());
    eprintln!("Ctrl-A X ends the machine");
    let status = command.status().context("cannot start QEMU")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every payload that was started must say that it passed, and none, nor the hypervisor, anything else.
pub fn verdict(console: &str, machine: &config::Machine) -> Result<()> {
    let bad = ["result: failed", "panicked", "panic:"];
    if let Some(line) = console
        .lines()
        .find(|line| bad.iter().any(|word| line.contains(word)))
    {
        bail!("{line}");
    }
    let payloads = machine
        .partitions
        .iter()
        .filter(|partition| partition.autostart && partition.payload.is_some());
    let expected = payloads.count();
    let passed = console
        .lines()
        .filter(|line| line.contains("result: passed"))
        .count();
    ensure!(
        passed >= expected,
        "{passed} of {expected} guests said that they passed"
    );
    Ok(())
}
