//! How far off a model is on points it was not fitted to, and the interval that follows.

use serde::{Deserialize, Serialize};

use super::curve::exact;
use crate::stats;

/// Residuals below which ranks say nothing of a tenth, and a distribution must be assumed.
const RANKS_MIN: usize = 9;
/// Residuals below which there is no interval.
const RESIDUALS_MIN: usize = 4;
/// 90th percentile of the normal distribution.
const NORMAL_90: f64 = 1.281_551_565_544_6;
/// Standard deviations in a mean absolute deviation, for normal noise: `sqrt(pi / 2)`.
const PER_ABSOLUTE: f64 = 1.253_314_137_315_5;

/// Errors on points that were held out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// Points.
    pub n: usize,
    /// Mean of `|predicted / measured - 1|`, percent.
    #[serde(deserialize_with = "exact")]
    pub mape_pct: f64,
    /// 95th percentile of the same.
    #[serde(deserialize_with = "exact")]
    pub p95_pct: f64,
}

/// Logs of measured over predicted between which four of five points fall.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogInterval {
    /// 10th percentile.
    #[serde(deserialize_with = "exact")]
    pub p10: f64,
    /// 90th percentile.
    #[serde(deserialize_with = "exact")]
    pub p90: f64,
}

impl Errors {
    /// From `ln(measured / predicted)`; `None` of none.
    pub fn of(log_ratios: &[f64]) -> Option<Self> {
        let mut off: Vec<f64> =
            log_ratios.iter().map(|ratio| 100.0 * ((-ratio).exp() - 1.0).abs()).collect();
        off.sort_by(f64::total_cmp);
        let mape_pct = stats::mean(&off)?;
        Some(Self { n: off.len(), mape_pct, p95_pct: stats::quantile_sorted(&off, 0.95)? })
    }
}

/// How much larger a relative error is so many times beyond what was fitted. An error of a slope grows with the distance, the time it
/// is a share of as well; what is left is that the largest cost has more and more of the time, and its error less and less to be
/// made up for by the others'. Residuals of points beyond the rest of their kind are divided by the same, so that the interval of such
/// a point holds what it should whatever the power: points at the edge of a grid are among those that were held out, and their
/// errors are not counted twice.
pub(super) fn growth(distance: f64) -> f64 {
    distance.max(1.0).sqrt()
}

impl LogInterval {
    /// The 80 % interval of a new point's `ln(measured / predicted)`, from those of points that were held out.
    ///
    /// Split conformal prediction: of `n` exchangeable residuals a new one falls below the one of rank `r` with chance `r / (n + 1)`,
    /// whatever their distribution, so the ends lie at ranks `0.1 (n + 1)` and `0.9 (n + 1)`, between two residuals in proportion.
    /// With fewer than nine there is no such rank and Student's interval for a new observation stands in; below four, nothing does.
    pub fn of(log_ratios: &[f64]) -> Option<Self> {
        let n = log_ratios.len();
        if n < RESIDUALS_MIN {
            return None;
        }
        if n < RANKS_MIN {
            let middle = stats::mean(log_ratios)?;
            let square: f64 = log_ratios.iter().map(|ratio| (ratio - middle).powi(2)).sum();
            let spread = (square / (n - 1) as f64 * (1.0 + 1.0 / n as f64)).sqrt();
            let half = stats::student_quantile(0.1, (n - 1) as f64) * spread;
            return Some(Self { p10: middle - half, p90: middle + half });
        }
        let mut sorted = log_ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at =
            |q: f64| stats::quantile_sorted(&sorted, (q * (n + 1) as f64 - 1.0) / (n - 1) as f64);
        Some(Self { p10: at(0.1)?, p90: at(0.9)? })
    }

    /// Both ends multiplied.
    pub(super) fn scaled(self, by: f64) -> Self {
        Self { p10: by * self.p10, p90: by * self.p90 }
    }

    /// The interval of one repeat, where this one is of the median over repeats: `noise` is their mean absolute deviation from it.
    pub(super) fn of_one_repeat(self, noise: f64) -> Self {
        let middle = f64::midpoint(self.p10, self.p90);
        let half = ((self.p90 - self.p10) / 2.0).hypot(NORMAL_90 * PER_ABSOLUTE * noise);
        Self { p10: middle - half, p90: middle + half }
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;

    #[test]
    fn errors_are_relative_to_what_was_measured() {
        // Predicted 1.1 and 0.9 of 1.
        let errors = Errors::of(&[(1.0_f64 / 1.1).ln(), (1.0_f64 / 0.9).ln()]).unwrap();
        assert!((errors.mape_pct - 10.0).abs() < 1e-9 && errors.n == 2);
        assert!(Errors::of(&[]).is_none());
    }

    /// Ranks promise the coverage for any distribution, here a skewed one.
    #[test]
    fn four_of_five_new_points_fall_inside() {
        let mut rng = stats::seeded(7);
        for n in [9, 20, 60] {
            let mut draw = || -rng.random::<f64>().max(1e-12).ln();
            let (mut inside, trials) = (0, 4000);
            for _ in 0..trials {
                let seen: Vec<f64> = (0..n).map(|_| draw()).collect();
                let interval = LogInterval::of(&seen).unwrap();
                inside += usize::from((interval.p10..=interval.p90).contains(&draw()));
            }
            let share = inside as f64 / f64::from(trials);
            assert!((0.77..0.83).contains(&share), "{n}: {share}");
        }
    }

    #[test]
    fn few_residuals_give_a_wide_interval_and_fewer_none() {
        let few = [-0.01, 0.0, 0.01, 0.02];
        let interval = LogInterval::of(&few).unwrap();
        assert!(interval.p10 < -0.015 && interval.p90 > 0.025, "{interval:?}");
        assert_eq!(LogInterval::of(&few[..3]), None);
    }

    #[test]
    fn one_repeat_is_less_certain_than_a_median() {
        let interval = LogInterval { p10: -0.03, p90: 0.03 };
        let single = interval.of_one_repeat(0.04 / (NORMAL_90 * PER_ABSOLUTE));
        assert!((single.p90 - 0.05).abs() < 1e-12 && (single.p10 + 0.05).abs() < 1e-12);
        assert!((interval.scaled(2.0).p90 - 0.06).abs() < 1e-12);
    }
}
