//! Devices of partitions behind VT-d.

use super::{hypervisor, packed};
use crate::cases::edu::armed::{Place, start, wait_landed};
use crate::cases::{Context, lines};
use crate::tasks::build;
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

/// The partition's RAM ends at 64 MiB. Behind it: RAM of the hypervisor and of the other partition, the hole below 4 GiB
/// with I/O APIC, VT-d, ECAM and a BAR, and what is above.
const TARGETS: [u64; 10] = [
    0x400_0000,
    0x800_0000,
    0x1000_0000,
    0x3fff_f000,
    0xb001_0000,
    0xe000_0000,
    0xfec0_0000,
    0xfed9_0000,
    0x1_0000_0000,
    0x7f_ffff_f000,
];

/// A device that goes wherever it is told, in the hands of a partition that attacks: what is its own is reached, everything
/// else is stopped, and recorded under the device and the partition.
fn reaches_its_memory_only(context: &Context, options: &'static str, mode: &str) -> Result<()> {
    let targets = TARGETS.map(|target| format!("{target:#x}")).join(",");
    let text = format!(
        "[machine]\nname = 'edu'\n\
        [[partition]]\nname = 'attacker'\nmemory = '64M'\ncpus = [0]\n\
        payload = 'edu_attacker'\ncmdline = 'attack={targets}'\n\
        [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n\
        [[partition]]\nname = 'other'\nmemory = '32M'\ncpus = [1]\npayload = 'hello'\n"
    );
    let mut machine = packed(context, &text)?;
    machine.vtd = options;
    machine.devices = ["edu,addr=02.0,dma_mask=0xffffffffffffffff".to_owned()].into();
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    ensure!(
        console.contains(&format!("vtd0: {mode} mode")),
        "another mode: {console}"
    );
    lines::passed(&console, "attacker")?;
    lines::passed(&console, "other")?;
    for target in TARGETS {
        for access in ["write", "read"] {
            let line =
                format!("dma fault: vtd0 source 0x10 0000:00:02.0 {access} at {target:#x}: ");
            let mut all = lines::of(&console, "sluice");
            ensure!(
                all.any(|it| it.starts_with(&line) && it.ends_with("(attacker)")),
                "no `{line}` in: {console}"
            );
        }
    }
    let (faults, _) = lines::summary(&console, "attacker")?;
    ensure!(faults >= 2 * TARGETS.len() as u64, "{faults} faults");
    ensure!(lines::summary(&console, "other")?.0 == 0);
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    context.note(&format!("{faults} faults recorded"));
    Ok(())
}

pub fn reaches_its_memory_only_in_legacy_mode(context: &Context) -> Result<()> {
    reaches_its_memory_only(context, "", "legacy")
}

pub fn reaches_its_memory_only_in_scalable_mode(context: &Context) -> Result<()> {
    reaches_its_memory_only(context, ",scalable-mode=on", "scalable")
}

/// A partition that starts again and again with DMA on its way: each life finds its memory as it has to be, and leaves nothing
/// behind.
pub fn a_hundred_lives_leave_nothing_over(context: &Context) -> Result<()> {
    const LIVES: usize = 100;
    let text = format!(
        "[machine]\nname = 'lives'\n\
        [[partition]]\nname = 'again'\nmemory = '32M'\ncpus = [0]\n\
        payload = 'edu_again'\ncmdline = 'buffer=0x1ff0000 lives={LIVES}'\n\
        [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n"
    );
    let mut machine = packed(context, &text)?;
    machine.devices = ["edu,addr=02.0,dma_mask=0xffffffffffffffff".to_owned()].into();
    let mut guest = context.start(&machine)?;
    // A DMA takes a tenth of a second.
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "again")?;
    let numbers = lines::answers(&console, "again", "life");
    let expected: Vec<String> = (1..=LIVES).map(|life| life.to_string()).collect();
    ensure!(numbers == expected, "the lives {numbers:?}");
    ensure!(lines::summary(&console, "again")?.0 == 0);
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    let left = lines::left(&console, "again", LIVES - 1)?;
    context.note(&format!("after each of {LIVES} lives: {left}"));
    Ok(())
}

