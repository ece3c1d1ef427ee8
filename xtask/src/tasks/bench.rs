//! `cargo xtask bench`: the figures, each with its bound and what others need for the same.

use super::Outcome;
use crate::figures::{Figure, SOURCES};
use anyhow::Context;
use serde_json::json;
use std::process::ExitCode;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Bench {
    /// Only these figures; `B1` stands for `B1.leaf_stores` as well.
    ids: Vec<String>,
    /// One JSON object a figure.
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures; a figure beyond its bound, or one that cannot be had, fails.
    pub fn run(self) -> Outcome {
        let wanted = |id: &str| {
            let named = |part: &String| {
                id.strip_prefix(&**part)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            self.ids.is_empty() || self.ids.iter().any(named)
        };
        let mut good = true;
        for source in SOURCES
            .iter()
            .filter(|source| source.ids.iter().any(|id| wanted(id)))
        {
            let figures = (source.measure)().with_context(|| source.ids.join(", "))?;
            for figure in figures.iter().filter(|figure| wanted(figure.id)) {
                good &= figure.holds();
                println!(
                    "{}",
                    if self.json {
                        object(figure)
                    } else {
                        figure.to_string()
                    }
                );
            }
        }
        Ok(if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn object(figure: &Figure) -> String {
    let peers: serde_json::Map<_, _> = figure
        .peers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    json!({
        "id": figure.id,
        "what": figure.what,
        "value": figure.value,
        "unit": figure.unit,
        "bound": figure.bound,
        "peers": peers,
    })
    .to_string()
}
