//! The signed-rank test.

/// Pairs up to which the distribution is counted out; above, the normal approximation is good to the third digit.
const EXACT_MAX: usize = 50;

/// Two-sided p-value of Wilcoxon's signed-rank test (Wilcoxon 1945): how often signs drawn by fair coins give a sum of ranks as
/// far from its middle. Differences of 0 are left out (Wilcoxon's own rule) and equal sizes share their mean rank. Up to 50
/// pairs every sign pattern is counted, ties included; above that the sum is taken for normal, with the variance that the ranks
/// really have. `None` without a difference that is not 0, or with one that is not finite.
pub fn wilcoxon(differences: &[f64]) -> Option<f64> {
    if differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let mut sizes: Vec<(f64, bool)> =
        differences.iter().filter(|d| **d != 0.0).map(|d| (d.abs(), *d > 0.0)).collect();
    if sizes.is_empty() {
        return None;
    }
    sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ranks = doubled_ranks(&sizes);
    let of = |positive: bool| {
        let own = ranks.iter().zip(&sizes).filter(|(_, size)| size.1 == positive);
        own.map(|(rank, _)| rank).sum::<usize>()
    };
    let (above, below) = (of(true), of(false));
    Some(if ranks.len() <= EXACT_MAX {
        exact(&ranks, above.min(below))
    } else {
        normal(&ranks, above.abs_diff(below))
    })
}

/// Twice the ranks, so that the mean of tied ranks is a whole number.
fn doubled_ranks(sorted: &[(f64, bool)]) -> Vec<usize> {
    let mut ranks = Vec::with_capacity(sorted.len());
    for tied in sorted.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let first = ranks.len() + 1;
        let last = ranks.len() + tied.len();
        ranks.extend(std::iter::repeat_n(first + last, tied.len()));
    }
    ranks
}

/// Counts the subsets of ranks by their sum: `ways[s]` is the chance of the sum `s`.
fn exact(ranks: &[usize], smaller: usize) -> f64 {
    let total: usize = ranks.iter().sum();
    let mut ways = vec![0.0_f64; total + 1];
    ways[0] = 1.0;
    let mut reach = 0;
    for rank in ranks {
        reach += rank;
        for sum in (0..=reach).rev() {
            let with = if sum >= *rank { ways[sum - rank] } else { 0.0 };
            ways[sum] = 0.5 * (ways[sum] + with);
        }
    }
    (2.0 * ways[..=smaller].iter().sum::<f64>()).min(1.0)
}

/// `apart` is the distance between the two doubled sums; the variance of their difference is the sum of squared ranks.
fn normal(ranks: &[usize], apart: usize) -> f64 {
    let variance: f64 = ranks.iter().map(|rank| (*rank as f64).powi(2)).sum();
    2.0 * super::normal::upper_tail(apart as f64 / variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(values: &[f64], expected: f64, within: f64) {
        let p = wilcoxon(values).unwrap();
        assert!((p - expected).abs() < within, "{p} for {values:?}");
    }

    #[test]
    fn small_samples_are_counted_out() {
        // By hand: all n signs alike is 2 of 2^n patterns.
        close(&[1.0, 2.0, 3.0, 4.0, 5.0], 2.0 / 32.0, 1e-12);
        close(&[-1.0, 2.0, 3.0], 4.0 / 8.0, 1e-12);
        // Ties: ranks 1.5, 1.5, 3, so sums 0 and 1.5 (twice) are as far out as 1.5.
        close(&[-1.0, 1.0, 2.0], 6.0 / 8.0, 1e-12);
        // Depression scores of nine patients (Hollander and Wolfe 1973, table 3.1): the sum of the smaller ranks is 5.
        let patients = [0.952, -0.147, 1.022, 0.430, 0.620, 0.590, 0.490, -0.080, 0.010];
        close(&patients, 0.039_062_5, 1e-12);
        assert_eq!(wilcoxon(&[0.0, 0.0]), None);
        assert_eq!(wilcoxon(&[f64::NAN, 1.0]), None);
    }

    #[test]
    fn zeros_are_left_out_and_signs_swap() {
        let values = [0.5, -1.5, 2.5, 0.0, 3.5, -0.25, 0.0];
        let swapped = values.map(|v| -v);
        let without = [0.5, -1.5, 2.5, 3.5, -0.25];
        close(&values, wilcoxon(&without).unwrap(), 1e-12);
        close(&values, wilcoxon(&swapped).unwrap(), 1e-12);
    }

    #[test]
    fn the_approximation_meets_the_exact_count() {
        let mut rng = crate::stats::seeded(4);
        for shift in [0.0, 0.2, 0.4] {
            let sizes: Vec<(f64, bool)> = {
                let mut sizes: Vec<(f64, bool)> = (0..50)
                    .map(|_| rand::RngExt::random::<f64>(&mut rng) - 0.5 + shift)
                    .map(|d| (d.abs(), d > 0.0))
                    .collect();
                sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
                sizes
            };
            let ranks = doubled_ranks(&sizes);
            let total: usize = ranks.iter().sum();
            let above: usize =
                ranks.iter().zip(&sizes).filter(|(_, s)| s.1).map(|(rank, _)| rank).sum();
            let (exact, normal) = (
                exact(&ranks, above.min(total - above)),
                normal(&ranks, above.abs_diff(total - above)),
            );
            assert!((exact - normal).abs() < 0.01, "{exact} {normal}");
        }
    }
}
