//! `cargo xtask image`: hypervisor, configuration and guests in one bootable file: an arm64 `Image` for QEMU, U-Boot or
//! a board; on x86_64 an ELF program, an application of UEFI, or a CD.

use super::build::{self, Profile, Program};
use super::check::checked;
use super::{Outcome, cd, program};
use crate::arch::Arch;
use crate::config::files::{self, DEBIAN_KERNEL, DEBIAN_KERNEL_16K, DEBIAN_SHELL};
use crate::config::{Checked, Made};
use crate::initrd::{self, Init};
use crate::project;
use crate::setup::linux::{self, Pages};
use crate::symbols;
use anyhow::{Context, Result, anyhow, ensure};
use kernel::bundle::{Builder, FILE_ALIGN, MAX_NAME};
use kernel::config::{ImageHeader, Machine};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub struct Image {
    /// The configuration.
    config: PathBuf,
    /// The file to write; `target/images/NAME.img` if absent.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Build without optimisation.
    #[arg(long)]
    debug: bool,
    /// The machine.
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Who starts it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What kind of file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// On AArch64 an `Image`, which UEFI starts too; on x86_64 a program for PVH and Multiboot2.
    #[default]
    Kernel,
    /// An application of UEFI (x86_64).
    Efi,
    /// A CD or USB stick for BIOS and UEFI (x86_64).
    Iso,
}

