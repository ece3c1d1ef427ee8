//! Guests whose first stages are of other pages than the second: 16 KiB by Debian's kernel for such pages, 16 and 64 KiB by
//! a small guest. Debian has no kernel with 64 KiB.
//!
//! QEMU translates the address of a first-stage table once, not page by page, and takes what lies behind it in the
//! machine's memory for the rest of the table. A partition's memory is one range there, so that is right; and copies of
//! contexts fill whole pages of the largest size (`kernel::viommu`).

use super::disk::{ALL, DISK, DOMAIN, OTHER, all_right};
use super::trace::{self, Counts, Trace};
use super::{
    Context, EDU, Layout, Linux, MIB, RUN_LIMIT, Result, Small, answer, disk, ensure, lines, random,
};
use crate::cases::linux::{initial_disk, initial_disk_of};
use crate::setup::linux::{self, Pages};
use std::collections::BTreeSet;

const PAGES: &str =
    "key pages $(grep -m 1 KernelPageSize /proc/self/smaps | tr -d ' ' | cut -d: -f2)\n";

/// Two guests at once with equal StreamIDs, one of them with pages of 4 KiB, the other of 16 KiB, as QEMU's trace has it: each
/// reads, writes and checks 256 MiB, under a VMID of its own, with as many commands as Sluice counts.
pub fn page_sizes_of_guests_may_differ(context: &Context) -> Result<()> {
    let (given, other) = (random(256 * MIB)?, random(256 * MIB)?);
    let given_image = disk(context, "disk.img", &given, 512 * MIB)?;
    let other_image = disk(context, "other.img", &other, 512 * MIB)?;
    let script = format!("{DOMAIN}{PAGES}{ALL}");
    initial_disk(context, &script)?;
    let sixteen = linux::linux_of(Pages::Sixteen)?;
    initial_disk_of(context, "sixteen.cpio", &sixteen, &[], &script)?;
    let small = Linux {
        name: "small",
        functions: &["00:02.0"],
        ..Linux::default()
    };
    let large = Linux {
        name: "large",
        cpus: &[1],
        kernel: "debian:kernel-16k",
        initrd: "sixteen.cpio",
        functions: &["00:03.0"],
        ..Linux::default()
    };
    let layout = Layout::new(&[DISK, OTHER]).linux(&small).linux(&large);
    let mut machine = context.pack(&layout.text())?;
    machine.trace = trace::EVENTS.map(str::to_owned).to_vec();
    machine.trace.push("smmuv3_decode_cd_tt".into());
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    all_right(&console, "small", &given, &given_image)?;
    all_right(&console, "large", &other, &other_image)?;
    ensure!(answer(&console, "small", "pages")? == "4kB");
    ensure!(answer(&console, "large", "pages")? == "16kB");
    let text = guest.trace()?;
    let granules = granules(&text);
    ensure!(granules.iter().eq(&["12", "14"]), "{granules:?}");
    let trace = Trace::parse(&text)?;
    trace.separates(&[0x10, 0x18])?;
    context.note(&trace.agrees(&console, &["small", "large"], &[])?);
    Ok(())
}

/// A small guest drives its SMMU with each granule in turn, in every table far behind its first 4 KiB, and `edu` behind it.
/// What its DMA may not do is in its own event queue, in Sluice's counts and in QEMU's trace.
pub fn every_granule_translates(context: &Context) -> Result<()> {
    const GUEST: &str = "smmu_granules";
    let layout = Layout::new(&[EDU]).small(&Small {
        payload: GUEST,
        function: Some("00:03.0"),
        ..Small::default()
    });
    let mut machine = context.pack(&layout.text())?;
    machine.trace = trace::EVENTS.map(str::to_owned).to_vec();
    machine.trace.push("smmuv3_decode_cd_tt".into());
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    lines::passed(&console, GUEST)?;
    let text = guest.trace()?;
    ensure!(granules(&text).iter().eq(&["12", "14", "16"]));
    let trace = Trace::parse(&text)?;
    context.note(&trace.agrees(&console, &[GUEST], &[])?);
    // Three with each granule, and a storm of 512 and one more, of which the guest has read so many.
    let read = lines::behind(&console, GUEST, "read: ")?;
    let read = lines::number(read)?;
    let own = Counts::of(&console, GUEST)?;
    ensure!(
        trace.events.iter().eq([(&0x18, &(9 + 512 + 1))])
            && own.get("delivered")? == 9 + read
            && own.get("dropped")? == 513 - read
            && read < 513,
        "{:x?}, of which {read} and 9 were read: {own:?}",
        trace.events
    );
    Ok(())
}

/// What the SMMU itself has found in contexts, log2.
fn granules(trace: &str) -> BTreeSet<&str> {
    let found = trace
        .lines()
        .filter_map(|line| line.split_once("granule_sz:")?.1.split(' ').next());
    found.collect()
}
