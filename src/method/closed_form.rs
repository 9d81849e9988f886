//! What a method's error must be on independent normals, by formula: beside a measured error it tells a bug from the price
//! of compression.
//!
//! With keys, values and queries independent and standard normal, a score is normal too. If a stored key is off by a part
//! `e_k` of its size, a score is off by a normal of variance `e_k^2`, so a weight by a log-normal factor of relative variance
//! `w = exp(e_k^2) - 1`. With values off by `e_v` the output is off by `sqrt(w + (1 + w) e_v^2)`: to first order
//! `sqrt(e_k^2 + e_v^2)`. If only a part `c` of the weight is kept, chosen without knowing the query, it is `sqrt(1 / c - 1)`.

use super::{Gear, Method, turbo};

/// Relative L2 errors of one method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    /// Of the attention's output.
    pub output: f64,
    /// Of the stored keys.
    pub key: f64,
    /// Of the stored values.
    pub value: f64,
}

/// What the errors should be on standard normals after a prompt of `len` tokens.
pub fn expected(method: &Method, len: usize, d: usize) -> Errors {
    let (nk, nv) = method.quantised_tokens(len);
    // Tokens that stay as they are have no error; the others' share counts.
    let share = |n: usize, e: f64| e * (n as f64 / len as f64).sqrt();
    let (key, value) = match *method {
        Method::Fp16 | Method::Streaming { .. } | Method::H2o { .. } | Method::Snapkv { .. } => {
            (0.0, 0.0)
        }
        Method::Bf16 => both(float_step(7, 1.0)),
        Method::Fp8 => both(float_step(3, 1.0)),
        Method::Fp8TokenHead => {
            // The largest of a row comes back exactly.
            let top = half_range(d);
            both(float_step(3, 448.0 / top) * (1.0 - top * top / d as f64).sqrt())
        }
        Method::Int8 => both(uniform(d, 8)),
        Method::Int4 => both(uniform(d, 4)),
        Method::Kivi { bits, group, .. } => both(uniform(group, bits)),
        Method::Gear(gear) => both(low_rank_of_trimmed(gear, d)),
        Method::Turboquant4 => (lloyd_max(), uniform(d, 4)),
    };
    let (key, value) = match method {
        Method::Bf16 => (key, value),
        _ => (share(nk, key), share(nv, value)),
    };
    let weight = (key * key).exp() - 1.0;
    let kept = method.kept_tokens(len) as f64 / len as f64;
    let dropped = 1.0 / kept - 1.0;
    Errors { output: (weight + (1.0 + weight) * value * value + dropped).sqrt(), key, value }
}

fn both(e: f64) -> (f64, f64) {
    (e, e)
}

/// Uniform codes between minimum and maximum of `n` normals: a step's error over 12, but for the two ends, which are exact.
fn uniform(n: usize, bits: u32) -> f64 {
    of_range(&Density::normal(), n as f64, bits) * ((n as f64 - 2.0) / n as f64).sqrt()
}

fn of_range(density: &Density, n: f64, bits: u32) -> f64 {
    let levels = f64::from((1_u32 << bits) - 1);
    (density.mean_square_range(n) / 12.0).sqrt() / levels
}

/// GEAR: groups without the outliers at both ends, no error where those were, and a low-rank term that takes the share of
/// the error that lies in `rank` of `D` directions.
fn low_rank_of_trimmed(gear: Gear, d: usize) -> f64 {
    let n = gear.group as f64 * (1.0 - gear.outliers);
    let e = of_range(&Density::trimmed(gear.outliers), n, gear.bits) * ((n - 2.0) / n).sqrt();
    e * ((1.0 - gear.outliers) * (1.0 - gear.rank as f64 / d as f64)).sqrt()
}

/// The codebook's points instead of normals, at the length of the original: with `m` the mean square of the points, which is
/// their correlation with what they stand for, `sqrt(2 - 2 sqrt(m))`.
fn lloyd_max() -> f64 {
    let points = turbo::points();
    let edge = |i: usize| match i {
        0 => f64::NEG_INFINITY,
        turbo::POINTS => f64::INFINITY,
        _ => f64::midpoint(points[i - 1], points[i]),
    };
    let normal = Density::normal();
    let square: f64 = (0..turbo::POINTS)
        .map(|i| points[i].powi(2) * (normal.below(edge(i + 1)) - normal.below(edge(i))))
        .sum();
    (2.0 - 2.0 * square.sqrt()).sqrt()
}

