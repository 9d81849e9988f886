//! The sign test.

/// One-sided exact p-value of the sign test: how often at least `above` of `above + below` fair coins show heads. Ties are
/// left out by the caller; without any pair there is no evidence, and the value is 1.
pub fn sign_test(above: usize, below: usize) -> f64 {
    let n = above + below;
    let mut log_pmf = -(n as f64) * std::f64::consts::LN_2;
    let mut p = 0.0;
    // From all heads downwards: C(n, k) is the same as C(n, n - k).
    for tails in 0..=below {
        p += log_pmf.exp();
        log_pmf += ((n - tails) as f64 / (tails + 1) as f64).ln();
    }
    p.min(1.0)
}

/// Two-sided exact p-value of `above` against `below` under fair coins: twice the smaller tail, at most 1.
pub fn sign_test_two_sided(above: usize, below: usize) -> f64 {
    (2.0 * sign_test(above.max(below), above.min(below))).min(1.0)
}

/// Two-sided exact p-value of McNemar's test (McNemar 1947): of the pairs that changed sides, `worse` one way and `better` the
/// other, how often is the split as uneven by chance? Pairs that did not change say nothing.
pub fn mcnemar(worse: usize, better: usize) -> f64 {
    sign_test_two_sided(worse, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_count_and_balance_is_no_evidence() {
        assert!(
            (mcnemar(6, 0) - 1.0 / 32.0).abs() < 1e-12
                && (mcnemar(0, 6) - 1.0 / 32.0).abs() < 1e-12
        );
        assert!((mcnemar(3, 3) - 1.0).abs() < 1e-12 && (mcnemar(0, 0) - 1.0).abs() < 1e-12);
        // 86 prompts lost and 94 won: KIVI-4 on the paper's scores.
        assert!((sign_test_two_sided(86, 94) - 0.602).abs() < 5e-4);
    }

    #[test]
    fn values_are_those_of_the_binomial() {
        for (above, below, expected) in [
            (6, 0, 1.0 / 64.0),
            (5, 1, 7.0 / 64.0),
            (0, 3, 1.0),
            (0, 0, 1.0),
            (8, 2, 56.0 / 1024.0),
        ] {
            assert!((sign_test(above, below) - expected).abs() < 1e-12, "{above} {below}");
        }
        assert!(sign_test(600, 400) < 1e-9 && sign_test(500, 500) > 0.5);
    }
}
