//! What `cargo xtask run` shows a newcomer.

use super::{Case, Context, case};
use crate::project;
use crate::tasks::run;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::time::Duration;

pub const CASES: &[Case] = &[case(
    "demo::attacks_are_stopped_and_counted",
    attacks_are_stopped_and_counted,
)];

/// Every guest of the demo passes, the machine ends by itself, and QEMU's own record has as many faults as ours.
fn attacks_are_stopped_and_counted(context: &Context) -> Result<()> {
    let text = fs::read_to_string(project::root().join("boot/configs/demo.toml"))?;
    let mut machine = context.pack(&text)?;
    machine.trace.push("smmuv3_trigger_irq".into());
    let mut guest = context.start(&machine)?;
    guest.wait_off(Duration::from_secs(120))?;
    let console = guest.console();
    run::verdict(&console, &toml::from_str(&text)?)?;
    let line = console
        .lines()
        .find(|line| line.contains("attacker:") && line.contains("dma faults recorded"));
    let line = line.context("no count of the attacker's faults")?;
    let said = line
        .split_whitespace()
        .find_map(|word| word.parse::<usize>().ok());
    let traced = guest
        .trace()?
        .lines()
        .filter(|line| line.contains("translation failed for iova"))
        .count();
    ensure!(
        traced > 0 && said == Some(traced),
        "QEMU recorded {traced} faults; the console says: {line}"
    );
    Ok(())
}