/// A disk's controller as what attacks: by commands of its own queue, each of which is stopped and recorded.
pub fn nvme_reaches_its_memory_only(context: &Context) -> Result<()> {
    // It aligns what it writes to, and its addresses have 64 bits.
    let targets = [0x400_0000_u64, 0x800_0000, 0x1000_0000, 0x7f_ffff_f000];
    let attack = targets.map(|target| format!("{target:#x}")).join(",");
    let text = format!(
        "[machine]\nname = 'nvme'\n\
        [[partition]]\nname = 'attacker'\nmemory = '64M'\ncpus = [0]\n\
        payload = 'nvme_attacker'\ncmdline = 'attack={attack}'\n\
        [[partition.device]]\naddress = '00:02.0'\n\
        [[partition]]\nname = 'canary'\nmemory = '16M'\ncpus = [1]\n\
        payload = 'canary'\ncmdline = 'seconds=3'\n"
    );
    let mut machine = packed(context, &text)?;
    let disk = context.file("disk.img", &[0; 1 << 20])?;
    machine.disks = vec![("disk".into(), disk)];
    machine.devices = vec!["nvme,drive=disk,serial=s,addr=02.0".into()];
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "attacker")?;
    lines::passed(&console, "canary")?;
    stopped(&console, "0x10 0000:00:02.0", &targets)?;
    ensure!(lines::summary(&console, "canary")?.0 == 0);
    let (faults, _) = lines::summary(&console, "attacker")?;
    ensure!(faults >= targets.len() as u64, "{faults} faults");
    context.note(&format!("{faults} faults recorded"));
    Ok(())
}

/// Each write of the `attacker` by the device with this source ID and address has its line.
pub fn stopped(console: &str, device: &str, targets: &[u64]) -> Result<()> {
    for target in targets {
        let line = format!("dma fault: vtd0 source {device} write at {target:#x}: ");
        let mut all = lines::of(console, "sluice");
        ensure!(
            all.any(|text| text.starts_with(&line) && text.ends_with("(attacker)")),
            "no `{line}` in: {console}"
        );
    }
    Ok(())
}

/// A guest whose device faults, under the policies that are on the guest: it is stopped at the threshold, or starts again a few
/// times first. Its neighbour goes on.
pub fn faults_stop_and_restart(context: &Context) -> Result<()> {
    let targets = TARGETS.map(|target| format!("{target:#x}")).join(",");
    for action in ["stop", "restart"] {
        let text = format!(
            "[machine]\nname = 'edu'\n\
            [[partition]]\nname = 'attacker'\nmemory = '64M'\ncpus = [0]\n\
            payload = 'edu_attacker'\ncmdline = 'attack={targets}'\n\
            on_fault = {{ action = '{action}', threshold = 3 }}\n\
            [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n\
            [[partition]]\nname = 'other'\nmemory = '32M'\ncpus = [1]\npayload = 'hello'\n"
        );
        let mut machine = packed(context, &text)?;
        machine.devices = ["edu,addr=02.0,dma_mask=0xffffffffffffffff".to_owned()].into();
        let mut guest = context.start(&machine)?;
        guest.wait_off(LIMIT)?;
        let console = guest.console();
        let count = |start: &str| {
            let all = lines::of(&console, "sluice");
            all.filter(|line| line.starts_with(start)).count()
        };
        lines::passed(&console, "other")?;
        ensure!(lines::passed(&console, "attacker").is_err());
        ensure!(count("attacker: stopped") == 1);
        let restarts = count("attacker: restarts after 3 faults");
        match action {
            "stop" => ensure!(restarts == 0 && count("attacker: stops after 3 faults") == 1),
            _ => ensure!(restarts > 0 && count("attacker: stops: faults have restarted it") == 1),
        }
    }
    Ok(())
}

