//! Stage 2 tables on the host: the example `table_ir` of the `iommu` crate counts its own stores, callgrind its
//! instructions, those of the `aarch64-paging` crate in the same process.

use super::{Figure, Source};
use crate::progress::Step;
use crate::project;
use crate::setup::kit;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stores and bytes of large maps.
pub const COUNTS: Source = Source {
    ids: &[
        "B1.leaf_stores",
        "B1.table_stores",
        "B1.table_bytes",
        "B2.leaf_stores",
        "B2.table_bytes",
        "B5.retained",
    ],
    measure: counts,
};

/// Instructions of small ones.
pub const INSTRUCTIONS: Source = Source {
    ids: &["B5.shared", "B5.alone"],
    measure: instructions,
};

/// Enough for the fixed part of a call to vanish.
const ROUNDS: u32 = 200;

fn counts() -> Result<Vec<Figure>> {
    let lines = lines(&mut Command::new(example()?))?;
    let figure = |id, what, key: &str, unit, bound| {
        let value = *lines
            .get(key)
            .with_context(|| format!("table_ir prints no {key}"))?;
        Ok(Figure {
            id,
            what,
            value,
            unit,
            bound: Some(bound),
            peers: Vec::new(),
        })
    };
    let one = "map 1 GiB in one 1 GiB block";
    let blocks = "map 1 GiB in 2 MiB blocks";
    let rest = "tables kept after everything is unmapped, but for the root";
    [
        figure(
            "B1.leaf_stores",
            blocks,
            "map_1g_2m_leaf_stores",
            "leaf stores",
            512.0,
        ),
        figure(
            "B1.table_stores",
            blocks,
            "map_1g_2m_table_stores",
            "table stores",
            1.0,
        ),
        figure(
            "B1.table_bytes",
            blocks,
            "map_1g_2m_table_bytes",
            "bytes of tables",
            4096.0,
        ),
        figure(
            "B2.leaf_stores",
            one,
            "map_1g_1g_leaf_stores",
            "leaf stores",
            1.0,
        ),
        figure(
            "B2.table_bytes",
            one,
            "map_1g_1g_table_bytes",
            "bytes of tables",
            0.0,
        ),
        figure("B5.retained", rest, "retained_bytes", "bytes", 0.0),
    ]
    .into_iter()
    .collect()
}

fn instructions() -> Result<Vec<Figure>> {
    let example = example()?;
    let lines = lines(Command::new(&example).arg(ROUNDS.to_string()))?;
    let leaves = lines.get("leaves").context("table_ir prints no leaves")? * f64::from(ROUNDS);
    let figure = |id, what, ours: &str, peer: &str| -> Result<Figure> {
        let peer = collected(&example, peer)? / leaves;
        Ok(Figure {
            id,
            what,
            value: collected(&example, ours)? / leaves,
            unit: "instructions a leaf",
            bound: Some(peer / 2.0),
            peers: vec![("aarch64-paging", peer)],
        })
    };
    let shared = "map and unmap 256 x 4 KiB, their table stays";
    let alone = "map and unmap 256 x 4 KiB, emptied tables are freed";
    Ok(vec![
        figure(
            "B5.shared",
            shared,
            "sluice_shared",
            "aarch64_paging_shared",
        )?,
        figure("B5.alone", alone, "sluice_alone", "aarch64_paging_alone")?,
    ])
}

/// Builds the example as it would be used.
fn example() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = [
        "build",
        "--quiet",
        "--release",
        "--package",
        "iommu",
        "--example",
        "table_ir",
    ];
    let step = Step::start("build table_ir");
    let built = duct::cmd(cargo, args)
        .dir(project::root())
        .unchecked()
        .run()
        .context("cannot run cargo")?;
    step.over();
    ensure!(
        built.status.success(),
        "example `table_ir` of package `iommu` does not build"
    );
    Ok(project::target().join("release/examples/table_ir"))
}

/// `key value` lines.
fn lines(command: &mut Command) -> Result<BTreeMap<String, f64>> {
    let out = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect())
}

/// Instructions that callgrind counts from the entry of `function` to its return.
fn collected(example: &Path, function: &str) -> Result<f64> {
    let step = Step::start(format!("callgrind {function}"));
    let out = kit::valgrind()?
        .command()
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*::{function}*"))
        .arg(example)
        .arg(ROUNDS.to_string())
        .output()
        .context("cannot run valgrind")?;
    step.over();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    match counted(&text) {
        Some(count @ 1..) if out.status.success() => Ok(f64::from(count)),
        _ => bail!(
            "callgrind counts nothing in {function}: {}",
            text.lines().last().unwrap_or_default()
        ),
    }
}

/// The number of `==123== Collected : 456`.
fn counted(text: &str) -> Option<u32> {
    let line = text
        .lines()
        .find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn count_of_callgrind_is_read() {
        let text = "==7== Events    : Ir\n==7== Collected : 2104832\n==7== \n==7== I   refs:      2,104,832\n";
        assert_eq!(counted(text), Some(2_104_832));
        assert_eq!(counted("==7== nothing"), None);
    }
}
