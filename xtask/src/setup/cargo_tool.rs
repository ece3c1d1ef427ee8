//! Subcommands of cargo that come from crates.io, built once into the user's cache folder.

use crate::progress::Step;
use crate::project;
use anyhow::{Result, ensure};
use std::env;
use std::path::PathBuf;

/// The path of a tool of this name and version.
pub fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let root = project::cache()?.join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.exists() {
        return Ok(program);
    }
    let _lock = super::lock()?;
    let step = Step::start(format!("cargo install {name} {version}"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = duct::cmd!(
        cargo,
        "install",
        "--quiet",
        "--locked",
        name,
        "--version",
        version,
        "--root",
        &root
    )
    // Not ours: neither our flags nor our target folder.
    .dir(project::cache()?)
    .env_remove("CARGO_TARGET_DIR")
    .env_remove("RUSTFLAGS")
    .unchecked()
    .run()?;
    ensure!(
        out.status.success(),
        "{name} {version} cannot be had: `cargo install {name}` says why"
    );
    step.done_with(&format!("in {}", root.display()));
    Ok(program)
}
