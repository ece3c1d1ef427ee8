//! The compiler for the bare machine: rustup's prebuilt `core` and `alloc` where rustup reaches its server; else both
//! built from the sources of exactly this rustc as Debian packages them; else by a rustc of Debian's own.

use super::apt::{self, Apt};
use super::debian_rust;
use crate::arch::Arch;
use crate::progress::Step;
use crate::project;
use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How to compile for a bare machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bare {
    /// The toolchain has the target's `core` and `alloc`.
    Prebuilt,
    /// They are built from the library sources in the toolchain.
    FromSource,
    /// So they are, but with the cargo and rustc that Debian packages as `rustc-web`: its sources are those of no other
    /// compiler that is here.
    Debian,
}

/// Finds a way to compile for the bare machine, and makes one if there is none.
pub fn bare(arch: Arch) -> Result<Bare> {
    let sysroot = sysroot()?;
    if let Some(bare) = present(&sysroot, arch)? {
        return Ok(bare);
    }
    let _lock = super::lock()?;
    let version = version()?;
    let unreachable = project::cache()?.join(format!("rustup-unreachable-{version}"));
    if !recent(&unreachable) {
        match rustup_add() {
            Ok(()) if has_target(&sysroot, arch) => return Ok(Bare::Prebuilt),
            _ => fs::write(&unreachable, "")?,
        }
    }
    if debian_rust::has_sources(&sysroot) {
        return Ok(Bare::FromSource);
    }
    ensure!(
        apt::available(),
        "no `core` for {0}: run `rustup target add {0}` or `rustup component add rust-src`",
        arch.target()
    );
    let apt = Apt::open()?;
    if debian_rust::link_sources(&apt, "rust-src", &version, &sysroot)? {
        return Ok(Bare::FromSource);
    }
    debian_rust::unpack(&apt)?;
    Ok(Bare::Debian)
}

/// What is here already. Sources that are no link are somebody else's: rustup is asked first.
fn present(sysroot: &Path, arch: Arch) -> Result<Option<Bare>> {
    Ok(if has_target(sysroot, arch) {
        Some(Bare::Prebuilt)
    } else if debian_rust::has_linked_sources(sysroot) {
        Some(Bare::FromSource)
    } else {
        debian_rust::present()?.map(|_| Bare::Debian)
    })
}

/// `cargo SUBCOMMAND` for `arch`'s bare machine. It has a target folder of its own: the switch for builds from source would
/// otherwise rebuild every build script of the host's crates.
pub fn cargo(bare: Bare, arch: Arch, subcommand: &str) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![subcommand.into()];
    args.extend(["--target", arch.target(), "--target-dir"].map(OsString::from));
    args.push(target_dir().into());
    if bare != Bare::Prebuilt {
        args.push("-Zbuild-std=core,alloc,compiler_builtins".into());
        args.push("-Zbuild-std-features=compiler-builtins-mem".into());
    }
    args
}

/// Runs cargo with `args` that start with those of [`cargo`].
pub fn expression(bare: Bare, args: &[OsString]) -> Result<duct::Expression> {
    let programs = match bare {
        Bare::Debian => Some(debian_rust::present()?.context("Debian's rustc is gone: try again")?),
        _ => None,
    };
    let cargo = match &programs {
        Some(folder) => folder.join("cargo").into_os_string(),
        None => env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
    };
    let run = duct::cmd(cargo, args)
        .dir(project::root())
        // Flags from outside would replace those of .cargo/config.toml, and with them the position independence.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // For `-Zbuild-std`, `HYPERVISOR` and `SHIPPED`; of the bare machine's builds only.
        .env("RUSTC_BOOTSTRAP", "1");
    Ok(match &programs {
        Some(folder) => debian_rust::with(run, folder),
        None => run,
    })
}

/// Switches of rustc for the hypervisor, behind those of `.cargo/config.toml`, which holds the stable ones: a panic says who
/// called whom, and functions that call nobody, where nothing panics, need no frame for that.
const HYPERVISOR: [&str; 2] = ["-Zunstable-options", "-Cforce-frame-pointers=non-leaf"];

