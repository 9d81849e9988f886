//! What judging a run yields, as plain data that `report` renders. Units are in the field names; `None` is unknown.

use crate::kernel::roofline::Bound;
use std::collections::BTreeMap;

use super::{
    ClientView, Engines, SummaryRow,
    lengths::{LengthPoint, forced::ForcedPoint},
    quality::Quality,
    sanity::TextPoint,
    steady::SteadyPoint,
    verdict::CellVerdict,
    warm_up::WarmUp,
    warning::Warning,
};
pub use crate::{plan::search::Reason, record::manifest::Verdict};

/// A number with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Point estimate.
    pub value: f64,
    /// Ends of the 95 % bootstrap interval; `None` where there were too few observations for one.
    pub interval: Option<(f64, f64)>,
    /// Observations (launches or requests; for a paired ratio the pairs).
    pub n: usize,
}

/// What was measured, whatever the repeat: rows with equal points are repeats of one another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Point {
    /// Name of the target.
    pub target: String,
    /// Name of the workload, for a shape of a grid with the shape.
    pub workload: String,
    /// Load with its parameter.
    pub load: String,
    /// Name of the method, `<baseline>-aa` for the A/A control.
    pub method: String,
}

/// One kernel at one point, all repeats together, and its comparison with the baseline there.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelPoint {
    /// Which.
    pub point: Point,
    /// `prefill`, `decode` or `compress`.
    pub op: String,
    /// Model shape; one attention layer of it was measured.
    pub model_shape: String,
    /// Device as the machine names it.
    pub device: String,
    /// Implementation, such as `cpu-avx512`.
    pub backend: String,
    /// Ranks that share the layer's heads; one of them was measured.
    pub tensor_parallel: i64,
    /// Width of the layer, all ranks together: query heads times head dimension.
    pub hidden: i64,
    /// Sequences.
    pub batch: i64,
    /// Query tokens per sequence.
    pub q_len: i64,
    /// Cached tokens per sequence before compression.
    pub kv_len: i64,
    /// Cached tokens of all sequences.
    pub kv_tokens: i64,
    /// Timed launches.
    pub n_samples: usize,
    /// Repeats that hold at least one timed launch.
    pub n_repeats: usize,
    /// Whether every row passed its check against f64.
    pub verified: bool,
    /// The largest relative L2 error of the rows.
    pub max_rel_err: Option<f64>,
    /// The first error of the point; `None` when there was none.
    pub err: Option<String>,
    /// Median wall time of one launch (hierarchical bootstrap over repeats, then launches).
    pub duration_ms: Option<Estimate>,
    /// 10th and 90th percentile of the same launches; `None` below 36 (see [`crate::stats::needed_for`]).
    pub duration_p10_p90_ms: Option<(f64, f64)>,
    /// `batch / median` for decode, `kv_tokens / median` for prefill and compress: tokens through ONE attention layer.
    pub tokens_per_s: Option<Estimate>,
    /// Bytes one launch must move; the median over rows (replayed batches are ragged).
    pub bytes_moved: Option<i64>,
    /// `bytes_moved / median duration`.
    pub gb_per_s: Option<f64>,
    /// Read bandwidth measured in the same blocks (median over their probes); `None` without a probe.
    pub read_gb_per_s: Option<f64>,
    /// Median over launches of their GB/s divided by the probe median of their own repeat, so that a machine that drifts
    /// between repeats does not distort it. Not a bound for compute-limited kernels such as prefill.
    pub bandwidth_fraction: Option<f64>,
    /// Operations per second of the attention itself, in units of 1e9.
    pub gflop_per_s: Option<f64>,
    /// Part of the shortest possible time that the median took: `t_limit / t`; `None` on a device without known limits.
    pub limit_fraction: Option<f64>,
    /// What stands in the way of being faster; `None` as above.
    pub bound: Option<Bound>,
    /// Samples thrown away because the GPU was throttled.
    pub n_discarded: i64,
    /// Wall-time speed-up, baseline median / own median, paired over sample rounds; `None` on the baseline itself.
    pub speedup: Option<Estimate>,
    /// The same from the CPU time of the worker threads, which other guests of the machine do not inflate.
    pub cpu_speedup: Option<Estimate>,
    /// Bytes the baseline must move / bytes this method must move: what a purely bandwidth-bound kernel would gain.
    pub ideal_speedup: Option<f64>,
    /// `(speedup - 1) / (ideal_speedup - 1)`; decode only, and only where the ideal exceeds 1.05.
    pub captured_fraction: Option<f64>,
    /// Largest distance from 1 of the A/A ratio's interval at this point, as the logarithm of a factor: what is nearer is noise.
    pub noise_floor: Option<f64>,
    /// Whether the speed-up lies within the noise floor; `None` without an A/A control.
    pub within_noise: Option<bool>,
}

