//! Simulations that differ in the seed alone, together.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::{
    BySeed, CellKey, CellStats, Estimate, Spread, Steadiness,
    compare::{self, Regrets, Speedups},
    estimate,
};
use crate::{record::RouteWorldRow, route::experiment::Design, stats};

/// A cell over its seeds. Estimates are means over seeds; shares are of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Pool, trace, load, skill and policy. A policy that asks no predictor stands under every skill, with the same numbers.
    pub key: CellKey,
    /// Simulations.
    pub n_seeds: usize,
    /// Requests of all of them.
    pub n_requests: usize,
    /// Requests that nobody served.
    pub n_failed: usize,
    /// Mean seconds from arrival to last token.
    pub e2e_mean_s: Option<Estimate>,
    /// Median of them.
    pub e2e_p50_s: Option<Estimate>,
    /// 99th percentile of them.
    pub e2e_p99_s: Option<Estimate>,
    /// Mean seconds from arrival to first token.
    pub ttft_mean_s: Option<Estimate>,
    /// Median of them.
    pub ttft_p50_s: Option<Estimate>,
    /// 99th percentile of them.
    pub ttft_p99_s: Option<Estimate>,
    /// Mean seconds a token after the first.
    pub tpot_mean_s: Option<Estimate>,
    /// Median of them.
    pub tpot_p50_s: Option<Estimate>,
    /// 99th percentile of them.
    pub tpot_p99_s: Option<Estimate>,
    /// Mean of seconds from arrival to last token, a token of the answer.
    pub normalised_mean_s: Option<Estimate>,
    /// Share of requests that kept every limit.
    pub on_time: Option<Estimate>,
    /// Requests a second that kept every limit.
    pub goodput_per_s: Option<Estimate>,
    /// Share of served requests whose method breaks the prompt.
    pub harmed: Option<Estimate>,
    /// Excess negatives of one simulation.
    pub excess_negatives: Option<Estimate>,
    /// Share of served requests by method.
    pub by_method: BTreeMap<String, Estimate>,
    /// Share of requests by reason of the decision.
    pub by_reason: BTreeMap<String, Estimate>,
    /// Share of the time in which a step ran, by engine.
    pub busy: BTreeMap<String, Estimate>,
    /// Times that a request lost its place in a cache, of one simulation.
    pub n_preempted: Option<Estimate>,
    /// Share of requests that came while another was inside.
    pub overlapped: Option<Estimate>,
    /// Share of served requests that ended after the last arrival.
    pub drained: Option<Estimate>,
    /// Growth of the number inside over the time of the arrivals, of its mean ([`CellStats::growth`]).
    pub growth: Option<Estimate>,
    /// Whether requests piled up.
    pub steadiness: Steadiness,
    /// The world, as far as it is known.
    pub world: Option<WorldMeans>,
    /// Against other policies.
    pub speedups: Speedups,
    /// Against oracles.
    pub regrets: Regrets,
}

/// A world over its seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorldMeans {
    /// Arrivals a second.
    pub rate_per_s: Option<f64>,
    /// Arrivals a second over what as many engines of the baseline keep up with at most.
    pub rho: Option<f64>,
    /// Lower bound of the mean seconds from arrival to last token.
    pub bound_e2e_mean_s: f64,
    /// Lower bound of the mean seconds to the first token.
    pub bound_ttft_mean_s: f64,
    /// Lower bound of the seconds of work an engine.
    pub bound_work_s: f64,
}

/// The summary of every cell, in the order of the design.
pub fn summarise(stats: &[CellStats], worlds: &[RouteWorldRow], design: &Design) -> Vec<Summary> {
    let by_seed = by_seed(stats);
    let worlds = world_means(worlds);
    keys(design, &by_seed)
        .into_par_iter()
        .filter_map(|key| {
            let is_baseline =
                design.pool(&key.pool).is_some_and(|pool| pool.baseline_pool == pool.name);
            let seeds = compare::find(&by_seed, &key)?;
            let world = (key.pool.clone(), key.trace.clone(), key.load.clone());
            let world = worlds.get(&world).copied();
            let full = world.and_then(|world| world.rho).is_some_and(|rho| rho >= 1.0);
            let one =
                one(key.clone(), &seeds.into_iter().map(|(_, stats)| stats).collect::<Vec<_>>());
            // From rho 1 on the baseline cannot keep up, whatever few seeds of a short run show.
            let steadiness = if is_baseline && full { Steadiness::Growing } else { one.steadiness };
            Some(Summary {
                world,
                steadiness,
                speedups: compare::speedups(&by_seed, &key, design),
                regrets: compare::regrets(&by_seed, &key, design),
                ..one
            })
        })
        .collect()
}

pub(super) fn by_seed(stats: &[CellStats]) -> BySeed<'_> {
    let mut all: BySeed<'_> = BTreeMap::new();
    for one in stats {
        all.entry(&one.key).or_default().insert(one.seed, one);
    }
    all
}

