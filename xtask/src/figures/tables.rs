//! Stage 2 tables on the host: the example `table_ir` of the `iommu` crate counts its own stores, callgrind its
//! instructions and those of other crates in the same process; `table_kept` tells what each still holds of the heap when
//! all is unmapped.

use super::{Built, Figure, Source, collected, example, lines};
use anyhow::{Context, Result};
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
    figures.push(Figure {
        peers: kept()?,
        ..figure(
            "B5.retained",
            "tables kept after everything is unmapped, but for the root",
            value("retained_bytes")?,
            "bytes",
            0.0,
        )
    });
    Ok(figures)
}

/// What the peers keep: they free emptied tables when told to, if at all.
fn kept() -> Result<Vec<(&'static str, f64)>> {
    let lines = lines(&mut Command::new(example("table_kept", Built::Soon)?))?;
    let peers = PEERS.iter().map(|(name, prefix)| {
        let bytes = lines.get(&format!("{prefix}_kept_bytes")).copied();
        Ok((
            *name,
            bytes.with_context(|| format!("table_kept does not know {name}"))?,
        ))
    });
    peers.collect()
}

/// Other crates, and how their functions in the examples start.
const PEERS: &[(&str, &str)] = &[
    ("aarch64-paging", "aarch64_paging"),
    ("x86_64", "x86_64"),
    ("page_table_multiarch", "page_table_multiarch"),
];
/// Those of them that free emptied tables.
const FREEING: usize = 2;

fn instructions() -> Result<Vec<Figure>> {
    let example = example("table_ir", Built::Fast)?;
    let lines = lines(Command::new(&example).arg(ROUNDS.to_string()))?;
    let many = *lines.get("leaves").context("table_ir prints no leaves")?;
    let each = |leaves: f64, name: &str| {
        let rounds = ROUNDS.to_string();
        anyhow::Ok(collected(&example, &[&rounds], name)? / leaves / f64::from(ROUNDS))
    };
    let peers = |leaves: f64, of: &[(&'static str, &str)], function: &str| {
        let one = |(name, prefix): &(&'static str, &str)| {
            anyhow::Ok((*name, each(leaves, &format!("{prefix}_{function}"))?))
        };
        of.iter().map(one).collect::<Result<Vec<_>>>()
    };
    let beside = peers(many, PEERS, "shared")?;
    let freed = peers(many, &PEERS[..FREEING], "alone")?;
    let one_beside = peers(1.0, PEERS, "one_shared")?;
    let one_freed = peers(1.0, &PEERS[..FREEING], "one_alone")?;
    let figure = |id, what, leaves, ours: &str, peers: &[_], bound: Option<f64>| {
        anyhow::Ok(Figure {
            id,
            what,
            value: each(leaves, &format!("sluice_{ours}"))?,
            unit: "instructions a leaf",
            bound,
            peers: peers.to_vec(),
        })
    };
    let shared = "map and unmap 256 x 4 KiB, their table stays";
    // As aarch64-paging does it: freed to the C library, zeroed when allocated, which is half of it.
    let alone = "map and unmap 256 x 4 KiB, emptied tables are freed";
    let pool = "map and unmap 256 x 4 KiB, emptied tables go to a pool that keeps their zeros";
    let one = "map and unmap 1 x 4 KiB, its table stays";
    let one_alone = "map and unmap 1 x 4 KiB, emptied tables go to the pool";
    Ok(vec![
        figure("B5.shared", shared, many, "shared", &beside, Some(30.0))?,
        figure("B5.alone", alone, many, "alone_zeroing", &freed, Some(60.0))?,
        figure("B5.pool", pool, many, "alone", &freed, Some(30.0))?,
        figure(
            "B6.shared",
            one,
            1.0,
            "one_shared",
            &one_beside,
            Some(150.0),
        )?,
        figure("B6.alone", one_alone, 1.0, "one_alone", &one_freed, None)?,
    ])
}
