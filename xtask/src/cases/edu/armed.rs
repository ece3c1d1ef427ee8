//! DMA that was started when nobody owned the device yet, and DMA that lands when nobody owns it any more.

use super::layout::Memory;
use super::{REPORTED, SILENT_ABORT, START_LIMIT, STEP_LIMIT, STREAM, WAKE_CANARY};
use crate::cases::{Context, lines};
use crate::qemu::{Boot, Debugger, Guest, Machine};
use crate::setup::kit;
use anyhow::{Result, bail, ensure};
use std::ops::Range;
use std::time::{Duration, Instant};

/// A device of a machine that the debugger drives.
#[derive(Clone, Copy)]
pub struct Place {
    /// Its configuration space.
    pub config: u64,
    /// Where BAR 0 goes if it has no address: the start of the window for BARs.
    pub window: u32,
}

/// 00:02.0: QEMU's `virt` has its ECAM at 256 GiB + 256 MiB.
const EDU: Place = Place {
    config: 0x40_1000_0000 + (2 << 15),
    window: 0x1000_0000,
};
const COMMAND: u64 = 0x04;
const BAR: u64 = 0x10;
/// Command register: memory space, bus master.
const MEMORY_SPACE: u32 = 2;
const BUS_MASTER: u32 = 4;
/// Registers of edu (QEMU docs/specs/edu.rst), and its buffer.
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
const BUFFER: u64 = 0x4_0000;
const RUNNING: u32 = 1;
const TO_MEMORY: u64 = 2;

/// Registers of the SMMU (IHI 0070, 6.3).
const SMMU_CR0: u64 = 0x0905_0020;
const SMMU_GBPA: u64 = 0x0905_0044;
const GBPA_UPDATE: u32 = 1 << 31;
const GBPA_ABORT: u32 = 1 << 20;

const PAGE: u64 = 4096;

/// Started before the first instruction of the machine, it lands after Sluice has taken over: on Sluice's own code. Then
/// once more while Sluice runs, with bus mastering switched on behind its back, so that the SMMU alone is in the way.
pub fn is_stopped_before_anybody_owns_it(context: &Context) -> Result<()> {
    lands_where_nobody_stops_it(context)?;
    let mut machine = context.pack(include_str!("../../../configs/edu_unowned.toml"))?;
    machine.halted = true;
    // An instruction a nanosecond: 100 ms are 100 million instructions on every host.
    machine.icount = true;
    machine.trace.push(SILENT_ABORT.into());
    let mut guest = context.start(&machine)?;
    let mut debugger = guest.debugger()?;
    let mut monitor = guest.monitor()?;
    let code = {
        let memory = Memory(monitor.memory(super::layout::RAM, machine.memory)?);
        let start = super::layout::image(context, &memory)?;
        start..start + PAGE
    };
    let before = monitor.memory(code.start, PAGE)?;
    ensure!(before.iter().any(|byte| *byte != 0));
    start(&mut debugger, EDU, code.clone())?;
    debugger.go()?;
    guest.wait_line("[canary] watching", START_LIMIT)?;
    wait_landed(&mut debugger, EDU)?;
    ensure!(
        monitor.memory(code.start, PAGE)? == before,
        "the DMA of before the start reached the hypervisor's code"
    );
    ensure!(faults(&guest.console(), "nobody").is_empty());

    // The machine stands still here.
    let part = code.start..code.start + 64;
    start(&mut debugger, EDU, part.clone())?;
    debugger.go()?;
    let fault = guest.wait_line("dma fault: ", STEP_LIMIT)?;
    debugger.halt()?;
    // Such a record has no address (IHI 0070, 7.3.3): it says who, and that the stream has no entry.
    ensure!(
        fault.contains(STREAM) && fault.ends_with("no stream table entry for it (nobody)"),
        "{fault}"
    );
    ensure!(
        monitor.memory(code.start, PAGE)? == before,
        "the DMA of an unowned device reached the hypervisor's code"
    );
    debugger.go()?;
    guest.wait_off(START_LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "canary")?;
    let events = guest.trace()?.matches(REPORTED).count() as u64;
    ensure!(events > 0 && lines::summary(&console, "nobody")?.0 == events);
    ensure!(lines::summary(&console, "canary")?.0 == 0);
    Ok(())
}

