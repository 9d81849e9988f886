//! Counts of times in bounded memory, however long a cell runs.

use serde::Serialize;

use crate::units::{NS_PER_S, ns_to_ms};

/// Quantiles of a time; nearest rank, up to 3 % too high (histogram).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lag {
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Largest, exact.
    pub max_ms: f64,
}

/// Counts of non-negative nanoseconds in 32 buckets an octave.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    n: u64,
    max_ns: i64,
}

const PER_OCTAVE: f64 = 32.0;

impl Histogram {
    pub(super) fn add(&mut self, ns: i64) {
        let ns = ns.max(1);
        let bucket = ((ns as f64).log2() * PER_OCTAVE).ceil() as usize;
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.n += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let buckets = self.counts.len().max(other.counts.len());
        self.counts.resize(buckets, 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(ours, theirs)| *ours += theirs);
        self.n += other.n;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub(super) fn n(&self) -> u64 {
        self.n
    }

    /// Upper end of the bucket that holds the nearest rank; `None` without values.
    fn quantile_ns(&self, q: f64) -> Option<f64> {
        let rank = (q * self.n as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some((bucket as f64 / PER_OCTAVE).exp2().min(self.max_ns as f64))
    }

    pub(super) fn lag(&self) -> Option<Lag> {
        let ms = |q| self.quantile_ns(q).map(|ns| ns / NS_PER_S * 1e3);
        Some(Lag { p50_ms: ms(0.5)?, p99_ms: ms(0.99)?, max_ms: ns_to_ms(self.max_ns) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close_and_max_is_exact() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.lag(), None);
        (1..=1000).for_each(|i| histogram.add(i * 1_000_000));
        let lag = histogram.lag().unwrap();
        for (got, exact) in [(lag.p50_ms, 500.0), (lag.p99_ms, 990.0), (lag.max_ms, 1000.0)] {
            assert!(got >= exact && got <= exact * 1.03, "{got} for {exact}");
        }
        assert_eq!(histogram.n(), 1000);
        let mut both = Histogram::default();
        both.add(2_000_000_000);
        both.merge(&histogram);
        assert_eq!((both.n(), both.lag().unwrap().max_ms), (1001, 2000.0));
        histogram.merge(&both);
        assert_eq!((histogram.n(), histogram.lag().unwrap().max_ms), (2001, 2000.0));
    }
}
