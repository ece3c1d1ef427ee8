//! What a disk costs Linux: the same kernel with the same NVMe disk behind the same SMMU, on the bare machine and in a
//! partition with an SMMU of its own, in strict mode on both.
//!
//! Instructions are those that QEMU has carried out (`-icount shift=0`, one CPU), at every exception level. A CPU that waits
//! carries out none; the machine's own counter would go on meanwhile, and PMU events are the guest's own affair on one side
//! and refused on the other. QEMU tells the number while it records what comes from outside (`rr=record`).
//!
//! Linux reads 4 KiB at a time, past its cache, the next one when the one before has come. Each comes after a millisecond,
//! so that the CPU waits for every one. From a disk that answers at once, it comes before or after Linux has gone idle, as
//! the host has it; going there and back is a third of a read, and so much the figures differed from run to run. The
//! difference between a long and a short run is free of whatever comes once, but not of what comes by the clock, and of
//! which state a CPU waits in: a thousand reads differ from another thousand by half a part in a hundred. So the mean of
//! many counts, and how far it may be off is told (`B23.error`). The first of each length does not count: Linux is still
//! busy with its start. What it does not tell: from one start of the bare machine to the next there is up to a part in a
//! hundred, for which the bound of `B23.more` leaves room beyond the ten that are wanted.
//!
//! In strict mode a read is one map and one unmap of a page, and with `iommu.passthrough=1` none: the difference is what a
//! pair takes.

use super::{Figure, Source};
use crate::arch::Arch;
use crate::cases::{Context, lines};
use crate::initrd::{self, Init};
use crate::project;
use crate::qemu::{Boot, Guest, Machine};
use crate::setup::linux;
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// All of them, from four runs.
pub const DISK: Source = Source {
    ids: &[
        "B23.read",
        "B23.more",
        "B23.error",
        "B23.exits",
        "B23.exits_smmu",
        "B23.exits_interrupt",
        "B24.pairs",
        "B24.more",
        "B24.exits",
    ],
    measure: disk,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Long enough for what follows a run: the shell, and a screen line.
const SETTLE: Duration = Duration::from_millis(100);
/// Reads of the two runs.
const READS: [u64; 2] = [200, 4200];
/// Pairs of them that count.
const ROUNDS: usize = 6;
/// The same where only the difference of two kinds of reads is told.
const FEW: usize = 2;

/// Nothing has to come from a disk of the host's; everything takes a millisecond.
const DRIVE: &str = "if=none,id=disk,driver=null-co,size=64M,read-zeroes=on,latency-ns=1000000";

const SCRIPT: &str = "
disk=/dev/nvme0n1
tries=0
while [ ! -b $disk ] && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
echo \"domain=$(cat /sys/kernel/iommu_groups/*/type);\"
while read count && [ $count != 0 ]; do
  dd if=$disk of=/dev/null bs=4k count=$count iflag=direct 2>/dev/null
  echo \"read=$count;\"
done
";

const PARTITION: &str = "
[machine]
name = 'disk-cost'
[machine.qemu]
memory = '1G'
cpus = 1
devices = ['nvme,addr=01.0,drive=disk,serial=s']
[[machine.qemu.disk]]
id = 'disk'
size = '64M'
[[partition]]
name = 'linux'
memory = '512M'
cpus = [0]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'CMDLINE'
viommu = true
[[partition.device]]
address = '00:01.0'
";

/// What runs Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum On {
    Machine,
    Partition,
}

/// What Linux does with its SMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Strict,
    Passthrough,
}

/// What one read takes, on the average.
#[derive(Clone, PartialEq, Debug)]
struct Cost {
    instructions: f64,
    /// Standard error of that.
    error: f64,
    /// By reason; none on the bare machine.
    exits: BTreeMap<String, f64>,
}

impl Cost {
    fn exits(&self) -> f64 {
        self.exits.values().sum()
    }

    fn exits_by(&self, reason: &str) -> f64 {
        self.exits.get(reason).copied().unwrap_or(0.0)
    }
}

/// The mean, and its standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}

fn disk() -> Result<Vec<Figure>> {
    let _alone = project::lock(&folder())?;
    let [bare, ours] = [On::Machine, On::Partition].map(|on| run(on, Mode::Strict));
    let (bare, ours) = (bare?, ours?);
    let [bare_open, ours_open] = [On::Machine, On::Partition].map(|on| run(on, Mode::Passthrough));
    let (bare_open, ours_open) = (bare_open?, ours_open?);
    let pairs = |strict: &Cost, open: &Cost| 1000.0 * (strict.instructions - open.instructions);
    let percent = |ours: f64, bare: f64| (ours / bare - 1.0) * 100.0;
    let error = (ours.error / ours.instructions).hypot(bare.error / bare.instructions);
    let figure = |id, what, value, unit, bound, peers| Figure {
        id,
        what,
        value,
        unit,
        bound,
        peers,
    };
    let on_bare = |value| vec![("bare machine", value)];
    let (ours_pairs, bare_pairs) = (pairs(&ours, &ours_open), pairs(&bare, &bare_open));
    Ok(vec![
        figure(
            "B23.read",
            "a read of 4 KiB, strict, Linux in a partition with an SMMU of its own",
            ours.instructions,
            "instructions",
            None,
            on_bare(bare.instructions),
        ),
        figure(
            "B23.more",
            "which is more than on the bare machine by",
            percent(ours.instructions, bare.instructions),
            "percent",
            Some(11.0),
            Vec::new(),
        ),
        figure(
            "B23.error",
            "give or take (standard error)",
            error * 100.0 * ours.instructions / bare.instructions,
            "percent",
            Some(0.5),
            Vec::new(),
        ),
        figure(
            "B23.exits",
            "and in all",
            ours.exits(),
            "exits",
            None,
            Vec::new(),
        ),
        figure(
            "B23.exits_smmu",
            "and of them for registers of its SMMU",
            ours.exits_by("smmu"),
            "exits",
            None,
            Vec::new(),
        ),
        figure(
            "B23.exits_interrupt",
            "and for interrupts",
            ours.exits_by("interrupt"),
            "exits",
            None,
            Vec::new(),
        ),
        figure(
            "B24.pairs",
            "1,000 pairs of map and unmap, strict, Linux in a partition with an SMMU of its own",
            ours_pairs,
            "instructions",
            None,
            on_bare(bare_pairs),
        ),
        figure(
            "B24.more",
            "which is more than on the bare machine by",
            percent(ours_pairs, bare_pairs),
            "percent",
            None,
            Vec::new(),
        ),
        figure(
            "B24.exits",
            "and in exits",
            1000.0 * (ours.exits() - ours_open.exits()),
            "exits",
            None,
            Vec::new(),
        ),
    ])
}

