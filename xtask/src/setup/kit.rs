//! The tools and firmware that runs and tests use: QEMU, U-Boot and EDK2, valgrind, iasl.
//! Each is taken from an environment variable, from the machine where it has a good one, or from Debian's packages.

use super::apt::{self, Apt, Packages};
use crate::arch::Arch;
use crate::project;
use anyhow::{Context, Result, bail, ensure};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Older ones lack events and devices that the tests rely on.
const QEMU_OLDEST: (u32, u32) = (11, 1);

const QEMU: Packages = Packages {
    name: "qemu",
    names: &["qemu-system-arm"],
    closure: true,
    members: &[],
};
const QEMU_X86: Packages = Packages {
    name: "qemu-x86",
    names: &["qemu-system-x86"],
    closure: true,
    members: &[],
};
const GRUB: Packages = Packages {
    name: "grub",
    names: &["grub-common", "grub-pc-bin", "xorriso", "mtools"],
    closure: true,
    members: &[],
};
const OVMF: Packages = Packages {
    name: "ovmf",
    names: &["ovmf"],
    closure: false,
    members: &[],
};
const BOCHS: Packages = Packages {
    name: "bochs",
    names: &["bochs", "bochsbios", "vgabios"],
    closure: true,
    members: &[],
};
const FIRMWARE: Packages = Packages {
    name: "firmware",
    names: &["u-boot-qemu", "qemu-efi-aarch64"],
    closure: false,
    members: &["./usr/*qemu*"],
};
const ACPICA: Packages = Packages {
    name: "acpica",
    names: &["acpica-tools"],
    closure: true,
    members: &[],
};
const VALGRIND: Packages = Packages {
    name: "valgrind",
    names: &["valgrind"],
    closure: true,
    members: &[],
};

/// Reads what the rustc of this year writes; an older one cannot.
const LLVM: Packages = Packages {
    name: "llvm",
    names: &["llvm-22"],
    closure: true,
    members: &[],
};

/// A program, and what has to stand before its own arguments.
#[derive(Clone, Debug)]
pub struct Tool {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
}

impl Tool {
    fn plain(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// A program of an unpacked root, run by that root's own loader and libraries: the machine's libc may be older.
    pub fn of_root(root: &Path, name: &str) -> Result<Self> {
        let (loader, libraries) = match env::consts::ARCH {
            "x86_64" => ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu"),
            "aarch64" => ("usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu"),
            other => bail!("no packages for {other}: install {name} and put it on PATH"),
        };
        let program = root.join(loader);
        ensure!(
            program.exists(),
            "{} is missing: remove {} and run `cargo xtask setup`",
            program.display(),
            root.display()
        );
        Ok(Self {
            program,
            args: vec![
                "--library-path".into(),
                root.join(libraries).into(),
                root.join("usr/bin").join(name).into(),
            ],
            env: Vec::new(),
        })
    }

    /// Writes [`Self::script`] to `path`.
    pub fn write_script(&self, path: &Path) -> Result<()> {
        project::write(path, self.script().as_bytes())?;
        fs::set_permissions(path, Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} a program", path.display()))
    }

    /// A shell script that runs a program of an unpacked root, for those who know it by its path only. The program
    /// takes the script for itself.
    fn script(&self) -> String {
        let quoted = |word: &OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
        let words: Vec<_> = self.args.iter().map(|word| quoted(word)).collect();
        format!(
            "#!/bin/sh\nexec {} --argv0 \"$0\" {} \"$@\"\n",
            quoted(self.program.as_os_str()),
            words.join(" ")
        )
    }

    /// The program itself.
    pub fn program(&self) -> String {
        let path = self
            .args
            .last()
            .map_or(self.program.as_os_str(), |last| last);
        path.to_string_lossy().into_owned()
    }

    /// To run it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().cloned());
        command
    }