/// The same for what is shipped: no file name and line with each of a thousand places that may panic, as the backtrace names
/// the function; and nothing of what derived `Debug` writes, so that messages have to be written by somebody (a test below
/// looks for them).
const SHIPPED: [&str; 2] = ["-Zlocation-detail=none", "-Zfmt-debug=none"];

/// [`HYPERVISOR`], and [`SHIPPED`] where that is so, as arguments for [`expression`].
pub fn of_hypervisor(arch: Arch, shipped: bool) -> [OsString; 2] {
    let more = if shipped { &SHIPPED[..] } else { &[] };
    let flags = HYPERVISOR.iter().chain(more);
    let flags: Vec<_> = flags.map(|flag| format!("'{flag}'")).collect();
    let flags = flags.join(",");
    [
        "--config".into(),
        format!("target.{}.rustflags=[{flags}]", arch.target()).into(),
    ]
}

/// Where builds for the bare machine go.
pub fn target_dir() -> PathBuf {
    project::target().join("bare")
}

fn sysroot() -> Result<PathBuf> {
    let path = cmd!("rustc", "--print", "sysroot")
        .dir(project::root())
        .read();
    Ok(PathBuf::from(path.context(
        "cannot run rustc: install Rust, see https://rustup.rs",
    )?))
}

fn version() -> Result<String> {
    let text = cmd!("rustc", "--version")
        .dir(project::root())
        .read()
        .context("cannot run rustc")?;
    debian_rust::version(&text).map(str::to_owned)
}

fn has_target(sysroot: &Path, arch: Arch) -> bool {
    let lib = sysroot.join("lib/rustlib").join(arch.target());
    let lib = lib.join("lib");
    fs::read_dir(lib).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// A server that did not answer today is not asked at every call.
fn recent(path: &Path) -> bool {
    let modified = path.metadata().and_then(|data| data.modified());
    modified.is_ok_and(|time| {
        time.elapsed()
            .is_ok_and(|age| age < Duration::from_secs(24 * 3600))
    })
}

/// rustup may wait for long where no server is reachable.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

fn rustup_add() -> Result<()> {
    let targets = Arch::ALL.map(Arch::target);
    let step = Step::start(format!("rustup target add {}", targets.join(" ")));
    let mut args = vec!["target", "add"];
    args.extend(targets);
    let run = cmd("rustup", args)
        .dir(project::root())
        .env("RUSTUP_MAX_RETRIES", "1");
    let handle = match run
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .start()
    {
        Ok(handle) => handle,
        Err(_) => {
            step.done_with("no rustup here");
            bail!("no rustup");
        }
    };
    match handle.wait_timeout(RUSTUP_LIMIT)? {
        Some(out) if out.status.success() => {
            step.done();
            Ok(())
        }
        Some(_) => {
            step.done_with("its server is not reachable; going on with Debian's packages");
            bail!("rustup failed");
        }
        None => {
            handle.kill()?;
            step.done_with("no answer; going on with Debian's packages");
            bail!("rustup hangs");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::project;
    use std::fs;
    use std::path::Path;

    /// Folders and files that are compiled for tests and for the host only.
    const NOT_SHIPPED: [&str; 8] = [
        "tests",
        "model",
        "mock",
        "host",
        "composition",
        "fake.rs",
        "fixtures.rs",
        "tests.rs",
    ];

    fn find(path: &Path, found: &mut Vec<String>) {
        if NOT_SHIPPED.iter().any(|name| path.ends_with(name)) {
            return;
        }
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                find(&entry.unwrap().path(), found);
            }
        } else {
            let text = fs::read_to_string(path).unwrap();
            let (shipped, _) = text
                .split_once("#[cfg(test)]\nmod tests {")
                .unwrap_or((&text, ""));
            for (index, line) in shipped.lines().enumerate() {
                let debug = [":?}", ":x?}", ":#?}", ":#x?}"];
                if !line.trim().starts_with("//") && debug.iter().any(|form| line.contains(form)) {
                    found.push(format!("{}:{}", path.display(), index + 1));
                }
            }
        }
    }

    #[test]
    fn no_message_of_the_image_is_left_to_debug() {
        let mut found = Vec::new();
        for package in ["arch", "boot", "iommu", "kernel"] {
            find(&project::root().join(package).join("src"), &mut found);
        }
        assert!(found.is_empty(), "{found:#?}");
    }
}
