//! Linux drives VT-d units of its own: its tables, composed with ours in shadows.

use super::linux::{GIVEN, RUN_LIMIT, has_read};
use super::packed;
use crate::arch::Arch;
use crate::cases::lines::{self, answer, answers};
use crate::cases::linux::initial_disk_of;
use crate::cases::viommu::EDU;
use crate::cases::viommu::again::{AGAIN, slow_down};
use crate::cases::viommu::faults::STRAY;
use crate::cases::{Context, random, sha256};
use crate::qemu::Machine;
use crate::setup::linux;
use anyhow::{Result, ensure};

const MIB: usize = 1 << 20;

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

/// A machine of the partitions `text` with a disk at each of `places`, and what that starts with.
fn with_disks(context: &Context, text: &str, places: &[&str]) -> Result<(Machine, Vec<Vec<u8>>)> {
    let mut machine = packed(context, &format!("[machine]\nname = 'viommu'\n{text}"))?;
    machine.cpus = 2;
    machine.memory = 2 << 30;
    let mut all = Vec::new();
    for place in places {
        let given = random(GIVEN)?;
        let mut whole = given.clone();
        // Behind the copy: how often `AGAIN` has started.
        whole.resize(80 * MIB, 0);
        whole.push(b'0');
        whole.resize(96 * MIB, 0);
        let id = format!("disk{}", &place[..2]);
        let path = context.file(&format!("{id}.img"), &whole)?;
        let device = format!("nvme,drive={id},serial={id},addr={place}");
        machine.disks.push((id, path));
        machine.devices.push(device);
        all.push(given);
    }
    Ok((machine, all))
}

/// What [`SCRIPT`] has to say of a disk that started with `given`: the driver has probed, interrupts are remapped, the disk is
/// in a strict domain and a group of its own, and what was read and written is right.
fn is_right(console: &str, who: &str, given: &[u8]) -> Result<()> {
    let of = |key| answer(console, who, key);
    has_read(console, who, given)?;
    ensure!(
        of("wrote")? == "16" && of("back")? == sha256(&given[13 * MIB..29 * MIB])?,
        "{who} wrote something else"
    );
    ensure!(of("strict")? == "1" && of("remaps")? == "1", "{who}");
    ensure!(of("domain")? == "DMA" && of("group")? == "0000:00:01.0");
    ensure!(of("serial")? == "1" && of("faults")? == "0");
    // Caching mode; scalable mode with second stages only, and interrupts with wide destinations.
    let unit = answers(console, who, "unit").concat();
    ensure!(
        unit.contains("cap d2078c202f0686 ecap 480000f00f5b"),
        "{unit}"
    );
    ensure!(lines::summary(console, who)?.0 == 0);
    lines::hypervisor(console, &format!("{who}: stopped"))?;
    Ok(())
}

/// Debian's driver with its tables in the one mode on a machine's unit in the other, and two vCPUs.
fn drives_its_own(context: &Context, vtd: &'static str, cmdline: &str) -> Result<()> {
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(context, "initrd.cpio", &linux, &[], SCRIPT)?;
    let one = partition("linux", "[0, 1]", cmdline, &["00:02.0"]);
    let (mut machine, given) = with_disks(context, &one, &["02.0"])?;
    machine.vtd = vtd;
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    is_right(&console, "linux", &given[0])?;
    let counts = lines::hypervisor(&console, "linux: its vtd0: ")?;
    let count = |what| lines::counted(counts, what);
    // One store for each map and unmap, and those of the driver's start.
    let (stores, waits) = (count("stores")?, count("waits")?);
    ensure!(stores > waits && stores - waits < 40, "{counts}");
    // An entry is read once when its page is mapped and once when it is unmapped, with what leads there: of 112 MiB.
    let pages = (112 * MIB / 4096) as u64;
    let entries = count("entries read")?;
    ensure!(
        entries > 2 * pages && entries < 2 * pages * 6 / 5,
        "{counts}"
    );
    context.note(counts);
    Ok(())
}

pub fn is_driven_in_legacy_mode(context: &Context) -> Result<()> {
    drives_its_own(context, ",scalable-mode=on", "intel_iommu=on,sm_off")
}

pub fn is_driven_in_scalable_mode(context: &Context) -> Result<()> {
    drives_its_own(context, "", "intel_iommu=on,sm_on")
}

