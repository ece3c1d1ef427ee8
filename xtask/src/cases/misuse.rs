//! What guests do against all rules is their own problem.

use super::{Case, Context, case, lines};
use anyhow::{Result, ensure};
use std::time::Duration;

pub const CASES: &[Case] = &[case("misuse::harms_nobody_else", harms_nobody_else)];

const START_LIMIT: Duration = Duration::from_secs(60);

/// Every access outside its map, of every width, and every abuse of interrupt controller, PCI host, firmware calls and
/// registers ends in an exception or reads as nothing; the hypervisor counts; the other partition does not notice. What the
/// guest leaves in registers, its own next life does not find.
fn harms_nobody_else(context: &Context) -> Result<()> {
    let machine = context.pack(include_str!("../../configs/guest_misuse.toml"))?;
    let mut guest = context.start(&machine)?;
    guest.wait_line("[canary] watching", START_LIMIT)?;
    guest.wait_line("[sluice] misuser: restarts", START_LIMIT)?;
    guest.wait_line("[sluice] misuser: stopped", START_LIMIT)?;
    // The canary runs, and hears.
    guest.send("\x1d1.")?;
    guest.wait_off(START_LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "misuser")?;
    lines::passed(&console, "canary")?;
    let made = lines::number(lines::behind(
        &console,
        "misuser",
        "exceptions that EL2 made: ",
    )?)?;
    let (faults, refused) = lines::summary(&console, "misuser")?;
    ensure!(
        made >= 90 && refused >= made,
        "{refused} refused accesses counted, {made} seen by the guest"
    );
    ensure!(faults == 0, "its device stepped outside");
    ensure!(lines::summary(&console, "canary")? == (0, 0));
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    Ok(())
}
