//! Rust as Debian packages it: library sources for a rustc that is here ([`link_sources`]), and a rustc with its own
//! ([`unpack`]).

use super::apt::{self, Apt, Packages};
use super::kit::Tool;
use crate::arch::Arch;
use crate::progress::Step;
use crate::project;
use anyhow::{Context, Result};
use duct::Expression;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The compiler with which Debian builds browsers, newer than that of its release.
const COMPILER: Packages = Packages {
    name: "rustc-web",
    names: &["rustc-web", "cargo-web", "rust-web-clippy", "lld"],
    closure: true,
    members: &[],
};
const LINKER: &str = "ld.lld";
const PROGRAMS: [&str; 6] = [
    "cargo",
    "cargo-clippy",
    "clippy-driver",
    "rustc",
    "rustdoc",
    LINKER,
];

fn sources(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust")
}

/// Whether cargo finds library sources.
pub fn has_sources(sysroot: &Path) -> bool {
    sources(sysroot).join("library/core/src/lib.rs").exists()
}

/// Whether it finds some that [`link_sources`] linked.
pub fn has_linked_sources(sysroot: &Path) -> bool {
    sources(sysroot).is_symlink() && has_sources(sysroot)
}

/// `1.95.0` of `rustc 1.95.0 (...)`.
pub fn version(text: &str) -> Result<&str> {
    text.split_whitespace()
        .nth(1)
        .context("`rustc --version` names no version")
}

/// The library sources of `version` out of `package`, linked where cargo looks for them. False where Debian does not
/// have them, or the toolchain is not the user's own.
pub fn link_sources(apt: &Apt, package: &str, version: &str, sysroot: &Path) -> Result<bool> {
    let home = project::cache()?.join(format!("rust-src-{version}"));
    if !home.join("library/core/src/lib.rs").exists() {
        let exact = format!("{version}+");
        let mut found = apt.versions(package)?.into_iter();
        let Some(found) = found.find(|found| found.starts_with(&exact)) else {
            eprintln!("{package}: Debian has none of {version}");
            return Ok(false);
        };
        let debs = apt.download(package, &[format!("{package}={found}")])?;
        let step = Step::start(format!("{package}: unpack the library of {version}"));
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
    if let Err(error) = replace(&home, &link) {
        eprintln!("{package}: cannot link {}: {error}", link.display());
        return Ok(false);
    }
    eprintln!("{package}: linked at {}", link.display());
    Ok(true)
}

fn replace(home: &Path, link: &Path) -> std::io::Result<()> {
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    if link.is_symlink() {
        fs::remove_file(link)?;
    }
    symlink(home, link)
}

/// The folder of [`PROGRAMS`], if they are here.
pub fn present() -> Result<Option<PathBuf>> {
    let root = apt::unpacked(&COMPILER)?;
    Ok(root
        .filter(|root| has_sources(&root.join("usr")))
        .map(|root| programs(&root)))
}

/// Beside the loader that runs them all: clippy looks for its driver beside `/proc/self/exe`.
fn programs(root: &Path) -> PathBuf {
    root.join("usr/lib")
        .join(format!("{}-linux-gnu", env::consts::ARCH))
}

/// Fetches the compiler and its library sources.
pub fn unpack(apt: &Apt) -> Result<()> {
    let root = apt.unpack(&COMPILER)?;
    for name in PROGRAMS {
        Tool::of_root(&root, name)?.write_script(&programs(&root).join(name))?;
    }
    let text = Tool::of_root(&root, "rustc")?.version()?;
    let version = version(&text)?;
    let linked = link_sources(apt, "rust-web-src", version, &root.join("usr"))?;
    anyhow::ensure!(
        linked,
        "no `core`: rustup reached no server, and Debian has no sources: run `rustup target add {}` \
         where there is a network",
        Arch::ALL.map(Arch::target).join(" ")
    );
    Ok(())
}

/// `cargo` out of `folder`, with everything that it calls from there.
pub fn with(cargo: Expression, folder: &Path) -> Expression {
    let linker = |arch: Arch| {
        let target = arch.target().to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{target}_LINKER")
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [folder.to_owned()]
        .into_iter()
        .chain(env::split_paths(&path));
    let cargo = cargo
        .env("CARGO", folder.join("cargo"))
        .env("RUSTC", folder.join("rustc"))
        .env("RUSTDOC", folder.join("rustdoc"))
        .env(linker(Arch::Aarch64), folder.join(LINKER))
        .env(linker(Arch::X86_64), folder.join(LINKER));
    match env::join_paths(path) {
        Ok(path) => cargo.env("PATH", path),
        Err(_) => cargo,
    }
}
