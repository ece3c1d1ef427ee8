//! What a guest's own VT-d unit costs it, in exits and instructions, on a machine in which one instruction takes one nanosecond
//! (`-icount shift=0`): the shadows of a partition that owns an `edu` device and runs the payload `vtd_cost`. Two runs that differ
//! in how many maps and unmaps there are tell what each of these is in exits; a third does work of every kind,
//! and in a fourth a neighbour unmaps meanwhile.

use super::viommu::{figure, partition, stay, victim};
use super::{Figure, Source};
use crate::cases::{Context, lines, x86};
use crate::project;
use crate::qemu::Machine;
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

/// What another guest waits for.
pub const FLOOD_X86_64: Source = Source {
    ids: &["B21.x86_64.unmap"],
    measure: flood,
};

/// Instructions that one exit takes at most: those of pages that take the place of a block, which is split, and of some more of
/// them. It is what that takes today; the bound keeps it from growing.
const STAY: f64 = 30_000.0;
/// Ticks that a neighbour's unmap takes longer at most: far less than such an exit.
const WAIT: f64 = 5_000.0;
const LIMIT: Duration = Duration::from_secs(120);
/// Maps and unmaps of each run.
const RUNS: [(u64, u64); 2] = [(16, 16), (528, 80)];
/// Loads of a register, a few instructions beside each.
const LOOKS: u64 = 64;
/// What a guest floods its unit with, and how long its neighbour unmaps: before that, and until it is not over yet.
const STORM: &str = "storm=scattered,pages after=20";
const VICTIM: &str = "after=1 ms=120";
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
    let stay = |kind| stay(&storm, "probe", kind);
    let pairs = (many.0 - few.0) + (many.1 - few.1);
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
    let mut machine = packed(&context, &[partition("probe", 0, 2, "vtd_cost", cmdline)])?;
    machine.icount = true;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "probe")?;
    Ok(console)
}

/// A machine with a CPU and an `edu` device for each partition.
fn packed(context: &Context, partitions: &[String]) -> Result<Machine> {
    let config = format!("[machine]\nname = 'vtd-cost'\n{}", partitions.concat());
    let mut machine = x86::packed(context, &config)?;
    machine.cpus = partitions.len() as u16;
    // As in `machine_x86_64`.
    machine.cpu = "max,-x2apic".into();
    let slots = 2..2 + partitions.len();
    machine.devices = slots.map(|slot| format!("edu,addr={slot:02}.0")).collect();
    Ok(machine)
}

/// An unmap of one guest beside another, all of whose pages become others, and then a full queue of whose invalidations is done.
fn flood() -> Result<Vec<Figure>> {
    let folder = project::target().join("bench");
    let _alone = project::lock(&folder)?;
    let context = Context::new(folder.join("vtd-flood"));
    let machine = packed(
        &context,
        &[
            partition("storm", 0, 2, "vtd_cost", STORM),
            partition("victim", 1, 3, "iommu_victim", VICTIM),
        ],
    )?;
    let (_, [longest, alone]) = victim(&context, machine)?;
    Ok(vec![Figure {
        peers: vec![("alone", alone)],
        ..figure(
            "B21.x86_64.unmap",
            "how much longer an unmap of a guest takes at most where another floods its unit with 2^15 invalidations",
            longest - alone,
            "ticks of all CPUs",
            WAIT,
        )
    }])
}
