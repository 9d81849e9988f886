//! Exact bounds of a proportion.

/// Halvings of the interval that holds a bound: beyond what a double can tell apart.
const HALVINGS: usize = 60;

/// Upper bound of a proportion of which `k` of `n` were seen, one-sided, with at least `confidence` (Clopper and Pearson 1934):
/// the proportion under which `k` or fewer would be seen with chance `1 - confidence`. `None` without observations, with more seen
/// than there are, or with a confidence that is none.
pub fn upper_bound(k: u64, n: u64, confidence: f64) -> Option<f64> {
    if n == 0 || k > n || !(0.0..1.0).contains(&confidence) {
        return None;
    }
    if k == n {
        return Some(1.0);
    }
    let log_choose: f64 = (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum();
    let chance = 1.0 - confidence;
    let (mut low, mut high) = (k as f64 / n as f64, 1.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if at_most(k, n, middle, log_choose) > chance { low = middle } else { high = middle }
    }
    Some(high)
}

/// Lower bound, likewise.
pub fn lower_bound(k: u64, n: u64, confidence: f64) -> Option<f64> {
    upper_bound(n.checked_sub(k)?, n, confidence).map(|upper| 1.0 - upper)
}

/// Chance of `k` or fewer of `n`, for `p` at least `k / n`, where each term is smaller than the one above it.
fn at_most(k: u64, n: u64, p: f64, log_choose: f64) -> f64 {
    let (k, n) = (k as f64, n as f64);
    if p >= 1.0 {
        return 0.0;
    }
    let last = (log_choose + k * p.ln().max(f64::MIN) + (n - k) * (-p).ln_1p()).exp();
    let (mut sum, mut term, mut j) = (last, last, k);
    while j >= 1.0 && term > 1e-18 * sum {
        term *= j / (n - j + 1.0) * (1.0 - p) / p;
        sum += term;
        j -= 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn published_values() {
        // None of n: 1 - 0.05^(1/n). Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 5, two-sided 95 %.
        let none = upper_bound(0, 20, 0.95).unwrap();
        assert!((none - (1.0 - 0.05_f64.powf(0.05))).abs() < 1e-12, "{none}");
        for (k, n, low, high) in
            [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (1, 29, 0.0009, 0.1776)]
        {
            let (lower, upper) = (lower_bound(k, n, 0.975), upper_bound(k, n, 0.975));
            assert!((lower.unwrap() - low).abs() < 5.1e-5, "{k} of {n}: {lower:?}");
            assert!((upper.unwrap() - high).abs() < 5.1e-5, "{k} of {n}: {upper:?}");
        }
        assert_eq!(upper_bound(7, 7, 0.95), Some(1.0));
        assert_eq!(lower_bound(0, 7, 0.95), Some(0.0));
        assert_eq!((upper_bound(0, 0, 0.95), lower_bound(3, 2, 0.95)), (None, None));
    }

    proptest! {
        #[test]
        fn the_part_lies_below_and_more_is_higher(n in 2_u64..3000, k in 0_u64..3000) {
            let k = k % n;
            let upper = upper_bound(k, n, 0.95).unwrap();
            prop_assert!(k as f64 / n as f64 <= upper && upper <= 1.0);
            prop_assert!(upper < upper_bound(k + 1, n, 0.95).unwrap() + 1e-12);
            prop_assert!(lower_bound(k, n, 0.95).unwrap() <= k as f64 / n as f64);
        }
    }
}
