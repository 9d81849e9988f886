//! Due times, computed before the run as absolute times: a late request never delays the next one's due time.

use super::{
    Due,
    draw::{Stream, stream},
    exact::{exponential, gamma},
    intensity,
};
use crate::{plan::Arrival, units::NS_PER_S};

/// When each of `n` requests is due. A random process starts with a gap, equal gaps start at 0. `recorded_ns` are the
/// workload's own times, which `replay` needs.
pub(super) fn due_times(
    arrival: &Arrival,
    n: usize,
    recorded_ns: &[u64],
    seed: u64,
) -> anyhow::Result<Vec<Due>> {
    let due = match *arrival {
        Arrival::Replay { speed } => {
            recorded_ns.iter().map(|&ns| Due::AtNs((ns as f64 / speed).round() as u64)).collect()
        }
        _ => computed(arrival, n, seed),
    };
    anyhow::ensure!(
        due.len() == n,
        "expected a workload with a time for each of its {n} requests, got {} times",
        due.len()
    );
    Ok(due)
}

/// Times of a Poisson process in nanoseconds from the start; the same for the same seed on every machine.
pub fn poisson_ns(rate: f64, n: usize, seed: u64) -> Vec<u64> {
    let ns = |due| match due {
        Due::AtNs(ns) => Some(ns),
        Due::WhenFree | Due::After { .. } => None,
    };
    computed(&Arrival::Poisson { rate }, n, seed).into_iter().filter_map(ns).collect()
}

/// Index of dispersion: variance over mean of the counts in windows of `window_s`, of sorted times; 1 for a Poisson
/// process. `None` for less than two windows.
pub fn dispersion(times_s: &[f64], window_s: f64) -> Option<f64> {
    let n_windows = (times_s.last()? / window_s).floor() as usize;
    if n_windows < 2 {
        return None;
    }
    let mut counts = vec![0.0; n_windows];
    for window in times_s.iter().map(|t| (t / window_s) as usize).filter(|w| *w < n_windows) {
        counts[window] += 1.0;
    }
    let mean = counts.iter().sum::<f64>() / n_windows as f64;
    let squares: f64 = counts.iter().map(|count| (count - mean).powi(2)).sum();
    Some(squares / (n_windows - 1) as f64 / mean)
}

fn computed(arrival: &Arrival, n: usize, seed: u64) -> Vec<Due> {
    let mut rng = stream(seed, Stream::Arrival);
    let changing = |times_s: Vec<f64>| times_s.into_iter().map(at).collect();
    match *arrival {
        Arrival::Closed { .. } => vec![Due::WhenFree; n],
        // Recorded, or not known yet: a search sends Poisson arrivals at rates of its own.
        Arrival::Replay { .. } | Arrival::Saturation { .. } => Vec::new(),
        Arrival::Constant { rate } => (0..n).map(|i| at(i as f64 / rate)).collect(),
        Arrival::Poisson { rate } => cumulate(n, || exponential(&mut rng) / rate),
        // Mean gap 1 / rate whatever the shape.
        Arrival::Gamma { rate, burstiness } => {
            cumulate(n, || gamma(burstiness, &mut rng) / (burstiness * rate))
        }
        Arrival::Ramp { from, to, over_s, steps } => {
            let pieces = intensity::ramp(from, to, over_s, steps).into_iter();
            changing(intensity::times_s(pieces, n, || exponential(&mut rng)))
        }
        Arrival::Burst { base_rate, burst_rate, period_s, burst_s } => {
            let period = intensity::period(base_rate, burst_rate, period_s, burst_s);
            let pieces = period.into_iter().cycle();
            changing(intensity::times_s(pieces, n, || exponential(&mut rng)))
        }
    }
}

/// Sums are kept in seconds and rounded once each, so rounding does not add up.
fn cumulate(n: usize, mut gap_s: impl FnMut() -> f64) -> Vec<Due> {
    let mut t_s = 0.0;
    let mut next = || {
        t_s += gap_s();
        at(t_s)
    };
    (0..n).map(|_| next()).collect()
}

