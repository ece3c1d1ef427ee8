//! A Linux that starts again and again with DMA of its disk on its way.

use super::disk::DISK;
use super::trace::{self, Trace};
use super::{
    Context, Layout, Linux, MIB, Result, answer, answers, disk, ensure, lines, random, sha256,
};
use crate::qemu::Machine;
use std::collections::BTreeSet;
use std::time::Duration;

/// Starts again in the middle of reads and writes, which the count on the disk tells from the last time. In turns nobody
/// ends what is on its way (`b`: at once, without a word to any driver), and Linux does.
pub const AGAIN: &str = "
count=$(dd if=$disk bs=4k skip=20480 count=1 iflag=direct 2>/dev/null | head -c 3)
key start $((count))
key faults $(dmesg | grep -c 'event 0x')
if [ $((count)) -lt LIVES ]; then
  printf '%-3d' $((count + 1)) | dd of=$disk bs=4k seek=20480 conv=fsync 2>/dev/null
  for from in 0 16 32 48; do
    while :; do dd if=$disk of=/dev/null bs=1M count=16 skip=$from iflag=direct 2>/dev/null; done &
  done
  while :; do dd if=/dev/zero of=$disk bs=1M seek=88 count=8 oflag=direct 2>/dev/null; done &
  await 'grep -q [1-9] /sys/block/nvme0n1/inflight'
  if [ $((count % 2)) = 0 ]; then echo b > /proc/sysrq-trigger; else reboot -f; fi
fi
key read $(part 0 64 | sum)
";

/// Of what a disk with DMA always on its way does, with all that QEMU does for its interrupts.
const EVENTS: [&str; 5] = [
    "pci_nvme_io_cmd",
    "pci_nvme_enqueue_req_completion",
    "pci_nvme_pci_reset",
    "gicv3_its_cmd_mapti",
    "gicv3_its_cmd_discard",
];

/// What Linux may leave out or undone on its way up, none of which is about devices: in TCG that is half of its way.
const QUICK: &str = "loglevel=4 cma=0 cryptomgr.notests rodata=off mitigations=off init_on_alloc=0 arm64.nopauth \
    initcall_blacklist=jent_mod_init,load_system_certificate_list,init_encrypted";

/// A hundred: some on two CPUs, which both have DMA on its way, and most on one, where QEMU does not have to stop another
/// CPU for each line of code that Linux changes on its way up.
pub fn a_hundred_restarts_leave_nothing_over(context: &Context) -> Result<()> {
    restarts(context, &[0, 1], 10)?;
    restarts(context, &[0], 90)
}

/// The guest starts again with DMA on its way: each life drives its SMMU from reset, the disk is as it was, no fault is left
/// for anybody, and whatever the hypervisor has of it is as much as after the first life.
fn restarts(context: &Context, cpus: &[u16], lives: usize) -> Result<()> {
    let given = random(64 * MIB)?;
    let mut whole = given.clone();
    whole.resize(80 * MIB, 0);
    whole.push(b'0');
    disk(context, "disk.img", &whole, 96 * MIB)?;
    crate::cases::linux::initial_disk(context, &AGAIN.replace("LIVES", &lives.to_string()))?;
    let mut machine = context.pack(&layout(cpus))?;
    machine.cpus = cpus.len() as u16;
    slow_down(&mut machine);
    let events = trace::EVENTS.iter().chain(&EVENTS);
    machine.trace = events.map(|event| (*event).to_owned()).collect();
    let limit = Duration::from_secs(200 + 40 * lives as u64);
    let mut guest = context.start_for(&machine, limit)?;
    guest.wait_off(limit)?;

    let console = guest.console();
    let starts = answers(&console, "linux", "start");
    let expected: Vec<String> = (0..=lives).map(|life| life.to_string()).collect();
    ensure!(starts == expected, "{starts:?}");
    ensure!(answers(&console, "linux", "faults") == ["0"]);
    ensure!(answer(&console, "linux", "read")? == sha256(&given)?);
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    lines::hypervisor(&console, "linux: stopped")?;
    let left = lines::left(&console, "linux", lives)?;

    let text = guest.trace()?;
    let trace = Trace::parse(&text)?;
    trace.separates(&[0x10])?;
    context.note(&trace.agrees(&console, &["linux"], &[])?);
    let interrupted = cut_short(&text, lives)?;
    ensure!(
        interrupted.len() * 4 >= lives,
        "commands of the disk were on their way in {} of {lives} lives only",
        interrupted.len()
    );
    context.note(&format!(
        "after each of {lives} lives on {cpus:?}: {left}; {} of them ended with {} of the disk's commands on their way",
        interrupted.len(),
        interrupted.iter().sum::<usize>()
    ));
    Ok(())
}