/// Rounding to a float of `mantissa` bits behind the leading one, of normals times `scale`: a step's square over 12.
fn float_step(mantissa: i32, scale: f64) -> f64 {
    let squares = |x: f64| {
        let step = ((x * scale).log2().floor() - f64::from(mantissa)).exp2() / scale;
        step * step / 12.0
    };
    let width = RANGE / f64::from(CELLS);
    let at = |i: u32| (f64::from(i) + 0.5) * width;
    let sum = |f: &dyn Fn(f64) -> f64| (0..CELLS).map(|i| f(at(i)) * density(at(i))).sum::<f64>();
    (sum(&squares) / sum(&|x| x * x)).sqrt()
}

/// Half the root mean square range of `d` normals: about where the largest magnitude of a row lies.
fn half_range(d: usize) -> f64 {
    Density::normal().mean_square_range(d as f64).sqrt() / 2.0
}

/// Where tables end, in standard deviations, and into how many cells they are cut.
const RANGE: f64 = 8.0;
const CELLS: u32 = 1600;
/// Cells of the integral over ranges.
const RANGE_CELLS: u32 = 400;

fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// A symmetric distribution by its table: the normal one, or what is left of it without its ends.
struct Density {
    /// Part of the entries below each border of a cell, from `-RANGE` on.
    below: Vec<f64>,
}

impl Density {
    fn normal() -> Self {
        Self::trimmed(0.0)
    }

    /// Without the part `cut`, half of it at either end.
    fn trimmed(cut: f64) -> Self {
        let width = 2.0 * RANGE / f64::from(CELLS);
        let mut sum = 0.0;
        let mut below = vec![0.0];
        for i in 0..CELLS {
            sum += width * density(-RANGE + (f64::from(i) + 0.5) * width);
            below.push(sum);
        }
        let trim = |p: &f64| ((p / sum - cut / 2.0) / (1.0 - cut)).clamp(0.0, 1.0);
        Self { below: below.iter().map(trim).collect() }
    }

    /// Part of the entries below `x`.
    fn below(&self, x: f64) -> f64 {
        let at = ((x + RANGE) / (2.0 * RANGE) * f64::from(CELLS)).clamp(0.0, f64::from(CELLS));
        let i = (at as usize).min(self.below.len() - 2);
        self.below[i] + (at - i as f64) * (self.below[i + 1] - self.below[i])
    }

    /// Mean square of the range of `n` entries. The range exceeds `r` with the probability that not all others lie within
    /// `r` above the smallest.
    fn mean_square_range(&self, n: f64) -> f64 {
        let width = 2.0 * RANGE / f64::from(CELLS);
        let step = 2.0 * RANGE / f64::from(RANGE_CELLS);
        let within = |r: f64| -> f64 {
            (0..CELLS as usize)
                .map(|i| {
                    let x = -RANGE + (i as f64 + 0.5) * width;
                    let own = self.below[i + 1] - self.below[i];
                    n * own * (self.below(x + r) - self.below(x)).max(0.0).powf(n - 1.0)
                })
                .sum()
        };
        let term = |i: u32| {
            let r = (f64::from(i) + 0.5) * step;
            2.0 * r * (1.0 - within(r)).max(0.0) * step
        };
        (0..RANGE_CELLS).map(term).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root mean square ranges of n normals, from kernels.md D (simulated there).
    #[test]
    fn ranges_of_normals_are_known() {
        for (n, range) in [(32.0, 4.20), (64.0, 4.73), (128.0, 5.22)] {
            let got = Density::normal().mean_square_range(n).sqrt();
            assert!((got - range).abs() < 0.015, "{n}: {got}");
        }
    }

    #[test]
    fn parts_have_their_published_errors() {
        assert!((lloyd_max() - 0.0975).abs() < 5e-4, "{}", lloyd_max());
        assert!((float_step(3, 1.0) - 0.0265).abs() < 1e-3, "{}", float_step(3, 1.0));
        assert!((float_step(7, 1.0) - 0.00165).abs() < 1e-4, "{}", float_step(7, 1.0));
        assert!((uniform(32, 2) - 0.393).abs() < 0.005, "{}", uniform(32, 2));
    }

    #[test]
    fn what_is_dropped_at_random_is_missed() {
        let streaming = Method::Streaming { sink: 4, window: 252 };
        let half = expected(&streaming, 512, 128);
        assert!((half.output - 1.0).abs() < 1e-12 && half.key.abs() < 1e-12);
        assert!(expected(&Method::Fp16, 512, 128).output.abs() < 1e-12);
    }
}
