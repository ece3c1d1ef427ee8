//! Virtual functions in partitions of their own. Their BARs have the addresses that firmware gave them: UEFI does, and
//! SeaBIOS does not.

use super::devices::stopped;
use super::packed;
use super::rules::refused;
use crate::arch::Arch;
use crate::cases::lines::{self, answer, answers};
use crate::cases::linux::initial_disk_of;
use crate::cases::sriov::{AGAIN, COME, igb, start_again};
use crate::cases::{Context, random, sha256};
use crate::qemu::Machine;
use crate::setup::linux;
use crate::tasks::medium::by_uefi;
use anyhow::{Result, ensure};
use std::time::Duration;

const MIB: usize = 1 << 20;
const GIVEN: usize = 64 * MIB;
/// Each guest copies 8 MiB behind what was given.
const COPY: usize = 8 * MIB;
const RUN_LIMIT: Duration = Duration::from_secs(300);
/// RAM of others, and what is none.
const TARGETS: [u64; 4] = [0x400_0000, 0x1000_0000, 0xfed9_0000, 0x7f_ffff_f000];

/// The physical function, and three virtual ones.
const MANAGER: &str = "[machine]\nname = 'sriov'\n\
    [[machine.sriov]]\naddress = '00:02.0'\nvfs = 3\n\
    [[partition]]\nname = 'manager'\nmemory = '32M'\ncpus = [3]\n\
    payload = 'nvme_manager'\ncmdline = 'vfs=3'\n\
    [[partition.device]]\naddress = '00:02.0'\n";

/// `left` reads the first half and copies a part of it, `right`, which has a unit of its own, the second.
const WORK: &str = r#"
functions
if [ -d /sys/kernel/iommu_groups/0 ]; then half=32; else half=0; fi
key read $(part $half 32 | sum)
part $half 8 > /tmp/copy
dd if=/tmp/copy of=$disk bs=1M seek=$((64 + half / 4)) oflag=direct conv=fsync 2>/dev/null && key wrote 8
key back $(part $((64 + half / 4)) 8 | sum)
grep nvme /proc/interrupts | while read line; do key interrupt "$line"; done
if [ $half = 32 ]; then key domain $(cat /sys/bus/pci/devices/$place/iommu_group/type); fi
key faults $(dmesg | grep -c 'DMAR: \[')
key end now
"#;

fn guest(name: &str, cpu: u8, function: &str, more: &str) -> String {
    format!(
        "[[partition]]\nname = '{name}'\nmemory = '512M'\ncpus = [{cpu}]\n\
        kernel = 'debian:kernel'\ninitrd = 'initrd.cpio'\n\
        cmdline = 'console=ttyS0 loglevel=4 intel_iommu=on'\n{more}\
        [[partition.device]]\naddress = '{function}'\nguest = '00:01.0'\n"
    )
}

/// A machine for the configuration `text`, with the controller of `disk`.
fn machine(context: &Context, text: &str, disk: &[u8]) -> Result<Machine> {
    let mut machine = packed(context, text)?;
    machine.cpus = 4;
    machine.memory = 2 << 30;
    let disk = context.file("disk.img", disk)?;
    machine.disks = vec![("disk".into(), disk)];
    machine.devices = vec![
        "nvme-subsys,id=subsystem".into(),
        "nvme,addr=02.0,serial=s0,subsys=subsystem,sriov_max_vfs=3,sriov_vq_flexible=6,sriov_vi_flexible=3".into(),
        "nvme-ns,drive=disk".into(),
    ];
    Ok(machine)
}

/// Three virtual functions of one controller in three partitions. Two Linux read and write with theirs, though whoever has
/// the physical function has ended; what the third sends out of its partition is stopped, and its own. That one is on the CPU
/// that reads faults: QEMU records no second one of a source before the first is read.
pub fn each_partition_has_one(context: &Context) -> Result<()> {
    let given = random(GIVEN)?;
    let mut disk = given.clone();
    disk.resize(80 * MIB, 0);
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(
        context,
        "initrd.cpio",
        &linux,
        &[],
        &format!("{COME}{WORK}"),
    )?;
    let attack = TARGETS.map(|target| format!("{target:#x}")).join(",");
    let text = format!(
        "{MANAGER}manages_vfs = true\n{}{}\
        [[partition]]\nname = 'attacker'\nmemory = '64M'\ncpus = [0]\n\
        payload = 'nvme_attacker'\ncmdline = 'attack={attack}'\n\
        [[partition.device]]\naddress = '00:02.3'\n",
        guest("left", 1, "00:02.1", ""),
        guest("right", 2, "00:02.2", "viommu = true\n"),
    );
    let mut machine = machine(context, &text, &disk)?;
    by_uefi(&mut machine)?;
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "manager")?;
    lines::passed(&console, "attacker")?;
    stopped(&console, "0x13 0000:00:02.3", &TARGETS)?;
    for (who, from) in [("left", 0), ("right", 32 * MIB)] {
        let of = |key| answer(&console, who, key);
        let functions = answers(&console, who, "pci");
        ensure!(
            functions.contains(&"0000:00:01.0 0x010802"),
            "{who}: {functions:?}"
        );
        ensure!(
            of("read")? == sha256(&given[from..from + 32 * MIB])?,
            "{who} read something else"
        );
        let copied = sha256(&given[from..from + COPY])?;
        ensure!(of("wrote")? == "8" && of("back")? == copied, "{who}");
        ensure!(of("faults")? == "0" && of("end")? == "now", "{who}");
        let interrupts = answers(&console, who, "interrupt");
        ensure!(
            !interrupts.is_empty() && interrupts.iter().all(|line| line.contains("PCI-MSIX")),
            "{who}: {interrupts:?}"
        );
    }
    ensure!(answer(&console, "right", "domain")? == "DMA");
    for who in ["manager", "left", "right", "nobody"] {
        ensure!(lines::summary(&console, who)?.0 == 0, "DMA of {who}");
    }
    let written = std::fs::read(context.folder.join("disk.img"))?;
    let copies = [&given[..COPY], &given[32 * MIB..32 * MIB + COPY]].concat();
    ensure!(
        written[..GIVEN] == given && written[GIVEN..] == copies,
        "the disk image holds something else"
    );
    Ok(())
}

