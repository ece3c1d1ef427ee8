//! Guests that ask their SMMUs for more than others would: what it costs is theirs.

use super::super::lines;
use super::{Context, Layout, Result, Small, ensure};
use std::time::Duration;

const STORM: &str = "smmu_storm";
const VICTIM: &str = "iommu_victim";
const LIMIT: Duration = Duration::from_secs(120);
const UNMAPS: u64 = 256;
/// Registers that `iommu_victim` writes before: CR0 to turn its SMMU off, 13 to turn it on, and a doorbell.
const FIRST: u64 = 15;
/// Its CMD_CFGI_ALL, CMD_TLBI_NSNH_ALL and CMD_SYNC for that, and two commands each unmap.
const COMMANDS: u64 = 3 + 2 * UNMAPS;

/// One guest has half a million invalidations done by each doorbell; its neighbour's unmaps are complete meanwhile, each by
/// one exit. What was done is what both asked for.
pub fn a_flood_is_its_own_guests(context: &Context) -> Result<()> {
    let layout = Layout::of_small(&["edu,addr=02.0", "edu,addr=03.0"])
        .small(&Small {
            payload: STORM,
            cmdline: "storm=full,syncs,contexts ms=1500",
            function: Some("00:02.0"),
            ..Small::default()
        })
        .small(&Small {
            payload: VICTIM,
            cpu: 1,
            function: Some("00:03.0"),
            ..Small::default()
        });
    let mut guest = context.start(&context.pack(&layout.text())?)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    for name in [STORM, VICTIM] {
        lines::passed(&console, name)?;
        ensure!(lines::summary(&console, name)?.0 == 0, "{name} has faults");
    }
    let line = lines::hypervisor(&console, &format!("{VICTIM}: 0 restarts, stopped, "))?;
    let doorbells = line.split("smmu ").nth(1);
    let doorbells = doorbells.map(lines::number).transpose()?;
    ensure!(doorbells == Some(FIRST + UNMAPS), "{line}");
    let asked = lines::number(lines::answer(&console, STORM, "commands")?)?;
    ensure!(asked >= 1 << 19, "{asked} commands are no flood");
    // And the CMD_CFGI_ALL at its start.
    for (name, commands) in [(STORM, asked + 1), (VICTIM, COMMANDS)] {
        let line = lines::hypervisor(&console, &format!("{name}: its smmu0: "))?;
        let done = lines::number(line)?;
        ensure!(done == commands, "{name}: {done} commands, not {commands}");
    }
    Ok(())
}
