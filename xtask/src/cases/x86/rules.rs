//! Configurations that break a rule which only the machine itself can tell: the hypervisor says so, and nobody starts.

use super::packed;
use crate::cases::{Context, lines};
use crate::qemu::Machine;
use anyhow::{Result, ensure};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Functions that the machine cannot keep apart go to one partition, whatever the configuration says that was checked without
/// it; likewise one that cannot be reset and has to be, and a bridge. All of it is said, and nobody starts.
pub fn what_is_not_isolated_is_refused(context: &Context) -> Result<()> {
    let mut text = "[machine]\nname = 'shared'\n".to_owned();
    for (cpu, name, address, reset) in [
        (0, "first", "00:02.0", "best-effort"),
        (1, "sibling", "00:02.1", "best-effort"),
        (2, "fresh", "00:03.0", "required"),
        (3, "bridge", "00:00.0", "best-effort"),
    ] {
        text += &format!(
            "[[partition]]\nname = '{name}'\nmemory = '16M'\ncpus = [{cpu}]\npayload = 'hello'\n\
            [[partition.device]]\naddress = '{address}'\nreset = '{reset}'\n"
        );
    }
    let mut machine = packed(context, &text)?;
    machine.cpus = 4;
    machine.devices = [
        "edu,addr=02.0,multifunction=on".to_owned(),
        "edu,addr=02.1".to_owned(),
        "edu,addr=03.0".to_owned(),
    ]
    .into();
    let console = refused(
        context,
        &machine,
        &[
            "partition[1].device[0].address: the device shares isolation group ",
            "partition[2].device[0].address: the device cannot be reset",
            "partition[3].device[0].address: the device is a bridge",
        ],
    )?;
    let line = lines::hypervisor(&console, "configuration: partition[1].")?;
    ensure!(line.ends_with(" with another partition's (see partition[0].device[0].address)"));
    Ok(())
}

/// CPUs, memory, a function, ATS and virtual functions that are in the configuration and not in the machine.
pub fn what_is_not_there_is_refused(context: &Context) -> Result<()> {
    let text = "[machine]\nname = 'small'\n\
        [[machine.sriov]]\naddress = '00:02.0'\nvfs = 1\n\
        [[partition]]\nname = 'first'\nmemory = '32M'\ncpus = [0]\npayload = 'hello'\n\
        [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\nats = true\n\
        [[partition]]\nname = 'second'\nmemory = '16G'\ncpus = [7]\npayload = 'hello'\n\
        [[partition.device]]\naddress = '00:09.0'\n";
    let mut machine = packed(context, text)?;
    machine.devices = ["edu,addr=02.0".to_owned()].into();
    refused(
        context,
        &machine,
        &[
            "partition[1].cpus[0]: CPU 7 does not exist, the machine has ",
            "partition[1].memory: the partitions need 16416 MiB of memory, the machine has ",
            "partition[1].device[0].address: the machine has no such device",
            "partition[0].device[0].ats: `ats`, but the device has none",
            "machine.sriov[0].address: the function can have no virtual functions (SR-IOV)",
        ],
    )?;
    Ok(())
}

/// Starts a machine whose configuration breaks these rules and no others: each is said, and no guest runs.
pub fn refused(context: &Context, machine: &Machine, problems: &[&str]) -> Result<String> {
    let mut guest = context.start(machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    let said: Vec<&str> = lines::of(&console, "sluice")
        .filter_map(|line| line.strip_prefix("configuration: "))
        .collect();
    let all = said
        .iter()
        .zip(problems)
        .all(|(it, start)| it.starts_with(start));
    ensure!(all && said.len() == problems.len(), "{console}");
    let end = format!(
        "cannot start: the configuration breaks {} rules",
        problems.len()
    );
    ensure!(
        lines::of(&console, "sluice").last() == Some(&*end),
        "{console}"
    );
    ensure!(!console.contains("result: "), "{console}");
    Ok(console)
}
