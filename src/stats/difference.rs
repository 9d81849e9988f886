//! Two sets of repeats: how far their means lie apart, and what few repeats can tell about it.
//!
//! One number a repeat goes in. Their spread holds everything that makes a repeat differ from the next: what happens within it
//! (requests that are no independent observations, since one that waits makes the next wait) and what happens between repeats. No
//! assumption about what happens within one is needed for the test to be right; it costs degrees of freedom, and says so.

use super::{
    Interval,
    student::{student_above, student_quantile},
};

/// Chance with which an effect of the size that is called detectable is found.
pub const POWER: f64 = 0.8;
/// More repeats than this are not counted out: the answer is another experiment.
const REPEATS_MAX: usize = 1000;

/// A difference with what it takes to test it against any limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Estimate.
    pub value: f64,
    /// Its standard error.
    pub se: f64,
    /// Degrees of freedom of that.
    pub free: f64,
}

/// Mean of `new` less mean of `base`. `None` with fewer than two numbers on a side: then nothing tells how far repeats spread.
///
/// With as many repeats on both sides, Student's test with both spreads pooled: exact where they are equal, as they are in A/A, and of three
/// repeats 8.3 % in place of 5 % in the worst case, where one side does not spread at all. Welch's degrees of freedom (1947, Biometrika 34:28-35) would be
/// safer there and make 4 % of 5 % of three repeats where nothing changed. With unequal numbers pooling can be far off, so it is Welch's.
pub fn difference(new: &[f64], base: &[f64]) -> Option<Difference> {
    let (of_new, of_base) = (error_of_mean(new)?, error_of_mean(base)?);
    let value = super::mean(new)? - super::mean(base)?;
    let (sum, parts) = (of_new + of_base, (new.len() as f64 - 1.0, base.len() as f64 - 1.0));
    let welch = sum * sum / (of_new * of_new / parts.0 + of_base * of_base / parts.1);
    let pooled = new.len() == base.len() || !welch.is_finite();
    let free = if pooled { parts.0 + parts.1 } else { welch };
    Some(Difference { value, se: sum.sqrt(), free })
}

/// Square of the standard error of a mean.
fn error_of_mean(values: &[f64]) -> Option<f64> {
    Some(variance(values)? / values.len() as f64)
}

/// Variance of a sample; `None` with fewer than two values.
pub fn variance(values: &[f64]) -> Option<f64> {
    let (mean, n) = (super::mean(values)?, values.len() as f64);
    (n > 1.0).then(|| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0))
}

impl Difference {
    /// One-sided p-value against "at most `limit`".
    pub fn p_above(&self, limit: f64) -> f64 {
        let away = self.value - limit;
        if self.se > 0.0 {
            return student_above(away / self.se, self.free);
        }
        // Nothing spreads: what is seen is what there is.
        match away.total_cmp(&0.0) {
            std::cmp::Ordering::Greater if away > 0.0 => 0.0,
            std::cmp::Ordering::Less if away < 0.0 => 1.0,
            _ => 0.5,
        }
    }

    /// One-sided p-value against "at least `limit`".
    pub fn p_below(&self, limit: f64) -> f64 {
        1.0 - self.p_above(limit)
    }

    /// p-value against "further from 0 than `bound`", by two one-sided tests (Schuirmann 1987): only a small one shows sameness. A
    /// test for a difference that finds none does not.
    pub fn p_outside(&self, bound: f64) -> f64 {
        self.p_below(bound).max(self.p_above(-bound))
    }

    /// Two-sided interval whose ends are each exceeded with chance `alpha`.
    pub fn interval(&self, alpha: f64) -> Interval {
        let half = self.se * student_quantile(alpha, self.free);
        Interval { low: self.value - half, high: self.value + half }
    }

    /// The smallest true difference that one test at `alpha` finds with chance [`POWER`].
    pub fn detectable(&self, alpha: f64) -> f64 {
        self.se * reach(alpha, self.free)
    }

    /// The same with the sign turned: of metrics where more is better.
    #[must_use]
    pub fn turned(self) -> Self {
        Self { value: -self.value, ..self }
    }
}

/// Standard errors that a difference must measure to be found.
fn reach(alpha: f64, free: f64) -> f64 {
    student_quantile(alpha, free) + student_quantile(1.0 - POWER, free)
}

/// Repeats a side, at least two, that find a difference of `distance` with chance [`POWER`] in one test at `alpha`, where repeats
/// spread with standard deviation `spread`. `None` where a thousand do not.
pub fn repeats_needed(spread: f64, distance: f64, alpha: f64) -> Option<usize> {
    let enough = |n: usize| {
        let n = n as f64;
        reach(alpha, 2.0 * n - 2.0) * spread * (2.0 / n).sqrt() <= distance
    };
    if !enough(REPEATS_MAX) {
        return None;
    }
    let (mut low, mut high) = (1, REPEATS_MAX);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution as _, StandardNormal};

    use super::*;
    use crate::stats::seeded;

    /// Repeats 1, 2, 3 against 2, 4, 6: difference -2, squared errors 1/3 and 4/3. Against 2, 6: -2, 1/3 and 8/2, by Welch.
    #[test]
    fn by_hand() {
        let found = difference(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]).unwrap();
        assert!(
            (found.value + 2.0).abs() < 1e-12 && (found.se - (5.0_f64 / 3.0).sqrt()).abs() < 1e-12
        );
        assert!((found.free - 4.0).abs() < 1e-12);
        let unequal = difference(&[1.0, 2.0, 3.0], &[2.0, 6.0]).unwrap();
        let free = (13.0_f64 / 3.0).powi(2) / (1.0 / 9.0 / 2.0 + 16.0);
        assert!((unequal.free - free).abs() < 1e-12, "{unequal:?}");
        assert!((found.p_above(-2.0) - 0.5).abs() < 1e-12);
        assert!((found.p_above(0.0) + found.p_below(0.0) - 1.0).abs() < 1e-12);
        assert_eq!((difference(&[1.0], &[1.0, 2.0]), difference(&[], &[])), (None, None));
    }

    #[test]
    fn what_does_not_spread_is_certain() {
        let found = difference(&[1.0, 1.0], &[1.0, 1.0]).unwrap();
        assert!(found.p_above(-0.1) < 1e-9 && found.p_above(0.1) > 1.0 - 1e-9);
        assert!(found.p_outside(0.01) < 1e-9);
        assert!((found.p_above(0.0) - 0.5).abs() < 1e-12, "no evidence either way");
    }

    /// The planned number finds the planned difference about as often as planned.
    #[test]
    fn planned_repeats_have_the_planned_power() {
        let mut rng = seeded(5);
        let n = repeats_needed(0.02, 0.03, 0.05).unwrap();
        assert!((4..12).contains(&n), "{n}");
        let mut draw = |centre: f64| -> Vec<f64> {
            (0..n)
                .map(|_| {
                    let noise: f64 = StandardNormal.sample(&mut rng);
                    centre + 0.02 * noise
                })
                .collect()
        };
        let found = (0..2000)
            .filter(|_| difference(&draw(0.03), &draw(0.0)).unwrap().p_above(0.0) <= 0.05)
            .count();
        assert!((1500..=1840).contains(&found), "{found} of 2000 with {n} repeats");
        assert_eq!(repeats_needed(0.5, 1e-6, 0.05), None);
        assert_eq!(repeats_needed(0.0, 0.01, 0.05), Some(2));
    }
}
