//! NVMe disks behind SMMUs of their guests: what is read and written, by one guest and by two.

use super::stream_table::{self, Config};
use super::trace::{self, Trace};
use super::{
    Context, Layout, Linux, MIB, RUN_LIMIT, Result, answer, disk, ensure, lines, random, sha256,
};
use std::fs;
use std::path::Path;
use std::time::Instant;

pub const DISK: &str = "nvme,addr=02.0,drive=disk,serial=s0";
pub const OTHER: &str = "nvme,addr=03.0,drive=other,serial=s1";

/// What the guest says of its SMMU and of the domain of its disk.
pub const DOMAIN: &str = "
key probed $(dmesg | grep -c 'arm-smmu-v3 .*oas')
group=$(readlink /sys/bus/pci/devices/0000:00:01.0/iommu_group)
key domain $(cat /sys/kernel/iommu_groups/${group##*/}/type)
key group $(ls /sys/kernel/iommu_groups/${group##*/}/devices)
key strict $(dmesg | grep -c 'invalidation policy: strict')
";

/// 64 MiB are read, 16 MiB of them written behind them and read back.
pub const SOME: &str = "
key read $(part 0 64 | sum)
part 13 16 > /tmp/copy
dd if=/tmp/copy of=$disk bs=1M seek=68 oflag=direct conv=fsync 2>/dev/null && key wrote 16
key back $(part 68 16 | sum)
key faults $(dmesg | grep -c 'event 0x')
";

/// One guest on both CPUs with the disk.
fn one() -> String {
    let linux = Linux {
        cpus: &[0, 1],
        functions: &["00:02.0"],
        ..Linux::default()
    };
    Layout::new(&[DISK]).linux(&linux).text()
}

/// Two guests with a disk each.
fn two() -> String {
    let guest = |name, cpus, functions| Linux {
        name,
        cpus,
        functions,
        ..Linux::default()
    };
    Layout::new(&[DISK, OTHER])
        .linux(&guest("first", &[0], &["00:02.0"]))
        .linux(&guest("second", &[1], &["00:03.0"]))
        .text()
}

/// All waits for the host.
const WAIT: &str = "
key waits yes
read line
";

/// 256 MiB are read with their sum, copied behind, and the copy is read with its sum.
pub const ALL: &str = "
key read $(part 0 256 | sum)
dd if=$disk of=$disk bs=1M count=256 seek=256 iflag=direct oflag=direct conv=fsync 2>/dev/null && key wrote 256
key back $(part 256 256 | sum)
key faults $(dmesg | grep -c 'event 0x')
";

/// Debian's driver probes, its disk is in a translated domain in strict mode and a group of its own, and what it reads and
/// writes is right. QEMU's trace has the same commands as Sluice's own counts, and the guest's VMID only.
pub fn linux_drives_its_own(context: &Context) -> Result<()> {
    const STREAM: u64 = 0x10;
    let given = random(256 * MIB)?;
    let image = disk(context, "disk.img", &given, 512 * MIB)?;
    crate::cases::linux::initial_disk(context, &format!("{DOMAIN}{WAIT}{ALL}"))?;
    let mut machine = context.pack(&one())?;
    machine.trace = trace::EVENTS.map(str::to_owned).to_vec();
    let start = Instant::now();
    let mut guest = context.start(&machine)?;
    guest.wait_for("[linux] waits=yes;", RUN_LIMIT)?;
    let booted = start.elapsed();
    let mut monitor = guest.monitor()?;
    monitor.stop()?;
    let entry = stream_table::entry(&mut monitor, STREAM)?;
    monitor.cont()?;
    guest.send("\n")?;
    guest.wait_off(RUN_LIMIT)?;
    let copied = start.elapsed() - booted;

    let console = guest.console();
    all_right(&console, "linux", &given, &image)?;

    let trace = Trace::parse(&guest.trace()?)?;
    trace.separates(&[STREAM])?;
    let vmid = trace.vmid(STREAM)?;
    ensure!(
        entry == Config::Nested(vmid),
        "{entry:?}, but VMID {vmid} was cached"
    );
    ensure!(trace.single == 0, "{} went past a stage", trace.single);
    // Linux in strict mode unmaps each transfer, as precise as it is: by address.
    let by_address = trace.commands.get(&trace::TLBI_NH_VA).copied();
    ensure!(
        by_address.is_some_and(|count| count >= 512),
        "{by_address:?}"
    );
    context.note(&trace.agrees(&console, &["linux"], &[])?);
    context.note(&format!(
        "{} transactions through both stages under VMID {vmid}, none past one of them",
        trace.both
    ));
    context.note(&format!(
        "256 MiB read, copied and read again, with checksums, in {:.0} s after {:.0} s of booting",
        copied.as_secs_f32(),
        booted.as_secs_f32()
    ));
    Ok(())
}

/// Two guests at once, each of which calls its disk 00:01.0 and its stream 8, with ASIDs of their own: QEMU's trace has two
/// VMIDs, one for each stream of the machine's, and invalidations of no other.
pub fn two_guests_use_equal_names(context: &Context) -> Result<()> {
    let (given, other) = (random(64 * MIB)?, random(64 * MIB)?);
    disk(context, "disk.img", &given, 96 * MIB)?;
    disk(context, "other.img", &other, 96 * MIB)?;
    crate::cases::linux::initial_disk(context, &format!("{DOMAIN}{SOME}"))?;
    let mut machine = context.pack(&two())?;
    machine.trace = trace::EVENTS.map(str::to_owned).to_vec();
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    right(&console, "first", &given)?;
    right(&console, "second", &other)?;
    let trace = Trace::parse(&guest.trace()?)?;
    trace.separates(&[0x10, 0x18])?;
    context.note(&trace.agrees(&console, &["first", "second"], &[])?);
    Ok(())
}

/// What [`DOMAIN`] and [`SOME`] have to say of a disk that started with `given`.
pub fn right(console: &str, who: &str, given: &[u8]) -> Result<()> {
    let of = |key| answer(console, who, key);
    is_strict(console, who)?;
    ensure!(of("read")? == sha256(given)?, "{who} read something else");
    let copied = &given[13 * MIB..29 * MIB];
    ensure!(
        of("wrote")? == "16" && of("back")? == sha256(copied)?,
        "{who} wrote something else"
    );
    no_faults(console, who)
}

/// What [`DOMAIN`] and [`ALL`] have to say of a disk that started with `given`, and what its image holds then.
pub fn all_right(console: &str, who: &str, given: &[u8], image: &Path) -> Result<()> {
    let of = |key| answer(console, who, key);
    is_strict(console, who)?;
    let sum = sha256(given)?;
    ensure!(of("read")? == sum, "{who} read something else");
    ensure!(
        of("wrote")? == "256" && of("back")? == sum,
        "{who} wrote something else"
    );
    ensure!(
        fs::read(image)? == [given, given].concat(),
        "the image of {who} holds something else"
    );
    no_faults(console, who)
}

/// The disk of `who` is alone in a group with a strict domain of the guest's own SMMU.
fn is_strict(console: &str, who: &str) -> Result<()> {
    let of = |key| answer(console, who, key);
    ensure!(of("probed")? == "1", "{who}: arm-smmu-v3 did not probe");
    ensure!(
        of("domain")? == "DMA" && of("strict")? == "1" && of("group")? == "0000:00:01.0",
        "{who}: not a strict domain of its own"
    );
    Ok(())
}

fn no_faults(console: &str, who: &str) -> Result<()> {
    ensure!(
        answer(console, who, "faults")? == "0",
        "{who} has seen faults"
    );
    ensure!(
        lines::summary(console, who)?.0 == 0,
        "{who}'s DMA was refused"
    );
    Ok(())
}
