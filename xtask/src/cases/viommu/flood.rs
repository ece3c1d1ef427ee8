//! Guests that ask their SMMUs for more than others would: what it costs is theirs.

use super::super::lines;
use super::{Context, Result, ensure};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const UNMAPS: u64 = 256;
/// Registers that `smmu_victim` writes before: 13 to turn its SMMU on, and a doorbell for CMD_CFGI_ALL.
const FIRST: u64 = 14;
/// Its CMD_CFGI_ALL, and two commands each unmap.
const COMMANDS: u64 = 1 + 2 * UNMAPS;

const TWO: &str = "
[machine]
name = 'flood'
[machine.qemu]
memory = '768M'
cpus = 2
devices = ['edu,addr=02.0', 'edu,addr=03.0']
[[partition]]
name = 'storm'
memory = '64M'
cpus = [0]
payload = 'smmu_storm'
cmdline = 'storm=full,syncs,contexts ms=1500'
viommu = true
[[partition.device]]
address = '00:02.0'
reset = 'best-effort'
[[partition]]
name = 'victim'
memory = '64M'
cpus = [1]
payload = 'smmu_victim'
viommu = true
[[partition.device]]
address = '00:03.0'
reset = 'best-effort'
";

/// One guest has half a million invalidations done by each doorbell; its neighbour's unmaps are complete meanwhile, each by
/// one exit. What was done is what both asked for.
pub fn a_flood_is_its_own_guests(context: &Context) -> Result<()> {
    let mut guest = context.start(&context.pack(TWO)?)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    for name in ["storm", "victim"] {
        lines::passed(&console, name)?;
        ensure!(lines::summary(&console, name)?.0 == 0, "{name} has faults");
    }
    let line = lines::hypervisor(&console, "victim: 0 restarts, stopped, ")?;
    let doorbells = line.split("smmu ").nth(1);
    let doorbells = doorbells.map(lines::number).transpose()?;
    ensure!(doorbells == Some(FIRST + UNMAPS), "{line}");
    let asked = lines::number(lines::answer(&console, "storm", "commands")?)?;
    ensure!(asked >= 1 << 19, "{asked} commands are no flood");
    // And the CMD_CFGI_ALL at its start.
    for (name, commands) in [("storm", asked + 1), ("victim", COMMANDS)] {
        let line = lines::hypervisor(&console, &format!("{name}: its smmu0: "))?;
        let done = lines::number(line)?;
        ensure!(done == commands, "{name}: {done} commands, not {commands}");
    }
    Ok(())
}
