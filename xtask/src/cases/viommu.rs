//! Linux drives an SMMU of its own: its stage 1, walked by the hardware on our stage 2.

use super::lines::{self, answer, answers};
use super::{Case, Context, case, random, sha256};
use anyhow::{Result, ensure};
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("viommu::linux_drives_its_own", linux_drives_its_own),
    case(
        "viommu::two_guests_use_equal_names",
        two_guests_use_equal_names,
    ),
    case(
        "viommu::a_restart_leaves_nothing_over",
        a_restart_leaves_nothing_over,
    ),
    case("viommu::two_smmus_are_two_slices", two_smmus_are_two_slices),
    case(
        "viommu::a_guest_is_told_of_its_own_faults",
        a_guest_is_told_of_its_own_faults,
    ),
];

const MIB: usize = 1 << 20;
const RUN_LIMIT: Duration = Duration::from_secs(200);

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

const ONE: &str = "
[machine]
name = 'nested'
[machine.qemu]
memory = '2G'
cpus = 2
devices = ['nvme,addr=02.0,drive=disk,serial=s0']
[[machine.qemu.disk]]
id = 'disk'
file = 'disk.img'
[[partition]]
name = 'linux'
memory = '512M'
cpus = [0, 1]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'console=ttyAMA0'
viommu = true
[[partition.device]]
address = '00:02.0'
";

const TWO: &str = "
[machine]
name = 'nested-twice'
[machine.qemu]
memory = '2G'
cpus = 2
devices = ['nvme,addr=02.0,drive=disk,serial=s0', 'nvme,addr=03.0,drive=other,serial=s1']
[[machine.qemu.disk]]
id = 'disk'
file = 'disk.img'
[[machine.qemu.disk]]
id = 'other'
file = 'other.img'
[[partition]]
name = 'first'
memory = '512M'
cpus = [0]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'console=ttyAMA0'
viommu = true
[[partition.device]]
address = '00:02.0'
[[partition]]
name = 'second'
memory = '512M'
cpus = [1]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'console=ttyAMA0'
viommu = true
[[partition.device]]
address = '00:03.0'
";

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
fn a_restart_leaves_nothing_over(context: &Context) -> Result<()> {
    let given = random(64 * MIB)?;
    let mut whole = given.clone();
    whole.resize(80 * MIB, 0);
    whole.push(b'0');
    disk(context, "disk.img", &whole)?;
    super::linux::initial_disk(context, AGAIN)?;
    let mut guest = context.start(&context.pack(ONE)?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let starts = answers(&console, "linux", "start");
    ensure!(starts == ["0", "1", "2", "3", "4", "5"], "{starts:?}");
    ensure!(answer(&console, "linux", "faults")? == "0");
    ensure!(answer(&console, "linux", "read")? == sha256(&given)?);
    lines::hypervisor(&console, "linux: stopped")?;
    Ok(())
}

/// How many SMMUs there are, and what is on each disk, by its serial number.
const EACH: &str = "
want=$(tr ' ' '\\n' < /proc/cmdline | sed -n 's/^disks=//p')
tries=0
while [ $(ls /dev | grep -c 'nvme.n1$') -lt $want ] && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
key smmus $(ls /sys/class/iommu | wc -l)
key domains \"$(cat /sys/kernel/iommu_groups/*/type | tr '\\n' ' ')\"
for at in /sys/class/nvme/*; do
  disk=/dev/${at##*/}n1
  key disk \"$(cat $at/serial) $(part 0 16 | sum)\"
done
";

/// Two SMMUs, which QEMU describes by ACPI only: one before pcie.0, one before an expander.
const BEHIND_TWO: &str = "
[machine]
name = 'two-smmus'
[machine.qemu]
memory = '2G'
cpus = 2
smmu = false
devices = [
  'arm-smmuv3,primary-bus=pcie.0,stage=nested',
  'pxb-pcie,id=pcie.1,bus=pcie.0,bus_nr=8',
  'arm-smmuv3,primary-bus=pcie.1,stage=nested',
  'pcie-root-port,id=rp1,bus=pcie.1,chassis=2',
  'pcie-root-port,id=rp2,bus=pcie.1,chassis=3',
  'nvme,bus=pcie.0,addr=02.0,drive=a,serial=a',
  'nvme,drive=b,serial=b,bus=rp1',
  'nvme,drive=c,serial=c,bus=rp2',
]
[[machine.qemu.disk]]
id = 'a'
file = 'a.img'
[[machine.qemu.disk]]
id = 'b'
file = 'b.img'
[[machine.qemu.disk]]
id = 'c'
file = 'c.img'
[[partition]]
name = 'both'
memory = '512M'
cpus = [0]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'console=ttyAMA0 disks=2'
viommu = true
[[partition.device]]
address = '00:02.0'
[[partition.device]]
address = '09:00.0'
[[partition]]
name = 'one'
memory = '512M'
cpus = [1]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'console=ttyAMA0 disks=1'
viommu = true
[[partition.device]]
address = '0a:00.0'
";

/// Started by EDK2 on a machine with two SMMUs: a guest with a disk behind each sees two, a slice each, on one stage 2;
/// its neighbour, whose disk is behind the second, sees one.
fn two_smmus_are_two_slices(context: &Context) -> Result<()> {
    let mut sums = Vec::new();
    for name in ["a", "b", "c"] {
        let data = random(16 * MIB)?;
        context.file(&format!("{name}.img"), &data)?;
        sums.push(format!("{name} {}", sha256(&data)?));
    }
    super::linux::initial_disk(context, EACH)?;
    let mut machine = context.pack(BEHIND_TWO)?;
    super::boot::by_uefi(&mut machine)?;
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    for (who, smmus, disks) in [("both", "2", &sums[..2]), ("one", "1", &sums[2..])] {
        ensure!(answer(&console, who, "smmus")? == smmus, "{who}");
        let domains = answer(&console, who, "domains")?;
        ensure!(
            domains.split_whitespace().all(|domain| domain == "DMA"),
            "{who}: {domains}"
        );
        let mut read: Vec<_> = answers(&console, who, "disk");
        read.sort_unstable();
        let read: Vec<String> = read
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        ensure!(read == disks, "{who} read {read:?}");
        ensure!(lines::summary(&console, who)?.0 == 0);
    }
    Ok(())
}

