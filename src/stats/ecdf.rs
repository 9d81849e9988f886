//! How far an empirical distribution may be off.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Resamples of a band.
const RESAMPLES: usize = 300;
/// Places at which resampled curves are compared.
const PLACES: usize = 100;
/// Chance that the band misses the curve somewhere.
const ALPHA: f64 = 0.05;

/// Half-width of a band that holds the whole distribution function with 95 %, as a part of 1, of observations in the order in which
/// they were made, one list a repeat; `None` without observations.
///
/// The wider of two: the bound of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990), `sqrt(ln(2 / 0.05) / 2n)`, which is
/// exact for independent observations, and the 95th percentile of the largest distance between the curve and its resamples, which
/// draw repeats and, within them, runs of `n^(1/3)` neighbours (the moving-block bootstrap of Kuensch 1989), so that requests which
/// waited for each other do not count as independent. What repeats do not show, such as another day, is in neither.
pub fn cdf_band(repeats: &[Vec<f64>], rng: &mut ChaCha8Rng) -> Option<f64> {
    let mut sorted = repeats.concat();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    let independent = ((2.0 / ALPHA).ln() / (2 * n.max(1)) as f64).sqrt();
    let places = places(&sorted);
    let bins: Vec<Vec<usize>> = repeats
        .iter()
        .filter(|repeat| !repeat.is_empty())
        .map(|repeat| repeat.iter().map(|x| places.partition_point(|at| at < x)).collect())
        .collect();
    let whole = shares(bins.iter().flatten().copied(), places.len());
    let mut apart: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn = shares(resample(&bins, rng).into_iter(), places.len());
            whole.iter().zip(&drawn).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        })
        .collect();
    apart.sort_unstable_by(f64::total_cmp);
    let dependent = super::quantile_sorted(&apart, 1.0 - ALPHA)?;
    (n > 0).then(|| independent.max(dependent).min(1.0))
}

/// Values at which curves are compared, rising, each once: evenly by rank.
fn places(sorted: &[f64]) -> Vec<f64> {
    let kept = sorted.len().min(PLACES);
    let mut places: Vec<f64> =
        (0..kept).map(|i| sorted[(i + 1) * sorted.len() / kept - 1]).collect();
    places.dedup_by(|a, b| a.total_cmp(b).is_eq());
    places
}

/// Share of observations up to each place.
fn shares(bins: impl Iterator<Item = usize>, places: usize) -> Vec<f64> {
    let mut counts = vec![0_usize; places];
    let mut n = 0_usize;
    for bin in bins {
        n += 1;
        // The last place is the largest observation, so none lies beyond it.
        counts[bin.min(places - 1)] += 1;
    }
    let mut below = 0;
    counts
        .into_iter()
        .map(|count| {
            below += count;
            below as f64 / n as f64
        })
        .collect()
}

/// As many repeats, each of as many neighbours of a drawn repeat as it has; the first follows the last.
fn resample(repeats: &[Vec<usize>], rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut out = Vec::new();
    for _ in repeats {
        let repeat = &repeats[rng.random_range(0..repeats.len())];
        let block = (repeat.len() as f64).cbrt().ceil() as usize;
        let mut left = repeat.len();
        while left > 0 {
            let (start, length) = (rng.random_range(0..repeat.len()), block.min(left));
            out.extend((start..start + length).map(|at| repeat[at % repeat.len()]));
            left -= length;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::seeded;

    /// How often the band holds the true distribution, which is uniform: `neighbours` observations in a row share a value.
    fn held(trials: u64, neighbours: usize, half_width: impl Fn(&[Vec<f64>], u64) -> f64) -> f64 {
        let one = |trial: u64| {
            let mut rng = seeded(trial);
            let mut repeat = || -> Vec<f64> {
                let values: Vec<f64> = (0..60 / neighbours).map(|_| rng.random::<f64>()).collect();
                values.iter().flat_map(|x| std::iter::repeat_n(*x, neighbours)).collect()
            };
            let repeats: Vec<Vec<f64>> = (0..4).map(|_| repeat()).collect();
            let mut sorted = repeats.concat();
            sorted.sort_unstable_by(f64::total_cmp);
            let n = sorted.len() as f64;
            let edge = |(i, x): (usize, &f64)| {
                (x - i as f64 / n).abs().max(((i + 1) as f64 / n - x).abs())
            };
            sorted.iter().enumerate().map(edge).fold(0.0, f64::max) <= half_width(&repeats, trial)
        };
        (0..trials).filter(|trial| one(*trial)).count() as f64 / trials as f64
    }

    #[test]
    fn the_band_holds_the_truth_where_requests_depend_on_each_other_too() {
        let ours = |repeats: &[Vec<f64>], seed: u64| cdf_band(repeats, &mut seeded(seed)).unwrap();
        let dkw = |repeats: &[Vec<f64>], _: u64| {
            (40.0_f64.ln() / (2 * repeats.concat().len()) as f64).sqrt()
        };
        assert!(held(100, 1, ours) >= 0.93, "{}", held(100, 1, ours));
        let (with, without) = (held(100, 4, ours), held(100, 4, dkw));
        assert!(with >= 0.85 && without < 0.6, "{with} {without}");
    }

    #[test]
    fn few_and_equal_observations_have_a_band() {
        let band = |repeats: &[Vec<f64>]| cdf_band(repeats, &mut seeded(1));
        assert_eq!(band(&[]), None);
        assert_eq!(band(&[vec![]]), None);
        assert_eq!(band(&[vec![3.0]]), Some(1.0));
        assert!(band(&[vec![3.0; 200]]).is_some_and(|half| half < 0.1));
    }
}
