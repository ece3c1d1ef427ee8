//! The hypervisor on x86_64, started by firmware from a medium: SeaBIOS and GRUB, and EDK2.

use super::{Context, TWO, packed, two_run};
use crate::setup::kit;
use crate::tasks::image::Format;
use crate::tasks::medium::{by_firmware, by_uefi};
use anyhow::{Context as _, Result};

/// SeaBIOS, as QEMU finds it.
const BIOS: &str = "bios-256k.bin";

/// From a CD by SeaBIOS and GRUB: Multiboot2.
pub fn boots_through_grub(context: &Context) -> Result<()> {
    let mut machine = packed(context, TWO)?;
    by_firmware(&mut machine, Format::Iso, BIOS.into(), "ide-cd")?;
    let console = two_run(context, machine)?;
    say_where(context, &console)
}

/// As an application of EDK2, from a disk.
pub fn boots_through_uefi(context: &Context) -> Result<()> {
    let mut machine = packed(context, TWO)?;
    by_uefi(&mut machine)?;
    let console = two_run(context, machine)?;
    say_where(context, &console)
}

/// The same CD as by GRUB, as a USB stick would be: a disk with a partition of UEFI's.
pub fn boots_from_a_cd_by_uefi(context: &Context) -> Result<()> {
    let mut machine = packed(context, TWO)?;
    by_firmware(&mut machine, Format::Iso, kit::ovmf()?, "ide-hd")?;
    let console = two_run(context, machine)?;
    say_where(context, &console)
}

fn say_where(context: &Context, console: &str) -> Result<()> {
    let line = console.lines().find(|line| line.contains("on x86_64, "));
    context.note(line.context("it does not say where it is")?);
    Ok(())
}
