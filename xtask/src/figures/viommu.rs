//! What a guest's own SMMU costs it, in exits and instructions, on a machine in which one instruction takes one nanosecond
//! (`-icount shift=0`).
//!
//! One partition owns an `edu` device behind an SMMU that it drives, and runs the payload `smmu_cost`; two runs that differ
//! in how many maps and unmaps there are tell what each of these is in exits. Then it runs `smmu_storm`: work of every
//! kind, and half a million commands by one doorbell; and once beside another partition, which unmaps meanwhile.

use super::{Figure, Source};
use crate::cases::{Context, lines};
use crate::project;
use crate::qemu::Machine;
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

/// All of them, from the two runs.
pub const VIOMMU: Source = Source {
    ids: &["B9", "B10", "B10.look", "B12.unmap", "B12.command"],
    measure: viommu,
};

/// What others feel of it.
pub const STORM: Source = Source {
    ids: &["B22", "B22.stream"],
    measure: storm,
};

/// What another guest waits for.
pub const FLOOD: Source = Source {
    ids: &["B21.unmap"],
    measure: flood,
};

/// What an event costs.
pub const EVENTS: Source = Source {
    ids: &["B14"],
    measure: events,
};

/// Instructions that one exit takes at most for the work of a guest's SMMU.
const STAY: f64 = 5000.0;
/// And where a device is refused often at once: what the eight events of an exit take today.
const BURST_STAY: f64 = 16_500.0;

const LIMIT: Duration = Duration::from_secs(120);
/// Maps and unmaps of each run.
const RUNS: [(u64, u64); 2] = [(16, 16), (528, 80)];
/// Commands of the payload's larger batch beyond those of a small one.
const MORE: u64 = 4;
/// Loads of a register, two instructions beside each.
const LOOKS: u64 = 64;

/// What one run showed.
struct Run {
    console: String,
    exits: u64,
    doorbells: u64,
}

fn viommu() -> Result<Vec<Figure>> {
    let folder = project::target().join("bench");
    let _alone = project::lock(&folder)?;
    let [few, many] = RUNS;
    let (first, second) = (run(few)?, run(many)?);
    let ticks = |key| lines::number(lines::answer(&second.console, "probe", key)?);
    ensure!(
        ticks("frequency")? == 1_000_000_000,
        "an instruction is not a tick of the counter"
    );
    let doorbells = second.doorbells - first.doorbells;
    let others = second.exits - first.exits - doorbells;
    Ok(vec![
        figure(
            "B9",
            "a guest maps a page for its device",
            others as f64 / (many.0 - few.0) as f64,
            "exits",
            0.0,
        ),
        figure(
            "B10",
            "a guest unmaps one, and waits until it is complete",
            doorbells as f64 / (many.1 - few.1) as f64,
            "exits",
            1.0,
        ),
        figure(
            "B10.look",
            "a look at how far the command queue is",
            ticks("look")? as f64 / LOOKS as f64 - 2.0,
            "instructions",
            1.5,
        ),
        figure(
            "B12.unmap",
            "an invalidation and a CMD_SYNC, from a guest and back to it, the slowest of 80",
            ticks("unmap")? as f64,
            "instructions",
            1200.0,
        ),
        figure(
            "B12.command",
            "and each invalidation more",
            (ticks("many")? - ticks("unmap")?) as f64 / MORE as f64,
            "instructions",
            120.0,
        ),
    ])
}

pub fn figure(
    id: &'static str,
    what: &'static str,
    value: f64,
    unit: &'static str,
    bound: f64,
) -> Figure {
    Figure {
        id,
        what,
        value,
        unit,
        bound: Some(bound),
        peers: Vec::new(),
    }
}

/// A partition that has an IOMMU of its own before an `edu` device.
pub fn partition(name: &str, cpu: u32, slot: u32, payload: &str, cmdline: &str) -> String {
    format!(
        "[[partition]]\nname = '{name}'\nmemory = '64M'\ncpus = [{cpu}]\npayload = '{payload}'\n\
         cmdline = '{cmdline}'\nviommu = true\n\
         [[partition.device]]\naddress = '00:0{slot}.0'\nreset = 'best-effort'\n"
    )
}

/// Everything but what changes a stream, whose own start is such a change.
const INVALIDATIONS: &str = "full,syncs,signals,ranges,all,hints,wrong streams=off";
const CONFIGURATIONS: &str = "contexts,streams,changes,every";

/// Longest stays for a doorbell and for an interrupt, while a guest posts `storms`.
fn longest(storms: &str) -> Result<[f64; 2]> {
    let folder = project::target().join("bench");
    let context = Context::new(folder.join(format!("smmu-storm-{storms}")));
    let mut machine = context.pack(&format!(
        "[machine]\nname = 'smmu-storm'\n\
         [machine.qemu]\nmemory = '768M'\ncpus = 1\ndevices = ['edu,addr=02.0']\n{}",
        partition("storm", 0, 2, "smmu_storm", &format!("storm={storms}")),
    ))?;
    machine.icount = true;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "storm")?;
    ensure!(
        lines::answer(&console, "storm", "queue")? == "19",
        "no queue of 2^19 commands"
    );
    let of = |kind| stay(&console, "storm", kind);
    Ok([of("smmu ")?, of("interrupt ")?])
}