/// One kernel on one of several ranks: measured time of the rank, modelled time of the ranks' all-reduce.
#[derive(Debug, Clone, PartialEq)]
pub struct ParallelPoint {
    /// Which.
    pub point: Point,
    /// `prefill` or `decode`.
    pub op: String,
    /// Sequences.
    pub batch: i64,
    /// Cached tokens per sequence.
    pub kv_len: i64,
    /// Ranks.
    pub tensor_parallel: i64,
    /// Median time of one rank's launch, as measured.
    pub measured_ms: Option<Estimate>,
    /// One ring all-reduce of the layer's output, modelled; `None` where the scenario states no link.
    pub communication_ms: Option<f64>,
    /// Sum of the two; its interval is the measurement's.
    pub total_ms: Option<Estimate>,
    /// Sum on one rank over the sum here; `None` on one rank. Not measured side by side: the interval takes the far ends of both.
    pub speedup_over_one: Option<Estimate>,
    /// Measured speed-up over the baseline at the same degree, paired; `None` on the baseline.
    pub speedup: Option<Estimate>,
    /// The same with the modelled time added on both sides.
    pub speedup_total: Option<Estimate>,
}

/// One served workload under one load and method, all repeats together.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestPoint {
    /// Which.
    pub point: Point,
    /// Repeats seen.
    pub n_repeats: usize,
    /// Requests, failed ones included.
    pub n_requests: usize,
    /// Requests that failed; they are in no latency.
    pub n_failed: usize,
    /// Failed requests by class (text of `err` up to the first `:`).
    pub failures: BTreeMap<String, usize>,
    /// Requests answered only after another attempt.
    pub n_retried: usize,
    /// Answers cut at `max_tokens` (`finish_reason = length`).
    pub n_truncated: usize,
    /// Prompt tokens of the good requests; `None` when the server did not count for all of them.
    pub prompt_tokens: Option<i64>,
    /// Output tokens of the good requests; `None` when the server did not count for all of them.
    pub output_tokens: Option<i64>,
    /// First `sent_ns` to last `done_ns`, summed over repeats.
    pub duration_s: Option<f64>,
    /// Good requests / duration. The value is the mean over repeats, its interval comes from repeats alone.
    pub requests_per_s: Option<Estimate>,
    /// Output tokens of good requests / duration.
    pub output_tokens_per_s: Option<Estimate>,
    /// Good requests within the SLO / duration; `None` without an SLO.
    pub goodput_per_s: Option<Estimate>,
    /// Distributions, pooled over repeats: `ttft`, `ttft_due`, `e2e`, `e2e_due`, `tpot`, `itl`, `icl`, `queue_delay` in
    /// ms, `prompt_tokens` and `output_tokens` in tokens. A metric nobody could measure is absent.
    pub metrics: Vec<SummaryRow>,
}

impl RequestPoint {
    /// The distribution of one metric.
    pub fn metric(&self, name: &str) -> Option<&SummaryRow> {
        self.metrics.iter().find(|row| row.metric == name)
    }
}

/// What one saturation search found. Computed from rows and the rule alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Saturation {
    /// The cell's point; the load is the search's own (`sat-slo0.9`).
    pub point: Point,
    /// Repeat.
    pub repeat: i64,
    /// Part of the requests that must meet the SLO.
    pub attainment: f64,
    /// Highest sustained rate, requests per second; `None` where none was.
    pub rate_per_s: Option<f64>,
    /// Lowest overloaded rate; `None` where none was.
    pub overloaded_per_s: Option<f64>,
    /// Why the search ended; `None` where it was cut short.
    pub reason: Option<Reason>,
    /// Rates tried, in order.
    pub probes: Vec<Rate>,
}

/// One rate of a saturation search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests per second.
    pub rate_per_s: f64,
    /// Requests that met the SLO.
    pub n_good: usize,
    /// Requests, failed ones included.
    pub n: usize,
    /// Requests that failed.
    pub n_failed: usize,
    /// 95 % Wilson interval of `n_good / n`.
    pub interval: Option<(f64, f64)>,
    /// Whether the rate counts as sustained.
    pub sustained: bool,
    /// Whether the interval said so, and not the part alone.
    pub decided: bool,
}