/// Two guests at once, each of which calls its disk 00:01.0, and its domains by the same numbers.
pub fn two_guests_use_equal_names(context: &Context) -> Result<()> {
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(context, "initrd.cpio", &linux, &[], SCRIPT)?;
    let text = partition("left", "[0]", "intel_iommu=on", &["00:02.0"])
        + &partition("right", "[1]", "intel_iommu=on", &["00:03.0"]);
    let (machine, given) = with_disks(context, &text, &["02.0", "03.0"])?;
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    is_right(&console, "left", &given[0])?;
    is_right(&console, "right", &given[1])
}

/// What Linux prints of the faults of `edu`, which it calls 00:02.0.
/// Three: of more in five seconds it prints none (ten tokens of its rate limit, three of which each takes).
const FAULTS: &str = "
faults() { dmesg | grep -o 'DMAR: \\[.*'; }
await '[ $(faults | wc -l) -ge 3 ]'
key faults $(faults | wc -l)
faults | while read line; do key fault \"$line\"; done
grep dmar0 /proc/interrupts | while read number count rest; do key interrupts $count; done
";

/// The faults that the hardware records are in the guest's own records, under the guest's own source ID, and its own driver prints
/// them: as many as Sluice counts and as the hardware had. They are no faults against the partition, and none of them is
/// the other partition's.
fn tells_its_own_faults(context: &Context, mode: &str, reason: &str) -> Result<()> {
    let linux = linux::linux(Arch::X86_64)?;
    let stray = STRAY.replace("0 1 2 3 4 5 6 7", "0 1 2");
    let script = format!("{stray}{FAULTS}");
    initial_disk_of(context, "initrd.cpio", &linux, &[], &script)?;
    let text = partition("linux", "[0]", mode, &["00:02.0", "00:03.0"])
        + "[[partition]]\nname = 'canary'\nmemory = '16M'\ncpus = [1]\n\
           payload = 'canary'\ncmdline = 'seconds=30'\n";
    let (mut machine, _) = with_disks(context, &text, &["02.0"])?;
    machine.devices.push(EDU.to_owned());
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let of = |key| answer(&console, "linux", key);
    ensure!(of("domain")? == "DMA", "it is in no translated domain");
    let told: Vec<String> = (0..3)
        .map(|page| {
            let at = 0x1_2345_6000u64 + page * 4096;
            format!(
                "DMAR: [DMA Write NO_PASID] Request device [00:02.0] fault addr {at:#x} [fault reason {reason}"
            )
        })
        .collect();
    let printed = answers(&console, "linux", "fault");
    let same = printed.iter().zip(&told);
    ensure!(
        printed.len() == 3 && same.into_iter().all(|(line, told)| line.starts_with(told)),
        "{printed:#?}"
    );
    ensure!(of("faults")? == "3" && of("interrupts")? == "3");
    let own = lines::hypervisor(&console, "linux: its vtd0: ")?;
    ensure!(
        own.contains(" 3 events: 3 delivered, 0 pending, 0 dropped, 3 interrupts"),
        "{own}"
    );
    let sent = lines::hypervisor(&console, "sent to vtd0: ")?;
    ensure!(sent.contains(" 3 records read;"), "{sent}");
    for who in ["linux", "canary", "nobody"] {
        ensure!(lines::summary(&console, who)?.0 == 0, "{who}");
    }
    lines::passed(&console, "canary")?;
    context.note(own);
    Ok(())
}

pub fn tells_its_own_faults_in_legacy_mode(context: &Context) -> Result<()> {
    tells_its_own_faults(context, "intel_iommu=on,sm_off", "0x05]")
}

pub fn tells_its_own_faults_in_scalable_mode(context: &Context) -> Result<()> {
    tells_its_own_faults(context, "intel_iommu=on,sm_on", "0x79]")
}

