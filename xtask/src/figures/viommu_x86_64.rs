//! What a guest's own VT-d unit costs it, in exits and instructions, on a machine in which one instruction takes one nanosecond
//! (`-icount shift=0`): the shadows of a partition that owns an `edu` device and runs the payload `vtd_cost`. Two runs that differ
//! in how many maps and unmaps there are tell what each of these is in exits; a third does work of every kind.

use super::{Figure, Source};
use crate::cases::{Context, lines, x86};
use crate::project;
use anyhow::Result;
use std::time::Duration;

/// All of them, from three runs.
pub const VIOMMU_X86_64: Source = Source {
    ids: &[
        "B11.machine.exits",
        "B11.machine.look",
        "B12.x86_64.map",
        "B12.x86_64.unmap",
        "B22.x86_64",
    ],
    measure: viommu,
};

/// Instructions that one exit takes at most: those of pages that take the place of a block, which is split, and of some more of
/// them. It is what that takes today; the bound keeps it from growing.
const STAY: f64 = 30_000.0;
const LIMIT: Duration = Duration::from_secs(120);
/// Maps and unmaps of each run.
const RUNS: [(u64, u64); 2] = [(16, 16), (528, 80)];
/// Loads of a register, a few instructions beside each.
const LOOKS: u64 = 64;
const STORMS: &str = "pages,tables,blocks,scattered,large,domains,contexts,changes,wrong";

fn viommu() -> Result<Vec<Figure>> {
    let folder = project::target().join("bench");
    let _alone = project::lock(&folder)?;
    let [few, many] = RUNS;
    let cmdline = |(maps, unmaps)| format!("maps={maps} unmaps={unmaps}");
    let (first, second) = (run("few", &cmdline(few))?, run("many", &cmdline(many))?);
    let storm = run("storm", &format!("storm={STORMS}"))?;
    let exits =
        |console: &str| lines::number(lines::hypervisor(console, "probe: 0 restarts, stopped, ")?);
    let ticks = |key| lines::number(lines::answer(&second, "probe", key)?);
    let stay = |kind| super::viommu::stay(&storm, "probe", kind);
    let pairs = (many.0 - few.0) + (many.1 - few.1);
    let figure = |id, what, value: f64, unit, bound| Figure {
        id,
        what,
        value,
        unit,
        bound: Some(bound),
        peers: Vec::new(),
    };
    Ok(vec![
        figure(
            "B11.machine.exits",
            "a guest maps or unmaps a page for its device, and waits until it is complete",
            (exits(&second)? - exits(&first)?) as f64 / pairs as f64,
            "exits",
            1.0,
        ),
        figure(
            "B11.machine.look",
            "a look at a register of its unit",
            ticks("look")? as f64 / LOOKS as f64,
            "instructions",
            12.0,
        ),
        figure(
            "B12.x86_64.map",
            "a map through a shadow, from a guest and back to it, the slowest of 528",
            ticks("map")? as f64,
            "instructions",
            19_000.0,
        ),
        figure(
            "B12.x86_64.unmap",
            "an unmap through a shadow, from a guest and back to it, the slowest of 80",
            ticks("unmap")? as f64,
            "instructions",
            9_700.0,
        ),
        figure(
            "B22.x86_64",
            "longest stay in the hypervisor for a store to a guest's unit or an interrupt, a piece of a full queue's work among them",
            stay("vtd ")?.max(stay("interrupt ")?),
            "instructions",
            STAY,
        ),
    ])
}

/// What a run of the payload said.
fn run(name: &str, cmdline: &str) -> Result<String> {
    let folder = project::target().join("bench");
    let context = Context::new(folder.join(format!("vtd-cost-{name}")));
    let mut machine = x86::packed(
        &context,
        &format!(
            "[machine]\nname = 'vtd-cost'\n\
             [[partition]]\nname = 'probe'\nmemory = '64M'\ncpus = [0]\npayload = 'vtd_cost'\n\
             cmdline = '{cmdline}'\nviommu = true\n\
             [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n"
        ),
    )?;
    machine.cpus = 1;
    // As in `machine_x86_64`.
    machine.cpu = "max,-x2apic".into();
    machine.icount = true;
    machine.devices = vec!["edu,addr=02.0".into()];
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "probe")?;
    Ok(console)
}