impl Image {
    /// Writes it and says what is in it.
    pub fn run(self) -> Outcome {
        let profile = match self.debug {
            true => Profile::Debug,
            false => Profile::Release,
        };
        ensure!(
            self.arch == Arch::X86_64 || self.format == Format::Kernel,
            "an `Image` is an application of UEFI as it is: leave --format away"
        );
        // The program is a part of what is made of it.
        let (first, last) = match self.format {
            Format::Kernel => (self.output, None),
            Format::Efi | Format::Iso => (None, self.output),
        };
        let Some(mut packed) = pack(&self.config, first, self.arch, profile)? else {
            return Ok(ExitCode::FAILURE);
        };
        if self.format != Format::Kernel {
            packed.path = reshape(&packed.path, self.format, last)?;
            packed.len = usize::try_from(fs::metadata(&packed.path)?.len())?;
        }
        println!(
            "{}: {} partitions, {} KiB, {} of them the hypervisor in memory",
            packed.path.display(),
            packed.checked.machine.partitions.len(),
            packed.len.div_ceil(1024),
            packed.hypervisor_len.div_ceil(1024)
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// A bootable file.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: usize,
    /// Length of the hypervisor in it, bss and stacks included.
    pub hypervisor_len: usize,
    /// The configuration in it.
    pub checked: Checked,
}

/// Checks the configuration at `config`, builds what it needs and packs it into `output`. `None`: it has problems, and
/// they were printed.
pub fn pack(
    config: &Path,
    output: Option<PathBuf>,
    arch: Arch,
    profile: Profile,
) -> Result<Option<Packed>> {
    let rules = |made: &Made| checked(config, made, arch);
    let Some(first) = rules(&Made::new())? else {
        return Ok(None);
    };
    let made = make(&first.machine, arch, profile)?;
    // Now with what was made: whether it is bootable, and fits.
    let Some(checked) = rules(&made)? else {
        return Ok(None);
    };
    let hypervisor = build::hypervisor(arch, profile)?;
    let bundle = bundle(&checked, &made, arch, &hypervisor)?;
    let start = build::symbol(&hypervisor.elf, "__bundle_start")?
        .checked_sub(build::symbol(&hypervisor.elf, "__image_start")?)
        .context("__bundle_start lies before __image_start")?;
    let hypervisor_len = usize::try_from(start)?;
    let image = match arch {
        Arch::Aarch64 => join(fs::read(&hypervisor.flat)?, hypervisor_len, &bundle)?,
        Arch::X86_64 => program::join(fs::read(&hypervisor.elf)?, &bundle)?,
    };
    let path = match output {
        Some(path) => path,
        None => {
            let dir = project::target().join("images");
            fs::create_dir_all(&dir)?;
            let stem = config.file_stem().context("a configuration has a name")?;
            dir.join(stem).with_added_extension("img")
        }
    };
    project::write(&path, &image)?;
    Ok(Some(Packed {
        path,
        len: image.len(),
        hypervisor_len,
        checked,
    }))
}

/// Makes of the program for x86_64 at `path` a file of another format, `output` or one beside it.
pub fn reshape(path: &Path, format: Format, output: Option<PathBuf>) -> Result<PathBuf> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let beside = |end: &str| output.clone().unwrap_or_else(|| path.with_extension(end));
    match format {
        Format::Kernel => Ok(path.to_owned()),
        Format::Efi => {
            let output = beside("efi");
            project::write(&output, &program::application(&bytes)?)?;
            Ok(output)
        }
        Format::Iso => {
            let output = beside("iso");
            let folder = path.with_extension("cd");
            cd::make(&bytes, &program::application(&bytes)?, &folder, &output)?;
            Ok(output)
        }
    }
}

/// Makes the files of ours that `machine` names.
fn make(machine: &Machine, arch: Arch, profile: Profile) -> Result<Made> {
    let mut made = Made::new();
    let named: BTreeSet<&str> = machine.partitions.iter().flat_map(|p| p.files()).collect();
    let small_guests = machine
        .partitions
        .iter()
        .any(|p| p.files().any(|file| files::is_payload_name(p, file)));
    if small_guests {
        for program in build::payloads(arch, profile)? {
            if arch == Arch::Aarch64 {
                // Says here, with its reason, what the rules would only refuse.
                files::bytes(&program.elf)?;
            }
            made.insert(files::payload(&program.name).to_owned(), program.elf);
        }
    }
    if arch == Arch::Aarch64 && named.contains(DEBIAN_KERNEL_16K) {
        let image = linux::linux_of(Pages::Sixteen)?.image;
        made.insert(DEBIAN_KERNEL_16K.to_owned(), image);
    }
    if named.contains(DEBIAN_KERNEL) || named.contains(DEBIAN_SHELL) {
        let linux = linux::linux(arch)?;
        if named.contains(DEBIAN_SHELL) {
            let dir = project::target().join("images");
            fs::create_dir_all(&dir)?;
            let path = dir.join(format!("shell-{}.cpio", arch.debian()));
            project::write(&path, &initrd::build(&linux, Init::Shell)?)?;
            made.insert(DEBIAN_SHELL.to_owned(), path);
        }
        made.insert(DEBIAN_KERNEL.to_owned(), linux.image);
    }
    Ok(made)
}

/// The bundle: every file once, under the name that the packed configuration gives it.
fn bundle(checked: &Checked, made: &Made, arch: Arch, hypervisor: &Program) -> Result<Vec<u8>> {
    let mut builder = Builder::new();
    let mut machine = checked.machine.clone();
    let names = bundle_names(&machine);
    for partition in &mut machine.partitions {
        let files = [
            &mut partition.kernel,
            &mut partition.payload,
            &mut partition.initrd,
        ];
        for file in files.into_iter().flatten() {
            if let Some(name) = names.get(file) {
                name.clone_into(file);
            }
        }
    }
    let failed = |error| anyhow!("cannot pack: {error:?}");
    builder.config(&machine).map_err(failed)?;
    for (file, name) in &names {
        let path = match made.get(file) {
            Some(path) => path.clone(),
            None => files::on_disk(&checked.folder, file),
        };
        let bytes = match arch {
            Arch::Aarch64 => files::bytes(&path)?,
            // The hypervisor reads ELF programs itself.
            Arch::X86_64 => {
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?
            }
        };
        builder.file(name, bytes).map_err(failed)?;
    }
    builder.symbols(own_symbols(hypervisor)?).map_err(failed)?;
    Ok(builder.finish())
}

/// The hypervisor's functions, by their distance from its first byte.
fn own_symbols(hypervisor: &Program) -> Result<Vec<u8>> {
    let base = u32::try_from(build::symbol(&hypervisor.elf, "__image_start")?)?;
    let symbols = symbols::functions(&hypervisor.elf)?;
    let symbols: Vec<(u32, &str)> = symbols
        .iter()
        .filter_map(|(at, name)| Some((at.checked_sub(base)?, &**name)))
        .collect();
    Ok(kernel::symbols::encode(&symbols))
}

/// For every file that `machine` names, a short name of its own.
fn bundle_names(machine: &Machine) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for file in machine.partitions.iter().flat_map(|p| p.files()) {
        if names.contains_key(file) {
            continue;
        }
        let last = file.rsplit('/').next().unwrap_or(file);
        let short: String = last.chars().filter(char::is_ascii_graphic).collect();
        let short = &short[short.len().saturating_sub(MAX_NAME - 4)..];
        let numbered = (1..).map(|n| format!("{n}-{short}"));
        let mut candidates = std::iter::once(short.to_owned()).chain(numbered);
        let name = candidates.find(|name| !name.is_empty() && taken.insert(name.clone()));
        names.insert(file.to_owned(), name.unwrap_or_default());
    }
    names
}

