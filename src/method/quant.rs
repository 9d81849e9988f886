//! Reference round trips in f64: quantise and dequantise exactly as published.
//!
//! The asymmetric quantiser is KIVI's and LMDeploy's: `scale = (max - min) / (2^b - 1)`, `code = round(clamp((x - min) /
//! scale))` with ties to even, `x' = code * scale + min`, scale and minimum rounded to fp16 once. KIVI itself divides
//! by zero on a constant group; here a scale of 0 is replaced by 1, so that the group comes back as its minimum.

use half::{bf16, f16};

use super::{Method, turbo};

/// Scale and minimum of one group, as stored (fp16 values in f64).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Step.
    pub scale: f64,
    /// Value of code 0.
    pub min: f64,
}

/// The largest finite e4m3 number.
pub const FP8_MAX: f64 = 448.0;

pub(crate) fn round_f16(x: f64) -> f64 {
    f16::from_f64(x).to_f64()
}

/// Scale and minimum for a group of values.
pub fn affine(values: impl Iterator<Item = f64>, bits: u32) -> Affine {
    let (min, max) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
    let scale = round_f16((max - min) / f64::from((1_u32 << bits) - 1));
    Affine { scale: if scale > 0.0 { scale } else { 1.0 }, min: round_f16(min) }
}

/// Code of one value.
pub fn code(x: f64, affine: Affine, bits: u32) -> f64 {
    let top = f64::from((1_u32 << bits) - 1);
    ((x - affine.min) / affine.scale).clamp(0.0, top).round_ties_even()
}

/// One value to the nearest e4m3 number: ties to even, saturating at 448, subnormals down to 2^-9.
pub fn fp8_e4m3(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() {
        return x;
    }
    let exponent = x.abs().log2().floor().max(-6.0);
    let step = (exponent - 3.0).exp2();
    ((x / step).round_ties_even() * step).clamp(-FP8_MAX, FP8_MAX)
}

/// Round trip of values whose group members lie `stride` apart, `group` of them from `first`.
fn round_trip_group(x: &mut [f64], first: usize, stride: usize, group: usize, bits: u32) {
    let at = |i: usize| first + i * stride;
    let affine = affine((0..group).map(|i| x[at(i)]), bits);
    for i in 0..group {
        x[at(i)] = code(x[at(i)], affine, bits) * affine.scale + affine.min;
    }
}

/// Groups of `group` channels of one token; `x` is `[tokens][head_dim]`.
pub fn per_token(x: &mut [f64], tokens: usize, head_dim: usize, group: usize, bits: u32) {
    for first in (0..tokens * head_dim).step_by(group) {
        round_trip_group(x, first, 1, group, bits);
    }
}

/// Groups of `group` tokens of one channel; `x` is `[tokens][head_dim]`, `tokens` a multiple of `group`.
pub fn per_channel(x: &mut [f64], tokens: usize, head_dim: usize, group: usize, bits: u32) {
    for block in (0..tokens).step_by(group) {
        for channel in 0..head_dim {
            round_trip_group(x, block * head_dim + channel, head_dim, group, bits);
        }
    }
}

impl Method {
    /// What the cache of a layer gives back for the heads `k` and `v`, `[tokens][head_dim]` each, in place. GEAR chooses
    /// the outliers of V among all heads; for the other methods each head stands alone.
    pub fn round_trip_layer(&self, k: &mut [Vec<f64>], v: &mut [Vec<f64>], head_dim: usize) {
        if let Method::Gear(gear) = self {
            return gear.round_trip(k, v, head_dim);
        }
        k.iter_mut().zip(v).for_each(|(k, v)| self.round_trip(k, v, head_dim));
    }

    /// What the cache gives back for `k` and `v`, both `[tokens][head_dim]`, of a layer with this one KV head, in place.
    /// Methods that only remove tokens change nothing: see [`super::select`].
    pub fn round_trip(&self, k: &mut [f64], v: &mut [f64], head_dim: usize) {
        let (tk, tv) = self.quantised_tokens(k.len() / head_dim);
        match *self {
            Method::Int8 => both_per_token(k, v, head_dim, 8),
            Method::Int4 => both_per_token(k, v, head_dim, 4),
            Method::Bf16 => k.iter_mut().chain(v).for_each(|x| *x = bf16::from_f64(*x).to_f64()),
            Method::Fp8 => k.iter_mut().chain(v).for_each(|x| *x = fp8_e4m3(*x)),
            Method::Fp8TokenHead => {
                k.chunks_mut(head_dim).chain(v.chunks_mut(head_dim)).for_each(fp8_row);
            }
            Method::Kivi { bits, group, .. } => {
                per_channel(k, tk, head_dim, group, bits);
                per_token(v, tv, head_dim, group, bits);
            }
            Method::Turboquant4 => {
                k.chunks_mut(head_dim).for_each(turbo::key);
                v.chunks_mut(head_dim).for_each(turbo::value);
            }
            Method::Gear(gear) => {
                let (mut heads_k, mut heads_v) = ([k.to_vec()], [v.to_vec()]);
                gear.round_trip(&mut heads_k, &mut heads_v, head_dim);
                k.copy_from_slice(&heads_k[0]);
                v.copy_from_slice(&heads_v[0]);
            }
            Method::Fp16
            | Method::Streaming { .. }
            | Method::H2o { .. }
            | Method::Snapkv { .. } => {}
        }
    }
}

/// One (token, head) of vLLM's `fp8_per_token_head`: f32 scale absmax / 448, at least 1e-6.
fn fp8_row(row: &mut [f64]) {
    let top = row.iter().fold(0.0_f64, |top, x| top.max(x.abs()));
    let scale = f64::from(((top / FP8_MAX) as f32).max(1e-6));
    row.iter_mut().for_each(|x| *x = fp8_e4m3(*x / scale) * scale);
}

fn both_per_token(k: &mut [f64], v: &mut [f64], head_dim: usize, bits: u32) {
    per_token(k, k.len() / head_dim, head_dim, head_dim, bits);
    per_token(v, v.len() / head_dim, head_dim, head_dim, bits);
}
