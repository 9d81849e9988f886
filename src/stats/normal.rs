//! The normal distribution.

/// Deviates of a two-sided test at 5 % and of 80 % power, added: an effect of so many standard errors is found in 80 % of the cases.
pub const POWER_80: f64 = 1.959_963_984_540_054 + 0.841_621_233_572_914;

/// Chance that a standard normal exceeds `z` (`z` at least 0): a continued fraction far out, a power series near the middle
/// (Abramowitz and Stegun 26.2.11 and 26.2.14), right to 1e-12.
pub fn upper_tail(z: f64) -> f64 {
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z < 3.0 {
        let (mut term, mut sum, mut k) = (z, z, 1.0);
        while term > 1e-17 * sum {
            k += 2.0;
            term *= z * z / k;
            sum += term;
        }
        return 0.5 - density * sum;
    }
    let fraction = (1..=200).rev().fold(z, |below, k| z + f64::from(k) / below);
    density / fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_tables() {
        for (z, expected) in [
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457),
            (1.959_963_984_540_054, 0.025),
            (2.999_999, 0.001_349_902_463_5),
            (3.0, 0.001_349_898_031_630_1),
            (6.0, 9.865_876_450_377e-10),
        ] {
            let p = upper_tail(z);
            assert!((p - expected).abs() < 1e-11_f64.min(1e-6 * expected + 1e-13), "{z}: {p}");
        }
    }
}
