//! Bulk compression of one head: quantise and pack, or select and gather.
//!
//! The quantiser is [`crate::method::quant`]'s in f32: codes may differ from the f64 reference by one step where a value
//! lies on a rounding tie.

use half::f16;

use super::{
    gear::{Marks, Pack},
    layout::{BLOCK, Codec, HeadParts, Keys, Layout, set_row_scale, value_code_at},
    simd::{Isa, Job, Simd},
    tile::widen,
    turbo,
};
use crate::kernel::Shape;
use crate::kernel::data::{Data, Kind, Place, needs_scores};
use crate::method::{Method, select};

/// 1.5 * 2^23, see [`super::math`].
const MAGIC: f32 = 12_582_912.0;

/// A head's prompt.
pub(crate) struct Input {
    /// Keys, `[len][d]`.
    pub(crate) k: Vec<f16>,
    /// Values, `[len][d]`.
    pub(crate) v: Vec<f16>,
    /// Scores of the tokens, for methods that choose by score.
    pub(crate) scores: Vec<f32>,
}

impl Input {
    /// Makes the data of one place.
    pub(crate) fn new(method: &Method, shape: &Shape, data: &Data, at: Place) -> Input {
        let (len, d) = (shape.kv_lens[at.seq], shape.head_dim);
        let (mut k, mut v) = (vec![f16::ZERO; len * d], vec![f16::ZERO; len * d]);
        data.fill(Kind::Key, at, d, &mut k);
        data.fill(Kind::Value, at, d, &mut v);
        let scores = if needs_scores(method) { data.scores(at, len) } else { Vec::new() };
        Input { k, v, scores }
    }
}

/// Compresses head `head` of a sequence; `marks` are GEAR's outliers of V in that sequence.
pub(crate) fn compress(
    isa: Isa,
    method: &Method,
    layout: &Layout,
    input: &Input,
    (marks, head): (Option<&Marks>, usize),
    out: HeadParts<'_>,
) {
    let Input { k, v, scores } = input;
    if let (Method::Gear(gear), Some(marks)) = (method, marks) {
        return isa.dispatch(Pack { gear, layout, k, v, marks, head, out });
    }
    let kept = kept(method, v.len() / layout.d, scores);
    isa.dispatch(Compress { layout, k, v, kept: kept.as_deref(), out });
}

/// The job: K and V `[len][d]` of one head into its cache.
pub(crate) struct Compress<'a> {
    /// Where things go.
    pub(crate) layout: &'a Layout,
    /// Keys.
    pub(crate) k: &'a [f16],
    /// Values.
    pub(crate) v: &'a [f16],
    /// Tokens to keep, ascending; `None` keeps all.
    pub(crate) kept: Option<&'a [usize]>,
    /// The cache.
    pub(crate) out: HeadParts<'a>,
}

/// Which tokens a method keeps of `len`, given their scores; `None` when it keeps all. H2O's and SnapKV's scores must
/// cover all tokens. Of equal scores the earlier token wins, as in [`crate::method::select`].
pub(in crate::kernel) fn kept(method: &Method, len: usize, scores: &[f32]) -> Option<Vec<usize>> {
    match *method {
        Method::Streaming { sink, window } => Some(select::streaming(len, sink, window)),
        Method::H2o { heavy, recent } => Some(top_and_tail(scores, heavy, recent)),
        Method::Snapkv { budget, .. } if len <= budget => Some((0..len).collect()),
        Method::Snapkv { window, budget, .. } => {
            Some(top_and_tail(scores, budget - window, window))
        }
        _ => None,
    }
}

/// Selection in linear time: the order within the kept is by position anyway.
fn top_and_tail(scores: &[f32], count: usize, tail: usize) -> Vec<usize> {
    let old = scores.len().saturating_sub(tail);
    let mut order: Vec<usize> = (0..old).collect();
    if count < old {
        order.select_nth_unstable_by(count, |&a, &b| {
            scores[b].total_cmp(&scores[a]).then(a.cmp(&b))
        });
        order.truncate(count);
        order.sort_unstable();
    }
    order.extend(old..scores.len());
    order
}