/// The same shot at a machine without Sluice arrives: what the cases do is an attack.
fn lands_where_nobody_stops_it(context: &Context) -> Result<()> {
    const AT: u64 = 0x4800_0000;
    let pattern = context.file("pattern", &[0x77; PAGE as usize])?;
    let mut machine = Machine::new(Boot::Firmware {
        bios: kit::firmware()?.u_boot,
        files: vec![(pattern, AT)],
    });
    machine
        .devices
        .push("edu,addr=02.0,dma_mask=0xffffffffffffffff".into());
    machine.halted = true;
    let guest = context.start(&machine)?;
    let mut debugger = guest.debugger()?;
    let mut monitor = guest.monitor()?;
    start(&mut debugger, EDU, AT..AT + 64)?;
    debugger.go()?;
    let until = Instant::now() + STEP_LIMIT;
    while monitor.memory(AT, 64)? != [0; 64] {
        ensure!(
            Instant::now() < until,
            "edu's DMA does not arrive even without Sluice"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(monitor.memory(AT + 64, 64)? == [0x77; 64]);
    Ok(())
}

/// A guest starts a DMA to its own memory and powers off before it lands. Then once more with bus mastering switched on
/// behind Sluice's back: it is refused, and recorded on the account of the device's owner.
pub fn is_stopped_after_its_owner(context: &Context) -> Result<()> {
    let mut machine = context.pack(include_str!("../../../configs/edu_parting_shot.toml"))?;
    machine.halted = true;
    machine.trace.push(SILENT_ABORT.into());
    let mut guest = context.start(&machine)?;
    let mut debugger = guest.debugger()?;
    let mut monitor = guest.monitor()?;
    debugger.go()?;
    guest.wait_all(
        &["[canary] watching", "[sluice] shooter: stopped"],
        START_LIMIT,
    )?;
    wait_landed(&mut debugger, EDU)?;
    let console = guest.console();
    lines::passed(&console, "shooter")?;
    let memory = |name: &str| -> Result<Range<u64>> {
        let line = lines::hypervisor(&console, &format!("partition {name}: memory "))?;
        let (base, len) = lines::range(line)?;
        Ok(base..base + len)
    };
    // The guest's buffer is the start of the last 64 KiB of its RAM; it had cleared it.
    let buffer = memory("shooter")?.end - 0x1_0000;
    ensure!(
        monitor.memory(buffer, PAGE)? == [0; PAGE as usize],
        "the last DMA of the partition landed after its end"
    );

    let canary = memory("canary")?;
    let watched = monitor.memory(canary.start, canary.end - canary.start)?;
    // As the guest saw its buffer, as the machine has it, and the other partition's memory: no number helps.
    for target in [0x43ff_0000, buffer, canary.start + (8 << 20)] {
        let tried = recorded(&guest)?;
        start(&mut debugger, EDU, target..target + 64)?;
        debugger.go()?;
        wait_landed(&mut debugger, EDU)?;
        ensure!(
            recorded(&guest)? > tried,
            "the SMMU has no record of the DMA to {target:#x}"
        );
        ensure!(monitor.memory(buffer, PAGE)? == [0; PAGE as usize]);
        ensure!(
            monitor.memory(canary.start, canary.end - canary.start)? == watched,
            "the DMA to {target:#x} changed the canary's memory"
        );
    }
    debugger.go()?;
    guest.send(WAKE_CANARY)?;
    guest.wait_off(START_LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "canary")?;
    // A stream that was taken back has no valid entry (IHI 0070, 5.2, V = 0): whatever it tries is an event.
    let (events, silent) = (
        recorded(&guest)?,
        guest.trace()?.matches(SILENT_ABORT).count(),
    );
    ensure!(silent == 0, "{silent} accesses were refused silently");
    let counted = lines::summary(&console, "shooter")?.0;
    ensure!(
        counted == events,
        "{counted} faults counted, {events} reported"
    );
    let lines = faults(&console, "shooter");
    let expected = |line: &&&str| {
        line.contains(STREAM) && line.ends_with("no stream table entry for it (shooter)")
    };
    ensure!(lines.iter().any(|line| expected(&line)), "{lines:?}");
    ensure!(lines::summary(&console, "canary")?.0 == 0);
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    Ok(())
}

/// The SMMU is put back to what it is out of reset behind Sluice's back, when nothing stops a DMA. Sluice finds that, and
/// the next one is refused and recorded.
pub fn is_stopped_by_an_smmu_that_lost_its_state(context: &Context) -> Result<()> {
    let config = include_str!("../../../configs/edu_unowned.toml");
    let mut machine = context.pack(&config.replace("seconds=1", "silent seconds=200"))?;
    machine.halted = true;
    let mut guest = context.start(&machine)?;
    let mut debugger = guest.debugger()?;
    let mut monitor = guest.monitor()?;
    debugger.go()?;
    guest.wait_line("[canary] watching", START_LIMIT)?;
    debugger.halt()?;
    let control = debugger.read32(SMMU_CR0)?;
    ensure!(control & 1 == 1, "SMMU_CR0 is {control:#x}: not enabled");
    debugger.write32(SMMU_CR0, 0)?;
    debugger.write32(SMMU_GBPA, GBPA_UPDATE)?;
    ensure!(debugger.read32(SMMU_GBPA)? == 0, "the SMMU is not open");
    debugger.go()?;
    guest.wait_line("smmu0: had lost its state", STEP_LIMIT)?;
    debugger.halt()?;
    ensure!(debugger.read32(SMMU_CR0)? == control);
    ensure!(debugger.read32(SMMU_GBPA)? & GBPA_ABORT != 0);
    let console = guest.console();
    let (base, _) = lines::range(lines::hypervisor(&console, "partition canary: memory ")?)?;
    let target = base + (8 << 20);
    let before = monitor.memory(target, PAGE)?;
    start(&mut debugger, EDU, target..target + 64)?;
    debugger.go()?;
    let fault = guest.wait_line("dma fault: ", STEP_LIMIT)?;
    ensure!(fault.contains(STREAM), "{fault}");
    wait_landed(&mut debugger, EDU)?;
    ensure!(
        monitor.memory(target, PAGE)? == before,
        "the DMA of an unowned device reached the canary"
    );
    debugger.go()?;
    guest.send(".")?;
    guest.wait_off(START_LIMIT)?;
    lines::passed(&guest.console(), "canary")
}

/// Accesses that the SMMU refused and reported so far.
fn recorded(guest: &Guest) -> Result<u64> {
    Ok(guest.trace()?.matches(REPORTED).count() as u64)
}

/// Lines on faults that are on the account of `who`.
fn faults<'a>(console: &'a str, who: &str) -> Vec<&'a str> {
    let account = format!(" ({who})");
    lines::of(console, "sluice")
        .filter(|line| line.starts_with("dma fault: ") && line.contains(&account))
        .collect()
}

