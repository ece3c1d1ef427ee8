//! Debian's Linux for amd64 in partitions, unmodified.

use super::{BOCHS_LIMIT, VMX_CPU, packed, packed_file};
use crate::arch::Arch;
use crate::bochs;
use crate::cases::lines::{self, answer, answers};
use crate::cases::linux::{TOOLS, initial_disk_of};
use crate::cases::{Context, random, sha256};
use crate::initrd::{self, Init};
use crate::qemu::Machine;
use crate::setup::linux;
use anyhow::{Result, ensure};
use std::time::{Duration, SystemTime};

pub const RUN_LIMIT: Duration = Duration::from_secs(150);

fn initial_disk(context: &Context, script: &str) -> Result<()> {
    let linux = linux::linux(Arch::X86_64)?;
    let script = format!("{TOOLS}{script}");
    let archive = initrd::build(&linux, Init::Script(&script))?;
    context.file("initrd.cpio", &archive)?;
    Ok(())
}

/// The configuration of one with these CPUs.
fn one(cpus: &str) -> String {
    format!(
        "[machine]\nname = 'one'\n\
         [[partition]]\nname = 'linux'\nmemory = '512M'\ncpus = {cpus}\n\
         kernel = 'debian:kernel'\ninitrd = 'initrd.cpio'\ncmdline = 'console=ttyS0'\n"
    )
}

/// One CPU, up to a program, and off by ACPI.
pub fn boots(context: &Context) -> Result<()> {
    const SCRIPT: &str = "
key cpus $(nproc)
key date $(date +%s)
key clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
key rate \"$(dmesg | grep -o 'tsc: Detected .* MHz')\"
key line \"$(cat /proc/cmdline)\"
";
    initial_disk(context, SCRIPT)?;
    let mut guest = context.start(&packed(context, &one("[0]"))?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    ensure!(answer(&console, "linux", "cpus")? == "1");
    // The machine's clock is the host's; the guest knows the date, and nobody told it a rate.
    let date = lines::number(answer(&console, "linux", "date")?)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    ensure!(now.as_secs().abs_diff(date) < 60, "it says {date}");
    ensure!(answer(&console, "linux", "line")? == "console=ttyS0");
    for key in ["clock", "rate"] {
        context.note(answer(&console, "linux", key)?);
    }
    let (_, misuse) = lines::summary(&console, "linux")?;
    context.note(&format!("{misuse} accesses to nothing"));
    lines::hypervisor(&console, "linux: stopped")?;
    Ok(())
}

/// The same under VMX and EPT, in Bochs, which has neither IOMMU nor PCIe: a partition without devices is all that can run.
pub fn boots_by_vmx(context: &Context) -> Result<()> {
    initial_disk(context, "key cpus $(nproc)\n")?;
    let image = packed_file(context, &one("[0]").replace("'512M'", "'256M'"))?;
    let console = bochs::run(&image, VMX_CPU, &context.folder, BOCHS_LIMIT)?;
    ensure!(answer(&console, "linux", "cpus")? == "1");
    let exits = lines::hypervisor(&console, "linux: 0 restarts, stopped, ")?;
    context.note(exits);
    // Each interrupt has its end, and most of them are the timer's, which is set again by a register that does exit.
    let of = |kind: &str| lines::number(exits.split(kind).nth(1).unwrap_or_default());
    ensure!(
        of(" register ")? < of("(interrupt ")?,
        "the ends of interrupts exit: {exits}"
    );
    lines::hypervisor(&console, "linux: stopped")?;
    Ok(())
}

/// Two CPUs, neither of them the first of the machine: each runs what it is told to, and has its own timer and calls of the
/// other's.
pub fn has_two_cpus(context: &Context) -> Result<()> {
    const SCRIPT: &str = "
key cpus $(nproc)
for cpu in 0 1; do taskset $((1 << cpu)) sh -c 'key() { echo \"$1=$2;\"; }; sleep 0.2; key on $(cut -d\" \" -f39 /proc/self/stat)'; done
for line in LOC: RES: CAL:; do key interrupts \"$(grep $line /proc/interrupts)\"; done
";
    initial_disk(context, SCRIPT)?;
    let mut machine = packed(context, &one("[2, 1]"))?;
    machine.cpus = 3;
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    ensure!(answer(&console, "linux", "cpus")? == "2");
    ensure!(answers(&console, "linux", "on") == ["0", "1"]);
    let table = answers(&console, "linux", "interrupts");
    ensure!(table.len() == 3, "{table:?}");
    for line in table {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, first, second, ..] = words[..] else {
            anyhow::bail!("{line}");
        };
        let counts = [lines::number(first)?, lines::number(second)?];
        ensure!(!counts.contains(&0), "{line}");
    }
    Ok(())
}

