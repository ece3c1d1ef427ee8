//! Linux drives VT-d units of its own: its tables, composed with ours in shadows.

use super::linux::{GIVEN, RUN_LIMIT, has_read};
use super::packed;
use crate::arch::Arch;
use crate::cases::lines::{self, answer, answers};
use crate::cases::linux::initial_disk_of;
use crate::cases::{Context, random, sha256};
use crate::setup::linux;
use anyhow::{Result, ensure};

/// What the guest says of its unit and of the domain of its disk, and what it reads and writes.
const SCRIPT: &str = "
key strict $(dmesg | grep -c 'DMAR: IOMMU batching disallowed')
key remaps $(dmesg | grep -c 'DMAR-IR: Enabled IRQ remapping in x2apic mode')
dmesg | grep 'DMAR: dmar0' | while read line; do key unit \"${line##*dmar0: }\"; done
group=$(readlink /sys/bus/pci/devices/0000:00:01.0/iommu_group)
key domain $(cat /sys/kernel/iommu_groups/${group##*/}/type)
key group $(ls /sys/kernel/iommu_groups/${group##*/}/devices)
key read $(part 0 64 | sum)
part 13 16 > /tmp/copy
dd if=/tmp/copy of=$disk bs=1M seek=68 oflag=direct conv=fsync 2>/dev/null && key wrote 16
key back $(part 68 16 | sum)
grep nvme /proc/interrupts | while read line; do key interrupt \"$line\"; done
key serial $(grep -c 'IR-IO-APIC .*ttyS0' /proc/interrupts)
key faults $(dmesg | grep -c 'DMAR: \\[')
";

/// A partition whose functions are behind a unit of its own.
fn partition(name: &str, cpus: &str, cmdline: &str, functions: &[&str]) -> String {
    let mut text = format!(
        "[[partition]]\nname = '{name}'\nmemory = '512M'\ncpus = {cpus}\n\
        kernel = 'debian:kernel'\ninitrd = 'initrd.cpio'\n\
        cmdline = 'console=ttyS0 {cmdline}'\nviommu = true\n"
    );
    for function in functions {
        text += &format!("[[partition.device]]\naddress = '{function}'\nreset = 'best-effort'\n");
    }
    text
}

/// Debian's driver probes, interrupts are remapped, its disk is in a strict domain and a group of its own, and what it reads
/// and writes is right: with its tables in the one mode on a machine's unit in the other.
fn drives_its_own(context: &Context, vtd: &'static str, cmdline: &str, ecap: u64) -> Result<()> {
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(context, "initrd.cpio", &linux, &[], SCRIPT)?;
    let one = partition("linux", "[0, 1]", cmdline, &["00:02.0"]);
    let mut machine = packed(context, &format!("[machine]\nname = 'one'\n{one}"))?;
    machine.vtd = vtd;
    let given = random(GIVEN)?;
    let mut whole = given.clone();
    whole.resize(96 << 20, 0);
    let path = context.file("disk.img", &whole)?;
    machine.disks.push(("disk".to_owned(), path));
    machine
        .devices
        .push("nvme,drive=disk,serial=disk,addr=02.0".to_owned());
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let of = |key| answer(&console, "linux", key);
    lines::hypervisor(&console, "linux: stopped")?;
    has_read(&console, "linux", &given)?;
    let copied = &given[13 << 20..29 << 20];
    ensure!(
        of("wrote")? == "16" && of("back")? == sha256(copied)?,
        "it wrote something else"
    );
    ensure!(of("strict")? == "1" && of("remaps")? == "1");
    ensure!(of("domain")? == "DMA" && of("group")? == "0000:00:01.0");
    ensure!(of("serial")? == "1" && of("faults")? == "0");
    let unit = answers(&console, "linux", "unit").concat();
    ensure!(unit.contains(&format!("ecap {ecap:x}")), "{unit}");
    let counts = lines::hypervisor(&console, "linux: its vtd0: ")?;
    context.note(counts);
    Ok(())
}

pub fn is_driven_in_legacy_mode(context: &Context) -> Result<()> {
    drives_its_own(
        context,
        ",scalable-mode=on",
        "intel_iommu=on,sm_off",
        0x4800_00f0_0f5b,
    )
}

pub fn is_driven_in_scalable_mode(context: &Context) -> Result<()> {
    drives_its_own(context, "", "intel_iommu=on,sm_on", 0x4800_00f0_0f5b)
}