/// Has the device, of a machine that stands still, write its buffer over `target`, 100 ms of the machine's time from now.
pub fn start(debugger: &mut Debugger, edu: Place, target: Range<u64>) -> Result<()> {
    let registers = enable(debugger, edu, MEMORY_SPACE | BUS_MASTER)?;
    debugger.write64(registers + DMA_SOURCE, BUFFER)?;
    debugger.write64(registers + DMA_DESTINATION, target.start)?;
    debugger.write64(registers + DMA_COUNT, target.end - target.start)?;
    debugger.write64(registers + DMA_COMMAND, u64::from(RUNNING) | TO_MEMORY)?;
    ensure!(debugger.read32(registers + DMA_COMMAND)? & RUNNING != 0);
    Ok(())
}

/// Switches `bits` of its command register on; where its registers are.
fn enable(debugger: &mut Debugger, edu: Place, bits: u32) -> Result<u64> {
    let (command_at, bar) = (edu.config + COMMAND, edu.config + BAR);
    if debugger.read32(bar)? & !0xf == 0 {
        debugger.write32(bar, edu.window)?;
    }
    let command = debugger.read32(command_at)? & 0xffff;
    debugger.write32(command_at, command | bits)?;
    let registers = u64::from(debugger.read32(bar)? & !0xf);
    let identification = debugger.read32(registers)?;
    ensure!(
        identification & 0xff == 0xed,
        "no edu at {registers:#x}: {identification:#x}"
    );
    Ok(registers)
}

/// Waits until the device's DMA is over, and leaves the machine halted.
pub fn wait_landed(debugger: &mut Debugger, edu: Place) -> Result<()> {
    let until = Instant::now() + STEP_LIMIT;
    loop {
        debugger.halt()?;
        let command_at = edu.config + COMMAND;
        let command = debugger.read32(command_at)? & 0xffff;
        let registers = enable(debugger, edu, MEMORY_SPACE)?;
        let running = debugger.read32(registers + DMA_COMMAND)? & RUNNING != 0;
        debugger.write32(command_at, command)?;
        if !running {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("edu's DMA does not end");
        }
        debugger.go()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}
