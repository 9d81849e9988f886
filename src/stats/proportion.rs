//! The interval of a proportion.

use super::Interval;

/// 97.5th percentile of the standard normal.
pub(super) const Z: f64 = 1.959_963_984_540_054;

/// 95 % Wilson score interval of `good` of `n` (Wilson 1927), within [0, 1] and sound at 0 and `n`, where the usual
/// `p +- z sqrt(p (1 - p) / n)` has no width. `None` without observations, or with more good ones than there are.
pub fn wilson(good: usize, n: usize) -> Option<Interval> {
    if n == 0 || good > n {
        return None;
    }
    wilson_share(good as f64 / n as f64, n)
}

/// The same of a share of `n` observations that need not be whole, such as the mean over several runs of each prompt: then
/// `n` is the number of prompts, which is never too many. `None` for a share outside [0, 1].
pub fn wilson_share(part: f64, n: usize) -> Option<Interval> {
    if n == 0 || !(0.0..=1.0).contains(&part) {
        return None;
    }
    let count = n as f64;
    let shrink = 1.0 / (1.0 + Z * Z / count);
    let middle = shrink * (part + Z * Z / (2.0 * count));
    let half = shrink * Z * (part * (1.0 - part) / count + Z * Z / (4.0 * count * count)).sqrt();
    // Rounding must not push an end past the value that it equals.
    let low = if part <= 0.0 { 0.0 } else { middle - half };
    let high = if part >= 1.0 { 1.0 } else { middle + half };
    Some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn published_values() {
        // Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
        for (good, n, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let found = wilson(good, n).expect("an interval");
            assert!((found.low - low).abs() < 5.1e-5, "{good} of {n}: {found:?}");
            assert!((found.high - high).abs() < 5.1e-5, "{good} of {n}: {found:?}");
        }
        assert_eq!(wilson(0, 0), None);
        assert_eq!(wilson(3, 2), None);
    }

    proptest! {
        #[test]
        fn the_part_lies_inside_and_failures_mirror_successes(n in 1_usize..5000, k in 0_usize..5000) {
            let good = k % (n + 1);
            let found = wilson(good, n).expect("an interval");
            let part = good as f64 / n as f64;
            prop_assert!(0.0 <= found.low && found.low <= part && part <= found.high && found.high <= 1.0);
            let mirror = wilson(n - good, n).expect("an interval");
            prop_assert!((found.low + mirror.high - 1.0).abs() < 1e-12);
        }
    }
}
