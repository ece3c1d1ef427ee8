//! The hypervisor on x86_64, started by firmware from a medium: SeaBIOS and GRUB, and EDK2.

use super::{Context, TWO, packed, two_run};
use crate::qemu::{Boot, Machine};
use crate::setup::kit;
use crate::tasks::image::{self, Format};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::PathBuf;

/// SeaBIOS, as QEMU finds it.
const BIOS: &str = "bios-256k.bin";

/// The image of `machine` as a file of another format, on `device` before firmware `bios`.
fn by_firmware(machine: &mut Machine, format: Format, bios: PathBuf, device: &str) -> Result<()> {
    let Boot::Kernel { image, .. } = &machine.boot else {
        bail!("it is started by firmware already");
    };
    let path = image::reshape(image, format, None)?;
    let drive = match format {
        // A folder, of which QEMU makes a file system.
        Format::Efi => {
            let root = path.with_extension("esp");
            fs::create_dir_all(root.join("EFI/BOOT"))?;
            fs::rename(&path, root.join("EFI/BOOT/BOOTX64.EFI"))?;
            format!("file=fat:{}", root.display())
        }
        _ => format!("file={}", path.display()),
    };
    machine
        .drives
        .push(format!("if=none,id=boot,format=raw,snapshot=on,{drive}"));
    machine.devices.push(format!("{device},drive=boot"));
    machine.boot = Boot::Firmware {
        bios,
        files: Vec::new(),
    };
    Ok(())
}

/// `machine` started by EDK2, as its application on a disk.
pub fn by_uefi(machine: &mut Machine) -> Result<()> {
    by_firmware(machine, Format::Efi, kit::ovmf()?, "ide-hd")
}

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
