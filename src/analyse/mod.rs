//! Rows to summaries and comparisons, with polars. Pure functions of what was recorded.

pub mod judgement;
pub mod warning;

pub use judgement::{
    Better, Comparison, Estimate, Judgement, KernelPoint, Point, RequestFacts, RequestPoint,
    Verdict,
};
pub use warning::Warning;

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
