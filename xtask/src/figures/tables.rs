//! Stage 2 tables on the host: the example `table_ir` of the `iommu` crate counts its own stores, callgrind its
//! instructions, those of the `aarch64-paging` crate in the same process.

use super::{Built, Figure, Source, example, lines};
use crate::progress::Step;
use crate::setup::kit;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Stores and bytes of large maps.
pub const COUNTS: Source = Source {
    ids: &[
        "B1.leaf_stores",
        "B1.table_stores",
        "B1.table_bytes",
        "B2.leaf_stores",
        "B2.table_bytes",
        "B3.leaf_stores",
        "B3.table_stores",
        "B3.table_bytes",
        "B4.blocks",
        "B4.pages",
        "B4.kept_blocks",
        "B4.kept_pages",
        "B5.retained",
    ],
    measure: counts,
};

/// Instructions of small ones.
pub const INSTRUCTIONS: Source = Source {
    ids: &["B5.shared", "B5.alone", "B5.pool", "B6.shared", "B6.alone"],
    measure: instructions,
};

/// Enough for the fixed part of a call to vanish.
const ROUNDS: u32 = 200;

fn counts() -> Result<Vec<Figure>> {
    let lines = lines(Command::new(example("table_ir", Built::Soon)?).arg("1"))?;
    let value = |key: &str| {
        let value = lines.get(key).copied();
        value.with_context(|| format!("table_ir prints no {key}"))
    };
    let figure = |id, what, value: f64, unit, bound| Figure {
        id,
        what,
        value,
        unit,
        bound: Some(bound),
        peers: Vec::new(),
    };
    let mut figures = Vec::new();
    let maps = [
        // 512 entries of one table; one table for 1 GiB; 512 of 4 KiB tables and the one above them.
        (
            "1g_in_2m",
            "map 1 GiB in 2 MiB blocks",
            [
                ("B1.leaf_stores", 512.0),
                ("B1.table_stores", 1.0),
                ("B1.table_bytes", 4096.0),
            ],
        ),
        (
            "1g_in_1g",
            "map 1 GiB in one 1 GiB block",
            [
                ("B2.leaf_stores", 1.0),
                ("B2.table_stores", 0.0),
                ("B2.table_bytes", 0.0),
            ],
        ),
        (
            "1g_in_4k",
            "map 1 GiB in 4 KiB pages",
            [
                ("B3.leaf_stores", 262_144.0),
                ("B3.table_stores", 513.0),
                ("B3.table_bytes", 2_101_248.0),
            ],
        ),
    ];
    for (key, what, parts) in maps {
        let units = [
            ("leaf_stores", "leaf stores"),
            ("table_stores", "table stores"),
            ("table_bytes", "bytes of tables"),
        ];
        for ((part, unit), (id, bound)) in units.into_iter().zip(parts) {
            figures.push(figure(
                id,
                what,
                value(&format!("{key}_{part}"))?,
                unit,
                bound,
            ));
        }
    }
    let unmaps = [
        (
            "1g_in_2m",
            "B4.blocks",
            "unmap 1 GiB of 2 MiB blocks",
            "B4.kept_blocks",
            "tables of 2 MiB blocks that the unmap does not free",
        ),
        (
            "1g_in_4k",
            "B4.pages",
            "unmap 1 GiB of 4 KiB pages",
            "B4.kept_pages",
            "tables of 4 KiB pages that the unmap does not free",
        ),
    ];
    for (key, id, what, kept, kept_what) in unmaps {
        let stores = value(&format!("{key}_unmap_stores"))?;
        figures.push(figure(id, what, stores, "stores", 1.0));
        let left = value(&format!("{key}_table_bytes"))? - value(&format!("{key}_freed_bytes"))?;
        figures.push(figure(kept, kept_what, left, "bytes", 0.0));
    }
    figures.push(figure(
        "B5.retained",
        "tables kept after everything is unmapped, but for the root",
        value("retained_bytes")?,
        "bytes",
        0.0,
    ));
    Ok(figures)
}

fn instructions() -> Result<Vec<Figure>> {
    let example = example("table_ir", Built::Fast)?;
    let lines = lines(Command::new(&example).arg(ROUNDS.to_string()))?;
    let many = *lines.get("leaves").context("table_ir prints no leaves")?;
    let figure = |id, what, leaves: f64, ours: &str, peer: &str, gated: bool| -> Result<Figure> {
        let each = |name: &str| {
            Ok::<_, anyhow::Error>(collected(&example, name)? / leaves / f64::from(ROUNDS))
        };
        let peer = each(&format!("aarch64_paging_{peer}"))?;
        Ok(Figure {
            id,
            what,
            value: each(&format!("sluice_{ours}"))?,
            unit: "instructions a leaf",
            bound: gated.then_some(peer / 2.0),
            peers: vec![("aarch64-paging", peer)],
        })
    };
    let shared = "map and unmap 256 x 4 KiB, their table stays";
    // As the peer does it: freed to the C library, zeroed when allocated.
    let alone = "map and unmap 256 x 4 KiB, emptied tables are freed";
    let pool = "map and unmap 256 x 4 KiB, emptied tables go to a pool that keeps their zeros";
    let one = "map and unmap 1 x 4 KiB, its table stays";
    let one_alone = "map and unmap 1 x 4 KiB, emptied tables go to the pool";
    Ok(vec![
        figure("B5.shared", shared, many, "shared", "shared", true)?,
        figure("B5.alone", alone, many, "alone_zeroing", "alone", true)?,
        figure("B5.pool", pool, many, "alone", "alone", true)?,
        figure("B6.shared", one, 1.0, "one_shared", "one_shared", false)?,
        figure("B6.alone", one_alone, 1.0, "one_alone", "one_alone", false)?,
    ])
}

/// Instructions that callgrind counts from the entry of `function` to its return.
fn collected(example: &Path, function: &str) -> Result<f64> {
    let step = Step::start(format!("callgrind {function}"));
    let out = kit::valgrind()?
        .command()
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*::{function}"))
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
