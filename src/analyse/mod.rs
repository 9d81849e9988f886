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

pub mod adaptive;
mod client;
mod compare;
pub mod compensation;
mod data;
pub mod definitions;
mod engine;
mod in_flight;
pub mod judgement;
mod kernels;
pub mod length_labels;
pub mod lengths;
pub mod negatives;
mod ngram;
pub mod observed_trace;
pub mod passes;
mod peers;
pub mod quality;
pub mod replay;
mod requests;
pub mod risk;
mod roofs;
pub mod route;
pub mod route_replay;
mod sanity;
mod saturation;
pub mod score;
pub mod score_run;
mod steady;
mod summary;
mod suspicion;
mod tensor_parallel;
#[cfg(test)]
mod tests;
mod verdict;
mod warm_up;
pub mod warning;

pub use client::ClientView;
pub use data::RunData;
pub use engine::{EngineView, Engines, Level, Line};
pub use in_flight::{InFlight, in_flight};
pub use judgement::{
    Better, Comparison, Estimate, Judgement, KernelPoint, ParallelPoint, Point, Rate, Reason,
    RequestFacts, RequestPoint, Saturation, Verdict,
};
pub use requests::facts;
pub use roofs::peak_gflop_per_s;
pub use sanity::TextPoint;
pub use steady::SteadyPoint;
pub use suspicion::cells_with_errors;
pub use verdict::{CellVerdict, doubtful};
pub use warm_up::WarmUp;
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
    let (steady, steady_summary) = steady::points(data, &served);
    let (texts, text_summary) = sanity::points(data, &served);
    summary.extend(steady_summary.into_iter().chain(text_summary));
    let points = (kernels.as_slice(), requests.as_slice());
    let mut warnings = suspicion::warnings(data, &served, points, &comparisons, &texts)?;
    warnings.extend(suspicion::engines(&engines));
    warnings.sort_by_key(|warning| std::cmp::Reverse(warning.severity()));
    let cells = verdict::verdicts(&verdict::Findings {
        data,
        served: &served,
        kernels: &kernels,
        comparisons: &comparisons,
        texts: &texts,
        warnings: &warnings,
        summary: &summary,
    })?;
    verdict::mark(data, &mut summary, &cells);
    let verdict = warnings
        .iter()
        .map(Warning::severity)
        .chain(cells.iter().map(|cell| cell.verdict))
        .max()
        .unwrap_or(Verdict::Valid);
    let parallel = tensor_parallel::points(data, &kernels);
    let searches = saturation::searches(data, &served);
    let warm_ups = warm_up::cells(data)?;
    let mut judgement = Judgement {
        summary,
        kernels,
        parallel,
        requests,
        searches,
        comparisons,
        steady,
        texts,
        cells,
        engines,
        warm_ups,
        clients: client::views(data),
        quality: quality::Quality::default(),
        lengths: lengths::points(lengths::Source {
            manifest: &data.manifest,
            requests: &data.requests,
            encode: None,
        })?,
        forced: lengths::forced::points(&data.manifest, &data.requests)?,
        warnings,
        verdict,
    };
    judgement.quality = quality::quality(data, &judgement.lengths);
    Ok(judgement)
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
    /// Id of what the metric means, see [`definitions`]: numbers compare where ids are equal.
    pub definition: Option<String>,
    /// Such as `ms`, `tokens/s`, `1`.
    pub unit: String,
    /// Observations: requests, gaps or launches; of a rate the repeats.
    pub n: u64,
    /// Mean.
    pub mean: f64,
    /// Lower end of the 95 % bootstrap interval of the mean; `None` with fewer than two observations.
    pub ci_low: Option<f64>,
    /// Upper end.
    pub ci_high: Option<f64>,
    /// Median; a rate of a whole cell has no percentiles.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile; `None` where the sample is too small to hold one.
    pub p99: Option<f64>,
    /// `VALID`, `SUSPECT` or `INVALID`, of the cell; of a point the worst of its cells.
    pub verdict: Option<String>,
}
