//! Virtual functions of QEMU's `nvme` and `igb` in partitions of their own, and the physical one in another.

pub mod igb;

use super::lines::{self, answer, answers};
use super::{Case, Context, case, random, sha256};
use crate::qemu::Guest;
use anyhow::{Result, ensure};
use std::time::Duration;

pub const CASES: &[Case] = &[
    case(
        "sriov::each_partition_has_a_virtual_function",
        each_partition_has_a_virtual_function,
    ),
    case(
        "sriov::a_manager_that_starts_again_takes_them_along",
        a_manager_that_starts_again_takes_them_along,
    ),
    case(
        "sriov::igb_s_functions_send_and_receive",
        igb::igb_s_functions_send_and_receive,
    ),
];

const THREE: &str = include_str!("../../../configs/sriov.toml");
const MIB: usize = 1 << 20;
const GIVEN: usize = 64 * MIB;
/// Each guest copies 8 MiB behind what was given: to here, or to here and 8 MiB.
const COPY: usize = 8 * MIB;
const RUN_LIMIT: Duration = Duration::from_secs(200);

/// A virtual function's driver finds it as it is found: it may have to come again when its controller is online.
pub const COME: &str = r"
place=0000:00:01.0
come() {
  tries=0
  while [ ! -b $disk ] && [ $tries -lt 120 ]; do
    echo $place > /sys/bus/pci/drivers/nvme/bind 2>/dev/null
    sleep 0.5
    tries=$((tries + 1))
  done
}
come
";

/// `left` reads the first half and copies a part of it, `right` the second. Then whoever has an SMMU takes the driver away
/// and has the controller fetch a command from an address that its domain does not map.
const WORK: &str = r#"
key id "$(cat /sys/bus/pci/devices/$place/vendor) $(cat /sys/bus/pci/devices/$place/device)"
functions
if [ -d /sys/kernel/iommu_groups/0 ]; then half=32; else half=0; fi
key read $(part $half 32 | sum)
part $half 8 > /tmp/copy
dd if=/tmp/copy of=$disk bs=1M seek=$((64 + half / 4)) oflag=direct conv=fsync 2>/dev/null && key wrote 8
key back $(part $((64 + half / 4)) 8 | sum)
grep nvme /proc/interrupts | while read line; do key interrupt "$line"; done
key faults $(dmesg | grep -c 'event 0x')
if [ $half = 32 ]; then
  dev=/sys/bus/pci/devices/$place
  key domain $(cat $dev/iommu_group/type)
  echo $place > /sys/bus/pci/drivers/nvme/unbind
  echo 1 > $dev/enable
  printf '\006\000' | dd of=$dev/config bs=1 seek=4 conv=notrunc 2>/dev/null
  bar=$(head -n 1 $dev/resource | cut -d' ' -f1)
  poke() { devmem $(printf '0x%x' $((bar + $1))) 32 $2; }
  poke 0x14 0
  sleep 1
  poke 0x24 0x000f000f
  poke 0x28 0x23456000
  poke 0x2c 1
  poke 0x30 0x23457000
  poke 0x34 1
  poke 0x14 0x460001
  sleep 1
  poke 0x1000 1
  sleep 2
  key streams "$(dmesg | grep -A1 'event 0x10 received' | grep -o '0x[0-9a-f]\{16\}' | sort -u)"
  key address "$(dmesg | grep -A3 'event 0x10 received' | grep -o '0x0000000123456[0-9a-f]*' | sort -u | head -n 1)"
fi
key end now
"#;

/// What each VF's line of the hypervisor starts with: address, IDs, where the guest sees it, stream.
const PLACES: [(&str, &str); 3] = [
    (
        "left",
        "0000:00:02.1 1b36:0010 is the guest's 00:01.0, stream 0x11 of smmu0, BAR 0 at ",
    ),
    (
        "right",
        "0000:00:02.2 1b36:0010 is the guest's 00:01.0, stream 0x12 of smmu0, BAR 0 at ",
    ),
    (
        "attacker",
        "0000:00:02.3 1b36:0010 is the guest's 00:01.0, stream 0x13 of smmu0, BAR 0 at ",
    ),
];

