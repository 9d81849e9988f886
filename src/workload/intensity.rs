//! Poisson arrivals at a rate that changes, by time change: arrivals of a process of rate 1 are moved to where the
//! integral of the rate reaches them. Exact for any rate, no thinning, one draw an arrival.

/// A stretch of time over which the rate goes linearly from one value to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Piece {
    /// Infinite for the last one.
    pub(super) length_s: f64,
    /// Arrivals per second at its start.
    pub(super) from: f64,
    /// At its end.
    pub(super) to: f64,
}

impl Piece {
    fn level(length_s: f64, rate: f64) -> Self {
        Self { length_s, from: rate, to: rate }
    }

    /// Arrivals expected within it.
    fn arrivals(&self) -> f64 {
        0.5 * (self.from + self.to) * self.length_s
    }

    /// When `arrivals` are expected, seconds from its start: the positive root of `from t + slope t^2 / 2 = arrivals`,
    /// written so that nothing cancels.
    fn time_s(&self, arrivals: f64) -> f64 {
        let slope = (self.to - self.from) / self.length_s;
        let root = (self.from * self.from + 2.0 * slope * arrivals).max(0.0).sqrt();
        if arrivals > 0.0 { 2.0 * arrivals / (self.from + root) } else { 0.0 }
    }
}

/// From one rate to another, as a slope or in stairs of equal length, and on at the last rate for ever.
pub(super) fn ramp(from: f64, to: f64, over_s: f64, steps: Option<usize>) -> Vec<Piece> {
    let mut pieces = match steps {
        None => vec![Piece { length_s: over_s, from, to }],
        Some(n) => {
            let rate = |i: usize| from + (to - from) * (i as f64 / (n - 1).max(1) as f64);
            (0..n).map(|i| Piece::level(over_s / n as f64, rate(i))).collect()
        }
    };
    pieces.push(Piece::level(f64::INFINITY, to));
    pieces
}

/// One period: quiet, then a burst.
pub(super) fn period(base_rate: f64, burst_rate: f64, period_s: f64, burst_s: f64) -> [Piece; 2] {
    [Piece::level(period_s - burst_s, base_rate), Piece::level(burst_s, burst_rate)]
}

/// Times of `n` arrivals, seconds. `gap` draws from the exponential with mean 1; `pieces` must not end before the `n`th
/// arrival, or the times end with them.
pub(super) fn times_s(
    mut pieces: impl Iterator<Item = Piece>,
    n: usize,
    mut gap: impl FnMut() -> f64,
) -> Vec<f64> {
    let mut times = Vec::with_capacity(n);
    let (mut start_s, mut before, mut reached) = (0.0, 0.0, gap());
    while let Some(piece) = pieces.next().filter(|_| times.len() < n) {
        let arrivals = piece.arrivals();
        while reached - before <= arrivals && times.len() < n {
            times.push(start_s + piece.time_s(reached - before));
            reached += gap();
        }
        before += arrivals;
        start_s += piece.length_s;
    }
    times
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::workload::{
        draw::{Stream, stream},
        exact::exponential,
    };

    fn arrivals(pieces: impl Iterator<Item = Piece>, n: usize, seed: u64) -> Vec<f64> {
        let mut rng = stream(seed, Stream::Arrival);
        times_s(pieces, n, || exponential(&mut rng))
    }

    /// How many lie in [from, to).
    fn count(times: &[f64], from: f64, to: f64) -> f64 {
        times.iter().filter(|t| (from..to).contains(*t)).count() as f64
    }

    /// Whether a Poisson count with this mean may be so: five standard deviations.
    fn plausible(found: f64, mean: f64) -> bool {
        (found - mean).abs() < 5.0 * mean.sqrt() + 1.0
    }

    #[test]
    fn gaps_of_one_land_where_the_integral_says() {
        // Rate 2 t on [0, 3]: the integral is t^2, so arrival k comes at sqrt(k); then rate 6.
        let times = times_s(ramp(0.0, 6.0, 3.0, None).into_iter(), 11, || 1.0);
        for (k, t) in times.iter().take(9).enumerate() {
            assert!((t - ((k + 1) as f64).sqrt()).abs() < 1e-12, "{k}: {t}");
        }
        assert!((times[10] - (3.0 + 2.0 / 6.0)).abs() < 1e-12, "{}", times[10]);
        let stairs = times_s(ramp(1.0, 3.0, 6.0, Some(3)).into_iter(), 12, || 1.0);
        let wanted = [1.0, 2.0, 2.5, 3.0, 3.5, 4.0];
        assert!(stairs.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{stairs:?}");
        assert!((stairs[11] - 6.0).abs() < 1e-9, "{stairs:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_ramp_has_its_rate_in_each_quarter(seed: u64, from in 1.0_f64..200.0, to in 1.0_f64..200.0) {
            let over_s = 40.0;
            let n = (0.5 * (from + to) * over_s + 20.0 * to) as usize;
            let times = arrivals(ramp(from, to, over_s, None).into_iter(), n, seed);
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            for quarter in 0..3 {
                let (start, end) = (f64::from(quarter) * 10.0, f64::from(quarter + 1) * 10.0);
                let middle = from + (to - from) * (start + 5.0) / over_s;
                let found = count(&times, start, end);
                prop_assert!(plausible(found, 10.0 * middle), "{quarter}: {found}, expected {}", 10.0 * middle);
            }
        }

        #[test]
        fn bursts_come_at_the_end_of_each_period(seed: u64, base in 0.0_f64..20.0, burst in 20.0_f64..200.0) {
            let n = (3.0 * (base * 8.0 + burst * 2.0)) as usize;
            let times = arrivals(period(base, burst, 10.0, 2.0).into_iter().cycle(), n, seed);
            prop_assert_eq!(times.len(), n);
            let quiet = count(&times, 0.0, 8.0) + count(&times, 10.0, 18.0);
            let loud = count(&times, 8.0, 10.0) + count(&times, 18.0, 20.0);
            prop_assert!(plausible(quiet, 16.0 * base), "{quiet} between bursts at {base}");
            prop_assert!(plausible(loud, 4.0 * burst), "{loud} in bursts at {burst}");
        }
    }
}