/// Who has the physical function has power over the virtual ones of others: where it does not say that it serves them, nobody
/// starts.
pub fn whoever_does_not_serve_is_alone(context: &Context) -> Result<()> {
    let text = format!(
        "{MANAGER}[[partition]]\nname = 'other'\nmemory = '32M'\ncpus = [1]\npayload = 'hello'\n\
        [[partition.device]]\naddress = '00:02.1'\n"
    );
    let mut machine = machine(context, &text, &[0; MIB])?;
    by_uefi(&mut machine)?;
    let problem = "partition[1].device[0].address: the physical function 00:02.0 of the device is another partition's \
        (see partition[0].device[0].address)";
    refused(context, &machine, &[problem])?;
    Ok(())
}

/// Without addresses from firmware there are no virtual functions for anybody; the physical one is there.
pub fn without_addresses_there_are_none(context: &Context) -> Result<()> {
    const NONE: &str = "pci: 0000:00:02.0: no space for its BARs or for what is behind it";
    let disk = "[machine]\nname = 'none'\n\
        [[machine.sriov]]\naddress = '00:02.0'\nvfs = 3\n\
        [[partition]]\nname = 'disk'\nmemory = '32M'\ncpus = [0]\n\
        payload = 'nvme_attacker'\n\
        [[partition.device]]\naddress = '00:02.0'\n";
    let mut guest = context.start(&machine(context, disk, &[0; MIB])?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "disk")?;
    let said = |console: &str| lines::of(console, "sluice").any(|line| line == NONE);
    ensure!(said(&console), "{console}");
    let text = format!(
        "{disk}[[partition]]\nname = 'other'\nmemory = '32M'\ncpus = [1]\npayload = 'hello'\n\
        [[partition.device]]\naddress = '00:02.1'\n"
    );
    let machine = machine(context, &text, &[0; MIB])?;
    let problem = "partition[1].device[0].address: the machine has no such device";
    let console = refused(context, &machine, &[problem])?;
    ensure!(said(&console), "{console}");
    Ok(())
}

/// The physical function's owner starts again: its reset takes the virtual ones along, the hypervisor turns them on where they
/// were, and their user goes on with what is a device out of reset.
pub fn a_manager_that_starts_again_takes_them_along(context: &Context) -> Result<()> {
    let given = random(32 * MIB)?;
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(
        context,
        "initrd.cpio",
        &linux,
        &[],
        &format!("{COME}{AGAIN}"),
    )?;
    let manager = MANAGER
        .replace("cmdline = 'vfs=3'", "cmdline = 'vfs=3 then=wait'")
        .replace("cpus = [3]", "cpus = [0]");
    let timeouts = "nvme_core.io_timeout=3 nvme_core.admin_timeout=3";
    let user = guest("linux", 1, "00:02.2", "").replace("intel_iommu=on", timeouts);
    let text = format!("{manager}manages_vfs = true\n{user}");
    let mut machine = machine(context, &text, &given)?;
    by_uefi(&mut machine)?;
    start_again(&mut context.start(&machine)?, &given)
}

/// Two Linux with a virtual function each of a network card, behind units of their own, and the small guest that manages the
/// card: what one sends reaches the other and comes back.
pub fn igb_s_functions_send_and_receive(context: &Context) -> Result<()> {
    igb::initial_disk(context, Arch::X86_64)?;
    let linux = |name, cpu, own: u8, function| {
        guest(name, cpu, function, "viommu = true\n").replace(
            "intel_iommu=on",
            &format!("intel_iommu=on own={own} other={}", 3 - own),
        )
    };
    let text = format!(
        "[machine]\nname = 'igb'\n\
        [[machine.sriov]]\naddress = '00:02.0'\nvfs = 2\n\
        [[partition]]\nname = 'manager'\nmemory = '32M'\ncpus = [0]\n\
        payload = 'igb_manager'\ncmdline = 'vfs=2'\n\
        [[partition.device]]\naddress = '00:02.0'\nmanages_vfs = true\n{}{}",
        linux("left", 1, 1, "00:12.0"),
        linux("right", 2, 2, "00:12.2"),
    );
    let mut machine = packed(context, &text)?;
    machine.cpus = 3;
    machine.memory = 2 << 30;
    machine.devices = vec!["igb,addr=02.0".into()];
    by_uefi(&mut machine)?;
    igb::has_exchanged(&mut context.start(&machine)?, "PCI-MSIX")
}
