//! NVMe disks behind SMMUs of their guests: what is read and written, by one guest, by two, and across restarts.

use super::{
    Context, Layout, Linux, MIB, RUN_LIMIT, Result, answer, answers, disk, ensure, lines, random,
    sha256,
};

const DISK: &str = "nvme,addr=02.0,drive=disk,serial=s0";
const OTHER: &str = "nvme,addr=03.0,drive=other,serial=s1";

/// What the guest says of its SMMU and its disk; 64 MiB are read, 16 MiB of them written behind them and read back.
const SCRIPT: &str = "
key probed $(dmesg | grep -c 'arm-smmu-v3 .*oas')
group=$(readlink /sys/bus/pci/devices/0000:00:01.0/iommu_group)
key domain $(cat /sys/kernel/iommu_groups/${group##*/}/type)
key strict $(dmesg | grep -c 'invalidation policy: strict')
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

/// Debian's driver probes, its disk is in a translated domain in strict mode, and what it reads and writes is right.
/// QEMU's own trace has its unmaps.
pub fn linux_drives_its_own(context: &Context) -> Result<()> {
    let given = random(64 * MIB)?;
    disk(context, "disk.img", &given)?;
    crate::cases::linux::initial_disk(context, SCRIPT)?;
    let mut machine = context.pack(&one())?;
    machine.trace.push("smmuv3_cmdq_opcode".into());
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    right(&console, "linux", &given)?;
    // As precise as the guest was: by address.
    let trace = guest.trace()?;
    let by_address = trace
        .lines()
        .filter(|line| line.contains("TLBI_NH_VA"))
        .count();
    ensure!(
        by_address > 0,
        "no unmap of the guest's reached the hardware"
    );
    Ok(())
}

/// Two guests at once, each of which calls its disk 00:01.0 and its stream 8, with ASIDs of their own.
pub fn two_guests_use_equal_names(context: &Context) -> Result<()> {
    let (given, other) = (random(64 * MIB)?, random(64 * MIB)?);
    disk(context, "disk.img", &given)?;
    disk(context, "other.img", &other)?;
    crate::cases::linux::initial_disk(context, SCRIPT)?;
    let mut guest = context.start(&context.pack(&two())?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    right(&console, "first", &given)?;
    right(&console, "second", &other)
}

fn right(console: &str, who: &str, given: &[u8]) -> Result<()> {
    let of = |key| answer(console, who, key);
    ensure!(of("probed")? == "1", "{who}: arm-smmu-v3 did not probe");
    ensure!(
        of("domain")? == "DMA" && of("strict")? == "1",
        "{who}: not a strict domain"
    );
    ensure!(of("read")? == sha256(given)?, "{who} read something else");
    let copied = &given[13 * MIB..29 * MIB];
    ensure!(
        of("wrote")? == "16" && of("back")? == sha256(copied)?,
        "{who} wrote something else"
    );
    ensure!(of("faults")? == "0", "{who} has seen faults");
    ensure!(answers(console, who, "faults").len() == 1);
    ensure!(
        lines::summary(console, who)?.0 == 0,
        "{who}'s DMA was refused"
    );
    Ok(())
}

/// Starts again in the middle of reads and writes, which the count on the disk tells from the last time.
const AGAIN: &str = "
count=$(dd if=$disk bs=1M skip=80 count=1 iflag=direct 2>/dev/null | head -c 1)
key start $count
if [ $count -lt 5 ]; then
  printf $((count + 1)) | dd of=$disk bs=1M seek=80 conv=fsync 2>/dev/null
  sync
  for from in 0 16 32 48; do dd if=$disk of=/dev/null bs=64k skip=$((from * 16)) iflag=direct 2>/dev/null & done
  dd if=/dev/urandom of=$disk bs=64k seek=1408 count=120 oflag=direct 2>/dev/null &
  sleep 0.5
  reboot -f
fi
key faults $(dmesg | grep -c 'event 0x')
key read $(part 0 64 | sum)
";

/// The guest starts again five times with DMA on its way: each life drives its SMMU from reset, the disk is as it was, and
/// no fault is left for anybody.
pub fn a_restart_leaves_nothing_over(context: &Context) -> Result<()> {
    let given = random(64 * MIB)?;
    let mut whole = given.clone();
    whole.resize(80 * MIB, 0);
    whole.push(b'0');
    disk(context, "disk.img", &whole)?;
    crate::cases::linux::initial_disk(context, AGAIN)?;
    let mut guest = context.start(&context.pack(&one())?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let starts = answers(&console, "linux", "start");
    ensure!(starts == ["0", "1", "2", "3", "4", "5"], "{starts:?}");
    ensure!(answer(&console, "linux", "faults")? == "0");
    ensure!(answer(&console, "linux", "read")? == sha256(&given)?);
    lines::hypervisor(&console, "linux: stopped")?;
    Ok(())
}
