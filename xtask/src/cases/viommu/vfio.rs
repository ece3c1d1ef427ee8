//! VFIO inside a guest: a program of the guest's drives a device, behind the guest's SMMU.

use super::disk::DISK;
use super::trace::{self, Counts, Trace};
use super::{
    Context, EDU, Layout, Linux, MIB, RUN_LIMIT, Result, answer, answers, disk, ensure, lines,
    random, sha256,
};
use crate::cases::linux::initial_disk_of;
use crate::setup::linux::{self, Pages};
use crate::tasks::build;
use anyhow::Context as _;

/// The machine's stream of `edu`, which is the guest's 00:02.0.
const STREAM: u64 = 0x18;

/// The program's own lines, then the guest's kernel's on each event: its four words.
const SCRIPT: &str = r#"
vfio_edu 0000:00:02.0
key driver "$(basename $(readlink /sys/bus/pci/devices/0000:00:02.0/driver))"
key disk $(part 0 1 | sum)
dmesg | grep -A4 'event 0x.. received' | grep -o '0x[0-9a-f]\{16\}' | while read first; do
  read second; read address; read last
  key event "$first $second $address"
done
"#;

/// A program takes `edu` through vfio-pci and maps memory for it: DMA goes there and nowhere else. Each stray write is an
/// event of the guest's, under its own StreamID, in its kernel's log, in Sluice's counts and in QEMU's trace alike.
pub fn a_program_drives_a_device(context: &Context) -> Result<()> {
    drives(context, Pages::Four, "debian:kernel")
}

/// The same on a kernel with pages of 16 KiB.
pub fn a_program_drives_a_device_by_16_kib(context: &Context) -> Result<()> {
    drives(context, Pages::Sixteen, "debian:kernel-16k")
}

fn drives(context: &Context, pages: Pages, kernel: &str) -> Result<()> {
    let given = random(MIB)?;
    disk(context, "disk.img", &given, MIB)?;
    let programs = build::linux_payloads()?;
    let program = programs.iter().find(|program| program.name == "vfio_edu");
    let program = program.context("no program `vfio_edu`")?;
    let linux = linux::linux_of(pages)?;
    ensure!(!linux.vfio.is_empty(), "the kernel has no modules of VFIO");
    let programs = [("vfio_edu", program.elf.as_path())];
    initial_disk_of(context, "initrd.cpio", &linux, &programs, SCRIPT)?;
    let guest = Linux {
        kernel,
        functions: &["00:02.0", "00:03.0"],
        unresettable: &["00:03.0"],
        ..Linux::default()
    };
    let layout = Layout::new(&[DISK, EDU]).linux(&guest).canary(1);
    let mut machine = context.pack(&layout.text())?;
    machine.trace = trace::EVENTS.map(str::to_owned).to_vec();
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "linux")?;
    lines::passed(&console, "canary")?;
    ensure!(answer(&console, "linux", "driver")? == "vfio-pci");
    ensure!(answer(&console, "linux", "disk")? == sha256(&given)?);

    // F_TRANSLATION twice, F_PERMISSION (IHI 0070, 7.3.13 and 7.3.16), StreamID 0x10; writes, of stage 1.
    let strays = lines::behind(&console, "linux", "stray writes: ")?;
    let strays: Vec<u64> = strays
        .split_whitespace()
        .map(lines::number)
        .collect::<Result<_>>()?;
    let told = events(&console)?;
    let expected: Vec<_> = [0x10, 0x10, 0x13].into_iter().zip(strays).collect();
    ensure!(told == expected, "{told:x?}, expected {expected:x?}");

    let trace = Trace::parse(&guest.trace()?)?;
    context.note(&trace.agrees(&console, &["linux"], &["canary"])?);
    ensure!(
        trace.events.iter().eq([(&STREAM, &3)]),
        "{:x?}",
        trace.events
    );
    ensure!(Counts::of(&console, "linux")?.get("delivered")? == 3);
    for who in ["linux", "canary"] {
        ensure!(lines::summary(&console, who)? == (0, 0), "{who}");
    }
    Ok(())
}

/// Kind and address of each event in the guest's log; all have to be writes of its stream 0x10 that stage 1 refused.
fn events(console: &str) -> Result<Vec<(u64, u64)>> {
    let mut events = Vec::new();
    for line in answers(console, "linux", "event") {
        let words = line.split_whitespace().map(lines::number);
        let [first, second, address] = words.collect::<Result<Vec<_>>>()?[..] else {
            anyhow::bail!("an event of other words: {line}");
        };
        ensure!(first >> 32 == 0x10, "an event of stream {:#x}", first >> 32);
        ensure!(
            second >> 35 & 1 == 0 && second >> 39 & 1 == 0,
            "a read, or of stage 2: {second:#x}"
        );
        events.push((first & 0xff, address));
    }
    Ok(events)
}