/// `edu`, which is the guest's 00:02.0 and the machine's 00:03.0, without a driver: a write of 64 bytes to an address that
/// its domain does not map.
const STRAY: &str = r#"
dev=/sys/bus/pci/devices/0000:00:02.0
# A driver that wants it, and finds that it is no disk, is what puts a device into a domain.
echo 1234 11e8 > /sys/bus/pci/drivers/nvme/new_id
sleep 3
key domain $(cat $dev/iommu_group/type)
echo 1 > $dev/enable
printf '\006\000' | dd of=$dev/config bs=1 seek=4 conv=notrunc 2>/dev/null
bar=$(head -n 1 $dev/resource | cut -d' ' -f1)
poke() { devmem $(printf '0x%x' $((bar + $1))) 64 $2; }
poke 0x80 0x40000
poke 0x88 0x123456000
poke 0x90 64
poke 0x98 3
sleep 2
key streams "$(dmesg | grep -A1 'event 0x10 received' | grep -o '0x[0-9a-f]\{16\}' | sort -u)"
key words "$(dmesg | grep -m 1 -A4 'event 0x10 received' | grep -o '0x[0-9a-f]\{16\}' | tr '\n' ' ')"
"#;

const WITH_EDU: &str = "
[machine]
name = 'stray'
[machine.qemu]
memory = '2G'
cpus = 2
devices = [
  'nvme,addr=02.0,drive=disk,serial=s0',
  'edu,addr=03.0,dma_mask=0xffffffffffffffff',
]
[[machine.qemu.disk]]
id = 'disk'
file = 'disk.img'
[[partition]]
name = 'linux'
memory = '512M'
cpus = [0]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'console=ttyAMA0'
viommu = true
[[partition.device]]
address = '00:02.0'
[[partition.device]]
address = '00:03.0'
reset = 'best-effort'
[[partition]]
name = 'canary'
memory = '64M'
cpus = [1]
payload = 'canary'
";

/// The event that the hardware records is in the guest's own queue, under the guest's own StreamID, and its own driver
/// prints it; it is no fault against the partition, and none of it is the other partition's.
fn a_guest_is_told_of_its_own_faults(context: &Context) -> Result<()> {
    disk(context, "disk.img", &random(MIB)?)?;
    super::linux::initial_disk(context, STRAY)?;
    let mut guest = context.start(&context.pack(WITH_EDU)?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let of = |key| answer(&console, "linux", key);
    ensure!(of("domain")? == "DMA", "it is in no translated domain");
    // One each 4 bytes of the write, all of the same stream.
    ensure!(of("streams")? == "0x0000001000000010", "{}", of("streams")?);
    let words = of("words")?;
    let words: Vec<u64> = words
        .split_whitespace()
        .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16))
        .collect::<Result<_, _>>()?;
    let [first, second, address, last] = words[..] else {
        anyhow::bail!("an event of {} words", words.len());
    };
    // F_TRANSLATION (IHI 0070, 7.3.13), StreamID 0x10 where the machine has 0x18; a write; stage 1; its input address.
    ensure!(first & 0xff == 0x10 && first >> 32 == 0x10, "{first:#x}");
    ensure!(
        second >> 35 & 1 == 0 && second >> 39 & 1 == 0,
        "{second:#x}"
    );
    ensure!(
        address == 0x1_2345_6000 && last == 0,
        "{address:#x} {last:#x}"
    );
    // 64 bytes in words of 4, and what the device tried while it was in no domain: all of it reached the guest.
    let line = lines::hypervisor(&console, "linux: its smmu0:")?;
    let count = |what: &str| {
        let at = line.split(", ").find(|part| part.contains(what));
        at.and_then(|part| {
            part.split_whitespace()
                .find_map(|word| word.parse::<u64>().ok())
        })
    };
    ensure!(count("events").is_some_and(|events| events >= 16), "{line}");
    ensure!(
        count("dropped") == Some(0) && count("errors") == Some(0),
        "{line}"
    );
    ensure!(lines::summary(&console, "linux")?.0 == 0);
    ensure!(lines::summary(&console, "canary")?.0 == 0);
    ensure!(console.contains("[canary] result: passed"));
    Ok(())
}

/// Debian's driver probes, its disk is in a translated domain in strict mode, and what it reads and writes is right.
/// QEMU's own trace has its unmaps.
fn linux_drives_its_own(context: &Context) -> Result<()> {
    let given = random(64 * MIB)?;
    disk(context, "disk.img", &given)?;
    super::linux::initial_disk(context, SCRIPT)?;
    let mut machine = context.pack(ONE)?;
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
fn two_guests_use_equal_names(context: &Context) -> Result<()> {
    let (given, other) = (random(64 * MIB)?, random(64 * MIB)?);
    disk(context, "disk.img", &given)?;
    disk(context, "other.img", &other)?;
    super::linux::initial_disk(context, SCRIPT)?;
    let mut guest = context.start(&context.pack(TWO)?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    right(&console, "first", &given)?;
    right(&console, "second", &other)
}

fn disk(context: &Context, name: &str, given: &[u8]) -> Result<()> {
    let mut disk = given.to_vec();
    disk.resize(96 * MIB, 0);
    context.file(name, &disk).map(drop)
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
