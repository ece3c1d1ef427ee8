//! A guest's store whose address the hypervisor has to look up in the guest's own tables, where memory does not answer.

use super::layout::{Layout, Small};
use super::{Case, Context, case, lines};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::time::Duration;

pub const CASES: &[Case] = &[case(
    "walk::memory_that_does_not_answer_is_the_guest_s",
    memory_that_does_not_answer_is_the_guest_s,
)];

const LIMIT: Duration = Duration::from_secs(60);
/// AT S1E1R (DDI 0487, C5.4.8) with its register in the low bits.
const LOOK_UP: u32 = 0xd508_7800;
const REGISTER: u32 = 0x1f;
/// UDF #0 (C6.2): a synchronous exception at EL2, as an external abort on the walk of AT is. QEMU's memory answers always.
const UNDEFINED: u32 = 0;
/// ESR_EL1 (D24.2.45): a data abort of EL1's own, an external one, of a store of a 32-bit instruction.
const EXTERNAL_ABORT: u64 = 0x25 << 26 | 1 << 25 | 1 << 6 | 0x10;

const GUEST: &str = "smmu_poke";

/// The guest stores three times to what it can only read, so that the hypervisor looks its address up. For the second time
/// the look-up ends in an exception of the hypervisor's own: that is an external abort of the guest's store, and all goes on.
fn memory_that_does_not_answer_is_the_guest_s(context: &Context) -> Result<()> {
    let layout = Layout::of_small(&["edu,addr=02.0"]).small(&Small {
        payload: GUEST,
        cmdline: "times=3",
        function: Some("00:02.0"),
        ..Small::default()
    });
    let mut machine = context.pack(&layout.text())?;
    machine.halted = true;
    let mut guest = context.start(&machine)?;
    let mut debugger = guest.debugger()?;
    debugger.go()?;
    guest.wait_line("[smmu_poke] waits=1;", LIMIT)?;
    let console = guest.console();
    let (_, base) = console
        .split_once(" KiB at ")
        .context("the hypervisor does not say where it is")?;
    let address = lines::number(base)? + look_up(context)?;
    guest.send(".")?;
    guest.wait_line("[smmu_poke] waits=2;", LIMIT)?;
    debugger.halt()?;
    let word = debugger.read32(address)?;
    ensure!(word & !REGISTER == LOOK_UP, "{word:#x} at {address:#x}");
    debugger.write32(address, UNDEFINED)?;
    debugger.go()?;
    guest.send(".")?;
    guest.wait_line("[smmu_poke] waits=3;", LIMIT)?;
    debugger.halt()?;
    debugger.write32(address, word)?;
    debugger.go()?;
    guest.send(".")?;
    guest.wait_off(LIMIT)?;

    let console = guest.console();
    lines::passed(&console, GUEST)?;
    // One after the other: the first and the last are taken.
    let syndromes = lines::answers(&console, GUEST, "syndrome");
    let aborted = format!("{EXTERNAL_ABORT:#x}");
    ensure!(syndromes == ["0x0", &aborted, "0x0"], "{syndromes:?}");
    let (faults, refused) = lines::summary(&console, GUEST)?;
    ensure!((faults, refused) == (0, 1), "{faults} {refused}");
    Ok(())
}

/// Where the hypervisor's image, which is linked at 0, has the only instruction of this kind.
fn look_up(context: &Context) -> Result<u64> {
    let image = fs::read(context.hypervisor()?.flat)?;
    let (words, _) = image.as_chunks::<4>();
    let mut found = (0..)
        .step_by(4)
        .zip(words)
        .filter(|(_, word)| u32::from_le_bytes(**word) & !REGISTER == LOOK_UP);
    let (offset, _) = found.next().context("the image has no AT S1E1R")?;
    ensure!(found.next().is_none(), "the image has it twice");
    Ok(offset)
}