    /// The program and what stands before its own arguments, for those who start it themselves.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = vec![self.program.clone().into_os_string()];
        words.extend(self.args.iter().cloned());
        words
    }

    /// What it answers to `--version`, first line.
    pub fn version(&self) -> Result<String> {
        let out = self.command().arg("--version").output();
        let out = out.with_context(|| format!("cannot run {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let line = text.lines().next().filter(|_| out.status.success());
        Ok(line
            .with_context(|| format!("{} --version says nothing", self.program.display()))?
            .to_owned())
    }
}

/// QEMU for `arch`: the one that `SLUICE_QEMU` (`SLUICE_QEMU_X86`) names, or the one on PATH if new enough, or Debian's.
pub fn qemu(arch: Arch) -> Result<Tool> {
    let (variable, name, packages) = match arch {
        Arch::Aarch64 => ("SLUICE_QEMU", "qemu-system-aarch64", &QEMU),
        Arch::X86_64 => ("SLUICE_QEMU_X86", "qemu-system-x86_64", &QEMU_X86),
    };
    let (major, minor) = QEMU_OLDEST;
    if let Some(path) = env::var_os(variable) {
        let tool = Tool::plain(PathBuf::from(path));
        let found = tool.version().context(variable)?;
        ensure!(
            new_enough(&found),
            "{variable}: {found} is too old: {major}.{minor} is needed"
        );
        return Ok(tool);
    }
    let tool = Tool::plain(name);
    let found = tool.version().ok();
    if found.as_deref().is_some_and(new_enough) {
        return Ok(tool);
    }
    let root = fetch(packages, || {
        format!(
            "QEMU {major}.{minor} or newer is missing ({}): install {name}, or name it in {variable}",
            found.as_deref().unwrap_or("there is none on PATH")
        )
    })?;
    let mut tool = Tool::of_root(&root, name)?;
    // Firmware of x86 is a package of its own.
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        tool.args.extend(["-L".into(), root.join(folder).into()]);
    }
    let version = tool.version()?;
    ensure!(
        new_enough(&version),
        "{version} of Debian's backports is too old; name a newer one in {variable}"
    );
    Ok(tool)
}

/// What a CD that boots is made with.
#[derive(Clone, Debug)]
pub struct Grub {
    /// `grub-mkimage`.
    pub make_image: Tool,
    /// GRUB's modules for a PC's BIOS.
    pub modules: PathBuf,
    /// `xorriso`.
    pub xorriso: Tool,
    /// `mformat` and the others of mtools, by their names.
    root: PathBuf,
}

impl Grub {
    /// A program of mtools.
    pub fn mtools(&self, name: &str) -> Result<Tool> {
        let mut tool = Tool::of_root(&self.root, "mtools")?;
        tool.args.extend(["-c".into(), name.into()]);
        Ok(tool)
    }
}

/// GRUB, xorriso and mtools, Debian's.
pub fn grub() -> Result<Grub> {
    let root = fetch(&GRUB, || "GRUB, xorriso and mtools are missing".to_owned())?;
    Ok(Grub {
        make_image: Tool::of_root(&root, "grub-mkimage")?,
        modules: root.join("usr/lib/grub/i386-pc"),
        xorriso: Tool::of_root(&root, "xorriso")?,
        root,
    })
}

/// EDK2 for a PC, for `-bios`: `SLUICE_OVMF`, or Debian's.
pub fn ovmf() -> Result<PathBuf> {
    let path = match env::var_os("SLUICE_OVMF") {
        Some(path) => path.into(),
        None => fetch(&OVMF, || {
            "EDK2 for x86_64 is missing: name it in SLUICE_OVMF".into()
        })?
        .join("usr/share/ovmf/OVMF.fd"),
    };
    ensure!(path.exists(), "firmware: {} does not exist", path.display());
    Ok(path)
}

/// Bochs, Debian's, and the folder with its BIOS.
pub fn bochs() -> Result<(Tool, PathBuf)> {
    let root = fetch(&BOCHS, || "Bochs is missing".to_owned())?;
    let share = root.join("usr/share");
    let mut tool = Tool::of_root(&root, "bochs-bin")?;
    let plugins = root.join("usr/lib/x86_64-linux-gnu/bochs/plugins");
    tool.env.push(("LTDL_LIBRARY_PATH", plugins.into()));
    tool.env.push(("BXSHARE", share.join("bochs").into()));
    Ok((tool, share))
}

fn new_enough(version: &str) -> bool {
    let number = version
        .split_whitespace()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    let mut parts = number
        .unwrap_or_default()
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= QEMU_OLDEST
}

/// Boot firmware for QEMU's `virt`.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// U-Boot, for `-bios`.
    pub u_boot: PathBuf,
    /// EDK2, for `-bios`.
    pub edk2: PathBuf,
}