impl Job for Compress<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Compress { layout, k, v, kept, out } = self;
        let d = layout.d;
        if let Some(kept) = kept {
            gather(k, d, kept, out.k_full);
            gather(v, d, kept, out.v_full);
            return;
        }
        let (kq, vq) = (layout.kq * d, layout.vq * d);
        if layout.codec == Codec::Brain {
            pack_brain(s, k, out.k_full);
            pack_brain(s, v, out.v_full);
            return;
        }
        out.k_full.copy_from_slice(&k[kq..]);
        out.v_full.copy_from_slice(&v[vq..]);
        match layout.codec {
            Codec::Half | Codec::Brain => {}
            Codec::Fp8 { scaled: true } => {
                pack_fp8_rows(s, &k[..kq], d, out.k_codes, out.k_params);
                pack_fp8_rows(s, &v[..vq], d, out.v_codes, out.v_params);
            }
            Codec::Fp8 { scaled: false } => {
                pack_fp8(s, &k[..kq], out.k_codes);
                pack_fp8(s, &v[..vq], out.v_codes);
            }
            Codec::Int { bits, keys, value_group } => {
                match keys {
                    Keys::PerChannel(group) => {
                        let how = Grouped { d, bits, group, rule: Rule::Even };
                        keys_per_channel(s, &k[..kq], how, out.k_codes, out.k_params, &mut []);
                    }
                    Keys::PerToken => {
                        keys_per_token(s, &k[..kq], d, bits, out.k_codes, out.k_params);
                    }
                    Keys::Points => turbo::keys(s, &k[..kq], d, out.k_codes, out.k_params),
                }
                let rule = if keys == Keys::Points { Rule::HalfUp } else { Rule::Even };
                let how = Grouped { d, bits, group: value_group, rule };
                values(s, &v[..vq], how, out.v_codes, out.v_params, &mut []);
            }
        }
    }
}

#[inline(always)]
fn gather(from: &[f16], d: usize, kept: &[usize], to: &mut [f16]) {
    for (row, &token) in to.chunks_exact_mut(d).zip(kept) {
        row.copy_from_slice(&from[token * d..(token + 1) * d]);
    }
}

/// fp16 scale and minimum of a range, and the factor that turns a difference into a code.
#[inline(always)]
fn affine(min: f32, max: f32, bits: usize) -> (f16, f16, f32) {
    // The division is exact enough in f32: range and levels have few bits, and the result is rounded to f16 once.
    let scale = f16::from_f32((max - min) / ((1 << bits) - 1) as f32);
    let scale = if scale > f16::ZERO { scale } else { f16::ONE };
    (scale, f16::from_f32(min), scale.to_f32())
}

/// Rounds half to even inside the range of codes.
#[inline(always)]
fn quantise(x: f32, min: f32, scale: f32, top: f32) -> u8 {
    let y = (x - min) / scale;
    let y = if y > 0.0 { y } else { 0.0 };
    let y = if y < top { y } else { top };
    ((y + MAGIC).to_bits() & 0xFF) as u8
}

#[inline(always)]
fn min_max(x: &[f32]) -> (f32, f32) {
    let (mut lo, mut hi) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8]);
    for chunk in x.chunks_exact(8) {
        for i in 0..8 {
            lo[i] = if chunk[i] < lo[i] { chunk[i] } else { lo[i] };
            hi[i] = if chunk[i] > hi[i] { chunk[i] } else { hi[i] };
        }
    }
    (lo.into_iter().fold(f32::INFINITY, f32::min), hi.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// Packs one row of key codes: see [`super::layout`].
#[inline(always)]
pub(super) fn pack_row(codes: &[u8], bits: usize, row: &mut [u8]) {
    let n = row.len();
    row.copy_from_slice(&codes[..n]);
    for plane in 1..8 / bits {
        for (byte, code) in row.iter_mut().zip(&codes[plane * n..]) {
            *byte |= code << (plane * bits);
        }
    }
}

/// How rows are quantised in groups.
#[derive(Clone, Copy)]
pub(super) struct Grouped {
    /// Values of a row.
    pub(super) d: usize,
    /// Bits of a code.
    pub(super) bits: usize,
    /// Tokens (keys) or channels (values) of a group.
    pub(super) group: usize,
    /// How codes of values are found.
    pub(super) rule: Rule,
}

/// How a value becomes a code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// With the stored scale and minimum, halves to even.
    Even,
    /// With the exact ones, halves up: TurboQuant's, 4 bits.
    HalfUp,
}

