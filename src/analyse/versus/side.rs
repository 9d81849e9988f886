//! One run folder as it is compared: of each cell and metric one number a repeat.

use std::collections::{BTreeMap, BTreeSet};

use super::metric::Metric;
use crate::{
    analyse::{Point, score_run::ScoreRow},
    record::Manifest,
};

/// A run that is compared.
#[derive(Debug, Clone)]
pub struct Side {
    /// Folder, as it was given.
    pub place: String,
    /// What was run.
    pub manifest: Manifest,
    /// Cells without their repeat, by `scenario/target/method/workload/load`.
    pub cells: BTreeMap<String, Cell>,
    /// How things were counted and timed, which must be alike to be compared.
    pub ways: Ways,
    /// `scores.parquet`; empty for a run that was not scored.
    pub scores: Vec<ScoreRow>,
}

/// Facts of rows that the manifest does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ways {
    /// Who counted output tokens.
    pub token_sources: BTreeSet<String>,
    /// What kernels ran on, as `target: device (backend)`.
    pub devices: BTreeSet<String>,
    /// Whose clock timed kernels.
    pub timers: BTreeSet<String>,
}

/// All repeats of one cell.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cell {
    /// Which.
    pub point: Point,
    /// By name of the metric.
    pub measured: BTreeMap<String, Measured>,
    /// Metrics whose percentile the repeats are too short for.
    pub short: BTreeSet<String>,
    /// Rows: requests or timed launches, failed ones included.
    pub n_rows: u64,
    /// Of them: failed.
    pub n_failed: u64,
    /// Shapes of kernels that were launched, as text.
    pub shapes: BTreeSet<String>,
}

/// A metric of a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Which.
    pub metric: Metric,
    /// In order of repeats.
    pub repeats: Vec<Repeat>,
}

/// A metric of one repeat.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repeat {
    /// Its number.
    pub repeat: i64,
    /// Value; above 0.
    pub value: f64,
    /// Observations.
    pub n: usize,
    /// Variance of the value's logarithm by what happens within the repeat; `None` where it is too short to tell.
    pub within: Option<f64>,
}

impl Cell {
    /// Adds a metric of a repeat. What is not above zero has no ratio.
    pub(super) fn add(&mut self, metric: Metric, repeat: Repeat) {
        if repeat.value > 0.0 && repeat.value.is_finite() {
            let name = metric.name.clone();
            let measured = self
                .measured
                .entry(name)
                .or_insert_with(|| Measured { metric, repeats: Vec::new() });
            measured.repeats.push(repeat);
            measured.repeats.sort_by_key(|repeat| repeat.repeat);
        }
    }
}

impl Measured {
    /// Logarithms of the values.
    pub(super) fn logs(&self) -> Vec<f64> {
        self.repeats.iter().map(|repeat| repeat.value.ln()).collect()
    }

    /// Geometric mean over repeats.
    pub fn value(&self) -> f64 {
        crate::stats::mean(&self.logs()).map_or(f64::NAN, f64::exp)
    }

    /// Mean variance within repeats, of logarithms.
    pub(super) fn within(&self) -> Option<f64> {
        let within: Option<Vec<f64>> = self.repeats.iter().map(|repeat| repeat.within).collect();
        crate::stats::mean(&within?)
    }
}

/// Id of a cell without its repeat.
pub(super) fn id(scenario: &str, point: &Point) -> String {
    let Point { target, workload, load, method } = point;
    format!("{scenario}/{target}/{method}/{workload}/{load}")
}