/// `edu`, which has no driver, sends a message that names an entry of Linux's table that is not present (0x4321), and one in the
/// compatibility format, which Linux blocks as its destinations are wide (VT-d, 5.1.2 and 5.1.4).
const MESSAGES: &str = r#"
dev=/sys/bus/pci/devices/0000:00:02.0
echo 1 > $dev/enable
byte() { hexdump -s $1 -n 1 -e '1/1 "%u"' $dev/config; }
put() { printf "$2" | dd of=$dev/config bs=1 seek=$(($1)) conv=notrunc 2>/dev/null; }
put 4 '\006\000'
cap=$(byte 52)
while [ $(byte $cap) != 5 ]; do cap=$(byte $((cap + 1))); done
bar=$(head -n 1 $dev/resource | cut -d' ' -f1)
register() { devmem $(printf '0x%x' $((bar + $1))) 32 $2; }
raise() { register 0x60 1; register 0x64 1; }
put 'cap + 4' '\060\144\350\376\000\000\000\000\000\000'
put 'cap + 2' '\001\000'
raise
await "dmesg | grep -q 'DMAR: .INTR-REMAP.* 0x22.'"
put 'cap + 4' '\000\000\340\376\000\000\000\000\101\000'
raise
await "dmesg | grep -q 'DMAR: .INTR-REMAP.* 0x25.'"
dmesg | grep -o 'DMAR: \[.*' | while read line; do key fault "$line"; done
grep dmar0 /proc/interrupts | while read number count rest; do key interrupts $count; done
"#;

/// Messages of its devices that its table does not allow are in the guest's own fault records, and its own driver prints them, under
/// the guest's own source ID. Nobody gets an interrupt by them, and they are no faults against the partition.
pub fn tells_of_messages_that_its_table_refuses(context: &Context) -> Result<()> {
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(context, "initrd.cpio", &linux, &[], MESSAGES)?;
    let text = partition("linux", "[0]", "intel_iommu=on", &["00:02.0", "00:03.0"]);
    let (mut machine, _) = with_disks(context, &text, &["02.0"])?;
    machine.devices.push(EDU.to_owned());
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let printed = answers(&console, "linux", "fault");
    let told = [("0x4321", "0x22"), ("0x0", "0x25")].map(|(index, reason)| {
        format!(
            "DMAR: [INTR-REMAP] Request device [00:02.0] fault index {index} [fault reason {reason}]"
        )
    });
    let same = printed.iter().zip(&told);
    ensure!(
        printed.len() == told.len() && same.into_iter().all(|(line, told)| line.starts_with(told)),
        "{printed:#?}"
    );
    ensure!(answer(&console, "linux", "interrupts")? == "2");
    let own = lines::hypervisor(&console, "linux: its vtd0: ")?;
    ensure!(
        own.contains(" 2 events: 2 delivered, 0 pending, 0 dropped, 2 interrupts"),
        "{own}"
    );
    for who in ["linux", "nobody"] {
        ensure!(lines::summary(&console, who)?.0 == 0, "{who}");
    }
    context.note(own);
    Ok(())
}

/// It starts again and again with commands of its disk on their way, in turns with and without a word to its drivers: each life
/// drives its unit from reset, the disk is as it was, and what the hypervisor has of it is as much as after the first life.
pub fn restarts_leave_nothing_over(context: &Context) -> Result<()> {
    const LIVES: usize = 4;
    let script = AGAIN
        .replace("LIVES", &LIVES.to_string())
        .replace("event 0x", "DMAR: \\[");
    let linux = linux::linux(Arch::X86_64)?;
    initial_disk_of(context, "initrd.cpio", &linux, &[], &script)?;
    let one = partition("linux", "[0, 1]", "intel_iommu=on loglevel=4", &["00:02.0"]);
    let (mut machine, given) = with_disks(context, &one, &["02.0"])?;
    slow_down(&mut machine);
    let mut guest = context.start_for(&machine, 3 * RUN_LIMIT)?;
    guest.wait_off(3 * RUN_LIMIT)?;
    let console = guest.console();
    let starts = answers(&console, "linux", "start");
    let expected: Vec<String> = (0..=LIVES).map(|life| life.to_string()).collect();
    ensure!(starts == expected, "{starts:?}");
    ensure!(answers(&console, "linux", "faults") == ["0"]);
    ensure!(answer(&console, "linux", "read")? == sha256(&given[0])?);
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    lines::hypervisor(&console, "linux: stopped")?;
    let left = lines::left(&console, "linux", LIVES)?;
    context.note(&format!("after each of {LIVES} lives: {left}"));
    Ok(())
}