/// Quantises keys; what they come back as goes to `back`, `[tokens][d]`, unless that is empty.
#[inline(always)]
pub(super) fn keys_per_channel<S: Simd>(
    s: S,
    k: &[f16],
    how: Grouped,
    codes: &mut [u8],
    params: &mut [f16],
    back: &mut [f32],
) {
    let Grouped { d, bits, group, .. } = how;
    let top = ((1 << bits) - 1) as f32;
    let row_bytes = d * bits / 8;
    let (mut x, mut line) = (vec![0.0; group * d], vec![0; d]);
    let (mut lo, mut hi) = (vec![0.0; d], vec![0.0; d]);
    let mut back = back.chunks_exact_mut(d);
    let blocks = k.chunks_exact(group * d).zip(params.chunks_exact_mut(2 * d));
    for ((k, params), codes) in blocks.zip(codes.chunks_exact_mut(group * row_bytes)) {
        widen(s, k, &mut x);
        lo.copy_from_slice(&x[..d]);
        hi.copy_from_slice(&x[..d]);
        for row in x.chunks_exact(d).skip(1) {
            for c in 0..d {
                lo[c] = if row[c] < lo[c] { row[c] } else { lo[c] };
                hi[c] = if row[c] > hi[c] { row[c] } else { hi[c] };
            }
        }
        for c in 0..d {
            let (scale, min, step) = affine(lo[c], hi[c], bits);
            (params[c], params[d + c]) = (scale, min);
            hi[c] = step;
        }
        for (row, packed) in x.chunks_exact(d).zip(codes.chunks_exact_mut(row_bytes)) {
            for c in 0..d {
                line[c] = quantise(row[c], lo[c], hi[c], top);
            }
            if let Some(back) = back.next() {
                for c in 0..d {
                    back[c] = f32::from(line[c]) * hi[c] + lo[c];
                }
            }
            pack_row(&line, bits, packed);
        }
    }
}

#[inline(always)]
fn keys_per_token<S: Simd>(
    s: S,
    k: &[f16],
    d: usize,
    bits: usize,
    codes: &mut [u8],
    params: &mut [f16],
) {
    let top = ((1 << bits) - 1) as f32;
    let n = params.len() / 2;
    let (mut x, mut line) = (vec![0.0; d], vec![0; d]);
    // The padding's scales are multiplied with and must be numbers, whatever the memory held.
    params.fill(f16::ZERO);
    for (t, (k, packed)) in k.chunks_exact(d).zip(codes.chunks_exact_mut(d * bits / 8)).enumerate()
    {
        widen(s, k, &mut x);
        let (lo, hi) = min_max(&x);
        let (scale, min, step) = affine(lo, hi, bits);
        (params[t], params[n + t]) = (scale, min);
        for c in 0..d {
            line[c] = quantise(x[c], lo, step, top);
        }
        pack_row(&line, bits, packed);
    }
}

/// Codes of a group with its ends; gives the stored scale and minimum.
#[inline(always)]
fn affine_codes(x: &[f32], (lo, hi): (f32, f32), bits: usize, codes: &mut [u8]) -> (f16, f16) {
    let top = ((1 << bits) - 1) as f32;
    let (scale, min, step) = affine(lo, hi, bits);
    for (x, code) in x.iter().zip(codes) {
        *code = quantise(*x, lo, step, top);
    }
    (scale, min)
}

/// Quantises values; what they come back as goes to `back`, `[tokens][d]`, unless that is empty.
#[inline(always)]
pub(super) fn values<S: Simd>(
    s: S,
    v: &[f16],
    how: Grouped,
    codes: &mut [u8],
    params: &mut [f16],
    back: &mut [f32],
) {
    let Grouped { d, bits, group, rule } = how;
    let groups = d / group;
    let (mut x, mut block) = (vec![0.0; d], vec![0_u8; BLOCK * d]);
    let places: Vec<(usize, usize)> =
        (0..BLOCK * d).map(|i| value_code_at(bits, i % d, i / d)).collect();
    let mut back = back.chunks_exact_mut(group);
    let rows = v.chunks(BLOCK * d).zip(params.chunks_exact_mut(2 * BLOCK * groups));
    for ((rows, params), packed) in rows.zip(codes.chunks_exact_mut(BLOCK * d * bits / 8)) {
        block.fill(0);
        params.fill(f16::ZERO);
        for (t, row) in rows.chunks_exact(d).enumerate() {
            widen(s, row, &mut x);
            for g in 0..groups {
                let x = &x[g * group..(g + 1) * group];
                let (lo, hi) = min_max(x);
                let codes = &mut block[t * d + g * group..][..group];
                let (scale, min) = match rule {
                    Rule::Even => affine_codes(x, (lo, hi), bits, codes),
                    Rule::HalfUp => turbo::value_codes(x, (lo, hi), codes),
                };
                params[g * 2 * BLOCK + t] = scale;
                params[(g * 2 + 1) * BLOCK + t] = min;
                if let Some(back) = back.next() {
                    let step = scale.to_f32();
                    back.iter_mut().zip(codes).for_each(|(x, c)| *x = f32::from(*c) * step + lo);
                }
            }
        }
        packed.fill(0);
        for (code, &(byte, shift)) in block.iter().zip(&places) {
            packed[byte] |= code << shift;
        }
    }
}

