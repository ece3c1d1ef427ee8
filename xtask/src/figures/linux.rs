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
//! difference between a long and a short run is free of whatever comes once. What comes by the clock, to Linux and to the
//! hypervisor, is as much as the host takes for a millisecond, whoever reads: it is measured while nothing is read, told
//! (`B23.idle`) and taken out of the rest but for `B23.whole`.
//!
//! What is left differs from start to start by a part in a hundred. So both machines start in turns, and the mean of what
//! each pair of starts shows counts; how far it may be off is told (`B23.error`). The first run of each length does not
//! count: Linux is still busy with its start. On both machines it stays where it was linked (`nokaslr`): how far modules
//! are from the kernel, and so what a call between them takes, would be drawn anew at each start.
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

/// All of them, on two machines in two modes.
pub const DISK: Source = Source {
    ids: &[
        "B23.read",
        "B23.more",
        "B23.error",
        "B23.whole",
        "B23.idle",
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
/// Pairs of them that count, at each start.
const ROUNDS: usize = 2;
/// Seconds of the two runs in which nothing is read.
const SECONDS: [u64; 2] = [1, 5];
/// Starts of each machine.
const STARTS: usize = 4;
/// The same where only the difference of two kinds of reads is told.
const FEW: usize = 2;

/// Nothing has to come from a disk of the host's; everything takes a millisecond.
const DRIVE: &str = "if=none,id=disk,driver=null-co,size=64M,read-zeroes=on,latency-ns=1000000";

const SCRIPT: &str = "
disk=/dev/nvme0n1
tries=0
while [ ! -b $disk ] && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
echo \"domain=$(cat /sys/kernel/iommu_groups/*/type);\"
while read what count && [ $what != end ]; do
  read from rest < /proc/uptime
  case $what in
    reads) dd if=$disk of=/dev/null bs=4k count=$count iflag=direct 2>/dev/null;;
    seconds) sleep $count;;
  esac
  read to rest < /proc/uptime
  echo \"$what=$count from=$from to=$to;\"
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
#[derive(Clone, PartialEq, Debug, Default)]
struct Cost {
    /// Without those that come by the clock.
    instructions: f64,
    /// With them.
    whole: f64,
    /// Of the machine with nothing to do, in a millisecond.
    idle: f64,
    /// By reason; none on the bare machine.
    exits: BTreeMap<String, f64>,
}

