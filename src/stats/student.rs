//! Student's t with any degrees of freedom, and tails of the binomial: both are the regularised incomplete beta function.

/// Terms of the continued fraction; it needs about the root of the larger parameter.
const TERMS_MAX: usize = 5000;
/// Relative size of a term that changes nothing any more.
const SMALL: f64 = 1e-15;
/// Degrees of freedom from which t and the normal agree to six digits.
const NORMAL_FROM: f64 = 2e5;
/// Halvings of the interval that holds a quantile.
const HALVINGS: usize = 70;

/// Chance that Student's t with `free` degrees of freedom (above 0, not necessarily whole) exceeds `t`.
pub fn student_above(t: f64, free: f64) -> f64 {
    if free > NORMAL_FROM {
        let tail = super::upper_tail_of_normal(t.abs());
        return if t >= 0.0 { tail } else { 1.0 - tail };
    }
    let tail = 0.5 * incomplete_beta(free / (free + t * t), free / 2.0, 0.5);
    if t >= 0.0 { tail } else { 1.0 - tail }
}

/// What Student's t with `free` degrees of freedom exceeds with chance `chance`, for chances below one half.
pub fn student_quantile(chance: f64, free: f64) -> f64 {
    let mut high = 2.0;
    while student_above(high, free) > chance && high < 1e12 {
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if student_above(middle, free) > chance { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// Chance of `k` or more of `n` with the chance `p` each.
pub fn binomial_at_least(k: u64, n: u64, p: f64) -> f64 {
    match k {
        0 => 1.0,
        _ if k > n => 0.0,
        _ => incomplete_beta(p, k as f64, (n - k) as f64 + 1.0),
    }
}

/// The regularised incomplete beta function by its continued fraction (DLMF 8.17.22), on the side where that converges fast.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front = a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    front.exp() / a / fraction(x, a, b)
}

/// `1 + d1/(1 + d2/(1 + ...))` by Lentz's method.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    let tiny = f64::MIN_POSITIVE;
    let away = |value: f64| if value.abs() < tiny { tiny } else { value };
    let (mut value, mut c, mut d) = (1.0, 1.0, 0.0);
    for term in 1..TERMS_MAX {
        let m = (term / 2) as f64;
        let step = if term % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        d = 1.0 / away(1.0 + step * d);
        c = away(1.0 + step / c);
        value *= c * d;
        if (c * d - 1.0).abs() < SMALL {
            break;
        }
    }
    value
}

/// Logarithm of the gamma function of a positive number: Stirling's series from 10 upwards (DLMF 5.11.1), reached by recurrence.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 0.0);
    while x < 10.0 {
        below += x.ln();
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = (1.0 / 12.0
        - square
            * (1.0 / 360.0 - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))))
        / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - below
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_as_tabled() {
        for (chance, free, tabled) in [
            (0.05, 1.0, 6.313_752),
            (0.05, 2.0, 2.919_986),
            (0.05, 4.0, 2.131_847),
            (0.025, 4.0, 2.776_445),
            (0.2, 8.0, 0.888_890),
            (0.05, 30.0, 1.697_261),
            (0.025, 1e6, 1.959_966),
        ] {
            let found = student_quantile(chance, free);
            assert!((found - tabled).abs() < 2e-5, "{chance} {free}: {found}");
        }
    }

    /// One degree of freedom is Cauchy's, two have a closed form.
    #[test]
    fn tails_have_their_closed_forms() {
        for t in [-3.0, -0.4, 0.0, 0.7, 2.0, 40.0] {
            let cauchy = 0.5 - f64::atan(t) / std::f64::consts::PI;
            assert!((student_above(t, 1.0) - cauchy).abs() < 1e-12, "{t}");
            let two = 0.5 - t / (2.0 * (2.0 + t * t).sqrt());
            assert!((student_above(t, 2.0) - two).abs() < 1e-12, "{t}");
        }
    }

    proptest! {
        #[test]
        fn binomial_tails_are_sums(n in 1_u64..40, k in 0_u64..41, p in 0.01_f64..0.99) {
            let choose = |k: u64| (1..=k).map(|i| (n - k + i) as f64 / i as f64).product::<f64>();
            let sum: f64 = (k..=n).map(|j| choose(j) * p.powi(j as i32) * (1.0 - p).powi((n - j) as i32)).sum();
            prop_assert!((binomial_at_least(k, n, p) - sum).abs() < 1e-10);
        }

        #[test]
        fn a_quantile_is_exceeded_as_often_as_it_says(chance in 0.001_f64..0.49, free in 0.8_f64..300.0) {
            prop_assert!((student_above(student_quantile(chance, free), free) - chance).abs() < 1e-9);
        }
    }
}
