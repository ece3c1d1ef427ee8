//! The VT-d unit that a guest sees, on the host: the example `vvtd_counts` of the `iommu` crate counts what a guest's map and
//! unmap cost by a shadow, down to the physical queue of the crate's model.

use super::{Built, Figure, Source, example, lines};
use anyhow::{Context, Result};
use std::process::Command;

/// Exits, entries read, leaves stored, and what the hardware is told.
pub const COUNTS: Source = Source {
    ids: &[
        "B11.exits",
        "B11.read",
        "B11.reads",
        "B11.stores",
        "B11.block",
        "B11.cut",
        "B11.unchanged",
        "B11.unmap",
        "B11.bytes",
    ],
    measure: counts,
};

/// Pages of one table.
const TABLE: f64 = 512.0;
/// Entries above the pages of three levels, each read once a descriptor.
const ABOVE: f64 = 2.0;

/// Those two, and one of each of the three levels above.
const SHADOW_TABLES: f64 = 5.0;

/// Name, what it is, its unit, its bound, and the keys of the example whose largest value it is.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    f64,
    &'static [&'static str],
);

const ROWS: &[Row] = &[
    (
        "B11.exits",
        "a guest's map or unmap through a shadow, whatever its size",
        "exits",
        1.0,
        &["map_page_exits", "map_table_exits", "unmap_page_exits"],
    ),
    (
        "B11.read",
        "map 1 page: the entry and what leads there",
        "guest reads",
        1.0 + ABOVE,
        &["map_page_reads"],
    ),
    (
        "B11.reads",
        "map the 512 pages of a table",
        "guest reads",
        TABLE + ABOVE,
        &["map_table_reads"],
    ),
    (
        "B11.stores",
        "map the 512 pages of a table",
        "shadow stores",
        TABLE,
        &["map_table_stores"],
    ),
    (
        "B11.block",
        "map 2 MiB by one leaf over 2 MiB",
        "shadow stores",
        1.0,
        &["map_block_stores", "unmap_block_stores"],
    ),
    (
        "B11.cut",
        "unmap a table of 512 pages: leaves that are cleared one by one",
        "shadow stores",
        0.0,
        &["unmap_table_stores"],
    ),
    (
        "B11.unchanged",
        "invalidate 512 pages that did not change",
        "shadow stores",
        0.0,
        &["nothing_stores", "nothing_descriptors"],
    ),
    (
        "B11.unmap",
        "unmap a page, a block or a table through a shadow",
        "descriptors, waits, tail writes each",
        1.0,
        &[
            "unmap_page_descriptors",
            "unmap_page_waits",
            "unmap_page_tails",
            "unmap_block_descriptors",
            "unmap_block_waits",
            "unmap_block_tails",
            "unmap_table_descriptors",
            "unmap_table_waits",
            "unmap_table_tails",
        ],
    ),
    (
        "B11.bytes",
        "tables of a slice whose guest has mapped the pages of two tables",
        "bytes",
        SHADOW_TABLES * 4096.0,
        &["slice_bytes"],
    ),
];

fn counts() -> Result<Vec<Figure>> {
    let lines = lines(&mut Command::new(example("vvtd_counts", Built::Soon)?))?;
    let figures = ROWS.iter().map(|&(id, what, unit, bound, keys)| {
        let mut value: f64 = 0.0;
        for key in keys {
            let one = lines.get(*key);
            value = value.max(*one.with_context(|| format!("vvtd_counts prints no {key}"))?);
        }
        Ok(Figure {
            id,
            what,
            value,
            unit,
            bound: Some(bound),
            peers: Vec::new(),
        })
    });
    figures.collect()
}
