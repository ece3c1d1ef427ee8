//! An image on a medium from which a PC's firmware starts it.

use super::image::{self, Format};
use crate::qemu::{Boot, Machine};
use crate::setup::kit;
use anyhow::{Result, bail};
use std::fs;
use std::path::PathBuf;

/// The image of `machine` as a file of another format, on `device` before firmware `bios`.
pub fn by_firmware(
    machine: &mut Machine,
    format: Format,
    bios: PathBuf,
    device: &str,
) -> Result<()> {
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
