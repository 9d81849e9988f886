//! Percentile bootstrap over repeats and, within them, over observations.
//!
//! A group is one repeat. With two or more groups, groups are drawn with replacement first and observations within each
//! drawn group second, so that an interval holds the spread between runs; with one group only observations are drawn,
//! and the spread between runs is unknown. Few groups (2 to 4) give intervals that are too narrow: a bootstrap of k
//! groups sees only (k - 1) / k of their variance.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::quantile_sorted;

/// Resamples of every interval: 25 lie beyond each end of a 95 % interval.
pub const RESAMPLES: usize = 1000;

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Variance between and within groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Components {
    /// Variance of the groups' true means; 0 where the groups differ by no more than chance.
    pub between: f64,
    /// Variance of observations around their group's mean.
    pub within: f64,
}

/// A generator whose numbers never change between versions of kvbench.
pub fn seeded(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// 95 % percentile-bootstrap interval of a statistic of all observations together.
///
/// `statistic` may reorder what it is given; `None` (such as a ratio whose denominator vanished) drops the resample.
/// Returns `None` with fewer than two observations, or where more than 5 % of the resamples were dropped.
pub fn bootstrap<T: Copy>(
    groups: &[Vec<T>],
    rng: &mut ChaCha8Rng,
    statistic: impl Fn(&mut [T]) -> Option<f64>,
) -> Option<Interval> {
    if observations(groups) < 2 {
        return None;
    }
    let mut drawn = Vec::new();
    interval(|| {
        resample(groups, rng, &mut drawn);
        statistic(&mut drawn)
    })
}

/// A percentile bootstrap interval of few observations, made as much wider as it is too narrow: its ends move away from `value` by
/// `t / z * sqrt(n / (n - 1))`, where t is Student's 97.5th percentile with n - 1 degrees of freedom (the expanded percentile interval of
/// Hesterberg 2015, The American Statistician 69:371-386, section 4.1). For five observations that is 1.58.
pub fn expanded(interval: Interval, value: f64, n: usize) -> Interval {
    let Some(free) = n.checked_sub(1).filter(|free| *free > 0) else { return interval };
    let more = super::student_quantile(0.025, free as f64) / super::proportion::Z
        * (n as f64 / free as f64).sqrt();
    Interval {
        low: value - (value - interval.low) * more,
        high: value + (interval.high - value) * more,
    }
}

/// Observations above which [`mean_interval`] trusts the central limit theorem.
const MANY: usize = 20_000;

/// 95 % interval of the mean of independent observations: percentile bootstrap, and of more than 20 000, where the two agree to
/// a per cent of its width, mean +- 1.96 standard errors. `None` with fewer than two.
pub fn mean_interval(values: &[f64], rng: &mut ChaCha8Rng) -> Option<Interval> {
    if values.len() <= MANY {
        return bootstrap(&[values.to_vec()], rng, |drawn| super::mean(drawn));
    }
    let (n, mean) = (values.len() as f64, super::mean(values)?);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = super::proportion::Z * (variance / n).sqrt();
    Some(Interval { low: mean - half, high: mean + half })
}

/// 95 % interval of `statistic(numerator) / statistic(denominator)` of two independent sets of groups.
pub fn bootstrap_ratio<T: Copy>(
    numerator: &[Vec<T>],
    denominator: &[Vec<T>],
    rng: &mut ChaCha8Rng,
    statistic: impl Fn(&mut [T]) -> Option<f64>,
) -> Option<Interval> {
    if observations(numerator) < 2 || observations(denominator) < 2 {
        return None;
    }
    let (mut above, mut below) = (Vec::new(), Vec::new());
    interval(|| {
        resample(numerator, rng, &mut above);
        resample(denominator, rng, &mut below);
        divide(statistic(&mut above)?, statistic(&mut below)?)
    })
}

/// `statistic(first) / statistic(second)` over pairs, with its 95 % interval; both members of a pair are drawn together,
/// so what they share (the prompt, the moment) cancels. `None` without pairs or with a zero denominator.
pub fn paired_ratio(
    groups: &[Vec<(f64, f64)>],
    rng: &mut ChaCha8Rng,
    statistic: impl Fn(&mut [f64]) -> Option<f64>,
) -> Option<(f64, Option<Interval>)> {
    let ratio = |pairs: &mut [(f64, f64)]| {
        let (mut first, mut second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        divide(statistic(&mut first)?, statistic(&mut second)?)
    };
    let value = ratio(&mut groups.concat())?;
    Some((value, bootstrap(groups, rng, ratio)))
}

/// Variance components of a one-way layout (Searle, Casella, McCulloch, "Variance Components", 1992: the ANOVA estimator,
/// cut off at 0). `None` with fewer than two groups or no group of two.
pub fn components(groups: &[Vec<f64>]) -> Option<Components> {
    let groups: Vec<&Vec<f64>> = groups.iter().filter(|group| !group.is_empty()).collect();
    let (k, n) =
        (groups.len() as f64, groups.iter().map(|group| group.len()).sum::<usize>() as f64);
    if groups.len() < 2 || n <= k {
        return None;
    }
    let grand = groups.iter().copied().flatten().sum::<f64>() / n;
    let (mut ss_between, mut ss_within, mut squares) = (0.0, 0.0, 0.0);
    for group in groups {
        let size = group.len() as f64;
        let mean = group.iter().sum::<f64>() / size;
        ss_between += size * (mean - grand).powi(2);
        ss_within += group.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        squares += size * size;
    }
    let within = ss_within / (n - k);
    let per_group = (n - squares / n) / (k - 1.0);
    Some(Components { between: ((ss_between / (k - 1.0) - within) / per_group).max(0.0), within })
}

fn observations<T>(groups: &[Vec<T>]) -> usize {
    groups.iter().map(Vec::len).sum()
}

fn divide(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator != 0.0).then(|| numerator / denominator).filter(|ratio| ratio.is_finite())
}

fn resample<T: Copy>(groups: &[Vec<T>], rng: &mut ChaCha8Rng, drawn: &mut Vec<T>) {
    drawn.clear();
    let mut draw = |group: &[T], rng: &mut ChaCha8Rng| {
        drawn.extend((0..group.len()).map(|_| group[rng.random_range(0..group.len())]));
    };
    if let [group] = groups {
        return draw(group, rng);
    }
    for _ in 0..groups.len() {
        let group = rng.random_range(0..groups.len());
        draw(&groups[group], rng);
    }
}

fn interval(mut one: impl FnMut() -> Option<f64>) -> Option<Interval> {
    let mut values: Vec<f64> =
        (0..RESAMPLES).filter_map(|_| one()).filter(|value| !value.is_nan()).collect();
    if values.len() * 20 < RESAMPLES * 19 {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    Some(Interval { low: quantile_sorted(&values, 0.025)?, high: quantile_sorted(&values, 0.975)? })
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution as _, Exp, Normal};

    use super::{
        super::{mean, median},
        *,
    };

    /// How often the interval that `one` makes holds `truth`.
    fn coverage(
        simulations: usize,
        truth: f64,
        mut one: impl FnMut(&mut ChaCha8Rng) -> Interval,
    ) -> f64 {
        let mut rng = seeded(7);
        let held = (0..simulations)
            .map(|_| one(&mut rng))
            .filter(|interval| interval.low <= truth && truth <= interval.high)
            .count();
        held as f64 / simulations as f64
    }

    fn mean_of(values: &mut [f64]) -> Option<f64> {
        mean(values)
    }

    #[test]
    fn an_expanded_interval_of_five_covers_what_it_says() {
        let mut rng = seeded(11);
        let (mut held, n_draws) = (0, 2000);
        for _ in 0..n_draws {
            let values: Vec<f64> = (0..5)
                .map(|_| rand_distr::Distribution::sample(&rand_distr::StandardNormal, &mut rng))
                .collect();
            let mean = super::super::mean(&values).expect("values");
            let plain = mean_interval(&values, &mut rng).expect("an interval");
            let wide = expanded(plain, mean, values.len());
            held += usize::from(wide.low <= 0.0 && 0.0 <= wide.high);
        }
        let share = f64::from(u32::try_from(held).expect("small")) / f64::from(n_draws);
        assert!((0.92..=0.975).contains(&share), "{share}");
    }

    #[test]
    fn many_observations_give_the_same_interval_in_closed_form() {
        let mut rng = seeded(8);
        let values: Vec<f64> = (0..20_001).map(|_| rng.random::<f64>().ln()).collect();
        let closed = mean_interval(&values, &mut rng).unwrap();
        let drawn = bootstrap(&[values], &mut rng, |drawn| crate::stats::mean(drawn)).unwrap();
        let width = closed.high - closed.low;
        assert!((closed.low - drawn.low).abs() < 0.05 * width, "{closed:?} {drawn:?}");
        assert!((closed.high - drawn.high).abs() < 0.05 * width, "{closed:?} {drawn:?}");
    }

    #[test]
    fn the_mean_is_covered() {
        let exponential = Exp::new(0.5).unwrap();
        let covered = coverage(150, 2.0, |rng| {
            let values: Vec<f64> = (0..60).map(|_| exponential.sample(rng)).collect();
            bootstrap(&[values], rng, mean_of).unwrap()
        });
        assert!((0.89..=0.98).contains(&covered), "{covered}");
    }

    #[test]
    fn the_median_is_covered() {
        let normal = Normal::new(5.0, 2.0).unwrap();
        let covered = coverage(150, 5.0, |rng| {
            let values: Vec<f64> = (0..41).map(|_| normal.sample(rng)).collect();
            bootstrap(&[values], rng, median).unwrap()
        });
        assert!((0.90..=0.99).contains(&covered), "{covered}");
    }

    /// Ten runs whose means differ far more than the mean of 20 requests does: as one pooled sample they cover too rarely.
    #[test]
    fn the_spread_between_runs_is_covered() {
        let (between, within) = (Normal::new(0.0, 1.0).unwrap(), Normal::new(0.0, 1.0).unwrap());
        let draw = |rng: &mut ChaCha8Rng| -> Vec<Vec<f64>> {
            (0..10)
                .map(|_| {
                    let centre = between.sample(rng);
                    (0..20).map(|_| centre + within.sample(rng)).collect()
                })
                .collect()
        };
        let hierarchical = coverage(120, 0.0, |rng| {
            let groups = draw(rng);
            bootstrap(&groups, rng, mean_of).unwrap()
        });
        let pooled = coverage(120, 0.0, |rng| {
            let groups = draw(rng);
            bootstrap(&[groups.concat()], rng, mean_of).unwrap()
        });
        assert!((0.86..=0.99).contains(&hierarchical), "{hierarchical}");
        assert!(pooled < 0.6, "{pooled}");
    }

    #[test]
    fn the_ratio_is_covered() {
        let (a, b) = (Normal::new(3.0, 0.5).unwrap(), Normal::new(2.0, 0.5).unwrap());
        let covered = coverage(120, 1.5, |rng| {
            let above: Vec<f64> = (0..40).map(|_| a.sample(rng)).collect();
            let below: Vec<f64> = (0..40).map(|_| b.sample(rng)).collect();
            bootstrap_ratio(&[above], &[below], rng, mean_of).unwrap()
        });
        assert!((0.89..=0.99).contains(&covered), "{covered}");
    }

    #[test]
    fn pairing_removes_what_pairs_share() {
        let mut rng = seeded(1);
        let shared = Exp::new(1.0).unwrap();
        let pairs: Vec<(f64, f64)> =
            (0..50).map(|_| shared.sample(&mut rng)).map(|x: f64| (2.0 * x, x)).collect();
        let (value, interval) =
            paired_ratio(std::slice::from_ref(&pairs), &mut rng, mean_of).unwrap();
        let interval = interval.unwrap();
        assert!((value - 2.0).abs() < 1e-12 && (interval.high - interval.low) < 1e-9);
        let (above, below): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let unpaired = bootstrap_ratio(&[above], &[below], &mut rng, mean_of).unwrap();
        assert!(unpaired.high - unpaired.low > 0.5);
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let groups = [vec![1.0, 2.0, 4.0], vec![3.0, 5.0]];
        let of = |seed| bootstrap(&groups, &mut seeded(seed), mean_of);
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
    }

    #[test]
    fn too_little_has_no_interval() {
        let mut rng = seeded(1);
        assert_eq!(bootstrap(&[vec![1.0]], &mut rng, mean_of), None);
        assert_eq!(bootstrap::<f64>(&[], &mut rng, mean_of), None);
        assert_eq!(paired_ratio(&[vec![(1.0, 0.0), (1.0, 0.0)]], &mut rng, mean_of), None);
    }

    /// By hand: means 2 and 6, grand mean 4; within (2 + 2) / 2 = 2; between ((2*4 + 2*4) / 1 - 2) / 2 = 7.
    #[test]
    fn components_by_hand() {
        let found = components(&[vec![1.0, 3.0], vec![5.0, 7.0]]).unwrap();
        assert!(
            (found.within - 2.0).abs() < 1e-12 && (found.between - 7.0).abs() < 1e-12,
            "{found:?}"
        );
        assert_eq!(components(&[vec![1.0, 3.0]]), None);
    }
}
