//! Functions and distributions that give the same bits on every machine.
//!
//! IEEE 754 rounds sums, products, quotients and square roots alike everywhere; logarithms and exponentials come from
//! the platform's library, and two libraries may differ in the last bit. One bit could move a due time by a nanosecond or
//! turn an accepted draw into a rejected one and with it everything after. So a schedule is made of the former only,
//! and its hash can be compared between machines.

use rand_chacha::ChaCha8Rng;

use super::draw::unit;

/// ln 2 in two parts: the product of the first with a small whole number is exact.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Natural logarithm of a positive normal number, within a few units in the last place.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    // The mantissa, between 1 and 2, then between sqrt(1/2) and sqrt(2).
    let mut mantissa = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh z, whose twelfth term is below 1e-19 here.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let squared = z * z;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * squared + 1.0 / f64::from(2 * k + 1));
    let exponent = exponent as f64;
    exponent * LN_2_HIGH + (exponent * LN_2_LOW + 2.0 * z * series)
}

/// Exponential, within a few units in the last place; 0 and infinity beyond the range of normal numbers.
pub(super) fn exp(x: f64) -> f64 {
    if x < -708.0 {
        return 0.0;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    let doublings = (x * std::f64::consts::LOG2_E).round();
    let rest = (x - doublings * LN_2_HIGH) - doublings * LN_2_LOW;
    // Taylor, |rest| < 0.35: the seventeenth term is below 1e-20.
    let series = (1..=16).rev().fold(1.0, |sum, k| 1.0 + rest / f64::from(k) * sum);
    series * f64::from_bits(((doublings as i64 + 1023) as u64) << 52)
}

/// Exponential with mean 1, by inversion; `1 - u` is never 0.
pub(super) fn exponential(rng: &mut ChaCha8Rng) -> f64 {
    -ln(1.0 - unit(rng))
}

/// Standard normal, by Marsaglia's polar method (the second value of each pair is not used).
pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    loop {
        let (u, v) = (2.0 * unit(rng) - 1.0, 2.0 * unit(rng) - 1.0);
        let squared = u * u + v * v;
        if squared > 0.0 && squared < 1.0 {
            return u * (-2.0 * ln(squared) / squared).sqrt();
        }
    }
}

/// Gamma with this shape and scale 1 (Marsaglia and Tsang 2000; below shape 1 by `gamma(shape + 1) * u^(1 / shape)`).
pub(super) fn gamma(shape: f64, rng: &mut ChaCha8Rng) -> f64 {
    if shape < 1.0 {
        let power = exp(ln(1.0 - unit(rng)) / shape);
        return gamma(shape + 1.0, rng) * power;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x) * (1.0 + c * x) * (1.0 + c * x);
        if v > 0.0 && ln(1.0 - unit(rng)) < 0.5 * x * x + d - d * v + d * ln(v) {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::workload::draw::{Stream, stream};

    fn close(ours: f64, theirs: f64) -> bool {
        (ours - theirs).abs() <= 4.0 * f64::EPSILON * theirs.abs().max(f64::EPSILON)
    }

    proptest! {
        #[test]
        fn ln_and_exp_are_those_of_the_platform(x in 1e-300_f64..1e300, y in -700.0_f64..700.0, near in 0.5_f64..1.5) {
            prop_assert!(close(ln(x), x.ln()), "{} {}", ln(x), x.ln());
            prop_assert!(close(ln(near), near.ln()), "{} {}", ln(near), near.ln());
            prop_assert!(close(exp(y), y.exp()), "{} {}", exp(y), y.exp());
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert!(ln(1.0).abs() < f64::MIN_POSITIVE && close(exp(0.0), 1.0));
        assert!(close(ln(2.0_f64.powi(-53)), -53.0 * std::f64::consts::LN_2));
        assert!(exp(-800.0).abs() < f64::MIN_POSITIVE && exp(800.0).is_infinite());
    }

    /// Mean, variance and third central moment.
    fn moments(values: &[f64]) -> [f64; 3] {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let central = |power: i32| values.iter().map(|v| (v - mean).powi(power)).sum::<f64>() / n;
        [mean, central(2), central(3)]
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = stream(4, Stream::Arrival);
        let n = 200_000;
        let mut check =
            |name: &str, draw: &mut dyn FnMut(&mut ChaCha8Rng) -> f64, wanted: [f64; 3]| {
                let values: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
                for (found, wanted) in moments(&values).into_iter().zip(wanted) {
                    let slack = 0.06 * wanted.abs().max(0.5);
                    assert!((found - wanted).abs() < slack, "{name}: {found}, expected {wanted}");
                }
            };
        check("normal", &mut normal, [0.0, 1.0, 0.0]);
        check("exponential", &mut exponential, [1.0, 1.0, 2.0]);
        check("gamma 4", &mut |rng| gamma(4.0, rng), [4.0, 4.0, 8.0]);
        check("gamma 0.25", &mut |rng| gamma(0.25, rng), [0.25, 0.25, 0.5]);
    }
}
