//! The SMMU that a guest sees, on the host: callgrind counts the instructions of the example `vsmmu_ir` of the `iommu`
//! crate, from a guest's doorbell down to the physical register writes.

use super::{Built, Figure, Source, collected, example, lines};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Instructions of commands and of what they ask for.
pub const INSTRUCTIONS: Source = Source {
    ids: &[
        "B13.command",
        "B13.invalidation",
        "B13.doorbell",
        "B13.stream",
    ],
    measure: instructions,
};

/// What a guest waits for where others flood the SMMU that they share.
pub const FLOOD: Source = Source {
    ids: &["B21"],
    measure: flood,
};

fn flood() -> Result<Vec<Figure>> {
    let example = example("vsmmu_flood", Built::Soon)?;
    let lines = lines(&mut Command::new(&example))?;
    let value = |key: &str| {
        let value = lines.get(key).copied();
        value.with_context(|| format!("vsmmu_flood prints no {key}"))
    };
    ensure!(value("others")? == 3.0, "not three others");
    Ok(vec![Figure {
        id: "B21",
        what: "longest wait of a guest for one unmap, while three others fill their queues again and again",
        value: value("longest")?,
        unit: "commands of the SMMU",
        bound: Some(value("bound")?),
        peers: Vec::new(),
    }])
}

/// Commands of the short doorbells and of the long ones, without the CMD_SYNC.
const SHORT: f64 = 1.0;
const HINTS: f64 = 31.0;
const INVALIDATIONS: f64 = 30.0;

fn instructions() -> Result<Vec<Figure>> {
    let example = example("vsmmu_ir", Built::Fast)?;
    let lines = lines(&mut Command::new(&example))?;
    let value = |key: &str| {
        let value = lines.get(key).copied();
        value.with_context(|| format!("vsmmu_ir prints no {key}"))
    };
    let rounds = value("rounds")?;
    let each = |name: &str| anyhow::Ok(collected(&example, &[], name)? / rounds);
    let figure = |id, what, value, unit| Figure {
        id,
        what,
        value,
        unit,
        bound: None,
        peers: Vec::new(),
    };
    let hint = (each("trap_hints")? - each("trap_hint")?) / (HINTS - SHORT);
    let one = each("trap_one")?;
    let invalidation = (each("trap_many")? - one) / (INVALIDATIONS - SHORT);
    let streams = value("trap_streams_streams")?;
    Ok(vec![
        figure(
            "B13.command",
            "one more command of a guest: read, decoded, consumed",
            hint,
            "instructions",
        ),
        figure(
            "B13.invalidation",
            "one more CMD_TLBI_NH_VA of a guest: that, and on to the physical queue",
            invalidation,
            "instructions",
        ),
        figure(
            "B13.doorbell",
            "a guest's doorbell with one invalidation and a CMD_SYNC",
            one,
            "instructions",
        ),
        figure(
            "B13.stream",
            "a stream's new stage 1: entry read, checked, in force",
            collected(&example, &[], "trap_streams")? / streams,
            "instructions a stream",
        ),
    ])
}