/// U-Boot and EDK2: `SLUICE_UBOOT` and `SLUICE_EDK2`, or Debian's.
pub fn firmware() -> Result<Firmware> {
    let named = |variable: &str| env::var_os(variable).map(PathBuf::from);
    let (u_boot, edk2) = match (named("SLUICE_UBOOT"), named("SLUICE_EDK2")) {
        (Some(u_boot), Some(edk2)) => (u_boot, edk2),
        (u_boot, edk2) => {
            let root = fetch(&FIRMWARE, || {
                "U-Boot and EDK2 for arm64 are missing: name them in SLUICE_UBOOT and SLUICE_EDK2"
                    .into()
            })?;
            (
                u_boot.unwrap_or_else(|| root.join("usr/lib/u-boot/qemu_arm64/u-boot.bin")),
                edk2.unwrap_or_else(|| root.join("usr/share/qemu-efi-aarch64/QEMU_EFI.fd")),
            )
        }
    };
    for path in [&u_boot, &edk2] {
        ensure!(path.exists(), "firmware: {} does not exist", path.display());
    }
    Ok(Firmware { u_boot, edk2 })
}

/// Valgrind, which counts instructions for `bench`.
pub fn valgrind() -> Result<Tool> {
    let tool = Tool::plain("valgrind");
    if tool.version().is_ok() {
        return Ok(tool);
    }
    let root = fetch(&VALGRIND, || "valgrind is missing: install valgrind".into())?;
    // `valgrind` itself is a shell script that finds `valgrind.bin` where it would be installed.
    let mut tool = Tool::of_root(&root, "valgrind.bin")?;
    tool.env
        .push(("VALGRIND_LIB", root.join("usr/libexec/valgrind").into()));
    Ok(tool)
}

/// ACPICA's compiler, which takes tables apart and checks them: `SLUICE_IASL`, or Debian's.
pub fn iasl() -> Result<Tool> {
    if let Some(path) = env::var_os("SLUICE_IASL") {
        return Ok(Tool::plain(path));
    }
    let root = fetch(&ACPICA, || {
        "iasl is missing: install acpica-tools and name it in SLUICE_IASL".into()
    })?;
    Tool::of_root(&root, "iasl")
}

/// llvm-cov and llvm-profdata, which read the counts of covered lines: `LLVM_COV` and `LLVM_PROFDATA`, or Debian's.
pub fn llvm() -> Result<[PathBuf; 2]> {
    if let (Some(cov), Some(profdata)) = (env::var_os("LLVM_COV"), env::var_os("LLVM_PROFDATA")) {
        return Ok([cov.into(), profdata.into()]);
    }
    let root = fetch(&LLVM, || {
        "llvm-cov is missing: name those of rustc's own LLVM in LLVM_COV and LLVM_PROFDATA".into()
    })?;
    let script = |name: &str| -> Result<PathBuf> {
        let path = root.join(name);
        let tool = Tool::of_root(&root, &format!("{name}-22"))?;
        tool.write_script(&path)?;
        Ok(path)
    };
    Ok([script("llvm-cov")?, script("llvm-profdata")?])
}

/// The packages unpacked, or on a machine that is not Debian the line that says what is missing.
pub fn fetch(packages: &Packages, missing: impl FnOnce() -> String) -> Result<PathBuf> {
    if let Some(root) = apt::unpacked(packages)? {
        return Ok(root);
    }
    ensure!(apt::available(), "{}", missing());
    let _lock = super::lock()?;
    // Another set-up may have fetched it meanwhile.
    if let Some(root) = apt::unpacked(packages)? {
        return Ok(root);
    }
    Apt::open()?.unpack(packages)
}

#[cfg(test)]
mod tests {
    use super::{Tool, new_enough};

    #[test]
    fn script_keeps_words_together() {
        let mut tool = Tool::plain("/a b/it's");
        tool.args.push("-L".into());
        assert_eq!(
            tool.script(),
            "#!/bin/sh\nexec '/a b/it'\\''s' --argv0 \"$0\" '-L' \"$@\"\n"
        );
    }

    #[test]
    fn qemu_version_is_read_from_its_own_words() {
        assert!(new_enough(
            "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)"
        ));
        assert!(new_enough("QEMU emulator version 12.0.0"));
        assert!(!new_enough("QEMU emulator version 11.0.9"));
        assert!(!new_enough(
            "QEMU emulator version 7.2.15 (Debian 1:7.2+dfsg-7)"
        ));
        assert!(!new_enough("nothing of the kind"));
    }
}
