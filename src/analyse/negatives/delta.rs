//! Score differences of a method to the baseline, prompt by prompt, and the correction for asking many questions at once.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Normal};

use super::Counts;
use crate::stats;

/// Where an answer counts as right, to ask for flips.
const RIGHT: f64 = 0.5;

/// Samples of a data set above which the sum of a resample is drawn from the normal distribution that the central limit
/// theorem gives it, and no longer sample by sample: the ends move by far less than the interval is wide, and a million
/// samples stay a matter of seconds.
const DRAWN_ONE_BY_ONE: usize = 2000;

/// How the scores of one method differ from the baseline's, over all samples that both have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delta {
    /// Pairs.
    pub n: usize,
    /// Mean of method less baseline, in points (100 times the score), each sample with the same weight.
    pub mean: f64,
    /// Ends of the 95 % bootstrap interval of the mean, in points: pairs drawn within data sets, whose sizes stay as they are.
    /// `None` below two pairs.
    pub interval: Option<(f64, f64)>,
    /// Two-sided Wilcoxon signed-rank test of the differences; `None` where no pair differs.
    pub p_wilcoxon: Option<f64>,
    /// Samples that only the baseline has right (score at least 0.5).
    pub n_worse: usize,
    /// Samples that only the method has right.
    pub n_better: usize,
    /// Two-sided exact McNemar test of the two.
    pub p_mcnemar: f64,
}

impl Delta {
    /// Of pairs (method, baseline) by data set; `None` without pairs.
    pub(super) fn of(groups: &[Vec<(f64, f64)>], seed: u64) -> Option<Self> {
        let difference = |(method, baseline): &(f64, f64)| method - baseline;
        let differences: Vec<Vec<f64>> =
            groups.iter().map(|group| group.iter().map(difference).collect()).collect();
        let all = differences.concat();
        let flips = |from: fn(&(f64, f64)) -> (f64, f64)| {
            let flipped = |pair: &&(f64, f64)| {
                let (right, wrong) = from(pair);
                right >= RIGHT && wrong < RIGHT
            };
            groups.iter().flatten().filter(flipped).count()
        };
        let (n_worse, n_better) = (flips(|pair| (pair.1, pair.0)), flips(|pair| *pair));
        Some(Self {
            n: all.len(),
            mean: 100.0 * stats::mean(&all)?,
            interval: interval(&differences, &mut stats::seeded(seed)),
            p_wilcoxon: stats::wilcoxon(&all),
            n_worse,
            n_better,
            p_mcnemar: stats::mcnemar(n_worse, n_better),
        })
    }
}

/// 95 % percentile bootstrap of the mean over all groups, in points, values drawn within their group.
pub(in crate::analyse) fn interval(
    groups: &[Vec<f64>],
    rng: &mut ChaCha8Rng,
) -> Option<(f64, f64)> {
    let n: usize = groups.iter().map(Vec::len).sum();
    if n < 2 {
        return None;
    }
    let sums = groups.iter().map(|group| Sum::of(group)).collect::<Option<Vec<_>>>()?;
    let mut means: Vec<f64> = (0..stats::RESAMPLES)
        .map(|_| 100.0 * sums.iter().map(|sum| sum.draw(rng)).sum::<f64>() / n as f64)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    Some((stats::quantile_sorted(&means, 0.025)?, stats::quantile_sorted(&means, 0.975)?))
}

/// How the sum of a resampled group is drawn.
enum Sum<'a> {
    OneByOne(&'a [f64]),
    AtOnce(Normal<f64>),
}

impl<'a> Sum<'a> {
    fn of(group: &'a [f64]) -> Option<Self> {
        if group.len() <= DRAWN_ONE_BY_ONE {
            return Some(Self::OneByOne(group));
        }
        let (n, mean) = (group.len() as f64, stats::mean(group)?);
        let squares: f64 = group.iter().map(|value| (value - mean).powi(2)).sum();
        Normal::new(n * mean, squares.sqrt()).ok().map(Self::AtOnce)
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::OneByOne(group) => {
                (0..group.len()).map(|_| group[rng.random_range(0..group.len())]).sum()
            }
            Self::AtOnce(normal) => normal.sample(rng),
        }
    }
}

/// Fills in `q_sign` and the q of the fair counts of methods that were asked together.
pub(super) fn correct(counts: &mut [Counts]) {
    let fair: Vec<f64> =
        counts.iter().filter_map(|c| c.fair.as_ref()).flat_map(|fair| fair.p.clone()).collect();
    let mut q = stats::benjamini_hochberg(&fair).into_iter();
    for fair in counts.iter_mut().filter_map(|counts| counts.fair.as_mut()) {
        fair.q = q.by_ref().take(fair.p.len()).collect();
    }
    let all: Vec<f64> = counts.iter().flat_map(|c| c.p_sign.iter().flatten().copied()).collect();
    let mut corrected = stats::benjamini_hochberg(&all).into_iter();
    for counts in counts.iter_mut() {
        let n = counts.p_sign.as_ref().map_or(0, Vec::len);
        counts.q_sign = counts.p_sign.is_some().then(|| corrected.by_ref().take(n).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two data sets that never differ within: drawing within them has no spread, drawing across them would.
    #[test]
    fn pairs_are_drawn_within_data_sets() {
        let groups = [vec![(1.0, 0.5); 4], vec![(0.0, 0.25); 4]];
        let delta = Delta::of(&groups, 1).unwrap();
        assert!((delta.mean - 12.5).abs() < 1e-12);
        assert_eq!(delta.interval, Some((12.5, 12.5)));
        assert_eq!((delta.n, delta.n_worse, delta.n_better), (8, 0, 0));
        assert_eq!(Delta::of(&[], 1), None);
        assert_eq!(Delta::of(&[vec![(1.0, 0.0)]], 1).unwrap().interval, None);
    }

    #[test]
    fn flips_are_told_by_direction() {
        let delta = Delta::of(&[vec![(0.5, 0.4), (0.0, 1.0), (0.1, 0.9), (1.0, 1.0)]], 1).unwrap();
        assert_eq!((delta.n_worse, delta.n_better), (2, 1));
    }

    /// The normal that stands for many draws gives nearly the ends that the draws give.
    #[test]
    fn many_samples_are_drawn_at_once() {
        let mut rng = stats::seeded(3);
        let group: Vec<f64> = (0..4 * DRAWN_ONE_BY_ONE).map(|_| rng.random::<f64>()).collect();
        let quarters: Vec<Vec<f64>> = group.chunks(DRAWN_ONE_BY_ONE).map(<[f64]>::to_vec).collect();
        let at_once = interval(std::slice::from_ref(&group), &mut rng).unwrap();
        let one_by_one = interval(&quarters, &mut rng).unwrap();
        // A uniform's mean over 8000: a standard error of 0.32 points.
        assert!((at_once.0 - one_by_one.0).abs() < 0.15, "{at_once:?} {one_by_one:?}");
        assert!((at_once.1 - one_by_one.1).abs() < 0.15, "{at_once:?} {one_by_one:?}");
        assert!(at_once.1 - at_once.0 > 1.0);
    }
}
