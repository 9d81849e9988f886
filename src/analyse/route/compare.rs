//! A policy against others, by the seeds that they share.

use super::{BySeed, CellKey, CellStats, Estimate, SEED};
use crate::{route::experiment::Design, stats};

/// How many times as fast a policy is as others, by mean E2E. `None` where there is nothing to compare with, or where the two failed
/// different requests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Speedups {
    /// Than round robin on the same pool.
    pub round_robin: Option<Estimate>,
    /// Than join shortest queue on the same pool.
    pub shortest_queue: Option<Estimate>,
    /// Than join shortest queue on as many engines of the baseline.
    pub all_baseline: Option<Estimate>,
    /// Than least memory on as many engines of the baseline, which is what arXiv 2503.24000 has.
    pub all_baseline_least_memory: Option<Estimate>,
    /// Than least memory on as many engines of the pool's one other method: the paper's "own baseline".
    pub own_pool_least_memory: Option<Estimate>,
}

/// How much longer requests take than under policies that know one thing for certain, of one: 0.1 is a tenth longer. These are
/// other policies and not optima, so a regret may be negative. `None` where what the oracle knows was known to everybody, or to nobody.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Regrets {
    /// Than under marginal cost with the true step times.
    pub speed: Option<Estimate>,
    /// Than under marginal cost with the true lengths.
    pub length: Option<Estimate>,
    /// Than under marginal cost that keeps away from the methods that break the prompt, and knows which they are.
    pub fragility: Option<Estimate>,
}

/// Where to look for a policy: under a skill, or under none if it asks no predictor.
pub(super) fn find<'a>(
    by_seed: &'a BySeed<'_>,
    key: &CellKey,
) -> Option<Vec<(i64, &'a CellStats)>> {
    let without = || CellKey { skill: String::new(), ..key.clone() };
    let seeds = by_seed.get(key).or_else(|| by_seed.get(&without()))?;
    Some(seeds.iter().map(|(seed, stats)| (*seed, *stats)).collect())
}

fn mean_e2e(stats: &CellStats) -> Option<f64> {
    stats.e2e_s.map(|spread| spread.mean)
}

/// Mean E2E of the same seeds under several cells, in their order; `None` where one is missing or failed other requests: means of different
/// requests say nothing of policies, however many they are.
pub(super) fn paired<const N: usize>(
    by_seed: &BySeed<'_>,
    keys: [&CellKey; N],
) -> Option<Vec<[f64; N]>> {
    let found = keys.map(|key| find(by_seed, key));
    if found.iter().any(Option::is_none) {
        return None;
    }
    let all: Vec<Vec<(i64, &CellStats)>> = found.into_iter().flatten().collect();
    let mut rows = Vec::new();
    for (seed, first) in &all[0] {
        let mut row = [0.0; N];
        for (place, cells) in all.iter().enumerate() {
            let (_, own) = cells.iter().find(|(other, _)| other == seed)?;
            if own.n != first.n || own.failed != first.failed {
                return None;
            }
            row[place] = mean_e2e(own)?;
        }
        rows.push(row);
    }
    Some(rows)
}

/// Mean E2E of `other` divided by that of `own`.
pub(super) fn ratio(by_seed: &BySeed<'_>, other: &CellKey, own: &CellKey) -> Option<Estimate> {
    let pairs: Vec<(f64, f64)> =
        paired(by_seed, [other, own])?.into_iter().map(|[other, own]| (other, own)).collect();
    let n = pairs.len();
    let mean = |drawn: &mut [f64]| stats::mean(drawn);
    let (value, interval) = stats::paired_ratio(&[pairs], &mut stats::seeded(SEED), mean)?;
    Some(Estimate { value, interval: super::widened(interval, value, n), n })
}

/// The same policy's key elsewhere.
pub(super) fn at(key: &CellKey, pool: &str, policy: &str) -> CellKey {
    CellKey { pool: pool.to_owned(), policy: policy.to_owned(), ..key.clone() }
}

pub(super) fn speedups(by_seed: &BySeed<'_>, key: &CellKey, design: &Design) -> Speedups {
    let than = |pool: &str, policy: &str| ratio(by_seed, &at(key, pool, policy), key);
    let pool = design.pool(&key.pool);
    let baseline = pool.map(|pool| pool.baseline_pool.as_str());
    let own = pool.and_then(|pool| pool.own_pool.as_deref());
    Speedups {
        round_robin: than(&key.pool, &design.round_robin),
        shortest_queue: than(&key.pool, &design.shortest_queue),
        all_baseline: baseline.and_then(|pool| than(pool, &design.shortest_queue)),
        all_baseline_least_memory: baseline.and_then(|pool| than(pool, &design.least_memory)),
        own_pool_least_memory: own.and_then(|pool| than(pool, &design.least_memory)),
    }
}

pub(super) fn regrets(by_seed: &BySeed<'_>, key: &CellKey, design: &Design) -> Regrets {
    let than = |policy: &str| {
        let ratio = ratio(by_seed, key, &at(key, &key.pool, policy))?;
        let less_one = |(low, high): (f64, f64)| (low - 1.0, high - 1.0);
        Some(Estimate { value: ratio.value - 1.0, interval: ratio.interval.map(less_one), ..ratio })
    };
    Regrets {
        // Under true step times the oracle is no oracle: what is left is the difference between two rules.
        speed: than(&design.oracles.speed)
            .filter(|_| !design.skills_of_true_speed.contains(&key.skill)),
        length: than(&design.oracles.length),
        fragility: than(&design.oracles.fragility),
    }
}