/// Keys of everything that was simulated, in the order of the design.
pub(super) fn keys(design: &Design, by_seed: &BySeed<'_>) -> Vec<CellKey> {
    let mut all = Vec::new();
    for pool in &design.pools {
        for trace in &design.traces {
            for load in &design.loads {
                for skill in &design.skills {
                    all.extend(design.policies.iter().map(|policy| CellKey {
                        pool: pool.name.clone(),
                        trace: trace.clone(),
                        load: load.clone(),
                        skill: skill.clone(),
                        policy: policy.name.clone(),
                    }));
                }
            }
        }
    }
    all.retain(|key| compare::find(by_seed, key).is_some());
    all
}

/// Everything but comparisons.
fn one(key: CellKey, seeds: &[&CellStats]) -> Summary {
    let mean = |value: fn(&CellStats) -> Option<f64>| over(seeds, value);
    let growth = mean(|s| s.growth);
    let spread = |of: fn(&CellStats) -> Option<Spread>| {
        let pick = |value: fn(Spread) -> Option<f64>| {
            let values: Vec<f64> = seeds.iter().filter_map(|s| of(s).and_then(value)).collect();
            // A percentile that some seeds cannot hold is none.
            (values.len() == seeds.len()).then(|| estimate(&values)).flatten()
        };
        [pick(|s| Some(s.mean)), pick(|s| Some(s.p50)), pick(|s| s.p99)]
    };
    let [e2e_mean_s, e2e_p50_s, e2e_p99_s] = spread(|s| s.e2e_s);
    let [ttft_mean_s, ttft_p50_s, ttft_p99_s] = spread(|s| s.ttft_s);
    let [tpot_mean_s, tpot_p50_s, tpot_p99_s] = spread(|s| s.tpot_s);
    let [normalised_mean_s, ..] = spread(|s| s.normalised_s);
    Summary {
        key,
        n_seeds: seeds.len(),
        n_requests: seeds.iter().map(|s| s.n).sum(),
        n_failed: seeds.iter().map(|s| s.failed.len()).sum(),
        e2e_mean_s,
        e2e_p50_s,
        e2e_p99_s,
        ttft_mean_s,
        ttft_p50_s,
        ttft_p99_s,
        tpot_mean_s,
        tpot_p50_s,
        tpot_p99_s,
        normalised_mean_s,
        on_time: mean(|s| s.on_time),
        goodput_per_s: mean(|s| s.goodput_per_s),
        harmed: mean(|s| s.harmed),
        excess_negatives: mean(|s| s.n_harmed.map(|n| n as f64)),
        by_method: by_name(seeds, |s| &s.by_method),
        by_reason: by_name(seeds, |s| &s.by_reason),
        busy: by_name(seeds, |s| &s.busy),
        n_preempted: mean(|s| s.n_preempted.map(|n| n as f64)),
        overlapped: mean(|s| Some(s.overlapped)),
        drained: mean(|s| Some(s.drained)),
        growth,
        steadiness: Steadiness::of(growth),
        world: None,
        speedups: Speedups::default(),
        regrets: Regrets::default(),
    }
}

fn over(seeds: &[&CellStats], value: impl Fn(&CellStats) -> Option<f64>) -> Option<Estimate> {
    // What some seeds lack is none: a mean over the others would be one of other seeds than beside it.
    let values: Vec<f64> = seeds.iter().map(|s| value(s)).collect::<Option<_>>()?;
    estimate(&values)
}

/// Of names that a seed does not have, its share is 0: nothing was sent there.
fn by_name(
    seeds: &[&CellStats],
    of: fn(&CellStats) -> &BTreeMap<String, f64>,
) -> BTreeMap<String, Estimate> {
    let names: BTreeSet<&String> = seeds.iter().flat_map(|s| of(s).keys()).collect();
    let share = |name: &String| {
        over(seeds, |s| Some(of(s).get(name).copied().unwrap_or(0.0)))
            .map(|share| (name.clone(), share))
    };
    names.into_iter().filter_map(share).collect()
}

type WorldKey = (String, String, String);

fn world_means(rows: &[RouteWorldRow]) -> BTreeMap<WorldKey, WorldMeans> {
    let mut all: BTreeMap<WorldKey, Vec<&RouteWorldRow>> = BTreeMap::new();
    for row in rows {
        let key = (row.pool.clone(), row.trace.clone(), row.load.clone());
        all.entry(key).or_default().push(row);
    }
    let mean = |rows: &[&RouteWorldRow], value: fn(&RouteWorldRow) -> Option<f64>| {
        let values: Vec<f64> = rows.iter().filter_map(|row| value(row)).collect();
        stats::mean(&values)
    };
    let one = |rows: &[&RouteWorldRow]| {
        Some(WorldMeans {
            rate_per_s: mean(rows, |row| row.rate_per_s),
            rho: mean(rows, |row| Some(row.rate_per_s? / row.capacity_per_s?)),
            bound_e2e_mean_s: mean(rows, |row| Some(row.bound_e2e_mean_s))?,
            bound_ttft_mean_s: mean(rows, |row| Some(row.bound_ttft_mean_s))?,
            bound_work_s: mean(rows, |row| Some(row.bound_work_s))?,
        })
    };
    all.into_iter().filter_map(|(key, rows)| Some((key, one(&rows)?))).collect()
}