fn folder() -> PathBuf {
    project::target().join("bench")
}

fn run(on: On, mode: Mode) -> Result<Cost> {
    let name = format!("disk-cost-{on:?}-{mode:?}").to_lowercase();
    let context = Context::new(folder().join(name));
    let linux = linux::linux(Arch::Aarch64)?;
    let initrd = context.file("initrd.cpio", &initrd::build(&linux, Init::Script(SCRIPT))?)?;
    let (option, domain) = match mode {
        Mode::Strict => ("iommu.strict=1", "domain=DMA;"),
        Mode::Passthrough => ("iommu.passthrough=1", "domain=identity;"),
    };
    let line = format!("console=ttyAMA0 loglevel=4 {option}");
    let mut machine = match on {
        On::Machine => {
            let mut machine = Machine::new(Boot::Kernel {
                image: linux.image,
                initrd: Some(initrd),
                append: Some(line),
            });
            machine.cpus = 1;
            machine
                .devices
                .push("nvme,addr=01.0,drive=disk,serial=s".into());
            machine
        }
        On::Partition => context.pack(&PARTITION.replace("CMDLINE", &line))?,
    };
    machine.disks.clear();
    machine.drives.push(DRIVE.into());
    machine.counted = Some(context.file("record", &[])?);
    let mut guest = context.start(&machine)?;
    guest.wait_for(domain, LIMIT)?;
    let rounds = match mode {
        Mode::Strict => ROUNDS,
        Mode::Passthrough => FEW,
    };
    let mut instructions = Vec::new();
    let mut exits: BTreeMap<String, f64> = BTreeMap::new();
    for round in 0..=rounds {
        let [short, long] = READS.map(|reads| reads_of(&mut guest, on, reads));
        let (short, long) = (short?, long?);
        if round == 0 {
            continue;
        }
        let each = |long: f64, short: f64| (long - short) / (READS[1] - READS[0]) as f64;
        instructions.push(each(long.instructions, short.instructions));
        for (reason, count) in &long.exits {
            let before = short.exits.get(reason).copied().unwrap_or(0.0);
            *exits.entry(reason.clone()).or_default() += each(*count, before) / rounds as f64;
        }
    }
    guest.send("0\n")?;
    guest.wait_off(LIMIT)?;
    let (instructions, error) = mean(&instructions);
    Ok(Cost {
        instructions,
        error,
        exits,
    })
}

/// What a run took.
struct Run {
    instructions: f64,
    exits: BTreeMap<String, f64>,
}

/// A run of so many reads, with whatever comes once.
fn reads_of(guest: &mut Guest, on: On, reads: u64) -> Result<Run> {
    let mut monitor = guest.monitor()?;
    let before = exits(guest, on)?;
    std::thread::sleep(SETTLE);
    let start = monitor.instructions()?;
    guest.send(&format!("{reads}\n"))?;
    guest.wait_for(&format!("read={reads};"), LIMIT)?;
    std::thread::sleep(SETTLE);
    let end = monitor.instructions()?;
    let mut after = exits(guest, on)?;
    for (reason, exits) in &mut after {
        *exits -= before.get(reason).copied().unwrap_or(0.0);
    }
    ensure!(end > start, "no instruction in {reads} reads");
    Ok(Run {
        instructions: (end - start) as f64,
        exits: after,
    })
}

/// Exits so far, by reason.
fn exits(guest: &mut Guest, on: On) -> Result<BTreeMap<String, f64>> {
    if on == On::Machine {
        return Ok(BTreeMap::new());
    }
    guest.send("\x1ds")?;
    let line = guest.wait_line("[sluice] linux: 0 restarts, ", LIMIT)?;
    let (_, list) = line.split_once(" exits (").context("no exits")?;
    let (list, _) = list.split_once(')').context("an end of the exits")?;
    let each = list.split(", ").map(|part| {
        let (reason, count) = part.rsplit_once(' ').context("a reason and a count")?;
        Ok((reason.to_owned(), lines::number(count)? as f64))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::mean;

    #[test]
    fn an_error_is_that_of_the_mean() {
        assert_eq!(mean(&[3.0, 5.0, 3.0, 5.0]), (4.0, (1.0_f64 / 3.0).sqrt()));
    }
}
