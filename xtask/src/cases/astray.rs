//! A guest whose own stage 1 leads its device to addresses that it does not have: the fault is the hypervisor's, and each
//! policy on it does what it says. What its stage 1 does not know is the guest's own, and no policy's.

use super::layout::{Layout, Small};
use super::{Case, Context, case, lines};
use crate::arch::Arch;
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("astray::log", |context| log(context, &SMMU)),
    case("astray::abort_stream", |context| {
        abort_stream(context, &SMMU)
    }),
    case("astray::stop", |context| stop(context, &SMMU)),
    case("astray::restart", |context| restart(context, &SMMU)),
    case("astray::log_on_x86_64", |context| log(context, &VTD)),
    case("astray::abort_stream_on_x86_64", |context| {
        abort_stream(context, &VTD)
    }),
    case("astray::stop_on_x86_64", |context| stop(context, &VTD)),
    case("astray::restart_on_x86_64", |context| {
        restart(context, &VTD)
    }),
];

/// What differs between the machines.
struct Unit {
    arch: Arch,
    /// A page of the guest's RAM, for its device.
    buffer: u64,
    /// What the guest sends its device to, from there on.
    astray: &'static [u64],
    /// Records of each access: one for 4 bytes of 64 on AArch64; on x86_64 QEMU keeps one of a source at a time.
    each: u64,
    /// Of the policy: reached in the third access.
    threshold: u64,
    /// What the hypervisor calls the guest's own.
    name: &'static str,
    /// How its lines of faults start.
    fault: &'static str,
    /// Interrupts of the guest's unit in one life: the guest of x86_64 has them masked.
    interrupts: u64,
}

const SMMU: Unit = Unit {
    arch: Arch::Aarch64,
    buffer: 0x4160_0000,
    astray: &[0x1000, 0x2000, 0x20_0000],
    each: 16,
    threshold: 40,
    name: "smmu0",
    fault: "smmu0 stream 0x10",
    // Bursts into a queue that is not empty are one: two bursts, and one more when the queue was empty again.
    interrupts: 2,
};

const VTD: Unit = Unit {
    arch: Arch::X86_64,
    buffer: 0x160_0000,
    astray: &[0x1000, 0x2000],
    each: 1,
    threshold: 3,
    name: "vtd0",
    fault: "vtd0 source 0x10",
    interrupts: 0,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Accesses that the guest sends astray.
const TIMES: u64 = 6;
/// Bursts that are the guest's own.
const OWN: u64 = 3;
/// QEMU's words for an access that its SMMU refused and reported.
const REPORTED: &str = " translation failed for iova=";
/// Selects the second partition for input, then types a byte: a silent canary looks at its memory and ends.
const WAKE_CANARY: &str = "\x1d1.";

const EDU: &str = "edu,addr=02.0,dma_mask=0xffffffffffffffff";
/// The guest.
const ASTRAY: &str = "edu_astray";

/// What the machine wrote, and QEMU's unit said.
struct Run<'u> {
    unit: &'u Unit,
    console: String,
    /// How many accesses QEMU's SMMU refused and reported.
    reported: Option<u64>,
}

/// Runs it under a policy until the guest is over.
fn run<'u>(context: &Context, unit: &'u Unit, action: &str) -> Result<Run<'u>> {
    let layout = Layout::of_small(&[EDU])
        .small(&Small {
            payload: ASTRAY,
            memory: "32M",
            cmdline: &format!("buffer={:#x} times={TIMES}", unit.buffer),
            function: Some("00:02.0"),
            on_fault: Some((action, unit.threshold)),
            ..Small::default()
        })
        .small(&Small {
            cpu: 1,
            cmdline: "silent seconds=200",
            ..Small::default()
        });
    let mut machine = context.pack_for(unit.arch, &layout.text())?;
    if unit.arch == Arch::Aarch64 {
        machine.trace.push("smmuv3_translate_abort".into());
    }
    let mut guest = context.start(&machine)?;
    guest.wait_line(&format!("[sluice] {ASTRAY}: stopped"), LIMIT)?;
    guest.send(WAKE_CANARY)?;
    guest.wait_off(LIMIT)?;
    let reported = match unit.arch {
        Arch::Aarch64 => Some(guest.trace()?.matches(REPORTED).count() as u64),
        Arch::X86_64 => None,
    };
    let run = Run {
        unit,
        console: guest.console(),
        reported,
    };
    // The neighbour has seen nothing, and nothing is on its account, or lost.
    lines::passed(&run.console, "canary")?;
    ensure!(lines::summary(&run.console, "canary")?.0 == 0);
    ensure!(lines::summary(&run.console, "nobody")?.0 == 0);
    ensure!(run.console.contains("records lost 0 times"));
    if let Some(line) = lines::of(&run.console, ASTRAY).find(|line| line.contains("FAILED")) {
        anyhow::bail!("{line}");
    }
    Ok(run)
}