/// Two at once with two CPUs each: the console's input goes to the one that is selected, and the one that resets itself starts
/// again while the other goes on.
pub fn two_hear_and_restart(context: &Context) -> Result<()> {
    const SCRIPT: &str = "
key cpus $(nproc)
key waits yes
read line
key heard \"$line\"
stty sane
[ \"$line\" = again ] && reboot -f
";
    initial_disk(context, SCRIPT)?;
    let mut text = "[machine]\nname = 'two'\n".to_owned();
    for (name, cpus) in [("left", "[0, 1]"), ("right", "[2, 3]")] {
        text += &format!(
            "[[partition]]\nname = '{name}'\nmemory = '384M'\ncpus = {cpus}\n\
             kernel = 'debian:kernel'\ninitrd = 'initrd.cpio'\ncmdline = 'console=ttyS0'\n"
        );
    }
    let mut machine = packed(context, &text)?;
    machine.cpus = 4;
    machine.memory = 2 << 30;
    let mut guest = context.start(&machine)?;
    guest.wait_all(&["[left] waits=yes;", "[right] waits=yes;"], RUN_LIMIT)?;
    // The first one has the input; Ctrl-] 1 gives it to the second.
    guest.send("again\n")?;
    guest.wait_line("left: restarts", RUN_LIMIT)?;
    guest.wait_line("[left] waits=yes;", RUN_LIMIT)?;
    guest.send("off\n\x1d1off\n")?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    ensure!(answers(&console, "left", "heard") == ["again", "off"]);
    // In both lives.
    ensure!(answer(&console, "left", "cpus")? == "2");
    ensure!(answer(&console, "right", "heard")? == "off");
    ensure!(answer(&console, "right", "cpus")? == "2");
    for name in ["left", "right"] {
        lines::hypervisor(&console, &format!("{name}: stopped"))?;
    }
    Ok(())
}

/// Bytes of a disk that are read.
pub const GIVEN: usize = 64 << 20;
/// Reads all of them past all caches, and says what the driver's interrupts are.
const READ: &str = "
key read $(part 0 64 | sum)
grep nvme /proc/interrupts | while read line; do key interrupt \"$line\"; done
";

/// A partition `name` on `cpu`, with the disk at `address`.
fn with_disk(name: &str, cpu: u8, address: &str) -> String {
    format!(
        "[[partition]]\nname = '{name}'\nmemory = '512M'\ncpus = [{cpu}]\n\
        kernel = 'debian:kernel'\ninitrd = 'initrd.cpio'\ncmdline = 'console=ttyS0'\n\
        [[partition.device]]\naddress = '{address}'\n"
    )
}

/// What `name` has read, and that the driver was told by MSI-X.
pub fn has_read(console: &str, name: &str, given: &[u8]) -> Result<()> {
    ensure!(
        lines::answer(console, name, "read")? == sha256(given)?,
        "{name} read something else"
    );
    let interrupts = lines::answers(console, name, "interrupt");
    // Of the queues for reads, one for each CPU, those of CPUs that have read.
    let mut reads = 0;
    for line in interrupts {
        // A count for each CPU, behind the interrupt's number.
        let counts = line.split_whitespace().skip(1);
        let counts = counts.map_while(|word| lines::number(word).ok());
        let count: u64 = counts.sum();
        ensure!(line.contains("PCI-MSIX"), "{name}: {line}");
        match line.ends_with("nvme0q0") {
            true => ensure!(count > 0, "{name}: {line}"),
            false => reads += count,
        }
    }
    ensure!(reads > 0, "no read of {name} has interrupted");
    ensure!(
        lines::summary(console, name)?.0 == 0,
        "DMA of {name} was refused"
    );
    Ok(())
}

/// Two with an NVMe disk each, at once: 64 MiB of each, by MSI-X through interrupt remapping.
pub fn two_read_their_disks(context: &Context) -> Result<()> {
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(context, "initrd.cpio", &linux, &[], READ)?;
    let text = format!(
        "[machine]\nname = 'two'\n{}{}",
        with_disk("left", 0, "00:02.0"),
        with_disk("right", 1, "00:03.0")
    );
    let mut machine = packed(context, &text)?;
    machine.memory = 2 << 30;
    machine.cpus = 2;
    let mut given = Vec::new();
    for (id, device) in [("a", "02.0"), ("b", "03.0")] {
        let data = random(GIVEN)?;
        let path = context.file(&format!("{id}.img"), &data)?;
        machine.disks.push((id.to_owned(), path));
        machine
            .devices
            .push(format!("nvme,drive={id},serial={id},addr={device}"));
        given.push(data);
    }
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    for (name, given) in ["left", "right"].into_iter().zip(&given) {
        has_read(&console, name, given)?;
        let interrupts = lines::answers(&console, name, "interrupt");
        context.note(&format!("{name}: {}", interrupts.join(" | ")));
    }
    Ok(())
}

/// Reads on, on both CPUs, without end.
const READ_ON: &str = "
for cpu in 0 1; do
  (while :; do taskset $((1 << cpu)) dd if=$disk of=/dev/null bs=1M count=64 iflag=direct 2>/dev/null; done) &
done
sleep 1
";

/// A machine whose only guest has two vCPUs and a disk, and runs `script`; what is on the disk.
fn two_cpus_and_a_disk(context: &Context, script: &str) -> Result<(Machine, Vec<u8>)> {
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(context, "initrd.cpio", &linux, &[], script)?;
    let partition = with_disk("linux", 0, "00:02.0").replace("cpus = [0]", "cpus = [0, 1]");
    let mut machine = packed(context, &format!("[machine]\nname = 'one'\n{partition}"))?;
    machine.cpus = 2;
    let given = random(GIVEN)?;
    let path = context.file("disk.img", &given)?;
    machine.disks.push(("disk".to_owned(), path));
    machine
        .devices
        .push("nvme,drive=disk,serial=disk,addr=02.0".to_owned());
    Ok((machine, given))
}

/// It starts again while both of its CPUs read, and reads all of its disk in both lives.
pub fn restarts_with_dma_in_flight(context: &Context) -> Result<()> {
    let script = format!(
        "
{READ}
key waits yes
read line
stty sane
[ \"$line\" = again ] && {{
{READ_ON}
  reboot -f
}}
"
    );
    let (machine, given) = two_cpus_and_a_disk(context, &script)?;
    let mut guest = context.start(&machine)?;
    guest.wait_line("[linux] waits=yes;", RUN_LIMIT)?;
    guest.send("again\n")?;
    guest.wait_line("linux: restarts", RUN_LIMIT)?;
    guest.wait_line("[linux] waits=yes;", RUN_LIMIT)?;
    guest.send("off\n")?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    lines::hypervisor(&console, "linux: stopped")?;
    // Once a life; that both are the same is what `has_read` asks for.
    let reads = console.matches("[linux] read=").count();
    ensure!(reads == 2, "{reads} reads in: {console}");
    has_read(&console, "linux", &given)
}

/// Two vCPUs read 64 MiB, then go on reading while the guest switches itself off: DMA and messages are under way when its
/// disk is taken back.
pub fn stops_with_dma_in_flight(context: &Context) -> Result<()> {
    let script = format!("key cpus $(nproc)\n{READ}\n{READ_ON}");
    let (machine, given) = two_cpus_and_a_disk(context, &script)?;
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    ensure!(lines::answer(&console, "linux", "cpus")? == "2");
    lines::hypervisor(&console, "linux: stopped")?;
    has_read(&console, "linux", &given)
}
