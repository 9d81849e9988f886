//! What share of a mixed pool's gain is the predictors', and what the mix alone would have given.
//!
//! arXiv 2503.24000 compares its router on one engine of the baseline and three of a method with four engines of that method under
//! least memory, and leaves the step between out: the mixed pool under least memory, without any predictor. With it the gain is a
//! product, `T(own pool, least memory) / T(mix, policy) = [T(own) / T(mix, least memory)] * [T(mix, least memory) / T(mix, policy)]`:
//! first the mix's factor, then the policy's. Of a policy that predicts lengths the second is a product again, with the same rule under one
//! length for all answers in between: `T(mix, least memory) / T(mix, policy) = [T(mix, least memory) / T(mix, rule)] *
//! [T(mix, rule) / T(mix, policy)]`, the rule's factor and that of the predictor of lengths. Shares are of the logarithm.

use super::{
    BySeed, CellKey, CellStats, Estimate, SEED,
    compare::{at, paired},
};
use crate::{
    route::{LengthKnowledge, PolicySpec, experiment::Design},
    stats,
};

/// The gain of a policy on a mixed pool over the pool of its one other method, and its two factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Gain {
    /// Pool, trace, load, skill and policy.
    pub key: CellKey,
    /// Mean E2E of the own pool under least memory, over the policy's on the mix.
    pub total: Estimate,
    /// Over that of the mix under least memory: what an engine of the baseline in the place of one of the method gives.
    pub mix: Estimate,
    /// Mean E2E of the mix under least memory, over the policy's: what the policy with its predictors gives.
    pub policy: Estimate,
    /// Of that, what the rule gives where it expects the same length of every answer, and what the predictor of lengths adds; `None` of a
    /// policy that predicts none, or whose rule was not simulated with a constant.
    pub parts: Option<Parts>,
    /// Share of the total's logarithm that is the policy's, of one; may lie outside 0 to 1 where the factors pull apart. `None` unless
    /// the total's interval lies above 1: of no gain and of a loss there are no shares.
    pub policy_share: Option<Estimate>,
}

/// The factors of a policy that predicts lengths.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// Name of the policy that is the same rule with one length for all.
    pub control: String,
    /// Mean E2E of the mix under least memory, over the control's.
    pub rule: Estimate,
    /// Mean E2E of the control, over the policy's.
    pub lengths: Estimate,
}

/// The gains of all policies on all pools that have an own pool, in the order of the design.
pub fn gains(stats: &[CellStats], design: &Design) -> Vec<Gain> {
    let by_seed = super::summary::by_seed(stats);
    super::summary::keys(design, &by_seed)
        .iter()
        .filter_map(|key| gain(&by_seed, key, design))
        .collect()
}

fn gain(by_seed: &BySeed<'_>, key: &CellKey, design: &Design) -> Option<Gain> {
    let own = design.pool(&key.pool)?.own_pool.as_deref()?;
    let (own, mix) = (at(key, own, &design.least_memory), at(key, &key.pool, &design.least_memory));
    // Mean E2E of one seed: own pool under least memory, mix under least memory, mix under the policy.
    let seeds = paired(by_seed, [&own, &mix, key])?;
    let total = statistic(&seeds, |[own, _, policy]| Some(own / policy))?;
    let is_none = |(low, _): (f64, f64)| low <= 1.0;
    let share = |[own, mix, policy]: [f64; 3]| {
        let share = (mix / policy).ln() / (own / policy).ln();
        share.is_finite().then_some(share)
    };
    Some(Gain {
        key: key.clone(),
        mix: statistic(&seeds, |[own, mix, _]| Some(own / mix))?,
        policy: statistic(&seeds, |[_, mix, policy]| Some(mix / policy))?,
        parts: parts(by_seed, &mix, key, design),
        policy_share: if total.interval.is_none_or(is_none) {
            None
        } else {
            statistic(&seeds, share)
        },
        total,
    })
}

fn parts(by_seed: &BySeed<'_>, mix: &CellKey, key: &CellKey, design: &Design) -> Option<Parts> {
    let control = control(design, &key.policy)?;
    let between = at(key, &key.pool, &control.name);
    let seeds = paired(by_seed, [mix, &between, key])?;
    Some(Parts {
        control: control.name.clone(),
        rule: statistic(&seeds, |[mix, control, _]| Some(mix / control))?,
        lengths: statistic(&seeds, |[_, control, policy]| Some(control / policy))?,
    })
}

/// The policy that differs in nothing but that it expects the same length of every answer.
fn control<'a>(design: &'a Design, policy: &str) -> Option<&'a PolicySpec> {
    let own = design.policy(policy)?;
    let is_it = |other: &&PolicySpec| {
        other.length == LengthKnowledge::Constant
            && (other.rule, other.speed, other.guard) == (own.rule, own.speed, own.guard)
    };
    design.policies.iter().find(is_it).filter(|_| own.length != LengthKnowledge::Constant)
}

/// A function of means over seeds, with its interval.
fn statistic<const N: usize>(
    seeds: &[[f64; N]],
    of: impl Fn([f64; N]) -> Option<f64>,
) -> Option<Estimate> {
    let value = |drawn: &[[f64; N]]| {
        let n = drawn.len() as f64;
        of(std::array::from_fn(|place| drawn.iter().map(|means| means[place]).sum::<f64>() / n))
    };
    let interval =
        stats::bootstrap(&[seeds.to_vec()], &mut stats::seeded(SEED), |drawn| value(drawn));
    let point = value(seeds).filter(|value| value.is_finite())?;
    Some(Estimate {
        value: point,
        interval: super::widened(interval, point, seeds.len()),
        n: seeds.len(),
    })
}
