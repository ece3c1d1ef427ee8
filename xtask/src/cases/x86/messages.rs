//! Messages of devices: remapped by VT-d where it can, and nobody's where it cannot.

use super::packed;
use crate::cases::{Context, lines};
use anyhow::{Result, ensure};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

/// Two partitions with a device each that interrupts by messages. One then has its device write to 0xFEEx_xxxx what would be
/// interrupts of the hypervisor, or of nobody: no guest takes one, and those that name an entry are recorded.
///
/// QEMU takes writes of a device that are not its MSI as nobody's (source 0xffff), so that they pass any entry that is there,
/// and does not block the compatibility format: that these are refused as well is for the model (`iommu/tests/vtd.rs`).
fn arrive(context: &Context, cpu: &str, vtd: &'static str) -> Result<()> {
    let text = "[machine]\nname = 'messages'\n\
        [[partition]]\nname = 'forger'\nmemory = '32M'\ncpus = [0]\n\
        payload = 'edu_interrupts'\ncmdline = 'forge'\n\
        [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n\
        [[partition]]\nname = 'victim'\nmemory = '32M'\ncpus = [1]\n\
        payload = 'edu_interrupts'\ncmdline = 'wait=9000'\n\
        [[partition.device]]\naddress = '00:03.0'\nreset = 'best-effort'\n";
    let mut machine = packed(context, text)?;
    let edu = |device| format!("edu,addr={device}.0,dma_mask=0xffffffffffffffff");
    machine.devices = [edu("02"), edu("03")].into();
    machine.cpus = 3;
    machine.cpu = cpu.into();
    machine.vtd = vtd;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "forger")?;
    lines::passed(&console, "victim")?;
    let (faults, _) = lines::summary(&console, "nobody")?;
    ensure!(faults == 6, "{faults} faults: {console}");
    ensure!(console.contains("dma fault: vtd0 source 0xffff (no device) access: event 0x22"));
    ensure!(lines::summary(&console, "victim")?.0 == 0);
    context.note(&format!("{faults} faults recorded"));
    Ok(())
}

pub fn arrive_where_they_may(context: &Context) -> Result<()> {
    arrive(context, "max", "")
}

/// Its CPUs have no x2APIC: destinations of messages have 8 bits, and interrupts between CPUs go by pages of registers.
pub fn arrive_by_xapic(context: &Context) -> Result<()> {
    arrive(context, "max,-x2apic", "")
}

/// Its unit has no destinations of 32 bits: the CPUs, which could have them, stay in xAPIC mode.
pub fn arrive_at_narrow_destinations(context: &Context) -> Result<()> {
    arrive(context, "max", ",eim=off")
}

/// A unit that does not remap interrupts: a device behind it could raise any of them, so that nobody gets one. Who wants none
/// runs, and the console hears.
pub fn without_remapping_no_function_is_given(context: &Context) -> Result<()> {
    only_who_needs_none(
        context,
        ",intremap=off,eim=off",
        200,
        &[
            "vtd0: firmware rules interrupt remapping out: nobody can have a function behind it",
            "refused: cannot start: 0000:00:02.0 is behind an IOMMU that cannot be used",
        ],
    )
}

/// A unit that cannot be driven at all: it goes on to refuse everything, and who wants nothing of it runs.
pub fn without_a_unit_no_function_is_given(context: &Context) -> Result<()> {
    only_who_needs_none(
        context,
        ",caching-mode=on",
        5,
        &[
            "vt-d unit at 0xfed90000: caching mode or write buffers: CAP ",
            "the console has no input: its VT-d unit is not used",
            "refused: cannot start: 0000:00:02.0 is behind an IOMMU that cannot be used",
        ],
    )
}

/// Of two partitions on a machine with this unit the one with a function is refused, with these lines. The other one ends after
/// so many seconds, unless it hears.
fn only_who_needs_none(
    context: &Context,
    vtd: &'static str,
    seconds: u32,
    said: &[&str],
) -> Result<()> {
    let text = format!(
        "[machine]\nname = 'unremapped'\n\
        [[partition]]\nname = 'refused'\nmemory = '16M'\ncpus = [0]\npayload = 'hello'\n\
        [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n\
        [[partition]]\nname = 'canary'\nmemory = '16M'\ncpus = [1]\n\
        payload = 'canary'\ncmdline = 'silent seconds={seconds}'\n"
    );
    let mut machine = packed(context, &text)?;
    machine.vtd = vtd;
    machine.devices = ["edu,addr=02.0".to_owned()].into();
    let mut guest = context.start(&machine)?;
    guest.wait_line("[canary] watching", LIMIT)?;
    guest.send(".")?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    for &line in said.iter().chain(&["canary: stopped"]) {
        let mut all = lines::of(&console, "sluice");
        ensure!(
            all.any(|it| it.starts_with(line)),
            "no `{line}` in: {console}"
        );
    }
    lines::passed(&console, "canary")
}
