//! The compiler for the bare machine: rustup's prebuilt `core` and `alloc` where rustup reaches its server, else both
//! built from the sources of exactly this rustc as Debian packages them.

use super::apt::{self, Apt};
use crate::progress::Step;
use crate::project;
use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The target of the hypervisor and of its small guests.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// All bare-metal targets that set-up asks rustup for.
const TARGETS: &[&str] = &[TARGET, "x86_64-unknown-none"];

/// How to compile for [`TARGET`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bare {
    /// The toolchain has the target's `core` and `alloc`.
    Prebuilt,
    /// They are built from the library sources in the toolchain. The switch that allows it on a stable compiler is set
    /// for these builds only.
    FromSource,
}

/// Finds a way to compile for the bare machine, and makes one if there is none.
pub fn bare() -> Result<Bare> {
    let sysroot = sysroot()?;
    if let Some(bare) = present(&sysroot) {
        return Ok(bare);
    }
    let _lock = super::lock()?;
    let version = version()?;
    let unreachable = project::cache()?.join(format!("rustup-unreachable-{version}"));
    if !recent(&unreachable) {
        match rustup_add() {
            Ok(()) if has_target(&sysroot) => return Ok(Bare::Prebuilt),
            _ => fs::write(&unreachable, "")?,
        }
    }
    if !has_sources(&sysroot) {
        ensure!(
            apt::available(),
            "no `core` for {TARGET}: run `rustup target add {TARGET}`, or `rustup component add rust-src`, \
             or install the sources of rustc {version} at {}",
            sources(&sysroot).display()
        );
        sources_from_debian(&sysroot, &version)?;
    }
    Ok(Bare::FromSource)
}

fn present(sysroot: &Path) -> Option<Bare> {
    if has_target(sysroot) {
        Some(Bare::Prebuilt)
    } else {
        // Sources that set-up itself has linked, after rustup had failed.
        (sources(sysroot).is_symlink() && has_sources(sysroot)).then_some(Bare::FromSource)
    }
}

/// `cargo SUBCOMMAND` for the bare machine. It has a target folder of its own: the switch for builds from source would
/// otherwise rebuild every build script of the host's crates.
pub fn cargo(bare: Bare, subcommand: &str) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![subcommand.into()];
    args.extend(["--target", TARGET, "--target-dir"].map(OsString::from));
    args.push(target_dir().into());
    if bare == Bare::FromSource {
        args.push("-Zbuild-std=core,alloc,compiler_builtins".into());
        args.push("-Zbuild-std-features=compiler-builtins-mem".into());
    }
    args
}

/// Runs cargo with `args` that start with those of [`cargo`].
pub fn expression(bare: Bare, args: &[OsString]) -> duct::Expression {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = duct::cmd(cargo, args)
        .dir(project::root())
        // Flags from outside would replace those of .cargo/config.toml, and with them the position independence.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    match bare {
        Bare::Prebuilt => run.env_remove("RUSTC_BOOTSTRAP"),
        Bare::FromSource => run.env("RUSTC_BOOTSTRAP", "1"),
    }
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

/// `1.95.0` of `rustc 1.95.0 (...)`.
fn version() -> Result<String> {
    let text = cmd!("rustc", "--version")
        .dir(project::root())
        .read()
        .context("cannot run rustc")?;
    let version = text
        .split_whitespace()
        .nth(1)
        .context("`rustc --version` names no version")?;
    Ok(version.to_owned())
}

fn has_target(sysroot: &Path) -> bool {
    let lib = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    fs::read_dir(lib).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

fn sources(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust")
}

fn has_sources(sysroot: &Path) -> bool {
    sources(sysroot).join("library/core/src/lib.rs").exists()
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
    let step = Step::start(format!("rustup target add {}", TARGETS.join(" ")));
    let mut args = vec!["target", "add"];
    args.extend(TARGETS);
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

/// The library sources of exactly this compiler, linked where cargo looks for them.
fn sources_from_debian(sysroot: &Path, version: &str) -> Result<()> {
    let home = project::cache()?.join(format!("rust-src-{version}"));
    if !home.join("library/core/src/lib.rs").exists() {
        let apt = Apt::open()?;
        let exact = format!("{version}+");
        let found = apt
            .versions("rust-src")?
            .into_iter()
            .find(|package| package.starts_with(&exact));
        let package = found.with_context(|| {
            format!(
                "no `core` for {TARGET}: rustup reached no server, and Debian has no rust-src of {version}: \
                 run `rustup component add rust-src` where there is a network"
            )
        })?;
        let debs = apt.download("rust-src", &[format!("rust-src={package}")])?;
        let step = Step::start(format!("rust-src: unpack the library of {version}"));
        let partial = home.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        let library = format!("./usr/src/rustc-{version}/library");
        for deb in &debs {
            apt::extract(deb, &partial, &[&library])?;
            fs::remove_file(deb)?;
        }
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::rename(partial.join(format!("usr/src/rustc-{version}")), &home)?;
        fs::remove_dir_all(&partial)?;
        step.done_with(&format!("in {}", home.display()));
    }
    let link = sources(sysroot);
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    if link.is_symlink() {
        fs::remove_file(&link)?;
    }
    symlink(&home, &link)
        .with_context(|| format!("cannot link {} to {}", link.display(), home.display()))?;
    eprintln!("rust-src: linked at {}", link.display());
    Ok(())
}