/// The hypervisor's `len` bytes of memory, `bundle` behind them, and a header that covers both.
fn join(mut flat: Vec<u8>, len: usize, bundle: &[u8]) -> Result<Vec<u8>> {
    ensure!(
        flat.len() <= len && len.is_multiple_of(FILE_ALIGN),
        "the hypervisor has {:#x} bytes, but its bundle starts at {len:#x}",
        flat.len()
    );
    flat.resize(len, 0);
    flat.extend_from_slice(bundle);
    let header = ImageHeader::parse(&flat);
    header.map_err(|error| anyhow!("the hypervisor is {error}"))?;
    let size = (flat.len() as u64).to_le_bytes();
    flat[16..24].copy_from_slice(&size);
    grow_application(&mut flat).context("the header of a UEFI application")?;
    Ok(flat)
}

/// Has the PE header (Microsoft PE Format) of `image`, if it has one, cover all of it: the last section grows.
fn grow_application(image: &mut [u8]) -> Option<()> {
    let len = u32::try_from(image.len()).ok()?;
    let u16_at = |at: usize| Some(u16::from_le_bytes(*image.get(at..)?.first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?));
    let pe = u32_at(0x3c)? as usize;
    if pe == 0 {
        return Some(());
    }
    let optional = pe + 24;
    let sections = usize::from(u16_at(pe + 6)?);
    let last = optional + usize::from(u16_at(pe + 20)?) + 40 * sections.checked_sub(1)?;
    let start = u32_at(last + 12)?;
    let size = len.checked_sub(start)?;
    for (at, value) in [(optional + 56, len), (last + 8, size), (last + 16, size)] {
        image
            .get_mut(at..at + 4)?
            .copy_from_slice(&value.to_le_bytes());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::bundle::Bundle;

    fn hypervisor(len: usize) -> Vec<u8> {
        let mut flat = vec![0; len];
        flat[16] = 1;
        flat[56..60].copy_from_slice(b"ARM\x64");
        flat
    }

    #[test]
    fn the_header_covers_hypervisor_and_bundle() {
        let mut builder = Builder::new();
        builder.file("f", vec![7; 9]).unwrap();
        let bundle = builder.finish();
        let image = join(hypervisor(5000), 0x3000, &bundle).unwrap();
        assert_eq!(image.len(), 0x3000 + bundle.len());
        let header = ImageHeader::parse(&image).unwrap();
        assert_eq!(header.image_size, image.len() as u64);
        let read = Bundle::parse(&image[0x3000..]).unwrap();
        assert_eq!(read.file("f").unwrap(), [7; 9]);
    }

    #[test]
    fn a_uefi_loader_loads_the_bundle_too() {
        let mut flat = hypervisor(0x3000);
        flat[0x3c] = 0x40;
        flat[0x40 + 6] = 2;
        flat[0x40 + 20] = 0x70;
        let last = 0x40 + 24 + 0x70 + 40;
        flat[last + 12..last + 16].copy_from_slice(&0x2000u32.to_le_bytes());
        let bundle = Builder::new().finish();
        let image = join(flat, 0x3000, &bundle).unwrap();
        let word = |at: usize| u32::from_le_bytes(*image[at..].first_chunk().unwrap()) as usize;
        assert_eq!(word(0x40 + 24 + 56), image.len());
        assert_eq!(word(last + 8), image.len() - 0x2000);
        assert_eq!(word(last + 16), image.len() - 0x2000);
    }

    #[test]
    fn a_hypervisor_past_its_bundle_or_without_header_is_refused() {
        assert!(join(hypervisor(0x3001), 0x3000, &[]).is_err());
        assert!(join(hypervisor(0x1000), 0x1001, &[]).is_err());
        assert!(join(vec![0; 0x1000], 0x1000, &[]).is_err());
    }

    #[test]
    fn files_of_one_name_in_two_folders_stay_apart() {
        let text = r#"
            [machine]
            name = "m"
            [[partition]]
            name = "a"
            memory = 0
            cpus = []
            kernel = "one/Image"
            initrd = "/a-very-long-folder/with-a-very-long-name-that-does-not-fit-in-an-entry.cpio.gz"
            [[partition]]
            name = "b"
            memory = 0
            cpus = []
            kernel = "two/Image"
        "#;
        let names = bundle_names(&toml::from_str(text).unwrap());
        assert_eq!(names["one/Image"], "Image");
        assert_eq!(names["two/Image"], "1-Image");
        let unique: BTreeSet<&String> = names.values().collect();
        assert_eq!(unique.len(), 3);
        assert!(names.values().all(|name| name.len() <= MAX_NAME));
    }
}
