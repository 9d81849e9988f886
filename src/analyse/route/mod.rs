//! Rows of a router's simulations to what they say: latencies, goodput, harm, speed-ups, regret.
//!
//! Definitions:
//!
//! - E2E is `finished - arrived`, TTFT `first_token - arrived`, TPOT `(finished - first_token) / (output_tokens - 1)`, and normalised
//!   latency `E2E / output_tokens`; times count from the arrival at the router, waiting included.
//! - Each simulation (one seed) gives one number a metric: a mean, a median or a 99th percentile of its requests, the last only
//!   where there are at least 368 ([`stats::needed_for`]). What is reported is the mean of these over seeds, with a 95 % bootstrap over seeds:
//!   requests of one simulation wait for each other, so they are no independent observations and no interval is made of them. Seeds are few,
//!   so it is the expanded percentile interval ([`stats::expanded`]).
//! - A speed-up is the other's mean E2E divided by the policy's own, each a mean over the same seeds; seeds are drawn in pairs, so
//!   what the requests of a seed have in common cancels. Regret is the same the other way round, less 1.
//! - All requests count, those that came while the system was filling or emptying too: so does everybody's. [`CellStats::overlapped`]
//!   and [`CellStats::drained`] say how many these are.
//! - Requests that nobody served, or that were given up, count as failed and are in no latency; where two policies failed different ones,
//!   they are not compared.
//! - Whether requests inside pile up while arrivals go on is a question with three answers: [`Steadiness`].
//! - Harmed is the share of served requests whose method breaks that prompt beyond chance. The simulated world holds no other
//!   negatives, so their number is the number of excess negatives.

use std::collections::BTreeMap;

mod cell;
mod compare;
mod read;
mod share;
mod steady;
mod summary;
#[cfg(test)]
mod tests;

pub use cell::{CellStats, Spread, stats_of};
pub use compare::{Regrets, Speedups};
pub use read::{Run, read};
pub use share::{Gain, Parts, gains};
pub use steady::Steadiness;
pub use summary::{Summary, WorldMeans, summarise};

use super::judgement::Estimate;
use crate::stats;

/// What simulations that differ in nothing but the seed have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CellKey {
    /// Name of the pool.
    pub pool: String,
    /// Name of the trace.
    pub trace: String,
    /// Name of the load.
    pub load: String,
    /// Name of the skill; empty for a policy that asks no predictor.
    pub skill: String,
    /// Name of the policy.
    pub policy: String,
}

/// Statistics of simulations, by key and seed.
type BySeed<'a> = BTreeMap<&'a CellKey, BTreeMap<i64, &'a CellStats>>;

/// Of every bootstrap: the same rows give the same intervals.
const SEED: u64 = 2026;

/// Seeds are few, and a percentile bootstrap of few is too narrow.
fn widened(interval: Option<stats::Interval>, value: f64, n_seeds: usize) -> Option<(f64, f64)> {
    interval.map(|i| stats::expanded(i, value, n_seeds)).map(|i| (i.low, i.high))
}

/// The mean over seeds with its interval; `None` where no seed has a value.
fn estimate(values: &[f64]) -> Option<Estimate> {
    let value = stats::mean(values)?;
    let interval =
        stats::bootstrap(&[values.to_vec()], &mut stats::seeded(SEED), |drawn| stats::mean(drawn));
    Some(Estimate { value, interval: widened(interval, value, values.len()), n: values.len() })
}
