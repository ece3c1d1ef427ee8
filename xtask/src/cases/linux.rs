//! Debian's Linux in partitions, unmodified, with NVMe disks of their own.

use super::lines::{self, answer, answers};
use super::{Case, Context, case, random, sha256};
use crate::arch::Arch;
use crate::initrd::{self, DRAIN, Init};
use crate::qemu::Boot;
use crate::setup::kit;
use crate::setup::linux::{self, Linux};
use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

pub const CASES: &[Case] = &[
    case(
        "linux::reads_and_writes_its_disk",
        reads_and_writes_its_disk,
    ),
    case("linux::two_run_side_by_side", two_run_side_by_side),
    case("linux::boots_through_uboot", boots_through_uboot),
];

const ONE: &str = include_str!("../../configs/linux_nvme.toml");
const TWO: &str = include_str!("../../configs/two_linux.toml");

const MIB: usize = 1 << 20;
/// What the host has written for the guest to read.
const GIVEN: usize = 64 * MIB;
/// The guest copies this many bytes of it ..
const COPY: usize = 16 * MIB;
const COPY_FROM: usize = 13 * MIB;
/// .. behind a sector that tells its second start from its first.
const COPY_TO: usize = 68 * MIB;
const DISK: usize = 96 * MIB;

const RUN_LIMIT: Duration = Duration::from_secs(150);

/// What every script starts with: `key K V` answers the case, `await CONDITION` looks again and again, for a minute, until
/// it holds, `functions` answers with what is on the bus.
pub const TOOLS: &str = "\
key() { echo \"$1=$2;\"; }
await() { tries=0; while ! eval \"$1\" && [ $tries -lt 600 ]; do sleep 0.1; tries=$((tries + 1)); done; }
sum() { sha256sum | cut -d' ' -f1; }
functions() { for at in /sys/bus/pci/devices/*; do key pci \"${at##*/} $(cat $at/class)\"; done; }
";
/// The same for those that have a disk: `part SKIP COUNT` reads MiB of it past all caches.
const DISK_TOOLS: &str = "\
disk=/dev/nvme0n1
await '[ -b $disk ]'
part() { dd if=$disk bs=1M skip=$1 count=$2 iflag=direct 2>/dev/null; }
";

/// Two CPUs, one queue and one interrupt for each, 64 MiB read, 16 MiB written, a restart by the guest, 16 MiB read back.
fn reads_and_writes_its_disk(context: &Context) -> Result<()> {
    const SCRIPT: &str = "
if [ \"$(part 64 1 | head -c 8)\" != written. ]; then
  key cpus $(nproc)
  for cpu in 0 1; do
    taskset $((1 << cpu)) dd if=$disk of=/dev/null bs=1M skip=$((cpu * 32)) count=32 iflag=direct 2>/dev/null &
  done
  wait
  key read $(part 0 64 | sum)
  grep nvme /proc/interrupts | while read line; do key interrupt \"$line\"; done
  part 13 16 > /tmp/copy
  dd if=/tmp/copy of=$disk bs=1M seek=68 oflag=direct conv=fsync 2>/dev/null && key wrote 16
  printf written. | dd of=$disk bs=1M seek=64 conv=fsync 2>/dev/null
  sync
  key start first
  drain
  reboot -f
fi
key start second
key back $(part 68 16 | sum)
";
    let given = random(GIVEN)?;
    let mut disk = given.clone();
    disk.resize(DISK, 0);
    let disk = context.file("disk.img", &disk)?;
    initial_disk(context, SCRIPT)?;
    let mut guest = context.start(&context.pack(ONE)?)?;
    guest.wait_off(RUN_LIMIT)?;

    let console = guest.console();
    let of = |key| answer(&console, "linux", key);
    ensure!(answers(&console, "linux", "start") == ["first", "second"]);
    ensure!(of("cpus")? == "2", "nproc says {}", of("cpus")?);
    ensure!(of("read")? == sha256(&given)?, "it read something else");
    let copied = &given[COPY_FROM..COPY_FROM + COPY];
    ensure!(of("wrote")? == "16" && of("back")? == sha256(copied)?);
    lines::hypervisor(&console, "linux: restarts")?;
    lines::hypervisor(&console, "linux: stopped")?;
    ensure!(
        lines::summary(&console, "linux")?.0 == 0,
        "its DMA was refused"
    );
    interrupts(&answers(&console, "linux", "interrupt"))?;
    let written = fs::read(disk)?;
    ensure!(
        written[COPY_TO..COPY_TO + COPY] == *copied && written[..GIVEN] == given,
        "the disk image holds something else"
    );
    Ok(())
}

/// Lines of /proc/interrupts: the administration queue, and a queue a CPU whose message came to that CPU only.
fn interrupts(table: &[&str]) -> Result<()> {
    ensure!(table.len() == 3, "{table:?}");
    for (queue, line) in table.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, first, second, chip, .., name] = words[..] else {
            anyhow::bail!("{line}");
        };
        let counts = [lines::number(first)?, lines::number(second)?];
        ensure!(
            chip.starts_with("ITS-PCI-MSIX") && name == format!("nvme0q{queue}"),
            "{line}"
        );
        ensure!(counts[0] + counts[1] > 0, "no message of queue {queue}");
        if queue > 0 {
            let (own, other) = (counts[queue - 1], counts[2 - queue]);
            ensure!(
                own > 0 && other == 0,
                "queue {queue} is not its CPU's: {line}"
            );
        }
    }
    Ok(())
}

