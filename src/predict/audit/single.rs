//! What one file says against itself.

use super::{
    Finding, Kind,
    series::{self, Series},
};
use crate::predict::{Phase, columns::Columns};

/// Below this, keys and values may lie in a cache that is faster than memory: the last-level cache of no GPU is larger.
const BYTES_MIN: f64 = 128.0 * 1024.0 * 1024.0;
/// K and V, two bytes each.
const BYTES_PER_ELEMENT: f64 = 2.0 * 2.0;
/// Fewest rows of which a constant says something.
const ROWS_MIN: usize = 8;
/// Share of a file's largest value from which a constant matters: an operation of no weight may well take one tick each time.
const SHARE_MIN: f64 = 0.01;

/// Findings of one file.
pub(super) fn findings(table: &Columns, bandwidth_gb_s: Option<f64>) -> Vec<Finding> {
    let measured = table.headers.iter().filter(|header| series::is_measured(header));
    let mut found: Vec<Finding> =
        measured.flat_map(|column| column_findings(table, column)).collect();
    if let Some(bandwidth) = bandwidth_gb_s {
        found.extend(too_fast(table, bandwidth));
    }
    found
}

fn column_findings(table: &Columns, column: &str) -> Vec<Finding> {
    let Some(series) = Series::of(table, column) else { return Vec::new() };
    let known = series.known();
    let finding = |kind, n_rows, flagged| Finding {
        flagged,
        n_rows,
        n_compared: known.len(),
        ..Finding::new(kind, &[table], column)
    };
    let highest = known.iter().copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let mut found = Vec::new();
    if known.len() >= ROWS_MIN && series::distinct(&known) == 1 {
        let (kind, flagged) = if series::is_spread(column) {
            (Kind::NoSpread, beside_a_mean(table, column))
        } else {
            (Kind::Constant, highest >= SHARE_MIN * highest_of(table))
        };
        found.push(finding(kind, known.len(), flagged));
    }
    let broken = known.iter().filter(|value| !value.is_finite() || **value < 0.0).count();
    let zero = known.iter().filter(|value| value.abs() <= 0.0).count();
    let least = known.iter().copied().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    // A 0 beside times of a few ticks is a tick that was rounded off, and a spread may be 0 in a row.
    let is_zero_odd = least.is_finite() && series.is_fine(least) && !series::is_spread(column);
    let impossible = broken + if is_zero_odd { zero } else { 0 };
    if impossible > 0 {
        found.push(finding(Kind::Impossible, impossible, true));
    }
    found
}

/// The largest measurement of a file.
fn highest_of(table: &Columns) -> f64 {
    let measured = table.headers.iter().filter(|header| series::is_measured(header));
    let known = measured.filter_map(|column| Series::of(table, column)).flat_map(|it| it.known());
    known.filter(|value| value.is_finite()).fold(0.0, f64::max)
}

/// Whether the mean that a spread belongs to is written finely enough to have one.
fn beside_a_mean(table: &Columns, spread: &str) -> bool {
    let stem = spread.trim_end_matches("std");
    let mean = Series::of(table, &format!("{stem}mean"));
    mean.is_some_and(|mean| mean.known().iter().any(|value| mean.is_fine(*value)))
}

/// Decode rows that would have to read faster than memory can.
fn too_fast(table: &Columns, bandwidth_gb_s: f64) -> Option<Finding> {
    let time = "time_stats.attn_decode.median";
    let needed = ["batch_size", "kv_cache_size", "n_kv_head", "n_embd", "n_q_head", time];
    if let Some(missing) = needed.iter().find(|column| !table.has(column)) {
        let finding = Finding::new(Kind::NotChecked, &[table], missing);
        return Some(Finding { flagged: false, ..finding });
    }
    let columns: Vec<Series> =
        needed.iter().filter_map(|column| Series::of(table, column)).collect();
    let ranks = Series::of(table, "num_tensor_parallel_workers");
    let rate = |row: usize| {
        let value = |at: usize| columns[at].values[row].filter(|value| value.is_finite());
        let shared = ranks.as_ref().map_or(Some(1.0), |ranks| ranks.values[row])?.max(1.0);
        let head_dim = value(3)? / value(4)?;
        let bytes = BYTES_PER_ELEMENT * value(0)? * value(1)? * value(2)? * head_dim / shared;
        // A byte per nanosecond is a gigabyte per second; times are in ms.
        (bytes >= BYTES_MIN).then_some(bytes / (value(5)? * 1e6))
    };
    let rates: Vec<f64> = (0..table.len()).filter_map(rate).filter(|rate| *rate > 0.0).collect();
    let fast: Vec<f64> = rates.iter().copied().filter(|rate| *rate > bandwidth_gb_s).collect();
    let worst = fast.iter().copied().fold(f64::NAN, f64::max);
    (!fast.is_empty()).then(|| Finding {
        phase: Some(format!("{:?}", Phase::Decode).to_lowercase()),
        factor: Some(worst / bandwidth_gb_s),
        n_rows: fast.len(),
        n_compared: rates.len(),
        ..Finding::new(Kind::TooFast, &[table], time)
    })
}