impl Run<'_> {
    /// Faults on the guest's account, its own events, and interrupts of its SMMU; and what QEMU reported is the first two.
    fn counts(&self, lives: u64) -> Result<(u64, u64, u64)> {
        let (faults, _) = lines::summary(&self.console, ASTRAY)?;
        let line = lines::hypervisor(
            &self.console,
            &format!("{ASTRAY}: its {}: ", self.unit.name),
        )?;
        let count = |what: &str| {
            let mut parts = line.split([',', ';', ':']);
            let part = parts.find_map(|part| part.trim().strip_suffix(what));
            part.with_context(|| format!("no{what}: {line}"))
                .and_then(lines::number)
        };
        let (events, interrupts) = (count(" events")?, count(" interrupts")?);
        ensure!(count(" dropped")? == 0 && count(" errors")? == 0, "{line}");
        ensure!(
            self.reported.is_none_or(|all| faults + events == all),
            "{faults} faults and {events} events of {:?} that QEMU reported",
            self.reported
        );
        let expected = (OWN * self.unit.each, self.unit.interrupts);
        ensure!(
            (events, interrupts) == (expected.0 * lives, expected.1 * lives),
            "{events} events of the guest's own, {interrupts} interrupts"
        );
        Ok((faults, events, interrupts))
    }

    /// How far the guest got in sending its device astray.
    fn got_to(&self) -> usize {
        lines::answers(&self.console, ASTRAY, "astray").len()
    }

    fn after(&self) -> Result<&str> {
        lines::answer(&self.console, ASTRAY, "after")
    }
}

/// Faults are counted and told, and everything goes on.
fn log(context: &Context, unit: &Unit) -> Result<()> {
    let run = run(context, unit, "log")?;
    lines::passed(&run.console, ASTRAY)?;
    ensure!(run.got_to() == TIMES as usize && run.after()? == "arrives");
    let (faults, ..) = run.counts(1)?;
    ensure!(faults == TIMES * unit.each, "{faults} faults");
    // By the name that the machine has for it, and the address that the device used: for each of them.
    for at in unit.astray.iter().map(|at| unit.buffer + at) {
        let start = format!(
            "dma fault: {} 0000:00:02.0 write at {at:#x}: stage 2: ",
            unit.fault
        );
        let mut all = lines::of(&run.console, "sluice");
        ensure!(all.any(|line| line.starts_with(&start)), "no line {start}");
    }
    Ok(())
}

/// From the threshold on, the device reaches nothing, without a record; the guest itself goes on.
fn abort_stream(context: &Context, unit: &Unit) -> Result<()> {
    let run = run(context, unit, "abort-stream")?;
    lines::passed(&run.console, ASTRAY)?;
    ensure!(run.got_to() == TIMES as usize && run.after()? == "refused");
    let (faults, ..) = run.counts(1)?;
    ensure!(
        (unit.threshold..=unit.threshold.next_multiple_of(unit.each)).contains(&faults),
        "{faults} faults"
    );
    lines::hypervisor(
        &run.console,
        &format!(
            "{ASTRAY}: 0000:00:02.0 is cut off after {} faults",
            unit.threshold
        ),
    )
    .map(drop)
}

/// At the threshold the guest is stopped.
fn stop(context: &Context, unit: &Unit) -> Result<()> {
    let run = run(context, unit, "stop")?;
    ensure!(run.got_to() <= 3 && run.after().is_err());
    let (faults, ..) = run.counts(1)?;
    ensure!(
        (unit.threshold..=3 * unit.each).contains(&faults),
        "{faults} faults"
    );
    let line = format!("{ASTRAY}: stops after {} faults", unit.threshold);
    lines::hypervisor(&run.console, &line).map(drop)
}

/// At the threshold the guest starts again, with counts of its own, a few times; then it stops.
fn restart(context: &Context, unit: &Unit) -> Result<()> {
    let run = run(context, unit, "restart")?;
    ensure!(run.after().is_err());
    let line = format!("{ASTRAY}: restarts after {} faults", unit.threshold);
    let restarts = lines::of(&run.console, "sluice")
        .filter(|text| text.starts_with(&line))
        .count() as u64;
    ensure!(restarts > 0, "it was not started again");
    lines::hypervisor(
        &run.console,
        &format!("{ASTRAY}: stops: faults have restarted it"),
    )?;
    let (faults, ..) = run.counts(restarts + 1)?;
    let lives = restarts + 1;
    ensure!(
        (lives * unit.threshold..=lives * 3 * unit.each).contains(&faults),
        "{faults} faults in {restarts} restarts"
    );
    Ok(())
}