/// Two at once: both are up before either goes on, each reads its own data, and finds its own disk and nothing of the
/// other's.
fn two_run_side_by_side(context: &Context) -> Result<()> {
    const SCRIPT: &str = "
key waits yes
read line
key heard \"$line\"
key read $(part 0 16 | sum)
key serial $(cat /sys/class/nvme/*/serial)
functions
key cpus $(nproc)
key end now
";
    let mut expected = Vec::new();
    for name in ["disk0.img", "disk1.img"] {
        let data = random(16 * MIB)?;
        context.file(name, &data)?;
        expected.push(sha256(&data)?);
    }
    initial_disk(context, SCRIPT)?;
    let mut guest = context.start(&context.pack(TWO)?)?;
    guest.wait_all(&["[left] waits=yes;", "[right] waits=yes;"], RUN_LIMIT)?;
    // The first one has the input; Ctrl-] 1 gives it to the second.
    guest.send("to the left\n")?;
    guest.send("\x1d1to the right\n")?;
    guest.wait_off(RUN_LIMIT)?;

    let console = guest.console();
    for (name, read) in ["left", "right"].into_iter().zip(&expected) {
        ensure!(answer(&console, name, "heard")? == format!("to the {name}"));
        ensure!(answer(&console, name, "end")? == "now");
        ensure!(
            answer(&console, name, "read")? == read,
            "{name} read something else"
        );
        let serial = answer(&console, name, "serial")?;
        ensure!(serial == format!("sluice-{name}"), "{name}: {serial}");
        // Class 01.08.02: NVMe. Bridges would be of class 06.
        let mut functions = answers(&console, name, "pci");
        functions.retain(|function| !function.contains(" 0x06"));
        ensure!(
            functions == ["0000:00:01.0 0x010802"],
            "{name}: {functions:?}"
        );
        ensure!(answer(&console, name, "cpus")? == "1");
        ensure!(
            lines::summary(&console, name)?.0 == 0,
            "DMA of {name} was refused"
        );
    }
    Ok(())
}

/// U-Boot moves the packed image and hands its own device tree over; Linux in a partition comes up all the same.
fn boots_through_uboot(context: &Context) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let data = random(MIB)?;
    context.file("disk.img", &data)?;
    initial_disk(context, "key read $(part 0 1 | sum)\nkey cpus $(nproc)\n")?;
    let mut machine = context.pack(ONE)?;
    if let Boot::Kernel { image, .. } = &machine.boot {
        machine.boot = Boot::Firmware {
            bios: kit::firmware()?.u_boot,
            files: vec![(image.clone(), 0x5000_0000)],
        };
    }
    let mut guest = context.start(&machine)?;
    guest.wait_for("stop autoboot", LIMIT)?;
    guest.send("\n")?;
    guest.wait_for("=> ", LIMIT)?;
    guest.send("booti 0x50000000 - ${fdtcontroladdr}\n")?;
    guest.wait_for("Starting kernel", LIMIT)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    ensure!(answer(&console, "linux", "read")? == sha256(&data)?);
    ensure!(answer(&console, "linux", "cpus")? == "2");
    Ok(())
}

/// The initial RAM disk that the configurations name.
pub fn initial_disk(context: &Context, script: &str) -> Result<()> {
    initial_disk_of(
        context,
        "initrd.cpio",
        &linux::linux(Arch::Aarch64)?,
        &[],
        script,
    )
}

/// The same in the file `name`, for one kernel; with programs by their names in `/bin`, which have VFIO.
pub fn initial_disk_of(
    context: &Context,
    name: &str,
    linux: &Linux,
    programs: &[(&str, &Path)],
    script: &str,
) -> Result<()> {
    let script = format!("{TOOLS}{DISK_TOOLS}drain() {{ {DRAIN}; }}\n{script}");
    let more = if programs.is_empty() {
        &[]
    } else {
        linux.vfio.as_slice()
    };
    let archive = initrd::build_with(linux, programs, more, Init::Script(&script))?;
    context.file(name, &archive)?;
    Ok(())
}

/// The initial RAM disk of guests for `arch` that have a virtual function of an `igb`, and no disk.
pub fn network_disk(context: &Context, arch: Arch, script: &str) -> Result<()> {
    let linux = linux::linux(arch)?;
    let script = format!("{TOOLS}{script}");
    let archive = initrd::build_with(&linux, &[], &linux.igbvf, Init::Script(&script))?;
    context.file("initrd.cpio", &archive)?;
    Ok(())
}