/// One guest on `cpus` with the disk.
fn layout(cpus: &[u16]) -> String {
    let linux = Linux {
        cpus,
        memory: "128M",
        cmdline: QUICK,
        functions: &["00:02.0"],
        ..Linux::default()
    };
    Layout::new(&[DISK]).linux(&linux).text()
}

/// Its disk takes 16 MiB a second: what is asked for takes longer than the way to the end of a life.
pub fn slow_down(machine: &mut Machine) {
    for (id, path) in std::mem::take(&mut machine.disks) {
        machine.drives.push(format!(
            "if=none,format=raw,id={id},throttling.bps-total={},file={}",
            16 * MIB,
            path.display().to_string().replace(',', ",,")
        ));
    }
}

/// The numbers of commands that the disk had not completed when a life ended, where it had some. QEMU resets the disk once,
/// then the hypervisor does before and after each life: before one, nothing is on its way, and no message is mapped.
fn cut_short(trace: &str, lives: usize) -> Result<Vec<usize>> {
    let (mut on_their_way, mut resets) = (0, 0);
    let mut mapped = BTreeSet::new();
    let mut interrupted = Vec::new();
    for line in trace.lines() {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        match name {
            "pci_nvme_io_cmd" => on_their_way += 1,
            "pci_nvme_enqueue_req_completion" if !rest.contains(" cqid 0 ") => on_their_way -= 1,
            "gicv3_its_cmd_mapti" | "gicv3_its_cmd_discard" => {
                let event = rest.split(" EventID ").nth(1).unwrap_or_default();
                let event = lines::number(event)?;
                if name.ends_with("mapti") {
                    mapped.insert(event);
                } else {
                    mapped.remove(&event);
                }
            }
            "pci_nvme_pci_reset" => {
                resets += 1;
                if resets > 1 && resets % 2 == 1 {
                    interrupted.push(on_their_way);
                } else {
                    ensure!(
                        on_their_way == 0 && mapped.is_empty(),
                        "life {} starts with {on_their_way} commands on their way and messages {mapped:?}",
                        resets / 2
                    );
                }
            }
            _ => {}
        }
    }
    ensure!(
        resets == 2 * (lives + 1) + 1 && mapped.is_empty(),
        "{resets} resets of the disk; messages at the end: {mapped:?}"
    );
    interrupted.retain(|&commands| commands > 0);
    Ok(interrupted)
}

#[cfg(test)]
mod tests {
    use super::cut_short;

    const RESET: &str = "pci_nvme_pci_reset PCI Function Level Reset\n";
    const COMMAND: &str =
        "pci_nvme_io_cmd cid 1 nsid 0x1 sqid 1 opc 0x2 opname 'NVME_NVM_CMD_READ'\n";
    const DONE: &str = "pci_nvme_enqueue_req_completion cid 1 cqid 1 dw0 0x0 dw1 0x0 status 0x0\n";
    const MAPPED: &str = "gicv3_its_cmd_mapti GICv3 ITS: command MAPTI DeviceID 0x10 EventID 0x0 ICID 0x0 pINTID 0x2000\n";
    const UNMAPPED: &str =
        "gicv3_its_cmd_discard GICv3 ITS: command DISCARD DeviceID 0x10 EventID 0x0\n";

    #[test]
    fn what_is_on_its_way_is_counted_where_a_life_ends() {
        let life = [RESET, MAPPED, COMMAND, COMMAND, DONE, RESET, DONE, UNMAPPED].concat();
        let quiet = [RESET, COMMAND, DONE, RESET].concat();
        let trace = [RESET, &life, &quiet, &life].concat();
        assert_eq!(cut_short(&trace, 2).unwrap(), [1, 1]);
        assert!(cut_short(&trace, 1).is_err());
    }

    #[test]
    fn what_is_left_over_is_seen() {
        for (what, undone) in [("command", DONE), ("message", UNMAPPED)] {
            let life = [RESET, MAPPED, COMMAND, RESET, DONE, UNMAPPED].concat();
            let trace = [RESET, &life.replace(undone, ""), &life].concat();
            assert!(cut_short(&trace, 1).is_err(), "{what}");
        }
    }
}
