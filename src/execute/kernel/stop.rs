//! When a block has been sampled enough. A pure state machine: durations and elapsed time go in, a verdict comes out.

use crate::scenario::Timing;

/// Why sampling ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The interval of every kernel's median is narrow enough.
    Settled,
    /// As many samples as allowed, or exactly the fixed number asked for.
    Enough,
    /// The block's time is over; what was sampled so far is kept.
    OutOfTime,
}

/// Collects one duration a kernel and round.
#[derive(Debug, Clone)]
pub struct StopRule {
    timing: Timing,
    sorted_ns: Vec<Vec<f64>>,
    left_out: Vec<bool>,
}

impl StopRule {
    /// A rule for `n_kernels` sampled side by side.
    ///
    /// `min_samples == max_samples` means exactly that many rounds: neither the interval nor the clock decides, so that
    /// two runs have the same rows in everything but their times.
    pub fn new(timing: Timing, n_kernels: usize) -> Self {
        Self { timing, sorted_ns: vec![Vec::new(); n_kernels], left_out: vec![false; n_kernels] }
    }

    /// Adds a sample of kernel `kernel` (its index below `n_kernels`).
    pub fn add(&mut self, kernel: usize, duration_ns: i64) {
        let sorted = &mut self.sorted_ns[kernel];
        let value = duration_ns as f64;
        sorted.insert(sorted.partition_point(|&other| other < value), value);
    }

    /// Kernels that failed have no say any more.
    pub fn leave_out(&mut self, is_out: impl Fn(usize) -> bool) {
        self.left_out.iter_mut().enumerate().for_each(|(index, out)| *out = is_out(index));
    }

    fn judged(&self) -> impl Iterator<Item = &Vec<f64>> {
        self.sorted_ns.iter().zip(&self.left_out).filter(|(_, out)| !**out).map(|(ns, _)| ns)
    }

    /// Looks after a whole round whether it was the last one. `elapsed_s` counts from the first sample.
    pub fn verdict(&self, elapsed_s: f64) -> Option<Verdict> {
        let rounds = self.judged().map(Vec::len).min()?;
        let fixed = self.timing.min_samples >= self.timing.max_samples;
        if rounds >= self.timing.max_samples.max(1) {
            Some(Verdict::Enough)
        } else if fixed {
            None
        } else if rounds >= self.timing.min_samples && self.settled() {
            Some(Verdict::Settled)
        } else if rounds > 0 && elapsed_s >= self.timing.max_seconds {
            Some(Verdict::OutOfTime)
        } else {
            None
        }
    }

    fn settled(&self) -> bool {
        self.judged().all(|sorted| match median_interval(sorted) {
            Some((low, high)) => (high - low) <= self.timing.target_rel_ci * median(sorted),
            None => false,
        })
    }
}

/// Median of sorted values; the mean of the middle two of an even number, NaN of none.
pub fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n == 0 {
        return f64::NAN;
    }
    f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2])
}

/// The 95 % interval of the median from order statistics: no assumption on the distribution but independence.
///
/// The number of samples below the true median is binomial(n, 1/2); the interval is the narrowest symmetric pair of
/// order statistics that covers at least 95 %. `None` below six samples, where no pair does.
pub fn median_interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let n = sorted.len();
    let skip = outside(n)?;
    Some((sorted[skip], sorted[n - 1 - skip]))
}

/// How many samples lie outside the interval on either side.
fn outside(n: usize) -> Option<usize> {
    const TAIL: f64 = 0.025;
    if n > 200 {
        // Normal approximation with continuity correction; it is within one rank of the exact one here.
        let skip = (n as f64 / 2.0 - 0.98 * (n as f64).sqrt() - 0.5).floor();
        return Some(skip as usize);
    }
    let mut probability = 0.5_f64.powi(i32::try_from(n).ok()?);
    let mut tail = probability;
    let mut skip = None;
    for below in 0..n / 2 {
        if tail > TAIL {
            break;
        }
        skip = Some(below);
        probability *= (n - below) as f64 / (below + 1) as f64;
        tail += probability;
    }
    skip
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(min_samples: usize, max_samples: usize) -> Timing {
        Timing {
            warmup: 1,
            min_samples,
            max_samples,
            target_rel_ci: 0.02,
            max_seconds: 10.0,
            rotate_llc: 4.0,
        }
    }

    fn rule(timing: Timing, kernels: &[&[i64]]) -> StopRule {
        let mut rule = StopRule::new(timing, kernels.len());
        for (index, durations) in kernels.iter().enumerate() {
            durations.iter().for_each(|&ns| rule.add(index, ns));
        }
        rule
    }

    #[test]
    fn ranks_are_those_of_the_binomial_table() {
        // Published ranks of the 95 % interval of the median: n=6 -> 1..6, 10 -> 2..9, 20 -> 6..15, 100 -> 40..61.
        for (n, rank) in [(6, 1), (10, 2), (20, 6), (100, 40)] {
            assert_eq!(outside(n), Some(rank - 1), "n = {n}");
        }
        assert_eq!(outside(5), None);
        assert_eq!(outside(0), None);
        assert!(
            outside(200)
                .is_some_and(|exact| outside(201).is_some_and(|near| near.abs_diff(exact) <= 1))
        );
    }

    #[test]
    fn settles_only_when_every_kernel_is_narrow() {
        let narrow = [1000; 8];
        let wide = [1000, 1500, 900, 2000, 1000, 1800, 1100, 1700];
        assert_eq!(rule(timing(6, 50), &[&narrow, &narrow]).verdict(0.0), Some(Verdict::Settled));
        assert_eq!(rule(timing(6, 50), &[&narrow, &wide]).verdict(0.0), None);
        assert_eq!(rule(timing(9, 50), &[&narrow, &narrow]).verdict(0.0), None);
    }

    #[test]
    fn the_clock_ends_a_block_that_does_not_settle() {
        let rule = rule(timing(6, 50), &[&[1000, 2000]]);
        assert_eq!(rule.verdict(9.9), None);
        assert_eq!(rule.verdict(10.0), Some(Verdict::OutOfTime));
        assert_eq!(StopRule::new(timing(6, 50), 1).verdict(99.0), None, "at least one round");
    }

    #[test]
    fn a_fixed_count_depends_on_nothing_else() {
        let mut rule = StopRule::new(timing(7, 7), 1);
        for round in 0..7 {
            assert_eq!(rule.verdict(1e9), None, "round {round}");
            rule.add(0, 5);
        }
        assert_eq!(rule.verdict(0.0), Some(Verdict::Enough));
    }

    #[test]
    fn median_of_even_and_odd() {
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }
}
