//! The SMMUv3 driver on the host: the example `driver_counts` of the `iommu` crate has the crate's model of an SMMU count
//! what each operation costs.

use super::{Built, Figure, Source, example, lines};
use anyhow::{Context, Result};
use std::process::Command;

/// Commands, CMD_SYNCs and register accesses.
pub const COUNTS: Source = Source {
    ids: &[
        "B7.page",
        "B7.33",
        "B7.512",
        "B7.single",
        "B7.syncs",
        "B7.writes",
        "B7.reads",
        "B8",
        "B15.model",
        "B16.attach",
        "B16.retarget",
        "B16.detach",
        "B17.model",
        "B17.allocations",
    ],
    measure: counts,
};

/// A figure, its bound, and the keys of the example whose largest value it is.
struct Row {
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    bound: f64,
    keys: &'static [&'static str],
}

const fn row(
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    bound: f64,
    keys: &'static [&'static str],
) -> Row {
    Row {
        id,
        what,
        unit,
        bound,
        keys,
    }
}

const ROWS: &[Row] = &[
    row(
        "B7.page",
        "unmap 1 page",
        "commands",
        1.0,
        &["unmap_1_commands", "unmap_1_single_commands"],
    ),
    row(
        "B7.33",
        "unmap 33 pages by ranges",
        "commands",
        2.0,
        &["unmap_33_commands"],
    ),
    row(
        "B7.512",
        "unmap 512 pages, with and without ranges",
        "commands",
        1.0,
        &["unmap_512_commands", "unmap_512_single_commands"],
    ),
    row(
        "B7.single",
        "unmap 33 pages without ranges",
        "commands",
        33.0,
        &["unmap_33_single_commands"],
    ),
    row(
        "B7.syncs",
        "each of these unmaps at most",
        "CMD_SYNCs",
        1.0,
        &[
            "unmap_1_syncs",
            "unmap_33_syncs",
            "unmap_512_syncs",
            "unmap_33_single_syncs",
            "unmap_512_single_syncs",
        ],
    ),
    row(
        "B7.writes",
        "each of these unmaps at most",
        "register writes",
        1.0,
        &[
            "unmap_1_writes",
            "unmap_33_writes",
            "unmap_512_writes",
            "unmap_33_single_writes",
            "unmap_512_single_writes",
        ],
    ),
    // Without messages from the SMMU, the end of a CMD_SYNC is seen in CMDQ_CONS only.
    row(
        "B7.reads",
        "each of these unmaps at most",
        "register reads",
        1.0,
        &[
            "unmap_1_reads",
            "unmap_33_reads",
            "unmap_512_reads",
            "unmap_33_single_reads",
            "unmap_512_single_reads",
        ],
    ),
    row(
        "B8",
        "8 unmaps in one batch",
        "CMD_SYNCs",
        1.0,
        &["batch_syncs"],
    ),
    row(
        "B15.model",
        "stream tables for 65,536 streams, one bus in use",
        "bytes",
        20480.0,
        &["stream_table_bytes"],
    ),
    // The words of the new entry and the one that opens it, each forgotten before it counts: a fetch may see old and new
    // words at once.
    row(
        "B16.attach",
        "attach a closed device",
        "CMD_SYNCs",
        2.0,
        &["attach_syncs", "attach_first_syncs"],
    ),
    row(
        "B16.retarget",
        "attach an open device to another stage 2",
        "CMD_SYNCs",
        3.0,
        &["retarget_syncs"],
    ),
    row(
        "B16.detach",
        "close a device",
        "CMD_SYNCs",
        1.0,
        &["detach_syncs"],
    ),
    row(
        "B17.model",
        "deny all DMA",
        "register accesses",
        3.0,
        &["deny_accesses"],
    ),
    row(
        "B17.allocations",
        "deny all DMA",
        "allocations",
        0.0,
        &["deny_allocations"],
    ),
];

fn counts() -> Result<Vec<Figure>> {
    let lines = lines(&mut Command::new(example("driver_counts", Built::Soon)?))?;
    let figures = ROWS.iter().map(|row| {
        let mut value: f64 = 0.0;
        for key in row.keys {
            let one = lines.get(*key);
            value = value.max(*one.with_context(|| format!("driver_counts prints no {key}"))?);
        }
        Ok(Figure {
            id: row.id,
            what: row.what,
            value,
            unit: row.unit,
            bound: Some(row.bound),
            peers: Vec::new(),
        })
    });
    figures.collect()
}