/// Every access outside its map, every abuse of interrupt controllers, PCI host and ports, and every register and instruction
/// that is not a guest's ends in an exception or reads as nothing; the other partition does not notice. A guest without tables
/// resets itself, and what it leaves in registers, its own next life does not find.
pub fn misuse_harms_nobody_else(context: &Context) -> Result<()> {
    let text = "[machine]\nname = 'misuse'\n\
        [[partition]]\nname = 'misuser'\nmemory = '16M'\ncpus = [0]\npayload = 'misuse'\n\
        [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n\
        [[partition]]\nname = 'canary'\nmemory = '16M'\ncpus = [1]\n\
        payload = 'canary'\ncmdline = 'silent seconds=200'\n";
    let mut machine = packed(context, text)?;
    machine.devices = ["edu,addr=02.0,dma_mask=0xffffffffffffffff".to_owned()].into();
    let mut guest = context.start(&machine)?;
    guest.wait_line("[canary] watching", LIMIT)?;
    guest.wait_line("[sluice] misuser: restarts", LIMIT)?;
    guest.wait_line("[sluice] misuser: stopped", LIMIT)?;
    // The canary runs, and hears.
    guest.send("\x1d1.")?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "misuser")?;
    lines::passed(&console, "canary")?;
    if let Some(line) = lines::of(&console, "misuser").find(|line| line.contains("FAILED")) {
        anyhow::bail!("{line}");
    }
    let made = lines::number(lines::behind(&console, "misuser", "exceptions: ")?)?;
    let (faults, refused) = lines::summary(&console, "misuser")?;
    ensure!(
        made > 10_000 && refused > made,
        "{made} exceptions, {refused} refused accesses"
    );
    ensure!(faults == 0, "its device stepped outside");
    let end = lines::hypervisor(&console, "misuser: vCPU 0 has shut itself down")?;
    ensure!(end.ends_with("(a triple fault)"), "{end}");
    ensure!(lines::summary(&console, "canary")? == (0, 0));
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    context.note(&format!("{made} exceptions, {refused} accesses to nothing"));
    Ok(())
}

const PAGE: u64 = 4096;

/// A device that is told to write to Sluice's code before the first instruction of that, when firmware has set the machine up:
/// its DMA lands when Sluice has taken over, on nothing. Where Sluice does not run it arrives.
pub fn edu_is_stopped_before_anybody_owns_it(context: &Context) -> Result<()> {
    const TEXT: &str = "[machine]\nname = 'unowned'\n\
        [[partition]]\nname = 'canary'\nmemory = '16M'\ncpus = [1]\n\
        payload = 'canary'\ncmdline = 'seconds=1'\n";
    let mut machine = packed(context, TEXT)?;
    machine.devices = ["edu,addr=02.0,dma_mask=0xffffffffffffffff".to_owned()].into();
    machine.halted = true;
    let elf = hypervisor()?.elf;
    let entry = build::symbol(&elf, "sluice_pvh_entry")?;
    let code = build::symbol(&elf, "sluice_entry_64")?.next_multiple_of(PAGE);
    let place = place(2);
    for sluice_runs in [false, true] {
        let mut guest = context.start(&machine)?;
        let mut debugger = guest.debugger()?;
        let mut monitor = guest.monitor()?;
        debugger.run_to(entry)?;
        let before = monitor.memory(code, PAGE)?;
        start(&mut debugger, place, code..code + PAGE)?;
        if !sluice_runs {
            // A jump to itself.
            debugger.write(entry, &[0xeb, 0xfe])?;
        }
        debugger.go()?;
        if sluice_runs {
            guest.wait_line("[canary] watching", LIMIT)?;
        }
        wait_landed(&mut debugger, place)?;
        let after = monitor.memory(code, PAGE)?;
        if !sluice_runs {
            ensure!(
                after == [0; PAGE as usize] && before != after,
                "it does not arrive even without Sluice"
            );
            continue;
        }
        ensure!(
            after == before,
            "the DMA of before the start reached the hypervisor's code"
        );
        debugger.go()?;
        guest.wait_off(LIMIT)?;
        let console = guest.console();
        lines::passed(&console, "canary")?;
        ensure!(lines::summary(&console, "canary")?.0 == 0);
    }
    Ok(())
}

