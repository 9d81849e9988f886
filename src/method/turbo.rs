//! TurboQuant (arXiv 2504.19874) as vLLM ships it under the name `turboquant_4bit_nc`.
//!
//! K: a row divided by its length is turned by the Hadamard matrix over `sqrt(D)`; its coordinates are then close to
//! normals of variance `1 / D`, and each takes the nearest of the 16 Lloyd-Max points of that distribution. Kept are the
//! codes and the length. "nc" (norm correction) divides by the length of the row of points, so that the row comes
//! back at its own length. V: uniform 4 bits between the row's minimum and maximum, not turned.
//!
//! vLLM keeps the length in fp16 and corrects it when it decodes; kvbench keeps the corrected length in fp16, the same
//! two bytes, at most half an fp16 step apart.

use std::sync::OnceLock;

use super::quant::{Affine, round_f16};

/// Points of the codebook.
pub const POINTS: usize = 16;
/// Largest code of a value.
const TOP: f64 = 15.0;
/// Added to a row's length before dividing by it.
const LENGTH_FLOOR: f64 = 1e-8;
/// Least step of a value's codes.
const STEP_FLOOR: f64 = 1e-8;

/// The Lloyd-Max points of the standard normal distribution, ascending; times `1 / sqrt(D)` they are the codebook.
///
/// Fixed-point iteration from equidistant points in +-3.5 standard deviations, as published: at most 200 rounds, integrals
/// by the trapezoid rule with 200 panels, the outer cells cut at 3 times that range.
pub fn points() -> &'static [f64; POINTS] {
    static FOUND: OnceLock<[f64; POINTS]> = OnceLock::new();
    FOUND.get_or_init(lloyd_max)
}

const RANGE: f64 = 3.5;
const ROUNDS: usize = 200;
const PANELS: usize = 200;
/// The published stop, 1e-10 for points of variance 1 / 128, in units of the standard deviation.
const STILL: f64 = 1.131e-9;

fn lloyd_max() -> [f64; POINTS] {
    let step = 2.0 * RANGE / POINTS as f64;
    let mut points: [f64; POINTS] = std::array::from_fn(|i| -RANGE + step * (i as f64 + 0.5));
    for _ in 0..ROUNDS {
        let edge = |i: usize| match i {
            0 => -3.0 * RANGE,
            POINTS => 3.0 * RANGE,
            _ => f64::midpoint(points[i - 1], points[i]),
        };
        let moved: [f64; POINTS] = std::array::from_fn(|i| mean_of(edge(i), edge(i + 1)));
        let most = points.iter().zip(&moved).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        points = moved;
        if most < STILL {
            break;
        }
    }
    points
}

/// Mean of the standard normal distribution between two bounds.
fn mean_of(from: f64, to: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp();
    integral(|x| x * density(x), from, to) / integral(density, from, to)
}

fn integral(f: impl Fn(f64) -> f64, from: f64, to: f64) -> f64 {
    let width = (to - from) / PANELS as f64;
    let inner: f64 = (1..PANELS).map(|i| f(from + i as f64 * width)).sum();
    width * (0.5 * (f(from) + f(to)) + inner)
}

/// Multiplies by the Sylvester Hadamard matrix over `sqrt(D)`, in place; its own inverse. The length is a power of two.
pub fn rotate(row: &mut [f64]) {
    let mut half = 1;
    while half < row.len() {
        for block in row.chunks_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (row.len() as f64).sqrt();
    row.iter_mut().for_each(|x| *x *= scale);
}

/// The code of a coordinate in units of its standard deviation: how many midpoints it has reached.
pub fn code(y: f64) -> usize {
    points().windows(2).filter(|pair| y >= f64::midpoint(pair[0], pair[1])).count()
}

/// Codes of a key and what its row of points is multiplied by: the length of the key over that of the points, in fp16.
pub fn key_codes(row: &[f64]) -> (Vec<usize>, f64) {
    let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut turned: Vec<f64> = row.iter().map(|x| x / (length + LENGTH_FLOOR)).collect();
    rotate(&mut turned);
    let deviations = (row.len() as f64).sqrt();
    let codes: Vec<usize> = turned.iter().map(|y| code(y * deviations)).collect();
    let chosen = codes.iter().map(|&c| points()[c].powi(2)).sum::<f64>().sqrt();
    (codes, round_f16(length / chosen))
}

/// A key as its cache gives it back, in place.
pub fn key(row: &mut [f64]) {
    let (codes, scale) = key_codes(row);
    row.iter_mut().zip(codes).for_each(|(x, code)| *x = points()[code] * scale);
    rotate(row);
}

/// Codes of a value with its stored scale and minimum. Codes are found with the exact ones, halves rounded up.
pub fn value_codes(row: &[f64]) -> (Vec<f64>, Affine) {
    let min = row.iter().copied().fold(f64::INFINITY, f64::min);
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let step = ((max - min) / TOP).max(STEP_FLOOR);
    let codes = row.iter().map(|x| ((x - min) / step + 0.5).floor().clamp(0.0, TOP)).collect();
    (codes, Affine { scale: round_f16(step), min: round_f16(min) })
}

/// A value as its cache gives it back, in place.
pub fn value(row: &mut [f64]) {
    let (codes, affine) = value_codes(row);
    row.iter_mut().zip(codes).for_each(|(x, code)| *x = code * affine.scale + affine.min);
}
