//! What share of a mixed pool's gain is the predictors', and what the mix alone would have given.
//!
//! arXiv 2503.24000 compares its router on one engine of the baseline and three of a method with four engines of that method under
//! least memory, and leaves the step between out: the mixed pool under least memory, without any predictor. With it the gain is a
//! product, `T(own pool, least memory) / T(mix, policy) = [T(own) / T(mix, least memory)] * [T(mix, least memory) / T(mix, policy)]`:
//! first the mix's factor, then the predictors'. Shares are of its logarithm.

use super::{
    BySeed, CellKey, CellStats, Estimate, SEED,
    compare::{at, paired},
};
use crate::{route::experiment::Design, stats};

/// The gain of a policy on a mixed pool over the pool of its one other method, and its two factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Gain {
    /// Pool, trace, load, skill and policy.
    pub key: CellKey,
    /// Mean E2E of the own pool under least memory, over the policy's on the mix.
    pub total: Estimate,
    /// Over that of the mix under least memory: what an engine of the baseline in the place of one of the method gives.
    pub mix: Estimate,
    /// Mean E2E of the mix under least memory, over the policy's: what the policy gives.
    pub predictors: Estimate,
    /// Share of the total's logarithm that is the policy's, of one; may lie outside 0 to 1 where the factors pull apart. `None` unless
    /// the total's interval lies above 1: of no gain and of a loss there are no shares.
    pub predictors_share: Option<Estimate>,
}

/// The gains of all policies on all pools that have an own pool, in the order of the design.
pub fn gains(stats: &[CellStats], design: &Design) -> Vec<Gain> {
    let by_seed = super::summary::by_seed(stats);
    super::summary::keys(design, &by_seed)
        .iter()
        .filter_map(|key| gain(&by_seed, key, design))
        .collect()
}

/// Mean E2E of one seed: own pool under least memory, mix under least memory, mix under the policy.
type Three = [f64; 3];

fn gain(by_seed: &BySeed<'_>, key: &CellKey, design: &Design) -> Option<Gain> {
    let own = design.pool(&key.pool)?.own_pool.as_deref()?;
    let (own, mix) = (at(key, own, &design.least_memory), at(key, &key.pool, &design.least_memory));
    let seeds = paired(by_seed, [&own, &mix, key])?;
    let total = statistic(&seeds, |[own, _, policy]| Some(own / policy))?;
    let is_none = |(low, _): (f64, f64)| low <= 1.0;
    let share = |[_, mix, policy]: Three, own: f64| {
        let share = (mix / policy).ln() / (own / policy).ln();
        share.is_finite().then_some(share)
    };
    Some(Gain {
        key: key.clone(),
        mix: statistic(&seeds, |[own, mix, _]| Some(own / mix))?,
        predictors: statistic(&seeds, |[_, mix, policy]| Some(mix / policy))?,
        predictors_share: if total.interval.is_none_or(is_none) {
            None
        } else {
            statistic(&seeds, |three| share(three, three[0]))
        },
        total,
    })
}

/// A function of the three means over seeds, with its interval.
fn statistic(seeds: &[Three], of: impl Fn(Three) -> Option<f64>) -> Option<Estimate> {
    let value = |drawn: &[Three]| {
        let n = drawn.len() as f64;
        of([0, 1, 2].map(|place| drawn.iter().map(|three| three[place]).sum::<f64>() / n))
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
