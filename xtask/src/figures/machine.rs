//! A machine in which one instruction takes one nanosecond (`-icount shift=0`): when things happen, and what exits cost,
//! in instructions. QEMU's trace says what reached the SMMU, its memory what is left in tables and on the stack.
//!
//! One partition owns an `edu` device and runs the payload `exit_cost`; a second run with more memory tells how the start
//! depends on that.

use super::trace::{self, Smmu};
use super::{Figure, Source};
use crate::cases::{Context, lines};
use crate::project;
use crate::qemu::Monitor;
use crate::tasks::build;
use anyhow::{Context as _, Result, ensure};
use arch::aarch64::area;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All of them, from the two runs.
pub const MACHINE: Source = Source {
    ids: &[
        "B12.hypercall",
        "B12.uart_read",
        "B12.gic_read",
        "B15.machine",
        "B16.commands",
        "B16.syncs",
        "B17.accesses",
        "B17.admitted",
        "B17.instructions",
        "B18.first_instruction",
        "B18.per_gib",
        "B19.stack",
    ],
    measure: machine,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Memory of the partition in both runs, in MiB.
const SIZES: [u64; 2] = [64, 320];
const ADDRESS: u64 = 0x000f_ffff_ffff_ffff;
const PAGE: u64 = 4096;

/// What one run showed.
struct Run {
    console: String,
    smmu: Smmu,
    stream_table: u64,
    stream_bits: u64,
    stack: u64,
}

fn machine() -> Result<Vec<Figure>> {
    let _alone = project::lock(&folder())?;
    let [small, large] = SIZES;
    let (run, larger) = (run(small)?, run(large)?);
    let ticks = |run: &Run, key| lines::number(lines::answer(&run.console, "probe", key)?);
    ensure!(
        ticks(&run, "frequency")? == 1_000_000_000,
        "an instruction is not a tick of the counter"
    );
    let first = ticks(&run, "first")? as f64;
    let per_gib = (ticks(&larger, "first")? as f64 - first) * 1024.0 / (large - small) as f64;
    let denied = lines::hypervisor(&run.console, "all dma is denied, ")?;
    let each = |key| -> Result<f64> {
        let text = lines::answer(&run.console, "probe", key)?;
        let (ticks, rounds) = text.split_once('/').context("no number of rounds")?;
        Ok(lines::number(ticks)? as f64 / lines::number(rounds)? as f64)
    };
    ensure!(
        run.stream_bits == 16,
        "the SMMU has {} bits of StreamID",
        run.stream_bits
    );
    let (accesses, admitted) = run.smmu.denial().context("DMA was never denied")?;
    let (commands, syncs) = run.smmu.life();
    let figure = |id, what, value: f64, unit, bound: Option<f64>| Figure {
        id,
        what,
        value,
        unit,
        bound,
        peers: Vec::new(),
    };
    let life = "a device from its first owner's start to its stop";
    Ok(vec![
        figure(
            "B12.hypercall",
            "PSCI_VERSION, from a guest and back to it",
            each("psci_version")?,
            "instructions",
            Some(600.0),
        ),
        figure(
            "B12.uart_read",
            "a read of the UART's flags, from a guest and back to it",
            each("uart_read")?,
            "instructions",
            Some(800.0),
        ),
        figure(
            "B12.gic_read",
            "a read of GICD_TYPER, from a guest and back to it",
            each("gicd_read")?,
            "instructions",
            Some(800.0),
        ),
        figure(
            "B15.machine",
            "stream tables for 65,536 streams in memory, one bus in use",
            run.stream_table as f64,
            "bytes",
            Some(20480.0),
        ),
        figure("B16.commands", life, commands.into(), "commands", None),
        figure("B16.syncs", life, syncs.into(), "CMD_SYNCs", None),
        figure(
            "B17.accesses",
            "until all DMA is denied",
            accesses.into(),
            "register accesses",
            Some(3.0),
        ),
        figure(
            "B17.admitted",
            "until all DMA is denied",
            admitted.into(),
            "transactions let through",
            Some(0.0),
        ),
        figure(
            "B17.instructions",
            "from power-on until all DMA is denied",
            lines::number(denied)? as f64,
            "instructions",
            None,
        ),
        figure(
            "B18.first_instruction",
            "from power-on to the first instruction of a guest with 64 MiB",
            first,
            "instructions",
            None,
        ),
        figure(
            "B18.per_gib",
            "and for each GiB of it more",
            per_gib,
            "instructions",
            None,
        ),
        figure(
            "B19.stack",
            "deepest stack of the CPU that boots and runs the guest",
            run.stack as f64,
            "bytes",
            Some((area::STACK_END - area::GUARD) as f64),
        ),
    ])
}

fn folder() -> PathBuf {
    project::target().join("bench")
}

fn run(mib: u64) -> Result<Run> {
    let context = Context::new(folder().join(format!("exit-cost-{mib}m")));
    let mut machine = context.pack(&format!(
        "[machine]\nname = 'exit-cost'\n\
         [machine.qemu]\nmemory = '768M'\ncpus = 1\ndevices = ['edu,addr=02.0']\n\
         [[partition]]\nname = 'probe'\nmemory = '{mib}M'\ncpus = [0]\npayload = 'exit_cost'\n\
         [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n"
    ))?;
    machine.icount = true;
    machine.trace.extend(trace::EVENTS.map(String::from));
    let mut guest = context.start(&machine)?;
    let mut monitor = guest.monitor()?;
    monitor.stay_when_off()?;
    guest.wait_line("all partitions have stopped", LIMIT)?;
    monitor.wait_stopped(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "probe")?;
    let smmu = Smmu::parse(&guest.trace()?)?;
    let (stream_table, stream_bits) = stream_table(&mut monitor, &smmu)?;
    let stack = stack(&mut monitor, &console, &context.hypervisor()?.elf)?;
    Ok(Run {
        console,
        smmu,
        stream_table,
        stream_bits,
        stack,
    })
}

/// Bytes of the stream table, in whole pages, as the SMMU would find it, and the bits of StreamID that it is for.
fn stream_table(monitor: &mut Monitor, smmu: &Smmu) -> Result<(u64, u64)> {
    let written = |register| {
        smmu.written(register)
            .context("the SMMU has no stream table")
    };
    let base = written(trace::STRTAB_BASE)? & ADDRESS & !0x3f;
    let config = written(trace::STRTAB_BASE_CFG)?;
    // STRTAB_BASE_CFG (IHI 0070, 6.3.25): LOG2SIZE, SPLIT, FMT.
    let (bits, split, format) = (config & 0x3f, config >> 6 & 0x1f, config >> 16 & 3);
    if format == 0 {
        return Ok((64 << bits, bits));
    }
    let first = monitor.memory(base, 8 << (bits - split))?;
    let (descriptors, _) = first.as_chunks::<8>();
    // Span (5.1): 2^(Span - 1) entries, none for 0.
    let second = descriptors.iter().map(|word| match word[0] & 0x1f {
        0 => 0,
        span => (64u64 << (span - 1)).next_multiple_of(PAGE),
    });
    let first = (first.len() as u64).next_multiple_of(PAGE);
    Ok((first + second.sum::<u64>(), bits))
}

/// How deep the stack of the CPU that boots has been: it was zero.
fn stack(monitor: &mut Monitor, console: &str, elf: &Path) -> Result<u64> {
    let (_, text) = console
        .split_once(" KiB at ")
        .context("the hypervisor does not say where it is")?;
    let image = lines::number(text)?;
    let area = image + build::symbol(elf, "__boot_area")? - build::symbol(elf, "__image_start")?;
    let [stack, _] = area::stacks(area);
    let bytes = monitor.memory(stack.start, stack.end - stack.start)?;
    let untouched = bytes.iter().take_while(|byte| **byte == 0).count() as u64;
    ensure!(
        untouched > 0 && untouched < stack.end - stack.start,
        "{untouched} bytes of the stack are zero: it is full, or somewhere else"
    );
    Ok(stack.end - stack.start - untouched)
}