fn at(t_s: f64) -> Due {
    Due::AtNs((t_s * NS_PER_S).round() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times_s(arrival: Arrival, n: usize, seed: u64) -> Vec<f64> {
        let due = computed(&arrival, n, seed);
        due.iter()
            .map(|due| match due {
                Due::AtNs(ns) => *ns as f64 / NS_PER_S,
                Due::WhenFree | Due::After { .. } => panic!("open loop"),
            })
            .collect()
    }

    fn gaps(times: &[f64]) -> Vec<f64> {
        std::iter::once(&0.0).chain(times).zip(times).map(|(a, b)| b - a).collect()
    }

    /// Largest distance between the sample's distribution and the exponential with this rate.
    fn ks_exponential(mut gaps: Vec<f64>, rate: f64) -> f64 {
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len() as f64;
        let step = |(i, gap): (usize, &f64)| {
            let cdf = 1.0 - (-rate * gap).exp();
            (cdf - i as f64 / n).abs().max(((i + 1) as f64 / n - cdf).abs())
        };
        gaps.iter().enumerate().map(step).fold(0.0, f64::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        // Another tool's workers reused each delay once per worker: 41 distinct gaps among 399, dispersion 5 to 9.
        // Bounds are five standard deviations (KS: p < 1e-9), so a sound generator practically never fails.
        #[test]
        fn poisson_is_poisson(seed: u64, rate in 0.1_f64..500.0) {
            let n = 4000;
            let times = times_s(Arrival::Poisson { rate }, n, seed);
            let gaps = gaps(&times);
            let mut distinct = gaps.iter().map(|gap| gap.to_bits()).collect::<Vec<_>>();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert!(distinct.len() > n * 99 / 100, "{} distinct gaps", distinct.len());
            let windows = 400.0;
            let spread = dispersion(&times, n as f64 / rate / windows).unwrap();
            prop_assert!((spread - 1.0).abs() < 5.0 * (2.0_f64 / windows).sqrt(), "dispersion {spread}");
            let mean_rate = n as f64 / times[n - 1];
            prop_assert!((mean_rate / rate - 1.0).abs() < 5.0 / (n as f64).sqrt(), "rate {mean_rate}");
            let distance = ks_exponential(gaps, rate);
            prop_assert!(distance * (n as f64).sqrt() < 3.3, "KS {distance}");
        }

        // The project's own criterion. There is one schedule, made before the run, and nothing in its making knows how many
        // workers will receive: whoever they are dealt to, together they send this one process. (A tool that lets each of
        // 16 workers draw its own gaps from one seed sends bursts of 16: dispersion 5 to 9.)
        #[test]
        fn a_hundred_thousand_arrivals_are_poisson_for_any_number_of_workers(seed: u64, rate in 1.0_f64..5000.0) {
            let n = 100_000;
            let times = times_s(Arrival::Poisson { rate }, n, seed);
            for n_workers in [1, 16] {
                let mut workers = vec![Vec::new(); n_workers];
                times.iter().enumerate().for_each(|(i, t)| workers[i % n_workers].push(*t));
                let mut sent = workers.concat();
                sent.sort_by(f64::total_cmp);
                // 5000 windows of 20 arrivals: a standard deviation of 0.02.
                let spread = dispersion(&sent, 20.0 / rate).unwrap();
                prop_assert!((spread - 1.0).abs() < 0.1, "{n_workers} workers: {spread}");
            }
        }

        #[test]
        fn gamma_keeps_the_rate_and_bursts(seed: u64, rate in 0.1_f64..500.0, burstiness in 0.1_f64..10.0) {
            let n = 4000;
            let times = times_s(Arrival::Gamma { rate, burstiness }, n, seed);
            let relative_sd = 1.0 / (burstiness * n as f64).sqrt();
            let mean_gap = times[n - 1] * rate / n as f64;
            prop_assert!((mean_gap - 1.0).abs() < 6.0 * relative_sd, "mean gap {mean_gap}");
            let gaps = gaps(&times);
            let mean = times[n - 1] / n as f64;
            let cv2 = gaps.iter().map(|gap| (gap / mean - 1.0).powi(2)).sum::<f64>() / n as f64;
            prop_assert!((0.6..1.6).contains(&(cv2 * burstiness)), "cv2 {cv2} at {burstiness}");
        }

        #[test]
        fn constant_does_not_drift(rate in 0.001_f64..100_000.0, n in 1_usize..2000) {
            let times = times_s(Arrival::Constant { rate }, n, 0);
            prop_assert!(times[0].abs() < 1e-12);
            let last = (n - 1) as f64 / rate;
            prop_assert!((times[n - 1] - last).abs() <= 1e-9 + last * 1e-12);
        }

        #[test]
        fn due_times_never_go_back(seed: u64, rate in 0.001_f64..100_000.0, burstiness in 0.01_f64..1000.0) {
            for arrival in [Arrival::Poisson { rate }, Arrival::Gamma { rate, burstiness }] {
                let times = times_s(arrival, 200, seed);
                prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            }
        }
    }

    #[test]
    fn closed_loops_wait_for_a_slot() {
        let due = computed(&Arrival::Closed { concurrency: 4 }, 3, 1);
        assert_eq!(due, [Due::WhenFree; 3]);
    }
}
