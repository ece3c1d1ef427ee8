//! A guest whose own stage 1 leads its device to addresses that it does not have: the fault is the hypervisor's, and each
//! policy on it does what it says. What its stage 1 does not know is the guest's own, and no policy's.

use super::layout::{Layout, Small};
use super::{Case, Context, case, lines};
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("astray::log", log),
    case("astray::abort_stream", abort_stream),
    case("astray::stop", stop),
    case("astray::restart", restart),
];

const LIMIT: Duration = Duration::from_secs(60);
/// Accesses that the guest sends astray.
const TIMES: u64 = 6;
/// Records of each: one for 4 bytes of 64.
const EACH: u64 = 16;
/// Records of what is the guest's own: three bursts.
const OWN: u64 = 3 * EACH;
/// Of the policy: reached in the third access.
const THRESHOLD: u64 = 40;
/// QEMU's words for an access that its SMMU refused and reported.
const REPORTED: &str = " translation failed for iova=";
/// Selects the second partition for input, then types a byte: a silent canary looks at its memory and ends.
const WAKE_CANARY: &str = "\x1d1.";

const EDU: &str = "edu,addr=02.0,dma_mask=0xffffffffffffffff";
/// The guest.
const ASTRAY: &str = "edu_astray";

/// What the machine wrote, and QEMU of it.
struct Run {
    console: String,
    trace: String,
}

/// Runs it under a policy until the guest is over.
fn run(context: &Context, action: &str) -> Result<Run> {
    let layout = Layout::of_small(&[EDU])
        .small(&Small {
            payload: ASTRAY,
            memory: "32M",
            cmdline: &format!("buffer=0x41600000 times={TIMES}"),
            function: Some("00:02.0"),
            on_fault: Some((action, THRESHOLD)),
            ..Small::default()
        })
        .small(&Small {
            cpu: 1,
            cmdline: "silent seconds=200",
            ..Small::default()
        });
    let mut machine = context.pack(&layout.text())?;
    machine.trace.push("smmuv3_translate_abort".into());
    let mut guest = context.start(&machine)?;
    guest.wait_line(&format!("[sluice] {ASTRAY}: stopped"), LIMIT)?;
    guest.send(WAKE_CANARY)?;
    guest.wait_off(LIMIT)?;
    let run = Run {
        console: guest.console(),
        trace: guest.trace()?,
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

impl Run {
    /// Faults on the guest's account, its own events, and interrupts of its SMMU; and what QEMU reported is the first two.
    fn counts(&self, lives: u64) -> Result<(u64, u64, u64)> {
        let (faults, _) = lines::summary(&self.console, ASTRAY)?;
        let line = lines::hypervisor(&self.console, &format!("{ASTRAY}: its smmu0: "))?;
        let count = |what: &str| {
            let mut parts = line.split([',', ';', ':']);
            let part = parts.find_map(|part| part.trim().strip_suffix(what));
            part.with_context(|| format!("no{what}: {line}"))
                .and_then(lines::number)
        };
        let (events, interrupts) = (count(" events")?, count(" interrupts")?);
        ensure!(count(" dropped")? == 0 && count(" errors")? == 0, "{line}");
        let reported = self.trace.matches(REPORTED).count() as u64;
        ensure!(
            faults + events == reported,
            "{faults} faults and {events} events of {reported} that QEMU reported"
        );
        // Bursts into a queue that is not empty are one interrupt: two bursts, and one more when the queue was empty again.
        ensure!(
            (events, interrupts) == (OWN * lives, 2 * lives),
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
fn log(context: &Context) -> Result<()> {
    let run = run(context, "log")?;
    lines::passed(&run.console, ASTRAY)?;
    ensure!(run.got_to() == TIMES as usize && run.after()? == "arrives");
    let (faults, ..) = run.counts(1)?;
    ensure!(faults == TIMES * EACH, "{faults} faults");
    // By the name that the machine has for it, and the address that the device used: for each of the three.
    for at in ["0x41601000", "0x41602000", "0x41800000"] {
        let start = format!("dma fault: smmu0 stream 0x10 0000:00:02.0 write at {at}: stage 2: ");
        let mut all = lines::of(&run.console, "sluice");
        ensure!(all.any(|line| line.starts_with(&start)), "no line {start}");
    }
    Ok(())
}

/// From the threshold on, the device reaches nothing, without a record; the guest itself goes on.
fn abort_stream(context: &Context) -> Result<()> {
    let run = run(context, "abort-stream")?;
    lines::passed(&run.console, ASTRAY)?;
    ensure!(run.got_to() == TIMES as usize && run.after()? == "refused");
    let (faults, ..) = run.counts(1)?;
    ensure!(
        (THRESHOLD..=THRESHOLD.next_multiple_of(EACH)).contains(&faults),
        "{faults} faults"
    );
    lines::hypervisor(
        &run.console,
        &format!("{ASTRAY}: 0000:00:02.0 is cut off after 40 faults"),
    )
    .map(drop)
}

/// At the threshold the guest is stopped.
fn stop(context: &Context) -> Result<()> {
    let run = run(context, "stop")?;
    ensure!(run.got_to() <= 3 && run.after().is_err());
    let (faults, ..) = run.counts(1)?;
    ensure!((THRESHOLD..=3 * EACH).contains(&faults), "{faults} faults");
    lines::hypervisor(&run.console, &format!("{ASTRAY}: stops after 40 faults")).map(drop)
}

/// At the threshold the guest starts again, with counts of its own, a few times; then it stops.
fn restart(context: &Context) -> Result<()> {
    let run = run(context, "restart")?;
    ensure!(run.after().is_err());
    let restarts = lines::of(&run.console, "sluice")
        .filter(|line| line.starts_with(&format!("{ASTRAY}: restarts after 40 faults")))
        .count() as u64;
    ensure!(restarts > 0, "it was not started again");
    lines::hypervisor(
        &run.console,
        &format!("{ASTRAY}: stops: faults have restarted it"),
    )?;
    let (faults, ..) = run.counts(restarts + 1)?;
    let lives = restarts + 1;
    ensure!(
        (lives * THRESHOLD..=lives * 3 * EACH).contains(&faults),
        "{faults} faults in {restarts} restarts"
    );
    Ok(())
}
