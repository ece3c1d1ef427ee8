//! `cargo xtask build`: the hypervisor and the small guests, for the bare machine.

use super::Outcome;
use crate::arch::Arch;
use crate::progress::Step;
use crate::project;
use crate::setup::toolchain;
use anyhow::{Context, Result, ensure};
use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Build {
    /// Build without optimisation.
    #[arg(long)]
    debug: bool,
    /// The machine.
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
}

/// How to compile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// What is shipped, run and tested.
    #[default]
    Release,
    /// For a debugger.
    Debug,
}

/// A bare-metal program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name of the binary.
    pub name: String,
    /// As linked, with its symbols.
    pub elf: PathBuf,
    /// Its bytes as they lie in memory from its first segment on, bss and stacks included as zeros.
    pub flat: PathBuf,
}

impl Build {
    /// Builds both and says where they are.
    pub fn run(self) -> Outcome {
        let profile = if self.debug {
            Profile::Debug
        } else {
            Profile::Release
        };
        let mut programs = vec![hypervisor(self.arch, profile)?];
        programs.append(&mut payloads(self.arch, profile)?);
        for program in programs {
            let len = fs::metadata(&program.flat)?.len();
            println!(
                "{}: {} ({} KiB in memory)",
                program.name,
                program.flat.display(),
                len.div_ceil(1024)
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the hypervisor.
pub fn hypervisor(arch: Arch, profile: Profile) -> Result<Program> {
    let switches = toolchain::of_hypervisor(arch, profile == Profile::Release).to_vec();
    let mut built = programs("boot", arch, profile, switches)?;
    ensure!(
        built.len() == 1,
        "package `boot` has {} binaries",
        built.len()
    );
    Ok(built.remove(0))
}

/// Builds the hypervisor for x86_64 with a guest in itself, for tests of SVM.
pub fn trial() -> Result<Program> {
    let mut switches = toolchain::of_hypervisor(Arch::X86_64, true).to_vec();
    switches.extend(["--features", "trial"].map(OsString::from));
    let mut built = programs("boot", Arch::X86_64, Profile::Release, switches)?;
    built.pop().context("package `boot` has no binary")
}

/// Builds the small guests.
pub fn payloads(arch: Arch, profile: Profile) -> Result<Vec<Program>> {
    match arch {
        Arch::Aarch64 => programs("payloads", arch, profile, Vec::new()),
        Arch::X86_64 => programs("payloads-x86_64", arch, profile, Vec::new()),
    }
}

/// Builds the programs for Linux guests.
pub fn linux_payloads() -> Result<Vec<Program>> {
    programs(
        "linux-payloads",
        Arch::Aarch64,
        Profile::Release,
        Vec::new(),
    )
}

fn programs(
    package: &str,
    arch: Arch,
    profile: Profile,
    switches: Vec<OsString>,
) -> Result<Vec<Program>> {
    executables(arch, package, profile, switches)?
        .into_iter()
        .map(|(name, elf)| {
            let bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
            let flat = elf.with_extension("flat");
            let memory = flatten(&bytes).with_context(|| elf.display().to_string())?;
            project::write(&flat, &memory)?;
            Ok(Program { name, elf, flat })
        })
        .collect()
}

/// Builds the binaries of a package; cargo itself says what it made and where.
fn executables(
    arch: Arch,
    package: &str,
    profile: Profile,
    switches: Vec<OsString>,
) -> Result<Vec<(String, PathBuf)>> {
    let bare = toolchain::bare(arch)?;
    let mut args = toolchain::cargo(bare, arch, "build");
    args.extend(switches);
    args.extend(["--quiet", "--bins", "--package", package].map(OsString::from));
    args.push("--message-format=json-render-diagnostics".into());
    if profile == Profile::Release {
        args.push("--release".into());
    }
    let step = Step::start(format!("build {package} for {}", arch.target()));
    let out = toolchain::expression(bare, &args)?
        .stdout_capture()
        .unchecked()
        .run()
        .context("cannot run cargo")?;
    step.over();
    ensure!(
        out.status.success(),
        "package `{package}` does not build for {}",
        arch.target()
    );
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut found = Vec::new();
    for line in text.lines() {
        let message: serde_json::Value =
            serde_json::from_str(line).context("a message of cargo")?;
        if let (Some(path), Some(name)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
        ) {
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    found.sort();
    Ok(found)
}

/// Largest program that [`flatten`] takes, in bytes.
const FLAT_LIMIT: u64 = 256 << 20;

/// The bytes of an ELF program as they lie in memory, from its lowest loadable segment to the end of its highest.
pub fn flatten(file: &[u8]) -> Result<Vec<u8>> {
    let header =
        FileHeader64::<LittleEndian>::parse(file).context("no 64-bit little-endian ELF file")?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, file)?;
    let loads: Vec<_> = segments
        .iter()
        .filter(|s| s.p_type(endian) == elf::PT_LOAD && s.p_memsz(endian) > 0)
        .collect();
    let base = loads
        .iter()
        .map(|s| s.p_paddr(endian))
        .min()
        .context("nothing to load")?;
    let end = loads
        .iter()
        .filter_map(|s| s.p_paddr(endian).checked_add(s.p_memsz(endian)))
        .max()
        .unwrap_or(base);
    ensure!(
        end - base <= FLAT_LIMIT,
        "{} bytes between its first and last byte",
        end - base
    );
    let mut flat = vec![0; usize::try_from(end - base)?];
    for segment in loads {
        let data = segment
            .data(endian, file)
            .ok()
            .context("a segment outside the file")?;
        let at = usize::try_from(segment.p_paddr(endian) - base)?;
        let place = flat
            .get_mut(at..at + data.len())
            .context("a segment longer than its memory")?;
        place.copy_from_slice(data);
    }
    Ok(flat)
}

/// Value of a symbol of an ELF program.
pub fn symbol(elf: &Path, name: &str) -> Result<u64> {
    use object::{Object, ObjectSymbol};
    let bytes = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let parsed = ElfFile64::<LittleEndian>::parse(bytes.as_slice()).context("no ELF file")?;
    let found = parsed.symbols().find(|symbol| symbol.name() == Ok(name));
    Ok(found
        .with_context(|| format!("{} has no symbol {name}", elf.display()))?
        .address())
}
