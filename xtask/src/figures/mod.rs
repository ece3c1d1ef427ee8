//! The figures that `cargo xtask bench` shows: one file a way of measuring, each with its list of [`Source`]s.
//!
//! Every figure is exact (a count or a size), so a bound that holds once holds always.

mod image;
mod tables;

use anyhow::Result;

/// One figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// Its name for good.
    pub id: &'static str,
    /// What was measured.
    pub what: &'static str,
    /// What came out.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// More than this is a failure.
    pub bound: Option<f64>,
    /// Who else was measured, and with what result.
    pub peers: Vec<(&'static str, f64)>,
}

impl Figure {
    /// Whether the bound holds.
    pub fn holds(&self) -> bool {
        self.bound.is_none_or(|bound| self.value <= bound)
    }
}

/// Figures that are measured together.
pub struct Source {
    /// Their ids.
    pub ids: &'static [&'static str],
    /// All of them.
    pub measure: fn() -> Result<Vec<Figure>>,
}

/// All of them.
pub const SOURCES: &[Source] = &[tables::COUNTS, tables::INSTRUCTIONS, image::SIZE];