/// The longest stay for exits of a kind, as the hypervisor has it at the end of a guest.
pub fn stay(console: &str, guest: &str, kind: &str) -> Result<f64> {
    let start = format!("{guest}: longest handling of an exit, in ticks: ");
    let longest = lines::hypervisor(console, &start)?;
    let mut parts = longest.split(", ");
    let found = parts.find_map(|part| part.strip_prefix(kind));
    let text = found.with_context(|| format!("no exit was of kind `{kind}`"))?;
    Ok(lines::number(text.trim())? as f64)
}

fn storm() -> Result<Vec<Figure>> {
    let folder = project::target().join("bench");
    let _alone = project::lock(&folder)?;
    let [doorbell, rest] = longest(INVALIDATIONS)?;
    let [stream, stream_rest] = longest(CONFIGURATIONS)?;
    Ok(vec![
        figure(
            "B22",
            "longest stay in the hypervisor for a doorbell or an interrupt, a piece of 2^19 invalidations among them",
            doorbell.max(rest),
            "instructions",
            STAY,
        ),
        figure(
            "B22.stream",
            "longest stay in the hypervisor for a step of a stream's change",
            stream.max(stream_rest),
            "instructions",
            STAY,
        ),
    ])
}

/// An unmap of one guest beside the half a million invalidations that another has rung for.
fn flood() -> Result<Vec<Figure>> {
    let folder = project::target().join("bench");
    let _alone = project::lock(&folder)?;
    let context = Context::new(folder.join("smmu-flood"));
    let machine = context.pack(&format!(
        "[machine]\nname = 'smmu-flood'\n\
         [machine.qemu]\nmemory = '768M'\ncpus = 2\ndevices = ['edu,addr=02.0', 'edu,addr=03.0']\n{}{}",
        partition("storm", 0, 2, "smmu_storm", "storm=full"),
        partition("victim", 1, 3, "iommu_victim", "after=15 ms=110"),
    ))?;
    let (console, [longest, alone]) = victim(&context, machine)?;
    let commands = lines::number(lines::answer(&console, "storm", "commands")?)?;
    ensure!(commands == 1 << 19, "no flood");
    Ok(vec![Figure {
        peers: vec![("alone", alone)],
        ..figure(
            "B21.unmap",
            "how much longer an unmap of a guest takes at most where another has rung for 2^19 invalidations",
            longest - alone,
            "ticks of all CPUs",
            STAY,
        )
    }])
}

/// Runs a machine whose guest `storm` floods its IOMMU while `victim` unmaps. What it said, and the longest unmap of all and of
/// those before the flood, in ticks that the machine's CPUs all count together: no less than instructions of one.
pub fn victim(context: &Context, mut machine: Machine) -> Result<(String, [f64; 2])> {
    machine.icount = true;
    machine.turns = true;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    for name in ["storm", "victim"] {
        lines::passed(&console, name)?;
    }
    let of = |name, key| lines::number(lines::answer(&console, name, key)?);
    let (rang, done) = (of("storm", "rang")?, of("storm", "over")?);
    let (first, last) = (of("victim", "first_over")?, of("victim", "over")?);
    ensure!(
        first < rang && rang < last && last < done,
        "the flood is from {rang} to {done}, the unmaps to {first} and {last}"
    );
    let (longest, alone) = (of("victim", "longest")?, of("victim", "first")?);
    Ok((console, [longest as f64, alone as f64]))
}

/// A guest's device is refused by the guest's own stage 1: one time after another, and in a burst of more events than its
/// queue holds.
fn events() -> Result<Vec<Figure>> {
    const GUEST: &str = "smmu_granules";
    let folder = project::target().join("bench");
    let _alone = project::lock(&folder)?;
    let context = Context::new(folder.join("smmu-events"));
    let mut machine = context.pack(&format!(
        "[machine]\nname = 'smmu-events'\n\
         [machine.qemu]\nmemory = '768M'\ncpus = 1\n\
         devices = ['edu,addr=02.0,dma_mask=0xffffffffffffffff']\n{}",
        partition(GUEST, 0, 2, GUEST, ""),
    ))?;
    machine.icount = true;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, GUEST)?;
    Ok(vec![figure(
        "B14",
        "longest stay in the hypervisor for an interrupt, that of a burst of events among them",
        stay(&console, GUEST, "interrupt ")?,
        "instructions",
        BURST_STAY,
    )])
}

fn run((maps, unmaps): (u64, u64)) -> Result<Run> {
    let context = Context::new(
        project::target()
            .join("bench")
            .join(format!("smmu-cost-{maps}")),
    );
    let cmdline = format!("maps={maps} unmaps={unmaps}");
    let mut machine = context.pack(&format!(
        "[machine]\nname = 'smmu-cost'\n\
         [machine.qemu]\nmemory = '768M'\ncpus = 1\ndevices = ['edu,addr=02.0']\n{}",
        partition("probe", 0, 2, "smmu_cost", &cmdline),
    ))?;
    machine.icount = true;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "probe")?;
    let line = lines::hypervisor(&console, "probe: 0 restarts, stopped, ")?;
    let exits = lines::number(line)?;
    let doorbells = line.split("smmu ").nth(1).context("no doorbell")?;
    let doorbells = lines::number(doorbells)?;
    Ok(Run {
        exits,
        doorbells,
        console,
    })
}