/// e4m3 with ties to even, saturating at 448.
#[inline(always)]
pub(crate) fn to_fp8(x: f32) -> u8 {
    let bits = x.to_bits();
    let sign = (bits >> 24 & 0x80) as u8;
    let size = f32::from_bits(bits & 0x7FFF_FFFF);
    let size = if size < 448.0 { size } else { 448.0 };
    // Below 2^-6 the step is 2^-9: adding 1.5 * 2^14 leaves whole steps in the low bits.
    let subnormal = (size + 24_576.0).to_bits().wrapping_sub(24_576.0_f32.to_bits());
    let raw = size.to_bits();
    let rounded = raw + 0x7_FFFF + (raw >> 20 & 1);
    let normal = (rounded >> 20).wrapping_sub(120 << 3);
    let code = if size < 0.015_625 { subnormal } else { normal };
    sign | code as u8
}

#[inline(always)]
fn pack_fp8<S: Simd>(s: S, from: &[f16], to: &mut [u8]) {
    let mut x = [0.0; 32];
    for (from, to) in from.chunks_exact(32).zip(to.chunks_exact_mut(32)) {
        widen(s, from, &mut x);
        for i in 0..32 {
            to[i] = to_fp8(x[i]);
        }
    }
}

/// bf16 with ties to even, kept in the place of fp16. The data are finite.
#[inline(always)]
fn pack_brain<S: Simd>(s: S, from: &[f16], to: &mut [f16]) {
    let mut x = [0.0_f32; 32];
    for (from, to) in from.chunks_exact(32).zip(to.chunks_exact_mut(32)) {
        widen(s, from, &mut x);
        for i in 0..32 {
            let bits = x[i].to_bits();
            to[i] = f16::from_bits(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16);
        }
    }
}

/// Largest e4m3 number.
const FP8_MAX: f32 = 448.0;
/// Least scale of a row.
const FP8_SCALE_MIN: f32 = 1e-6;

/// [`to_fp8`] of a quotient that f32 would round first: an entry at 3/4 of its row's largest lies on a tie but for the last
/// bit of the scale, and two roundings would often put it on the other side.
#[inline(always)]
fn to_fp8_once(x: f64) -> u8 {
    let bits = x.to_bits();
    let sign = (bits >> 56 & 0x80) as u8;
    let size = x.abs();
    let size = if size < 448.0 { size } else { 448.0 };
    // As in `to_fp8`: 1.5 * 2^43 leaves whole steps of 2^-9.
    let magic = 13_194_139_533_312.0_f64;
    let subnormal = (size + magic).to_bits().wrapping_sub(magic.to_bits());
    let raw = size.to_bits();
    let rounded = raw + ((1 << 48) - 1) + (raw >> 49 & 1);
    let normal = (rounded >> 49).wrapping_sub(1016 << 3);
    let code = if size < 0.015_625 { subnormal } else { normal };
    sign | code as u8
}

/// e4m3 rows with an f32 scale each: the largest magnitude over 448.
#[inline(always)]
fn pack_fp8_rows<S: Simd>(s: S, from: &[f16], d: usize, to: &mut [u8], params: &mut [f16]) {
    let mut x = vec![0.0; d];
    for (t, (from, to)) in from.chunks_exact(d).zip(to.chunks_exact_mut(d)).enumerate() {
        widen(s, from, &mut x);
        let (lo, hi) = min_max(&x);
        let scale = (hi.max(-lo) / FP8_MAX).max(FP8_SCALE_MIN);
        set_row_scale(params, t, scale);
        for (x, to) in x.iter().zip(to) {
            *to = to_fp8_once(f64::from(*x) / f64::from(scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::quant;

    #[test]
    fn e4m3_is_rounded_as_in_the_reference_in_both_widths() {
        // Every f32 exponent of interest with mantissas around the ties of three bits.
        for exponent in -12..10 {
            for i in 0..1 << 10 {
                for nudge in [-1e-9, 0.0, 1e-9] {
                    let x = f64::from(1024 + i) / 1024.0 * f64::from(exponent).exp2() + nudge;
                    for x in [x, -x] {
                        let back =
                            |code| super::super::simd::portable::fp8_as_f16(code).to_f64() * 256.0;
                        let expected = quant::fp8_e4m3(x);
                        assert!((back(to_fp8_once(x)) - expected).abs() < 1e-12, "{x}");
                        let narrow = x as f32;
                        let expected = quant::fp8_e4m3(f64::from(narrow));
                        assert!((back(to_fp8(narrow)) - expected).abs() < 1e-12, "{narrow}");
                    }
                }
            }
        }
    }
}