impl Rate {
    /// `n_good / n`.
    pub fn part(&self) -> Option<f64> {
        (self.n > 0).then(|| self.n_good as f64 / self.n as f64)
    }
}

/// Which direction is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Such as throughput.
    Higher,
    /// Such as latency.
    Lower,
    /// Neither: answer length.
    Neither,
}

/// One metric of one served point against the baseline on the same target group, workload and load.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Which (never the baseline).
    pub point: Point,
    /// The baseline's point; its target may differ, since one server runs one method.
    pub baseline: Point,
    /// Metric, such as `ttft`.
    pub metric: String,
    /// Statistic that is divided: `mean`, or `per_repeat` for rates.
    pub statistic: &'static str,
    /// Method / baseline.
    pub ratio: Estimate,
    /// Direction.
    pub better: Better,
    /// Whether the same prompts were paired.
    pub paired: bool,
    /// Whether the ratio lies within the A/A control's interval; `None` without one.
    pub within_noise: Option<bool>,
}

/// One request with what follows from its times; the raw material of CDFs and histograms.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestFacts {
    /// Its cell.
    pub cell_id: String,
    /// Which.
    pub point: Point,
    /// Repeat.
    pub repeat: i64,
    /// Position in the workload.
    pub request_id: i64,
    /// Whether it failed; a failed request has no latency.
    pub failed: bool,
    /// `first_token - sent`.
    pub ttft_ms: Option<f64>,
    /// `first_token - due`: what a user feels who came when the schedule said.
    pub ttft_due_ms: Option<f64>,
    /// `last_token - sent`.
    pub e2e_ms: Option<f64>,
    /// `last_token - due`.
    pub e2e_due_ms: Option<f64>,
    /// `(last_token - first_token) / (output_tokens - 1)`; `None` when tokens are unknown or fewer than two.
    pub tpot_ms: Option<f64>,
    /// Gaps between tokens, in ms, where each token's arrival is known; 0 between tokens of one chunk.
    pub itl_ms: Vec<f64>,
    /// Gaps between chunks, in ms, whatever they held.
    pub icl_ms: Vec<f64>,
    /// `sent - due`.
    pub queue_delay_ms: Option<f64>,
    /// As the server counted.
    pub prompt_tokens: Option<i64>,
    /// As the server counted.
    pub output_tokens: Option<i64>,
    /// The same as a length of an answer: `None` where a full context cut it before `max_tokens`.
    pub answer_tokens: Option<i64>,
    /// Whether every limit of the SLO held; `None` without an SLO. A limit on an unknown quantity does not hold.
    pub within_slo: Option<bool>,
}

/// The judgement of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Rows of `summary.parquet`: every metric per cell, and pooled over repeats under `…/*` in place of the repeat.
    pub summary: Vec<SummaryRow>,
    /// Kernels, in plan order of their first cell; the A/A control is among them.
    pub kernels: Vec<KernelPoint>,
    /// Prefill and decode of targets that ran at more than one rank, in the same order, without the A/A control.
    pub parallel: Vec<ParallelPoint>,
    /// Served points, in plan order of their first cell.
    pub requests: Vec<RequestPoint>,
    /// Saturation searches, in plan order.
    pub searches: Vec<Saturation>,
    /// Ratios of served points to the baseline.
    pub comparisons: Vec<Comparison>,
    /// Steady parts of served points, in the same order.
    pub steady: Vec<SteadyPoint>,
    /// Answers of served points beside the baseline's; points whose answers were not kept are absent.
    pub texts: Vec<TextPoint>,
    /// One verdict a planned cell, in plan order.
    pub cells: Vec<CellVerdict>,
    /// What servers told of themselves.
    pub engines: Engines,
    /// Warm-ups, in plan order: shown, never counted.
    pub warm_ups: Vec<WarmUp>,
    /// How the load client fared, in plan order.
    pub clients: Vec<ClientView>,
    /// Lengths of answers beside the baseline's and beside what chance does.
    pub lengths: Vec<LengthPoint>,
    /// Willingness to stop at the same text; empty for a run without forced answers.
    pub forced: Vec<ForcedPoint>,
    /// What the scores of answers say; empty for a run that was not scored.
    pub quality: Quality,
    /// What the reader must know.
    pub warnings: Vec<Warning>,
    /// Worst of the warnings and the cells.
    pub verdict: Verdict,
}
