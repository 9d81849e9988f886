//! Rows to summaries and comparisons, with polars. Pure functions of what was recorded.
//!
//! Definitions, so that a number can be compared with another tool's:
//!
//! - TTFT `first_token - sent`; E2E `last_token - sent` (usage and `[DONE]` come later and are not waited for);
//!   TPOT `(last_token - first_token) / (output_tokens - 1)`; `*_due` the same from `due` instead of `sent`.
//! - ITL: gaps between arrivals of consecutive tokens, 0 between tokens of one chunk, only where the server told which
//!   chunk held how many; otherwise gaps between chunks go by their own name, ICL.
//! - Rates divide by the time from the first request sent to the last one done, failed requests included.
//! - Failed requests are counted and are in no latency and no rate.
//! - Intervals are 95 % percentile bootstraps over repeats, then requests or launches: see [`crate::stats`].

mod compare;
mod data;
mod engine;
pub mod judgement;
mod kernels;
mod peers;
mod requests;
mod summary;
mod suspicion;
mod tensor_parallel;
#[cfg(test)]
mod tests;
pub mod warning;

pub use data::RunData;
pub use engine::{EngineView, Engines, Level, Line};
pub use judgement::{
    Better, Comparison, Estimate, Judgement, KernelPoint, ParallelPoint, Point, RequestFacts,
    RequestPoint, Verdict,
};
pub use requests::facts;
pub use suspicion::cells_with_errors;
pub use warning::Warning;

/// Judges a run: everything a report says is in here.
///
/// # Errors
/// A table lacks a column or holds a null where none is known.
pub fn judge(data: &RunData) -> anyhow::Result<Judgement> {
    let served = requests::Served::of(data)?;
    let (kernels, mut summary) = kernels::points(data)?;
    let (requests, served_summary) = requests::points(data, &served);
    summary.extend(served_summary);
    let (engines, told) = engine::engines(data)?;
    summary.extend(told);
    let comparisons = compare::comparisons(data, &served);
    let mut warnings = suspicion::warnings(data, &served, (&kernels, &requests), &comparisons)?;
    warnings.extend(suspicion::engines(&engines));
    warnings.sort_by_key(|warning| std::cmp::Reverse(warning.severity()));
    let verdict = warnings.iter().map(Warning::severity).max().unwrap_or(Verdict::Valid);
    let parallel = tensor_parallel::points(data, &kernels);
    Ok(Judgement { summary, kernels, parallel, requests, comparisons, engines, warnings, verdict })
}

/// Every request of a run with what follows from its times, for CDFs and histograms.
///
/// # Errors
/// As [`judge`].
pub fn request_facts(data: &RunData) -> anyhow::Result<Vec<RequestFacts>> {
    Ok(requests::Served::of(data)?.facts)
}

/// One metric of one cell, or of one group of cells: a row of `summary.parquet`.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryRow {
    /// The cell.
    pub cell_id: String,
    /// Such as `ttft`, `tpot`, `decode_tokens_per_s`.
    pub metric: String,
    /// Such as `ms`, `tokens/s`, `1`.
    pub unit: String,
    /// Observations.
    pub n: u64,
    /// Mean.
    pub mean: f64,
    /// Lower end of the 95 % bootstrap interval of the mean; `None` with fewer than two observations.
    pub ci_low: Option<f64>,
    /// Upper end.
    pub ci_high: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile; `None` where the sample is too small to hold one.
    pub p99: Option<f64>,
}