/// Three VFs of one controller in three partitions. Two Linux read and write with theirs, though whoever has the physical
/// function has ended; what the third sends out of its partition is stopped, and its own; what the one with an SMMU sends
/// out of its own domain is told to it.
fn each_partition_has_a_virtual_function(context: &Context) -> Result<()> {
    let given = random(GIVEN)?;
    let mut disk = given.clone();
    disk.resize(80 * MIB, 0);
    let disk = context.file("disk.img", &disk)?;
    crate::cases::linux::initial_disk(context, &format!("{COME}{WORK}"))?;
    let mut guest = context.start(&context.pack(THREE)?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();

    lines::passed(&console, "manager")?;
    lines::passed(&console, "attacker")?;
    let mut bars = Vec::new();
    for (who, line) in PLACES {
        let rest = lines::hypervisor(&console, &format!("{who}: {line}"))?;
        bars.push(lines::range(rest)?.0);
    }
    ensure!(
        bars[0] < bars[1] && bars[1] - bars[0] == bars[2] - bars[1],
        "their BARs are not in a row: {bars:x?}"
    );
    for (who, from) in [("left", 0), ("right", 32 * MIB)] {
        let of = |key| answer(&console, who, key);
        ensure!(of("id")? == "0x1b36 0x0010", "{who}: {}", of("id")?);
        let functions = answers(&console, who, "pci");
        let functions: Vec<_> = functions
            .iter()
            .filter(|function| !function.contains(" 0x06"))
            .collect();
        ensure!(functions == [&"0000:00:01.0 0x010802"], "{functions:?}");
        ensure!(
            of("read")? == sha256(&given[from..from + 32 * MIB])?,
            "{who} read something else"
        );
        let copied = sha256(&given[from..from + COPY])?;
        ensure!(of("wrote")? == "8" && of("back")? == copied, "{who}");
        ensure!(of("faults")? == "0" && of("end")? == "now", "{who}");
        let interrupts = answers(&console, who, "interrupt");
        ensure!(
            !interrupts.is_empty() && interrupts.iter().all(|line| line.contains("ITS-PCI-MSIX")),
            "{who}: {interrupts:?}"
        );
        ensure!(lines::summary(&console, who)?.0 == 0, "DMA of {who}");
    }
    // F_TRANSLATION of StreamID 8, which the machine knows as 0x12.
    ensure!(answer(&console, "right", "domain")? == "DMA");
    let streams = answer(&console, "right", "streams")?;
    ensure!(streams == "0x0000000800000010", "{streams}");
    let address = answer(&console, "right", "address")?;
    ensure!(address == "0x0000000123456000", "{address}");

    attributed(&console)?;
    let written = std::fs::read(disk)?;
    let copies = [&given[..COPY], &given[32 * MIB..32 * MIB + COPY]].concat();
    ensure!(
        written[..GIVEN] == given && written[GIVEN..] == copies,
        "the disk image holds something else"
    );
    Ok(())
}

/// Each attack has its line: the VF's StreamID and address, and its partition; nobody else has any.
fn attributed(console: &str) -> Result<()> {
    let start = "dma fault: smmu0 stream 0x13 0000:00:02.3 write at ";
    for target in [
        "0x60000000",
        "0x8000000",
        "0x9000000",
        "0x42000000",
        "0x7ffffff000",
    ] {
        let line = format!("{start}{target}: ");
        ensure!(
            lines::of(console, "sluice")
                .any(|text| text.starts_with(&line) && text.contains(" (attacker)")),
            "no record of the write at {target}"
        );
    }
    let (faults, _) = lines::summary(console, "attacker")?;
    // QEMU's controller writes 4 bytes at a time.
    ensure!(faults == 5 * 64 / 4, "{faults} faults");
    for other in ["manager", "left", "right", "nobody"] {
        let (faults, _) = lines::summary(console, other)?;
        ensure!(faults == 0, "{faults} faults on the account of {other}");
    }
    Ok(())
}

pub const AGAIN: &str = r"
key read $(part 0 16 | sum)
key waits yes
read line
part 16 1 > /dev/null
# Its controller was reset under it: the driver lets it go, and comes again.
echo 1 > /sys/bus/pci/devices/$place/remove
sleep 1
echo 1 > /sys/bus/pci/rescan
come
key again $(part 16 16 | sum)
";

const RESTART: &str = "
[machine]
name = 'sriov-again'
[machine.qemu]
memory = '1G'
cpus = 2
devices = [
  'nvme-subsys,id=subsystem',
  'nvme,addr=02.0,serial=s0,subsys=subsystem,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2',
  'nvme-ns,drive=disk',
]
[[machine.qemu.disk]]
id = 'disk'
file = 'disk.img'
[[machine.sriov]]
address = '00:02.0'
vfs = 2
[[partition]]
name = 'manager'
memory = '32M'
cpus = [0]
payload = 'nvme_manager'
cmdline = 'vfs=2 then=wait'
[[partition.device]]
address = '00:02.0'
manages_vfs = true
[[partition]]
name = 'linux'
memory = '256M'
cpus = [1]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'console=ttyAMA0 loglevel=4 nvme_core.io_timeout=3 nvme_core.admin_timeout=3'
[[partition.device]]
address = '00:02.2'
";

/// The physical function's owner starts again: its reset takes the VFs along, the hypervisor turns them on, the manager
/// puts them online again, and their user goes on with what is a device out of reset. One VF is nobody's.
fn a_manager_that_starts_again_takes_them_along(context: &Context) -> Result<()> {
    let given = random(32 * MIB)?;
    context.file("disk.img", &given)?;
    crate::cases::linux::initial_disk(context, &format!("{COME}{AGAIN}"))?;
    start_again(&mut context.start(&context.pack(RESTART)?)?, &given)
}

/// Has the `manager` of a machine with `linux` and a disk of `given` start again; what both have to say.
pub fn start_again(guest: &mut Guest, given: &[u8]) -> Result<()> {
    guest.wait_all(
        &["[linux] waits=yes;", "[manager] again, or the end?"],
        RUN_LIMIT,
    )?;
    guest.send("again\n")?;
    guest.wait_for("[sluice] manager: restarts", RUN_LIMIT)?;
    guest.wait_line(" secondary controllers are online", RUN_LIMIT)?;
    guest.send("\x1d1go\n")?;
    guest.wait_for("[linux] again=", RUN_LIMIT)?;
    guest.send("\x1d0end\n")?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let of = |key| answer(&console, "linux", key);
    ensure!(of("read")? == sha256(&given[..16 * MIB])?);
    ensure!(of("again")? == sha256(&given[16 * MIB..])?);
    lines::passed(&console, "manager")?;
    for who in ["manager", "linux", "nobody"] {
        ensure!(lines::summary(&console, who)?.0 == 0, "DMA of {who}");
    }
    Ok(())
}
