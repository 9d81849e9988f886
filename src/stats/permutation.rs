//! A randomisation test within blocks.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Relabelled data sets that are drawn where there are few enough blocks.
const DRAWS: usize = 2000;
/// Values up to which so many are drawn; above, fewer give the mean and the spread of what is close to normal by then.
const VALUES_MAX: usize = 20_000;
const DRAWS_OF_MANY: usize = 100;

/// Runs of one prompt: those of the method under test and those that are as good as the baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// First those under test, then the others.
    pub values: Vec<f64>,
    /// How many are under test; neither 0 nor all.
    pub n_own: usize,
}

/// What a [`permutation_test`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Permuted {
    /// Mean of the statistic over blocks.
    pub value: f64,
    /// What it is on average when labels are dealt by chance.
    pub centre: f64,
    /// Two-sided p-value.
    pub p: f64,
    /// Standard deviation of that mean when labels are dealt by chance.
    pub deviation: f64,
}

/// Whether the runs under test differ from the others: in each block the labels are dealt anew, as often as needed, and the mean
/// over blocks of `statistic(own, others)` is compared with what chance gives (Fisher's randomisation test). Its p-value is exact
/// however the values are distributed, so long as under the null any run of a block could have been any other. Two-sided: twice the
/// smaller tail, the observed labels being one of the draws. `None` without a block that has both kinds.
pub fn permutation_test(
    blocks: &[Block],
    rng: &mut ChaCha8Rng,
    statistic: impl Fn(&[f64], &[f64]) -> f64,
) -> Option<Permuted> {
    let usable: Vec<&Block> =
        blocks.iter().filter(|b| b.n_own > 0 && b.n_own < b.values.len()).collect();
    if usable.is_empty() {
        return None;
    }
    let n_values: usize = usable.iter().map(|block| block.values.len()).sum();
    let many = n_values > VALUES_MAX;
    let mean = |sum: f64| sum / usable.len() as f64;
    let of = |values: &[f64], n_own: usize| statistic(&values[..n_own], &values[n_own..]);
    let value = mean(usable.iter().map(|block| of(&block.values, block.n_own)).sum());
    let mut dealt = Vec::new();
    let mut draw = || {
        let deal = |block: &&Block| {
            dealt.clear();
            dealt.extend_from_slice(&block.values);
            for at in 0..block.n_own {
                let other = rng.random_range(at..dealt.len());
                dealt.swap(at, other);
            }
            of(&dealt, block.n_own)
        };
        mean(usable.iter().map(deal).sum())
    };
    let draws: Vec<f64> = (0..if many { DRAWS_OF_MANY } else { DRAWS }).map(|_| draw()).collect();
    let centre = super::mean(&draws)?;
    let variance =
        draws.iter().map(|d| (d - centre).powi(2)).sum::<f64>() / (draws.len() - 1) as f64;
    let deviation = variance.sqrt();
    let p = if many { by_spread(value - centre, deviation) } else { by_rank(value, &draws) };
    Some(Permuted { value, centre, p, deviation })
}

fn by_rank(value: f64, draws: &[f64]) -> f64 {
    // Sums in another order differ in their last bits; what is equal must count as equal.
    let slack = 1e-9 * value.abs().max(1e-9);
    let above = draws.iter().filter(|d| **d >= value - slack).count();
    let below = draws.iter().filter(|d| **d <= value + slack).count();
    (2.0 * (above.min(below) + 1) as f64 / (draws.len() + 1) as f64).min(1.0)
}

fn by_spread(from_centre: f64, deviation: f64) -> f64 {
    if deviation > 0.0 {
        (2.0 * super::normal::upper_tail(from_centre.abs() / deviation)).min(1.0)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{mean, seeded};

    fn shift(own: &[f64], others: &[f64]) -> f64 {
        mean(own).unwrap_or(0.0) - mean(others).unwrap_or(0.0)
    }

    /// The chance of a deal can be counted: in each of five blocks one of three runs stands out.
    #[test]
    fn the_p_value_is_that_of_counting() {
        let block = Block { values: vec![1.0, 0.0, 0.0], n_own: 1 };
        let found = permutation_test(&vec![block; 5], &mut seeded(1), shift).unwrap();
        assert!((found.value - 1.0).abs() < 1e-12);
        let exact = 2.0 * 3.0_f64.powi(-5);
        assert!((found.p - exact).abs() < 0.006, "{}", found.p);
        // One deal: mean 0, values 1 and -1/2 twice, so a variance of 1/2; of five blocks a fifth of it.
        assert!((found.deviation - 0.1_f64.sqrt()).abs() < 0.02, "{}", found.deviation);
    }

    #[test]
    fn many_blocks_are_judged_by_their_spread() {
        let mut rng = seeded(2);
        let mut draw = |by: f64| {
            let mut values: Vec<f64> = (0..3).map(|_| rng.random::<f64>()).collect();
            values[0] += by;
            Block { values, n_own: 1 }
        };
        let none: Vec<Block> = (0..8000).map(|_| draw(0.0)).collect();
        let some: Vec<Block> = (0..8000).map(|_| draw(0.02)).collect();
        assert!(permutation_test(&none, &mut seeded(3), shift).unwrap().p > 0.05);
        assert!(permutation_test(&some, &mut seeded(3), shift).unwrap().p < 1e-4);
    }

    #[test]
    fn nothing_to_deal_is_no_test() {
        let lonely = Block { values: vec![1.0], n_own: 1 };
        assert_eq!(permutation_test(&[lonely], &mut seeded(1), shift), None);
        let same = Block { values: vec![1.0, 1.0], n_own: 1 };
        let found = permutation_test(&[same], &mut seeded(1), shift).unwrap();
        assert!((found.p - 1.0).abs() < 1e-12 && found.deviation < 1e-12);
    }
}
