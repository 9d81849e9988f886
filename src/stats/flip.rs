//! A randomisation test of a mean.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Patterns of signs that are drawn.
const DRAWS: usize = 2000;
/// Values above which the mean is taken for normal.
const MANY: usize = 5000;

/// What a [`sign_flip_test`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flipped {
    /// Mean of the values.
    pub mean: f64,
    /// Two-sided p-value.
    pub p: f64,
    /// Standard error of the mean.
    pub error: f64,
}

/// Whether the mean of independent differences is 0: signs are dealt anew, as by fair coins, and the mean that was seen is compared with
/// what chance gives (Fisher's randomisation test). One value a prompt: how many runs are behind it, and whether some of them are
/// copies of others, moves no other prompt's value. Exact where a difference is as likely as its opposite; close where only its mean
/// is 0. Where no draw reaches the mean, and above 5000 values, the normal tail tells how small the p-value is. `None` with fewer than
/// two values.
pub fn sign_flip_test(values: &[f64], rng: &mut ChaCha8Rng) -> Option<Flipped> {
    if values.len() < 2 {
        return None;
    }
    let (n, mean) = (values.len() as f64, super::mean(values)?);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let error = (variance / n).sqrt();
    // Under the null the mean is 0, so the spread of what the signs give is that of the values around 0.
    let spread = values.iter().map(|value| value * value).sum::<f64>().sqrt() / n;
    let by_spread = if spread > 0.0 {
        (2.0 * super::normal::upper_tail(mean.abs() / spread)).min(1.0)
    } else {
        1.0
    };
    let p = if values.len() > MANY { by_spread } else { by_draws(values, mean, by_spread, rng) };
    Some(Flipped { mean, p, error })
}

fn by_draws(values: &[f64], mean: f64, by_spread: f64, rng: &mut ChaCha8Rng) -> f64 {
    let n = values.len() as f64;
    // Sums in another order differ in their last bits; what is equal must count as equal.
    let bar = mean.abs() * (1.0 - 1e-9);
    let draw = |rng: &mut ChaCha8Rng| {
        let mut bits = 0_u64;
        let mut sum = 0.0;
        for (at, value) in values.iter().enumerate() {
            if at % 64 == 0 {
                bits = rng.random();
            }
            sum += if bits >> (at % 64) & 1 == 1 { *value } else { -value };
        }
        (sum / n).abs()
    };
    let beyond = (0..DRAWS).filter(|_| draw(rng) >= bar).count();
    let p = (beyond + 1) as f64 / (DRAWS + 1) as f64;
    if beyond == 0 { p.min(by_spread) } else { p }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::seeded;

    #[test]
    fn the_p_value_is_that_of_counting() {
        // Eight equal differences: two of 256 patterns of signs are as far out.
        let found = sign_flip_test(&[0.3; 8], &mut seeded(1)).unwrap();
        assert!((found.p - 2.0 / 256.0).abs() < 0.005, "{}", found.p);
        assert!((found.mean - 0.3).abs() < 1e-12 && found.error < 1e-12);
        let even = sign_flip_test(&[1.0, -1.0, 0.0], &mut seeded(1)).unwrap();
        assert!((even.p - 1.0).abs() < 1e-12);
        assert_eq!(sign_flip_test(&[1.0], &mut seeded(1)), None);
        assert!((sign_flip_test(&[0.0; 5], &mut seeded(1)).unwrap().p - 1.0).abs() < 1e-12);
    }

    #[test]
    fn many_values_and_clear_effects_are_judged_by_the_normal_tail() {
        let mut rng = seeded(2);
        let noise: Vec<f64> = (0..6000).map(|_| rng.random::<f64>() - 0.5).collect();
        let shifted: Vec<f64> = noise.iter().map(|value| value + 0.03).collect();
        assert!(sign_flip_test(&noise, &mut rng).unwrap().p > 0.05);
        assert!(sign_flip_test(&shifted, &mut rng).unwrap().p < 1e-9);
        let clear: Vec<f64> = (0..100).map(|_| 1.0 + 0.2 * rng.random::<f64>()).collect();
        assert!(sign_flip_test(&clear, &mut rng).unwrap().p < 1e-10, "finer than 2000 draws");
    }
}