impl Cost {
    fn of(starts: &[Self]) -> Self {
        let mut mean = Self::default();
        for start in starts {
            let part = |whole: f64| whole / starts.len() as f64;
            mean.instructions += part(start.instructions);
            mean.whole += part(start.whole);
            mean.idle += part(start.idle);
            for (reason, count) in &start.exits {
                *mean.exits.entry(reason.clone()).or_default() += part(*count);
            }
        }
        mean
    }

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
    let (all_bare, all_ours) = starts(Mode::Strict, STARTS)?;
    let (bare, ours) = (Cost::of(&all_bare), Cost::of(&all_ours));
    let (bare_open, ours_open) = starts(Mode::Passthrough, FEW)?;
    let (bare_open, ours_open) = (Cost::of(&bare_open), Cost::of(&ours_open));
    let pairs = |strict: &Cost, open: &Cost| 1000.0 * (strict.instructions - open.instructions);
    let percent = |ours: f64, bare: f64| (ours / bare - 1.0) * 100.0;
    let each = all_ours.iter().zip(&all_bare);
    let each = each.map(|(ours, bare)| percent(ours.instructions, bare.instructions));
    let (more, error) = mean(&each.collect::<Vec<_>>());
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
            more,
            "percent",
            Some(10.0),
            Vec::new(),
        ),
        figure(
            "B23.error",
            "give or take (standard error)",
            error,
            "percent",
            Some(1.0),
            Vec::new(),
        ),
        figure(
            "B23.whole",
            "and with what comes by the clock",
            percent(ours.whole, bare.whole),
            "percent",
            None,
            Vec::new(),
        ),
        figure(
            "B23.idle",
            "without what each machine carries out by the clock, which is in a millisecond",
            ours.idle,
            "instructions",
            None,
            on_bare(bare.idle),
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

/// So many starts of each machine, in turns.
fn starts(mode: Mode, count: usize) -> Result<(Vec<Cost>, Vec<Cost>)> {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..count {
        bare.push(run(On::Machine, mode)?);
        ours.push(run(On::Partition, mode)?);
    }
    Ok((bare, ours))
}

/// One start.
fn run(on: On, mode: Mode) -> Result<Cost> {
    let name = format!("disk-cost-{on:?}-{mode:?}").to_lowercase();
    let context = Context::new(folder().join(name));
    let linux = linux::linux(Arch::Aarch64)?;
    let initrd = context.file("initrd.cpio", &initrd::build(&linux, Init::Script(SCRIPT))?)?;
    let (option, domain) = match mode {
        Mode::Strict => ("iommu.strict=1", "domain=DMA;"),
        Mode::Passthrough => ("iommu.passthrough=1", "domain=identity;"),
    };
    let line = format!("console=ttyAMA0 loglevel=4 nokaslr {option}");
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
    let mut all = Part::default();
    for round in 0..=ROUNDS {
        let [short, long] = READS.map(|reads| carried_out(&mut guest, on, "reads", reads));
        if round > 0 {
            all.add(&long?.beyond(&short?));
        }
    }
    let [short, long] = SECONDS.map(|count| carried_out(&mut guest, on, "seconds", count));
    let idle = long?.beyond(&short?);
    guest.send("end\n")?;
    guest.wait_off(LIMIT)?;

    let each = |whole: f64| whole / ((READS[1] - READS[0]) * ROUNDS as u64) as f64;
    let by_clock = idle.instructions / idle.milliseconds;
    let exits = all.exits.into_iter();
    Ok(Cost {
        instructions: each(all.instructions - by_clock * all.milliseconds),
        whole: each(all.instructions),
        idle: by_clock,
        exits: exits.map(|(reason, count)| (reason, each(count))).collect(),
    })
}

/// What was carried out meanwhile, or is the difference between two.
#[derive(Default)]
struct Part {
    instructions: f64,
    /// By the guest's clock.
    milliseconds: f64,
    exits: BTreeMap<String, f64>,
}

impl Part {
    fn beyond(mut self, short: &Self) -> Self {
        self.instructions -= short.instructions;
        self.milliseconds -= short.milliseconds;
        for (reason, count) in &short.exits {
            *self.exits.entry(reason.clone()).or_default() -= count;
        }
        self
    }

    fn add(&mut self, other: &Self) {
        self.instructions += other.instructions;
        self.milliseconds += other.milliseconds;
        for (reason, count) in &other.exits {
            *self.exits.entry(reason.clone()).or_default() += count;
        }
    }
}

/// A run of the script's `what`, with whatever comes once.
fn carried_out(guest: &mut Guest, on: On, what: &str, count: u64) -> Result<Part> {
    let mut monitor = guest.monitor()?;
    let before = exits(guest, on)?;
    std::thread::sleep(SETTLE);
    let start = monitor.instructions()?;
    guest.send(&format!("{what} {count}\n"))?;
    let line = guest.wait_line(&format!("{what}={count} "), LIMIT)?;
    std::thread::sleep(SETTLE);
    let end = monitor.instructions()?;
    let after = exits(guest, on)?;
    ensure!(end > start, "no instruction in {count} {what}");
    let time = |key: &str| {
        let value = line
            .split_once(key)
            .and_then(|(_, rest)| rest.split([' ', ';']).next());
        let value = value.and_then(|value| value.parse::<f64>().ok());
        value.with_context(|| format!("no time in `{line}`"))
    };
    let part = Part {
        instructions: (end - start) as f64,
        milliseconds: (time("to=")? - time("from=")?) * 1000.0,
        exits: after,
    };
    Ok(part.beyond(&Part {
        exits: before,
        ..Part::default()
    }))
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
