//! A non-empty sample without NaN.

use super::Interval;

/// Sorted observations: at least one, none NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    sorted: Vec<f64>,
}

/// Why values are no sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// No values.
    #[error("expected at least one observation, got none")]
    Empty,
    /// A NaN.
    #[error("expected numbers, got NaN")]
    Nan,
}

impl Sample {
    /// Sorts the values.
    ///
    /// # Errors
    /// No values, or a NaN among them.
    pub fn new(mut values: Vec<f64>) -> Result<Self, SampleError> {
        if values.is_empty() {
            return Err(SampleError::Empty);
        }
        if values.iter().any(|value| value.is_nan()) {
            return Err(SampleError::Nan);
        }
        values.sort_unstable_by(f64::total_cmp);
        Ok(Self { sorted: values })
    }

    /// Observations in ascending order.
    pub fn sorted(&self) -> &[f64] {
        &self.sorted
    }

    /// Observations; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a sample is never empty")]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Arithmetic mean.
    pub fn mean(&self) -> f64 {
        mean(&self.sorted).expect("a sample is never empty")
    }

    /// Smallest observation.
    pub fn min(&self) -> f64 {
        self.sorted[0]
    }

    /// Largest observation.
    pub fn max(&self) -> f64 {
        self.sorted[self.len() - 1]
    }

    /// Median: the mean of the two middle observations where their number is even.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Quantile at `q` in [0, 1] with linear interpolation between order statistics at rank `q (n - 1)`: definition 7 of
    /// Hyndman and Fan (1996), the default of numpy and R.
    pub fn quantile(&self, q: f64) -> f64 {
        quantile_sorted(&self.sorted, q).expect("a sample is never empty")
    }

    /// The `percent`-th percentile where the sample is large enough for one, else `None`: where order statistics bound it on both
    /// sides with 95 %, see [`needed_for`]. Below, the number would be little more than an extreme under another name.
    pub fn percentile(&self, percent: u32) -> Option<f64> {
        (self.len() >= needed_for(percent)).then(|| self.quantile(f64::from(percent) / 100.0))
    }

    /// Distribution-free 95 % interval of the median from order statistics: the narrowest symmetric pair of ranks that a
    /// Binomial(n, 1/2) covers with at least 95 %. `None` below six observations, where no pair does.
    pub fn median_interval(&self) -> Option<Interval> {
        let n = self.len();
        let (mut log_pmf, mut below, mut rank) = (-(n as f64) * std::f64::consts::LN_2, 0.0, 0);
        while rank < n / 2 {
            below += log_pmf.exp();
            if below > 0.025 {
                break;
            }
            log_pmf += ((n - rank) as f64 / (rank + 1) as f64).ln();
            rank += 1;
        }
        (rank > 0).then(|| Interval { low: self.sorted[rank - 1], high: self.sorted[n - rank] })
    }
}

/// Observations that the `percent`-th percentile (1 to 99) takes before smallest and largest bound it with 95 %, 2.5 % for each side:
/// the least n with `p^n` and `(1 - p)^n` at most 0.025 (David and Nagaraja, "Order Statistics", 2003, section 7.1). That is 6 for
/// p50, 36 for p90, 72 for p95 and 368 for p99. Observations must be independent: gaps within one answer are worth fewer.
pub fn needed_for(percent: u32) -> usize {
    let p = f64::from(percent.clamp(1, 99)) / 100.0;
    let rarer = p.max(1.0 - p);
    (0.025_f64.ln() / rarer.ln()).ceil() as usize
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Median of unsorted values, which are reordered; `None` of nothing. The values must not be NaN.
pub fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    let upper = *values.select_nth_unstable_by(middle, f64::total_cmp).1;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let below = values[..middle].iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(below + (upper - below) / 2.0)
}

/// Quantile of ascending values, see [`Sample::quantile`]; `None` of nothing.
pub fn quantile_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = q.clamp(0.0, 1.0) * last as f64;
    let lower = rank.floor() as usize;
    let upper = (lower + 1).min(last);
    Some(sorted[lower] + (rank - lower as f64) * (sorted[upper] - sorted[lower]))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::new(values.to_vec()).unwrap()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let sample = sample(&[4.0, 1.0, 3.0, 2.0]);
        for (q, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (0.9, 3.7), (1.0, 4.0)] {
            assert!(close(sample.quantile(q), expected), "{q}");
        }
        assert!(close(sample.mean(), 2.5));
    }

    #[test]
    fn a_small_sample_has_no_high_percentile() {
        let of = |n: usize| sample(&(0..n).map(|i| i as f64).collect::<Vec<_>>());
        for (percent, needed) in [(10, 36), (50, 6), (90, 36), (95, 72), (99, 368)] {
            assert_eq!(needed_for(percent), needed, "p{percent}");
            assert_eq!(of(needed - 1).percentile(percent), None, "p{percent}");
            assert!(of(needed).percentile(percent).is_some(), "p{percent}");
        }
    }

    #[test]
    fn nothing_and_nan_are_no_sample() {
        assert_eq!(Sample::new(Vec::new()), Err(SampleError::Empty));
        assert_eq!(Sample::new(vec![1.0, f64::NAN]), Err(SampleError::Nan));
    }

    /// Ranks from a table of the sign test (two-sided, 5 %): n = 6 -> 1, n = 10 -> 2, n = 20 -> 6, n = 100 -> 40.
    #[test]
    fn order_statistic_ranks_are_those_of_the_table() {
        for (n, rank) in [(6, 1), (10, 2), (20, 6), (25, 8), (100, 40)] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let interval = sample(&values).median_interval().unwrap();
            assert_eq!((interval.low as i32, interval.high as i32), (rank, n + 1 - rank), "{n}");
        }
        assert_eq!(sample(&[1.0, 2.0, 3.0, 4.0, 5.0]).median_interval(), None);
        let many: Vec<f64> = (0..100_000).map(f64::from).collect();
        assert!(
            sample(&many)
                .median_interval()
                .is_some_and(|interval| interval.high - interval.low < 1000.0)
        );
    }

    proptest! {
        #[test]
        fn both_medians_agree(values in vec(-1e6..1e6_f64, 1..40)) {
            let by_sorting = sample(&values).median();
            let by_selecting = median(&mut values.clone()).unwrap();
            prop_assert!((by_sorting - by_selecting).abs() < 1e-6);
        }

        #[test]
        fn quantiles_rise_and_stay_inside(values in vec(-1e6..1e6_f64, 1..40), a in 0.0..1.0_f64, b in 0.0..1.0_f64) {
            let sample = sample(&values);
            let (low, high) = (sample.quantile(a.min(b)), sample.quantile(a.max(b)));
            prop_assert!(sample.min() <= low && low <= high + 1e-9 && high <= sample.max() + 1e-9);
        }
    }
}
