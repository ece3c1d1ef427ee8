//! A CD, or a USB stick, that starts the hypervisor for x86_64: by a BIOS through GRUB and Multiboot2, by UEFI as an application.

use crate::project;
use crate::setup::kit::{self, Tool};
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// What GRUB does, with the modules that this takes: there is nothing to choose.
const SCRIPT: &str = "multiboot2 /boot/sluice\nboot\n";
const MODULES: [&str; 4] = ["biosdisk", "iso9660", "multiboot2", "acpi"];
/// Bytes of a sector, and what a file system needs for itself.
const SECTOR: usize = 512;
const OVERHEAD: usize = 1 << 20;

/// Makes a CD of `program` and the `application` that it is to UEFI, in `folder`, as `output`.
pub fn make(program: &[u8], application: &[u8], folder: &Path, output: &Path) -> Result<()> {
    let grub = kit::grub()?;
    let tree = folder.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot clear {}", tree.display()))?;
    }
    fs::create_dir_all(tree.join("boot"))?;
    project::write(&tree.join("boot/sluice"), program)?;

    let script = folder.join("grub.cfg");
    project::write(&script, SCRIPT.as_bytes())?;
    let mut words = words(["-O", "i386-pc-eltorito", "-p", "/boot/grub", "-d"]);
    words.extend([
        grub.modules.clone().into(),
        "-c".into(),
        script.into(),
        "-o".into(),
    ]);
    words.push(tree.join("boot/grub.img").into());
    words.extend(MODULES.map(OsString::from));
    run(&grub.make_image, words)?;

    let fat = tree.join("boot/efi.img");
    let file = folder.join("bootx64.efi");
    project::write(&file, application)?;
    let sectors = (application.len() + application.len() / 64 + OVERHEAD) / SECTOR;
    let on_fat = |name: &str, first: &[&str], last: &[&str]| {
        let mut words = vec![OsString::from("-i"), fat.clone().into()];
        words.extend(first.iter().map(OsString::from));
        words.extend(last.iter().map(OsString::from));
        run(&grub.mtools(name)?, words)
    };
    let file = file.to_string_lossy();
    on_fat("mformat", &["-C", "-T", &sectors.to_string()], &["::"])?;
    on_fat("mmd", &[], &["::EFI", "::EFI/BOOT"])?;
    on_fat("mcopy", &[&file], &["::EFI/BOOT/BOOTX64.EFI"])?;

    let mut words = self::words(["-as", "mkisofs", "-R", "-V", "SLUICE", "-o"]);
    words.push(output.into());
    words.extend(self::words([
        "-b",
        "boot/grub.img",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
        "-boot-info-table",
        "--grub2-boot-info",
        "--grub2-mbr",
    ]));
    words.push(grub.modules.join("boot_hybrid.img").into());
    words.extend(self::words([
        "-eltorito-alt-boot",
        "-e",
        "boot/efi.img",
        "-no-emul-boot",
        "-isohybrid-gpt-basdat",
    ]));
    words.push(tree.into());
    run(&grub.xorriso, words)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

fn run(tool: &Tool, args: Vec<OsString>) -> Result<()> {
    let out = tool.command().args(args).output();
    let out = out.with_context(|| format!("cannot run {}", tool.program()))?;
    ensure!(
        out.status.success(),
        "{}: {}{}",
        tool.program(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