/// A function on bus 0 for the debugger, by its device number.
fn place(device: u64) -> Place {
    Place {
        config: 0xb000_0000 + (device << 15),
        window: 0xc000_0000,
    }
}

/// A guest starts a DMA to its own memory and powers off before it lands. Then the debugger drives the device, with bus
/// mastering switched on behind Sluice's back, and one that never had an owner: VT-d alone is in the way, and no byte lands.
pub fn edu_is_stopped_without_an_owner(context: &Context) -> Result<()> {
    // In the guest, and from the end of its RAM.
    const BUFFER: u64 = 0x3ff_0000;
    let text = format!(
        "[machine]\nname = 'parting'\n\
        [[partition]]\nname = 'shooter'\nmemory = '64M'\ncpus = [0]\n\
        payload = 'edu_parting_shot'\ncmdline = 'buffer={BUFFER:#x}'\n\
        [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n\
        [[partition]]\nname = 'canary'\nmemory = '16M'\ncpus = [1]\n\
        payload = 'canary'\ncmdline = 'seconds=12'\n"
    );
    let mut machine = packed(context, &text)?;
    let edu = |device| format!("edu,addr={device}.0,dma_mask=0xffffffffffffffff");
    machine.devices = [edu("02"), edu("03")].into();
    // Its debugger's socket; let go at once.
    machine.halted = true;
    let mut guest = context.start(&machine)?;
    let mut debugger = guest.debugger()?;
    let mut monitor = guest.monitor()?;
    debugger.go()?;
    guest.wait_all(&["[canary] watching", "[sluice] shooter: stopped"], LIMIT)?;
    wait_landed(&mut debugger, place(2))?;
    let console = guest.console();
    lines::passed(&console, "shooter")?;
    let reaches = lines::hypervisor(&console, "shooter: dma at 0x0+0x4000000 reaches ")?;
    let buffer = lines::number(reaches)? + BUFFER;
    ensure!(
        monitor.memory(buffer, PAGE)? == [0; PAGE as usize],
        "the last DMA of the partition landed after its end"
    );
    let line = console
        .lines()
        .find_map(|line| line.split_once("image: text "));
    let (_, text) = line.context("no line on the image")?;
    let image = lines::range(text)?.0;
    let code = monitor.memory(image, PAGE)?;
    // As the guest saw its buffer, as the machine has it, and the hypervisor: no number helps.
    let mut expected = Vec::new();
    for (device, owner) in [(2, "shooter"), (3, "nobody")] {
        for target in [BUFFER, buffer, image] {
            start(&mut debugger, place(device), target..target + 64)?;
            debugger.go()?;
            wait_landed(&mut debugger, place(device))?;
            ensure!(
                monitor.memory(buffer, PAGE)? == [0; PAGE as usize]
                    && monitor.memory(image, PAGE)? == code,
                "the DMA of 00:{device:02}.0 to {target:#x} landed"
            );
            expected.push(format!(
                "source {:#x} 0000:00:{device:02}.0 write at {target:#x}: no context entry for it ({owner})",
                device << 3
            ));
        }
    }
    debugger.go()?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "canary")?;
    for line in expected {
        let line = format!("dma fault: vtd0 {line}");
        let found = lines::of(&console, "sluice").find(|it| *it == line);
        found.with_context(|| format!("no `{line}` in: {console}"))?;
    }
    ensure!(lines::summary(&console, "canary")?.0 == 0);
    Ok(())
}
