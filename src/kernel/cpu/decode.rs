//! One decode step over part of one head's cache: flash attention in tiles of 128 tokens, all query heads of the group
//! at once, online softmax in f32.
//!
//! Quantised keys: the per-channel scale is folded into the query once per group of tokens and the minima into one
//! scalar; the folded query becomes a 15-bit integer split into two signed bytes, so that 32 codes meet 32 of its bytes
//! in one instruction. Quantised values: the scale is folded into the softmax weight, the minima go into one number per
//! group of channels, and the codes of four tokens are summed per instruction.

use super::{
    layout::{BLOCK, Codec, HeadRef},
    math,
    simd::{Job, KeyDots, Simd, ValueDots},
    tile::{Ahead, Rows, scores, weighted, widen},
};

/// Tokens of a tile: a multiple of every group size and of [`BLOCK`].
pub(crate) const TILE: usize = 128;
/// Largest head dimension: beyond it 16-bit sums of products could overflow.
pub(crate) const D_MAX: usize = 256;

/// Softmax state of a group of query heads over part of the cache.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Largest score, per head.
    pub(crate) max: Vec<f32>,
    /// Sum of `e^(score - max)`, per head.
    pub(crate) sum: Vec<f32>,
    /// Weighted values, per head `stride` numbers: `d` channels, then what the minima of each value group add.
    pub(crate) out: Vec<f32>,
    /// Scores of every token, per head, where asked for.
    pub(crate) raw: Option<Vec<f32>>,
}

/// The job: `heads` queries over tokens `lo..hi`, `lo` a multiple of [`TILE`].
pub(crate) struct Decode<'a> {
    /// The cache.
    pub(crate) head: HeadRef<'a>,
    /// Queries `[heads][d]`, already divided by `sqrt(d)`.
    pub(crate) q: &'a [f32],
    /// First token.
    pub(crate) lo: usize,
    /// One past the last token.
    pub(crate) hi: usize,
    /// Whether to keep the scores.
    pub(crate) keep_scores: bool,
}

/// Queries folded for 8-bit products, one per head.
struct Folded {
    hi: [i8; D_MAX],
    lo: [i8; D_MAX],
    wide: [i16; D_MAX],
    unit: f32,
    /// Query dot minima (per-channel scales) or the query's sum (per-token scales).
    zero: f32,
}

impl Folded {
    const EMPTY: Folded =
        Folded { hi: [0; D_MAX], lo: [0; D_MAX], wide: [0; D_MAX], unit: 0.0, zero: 0.0 };

    #[inline(always)]
    fn set(&mut self, query: &[f32], largest: f32, zero: f32) {
        let factor = if largest > 0.0 { math::FOLD_MAX / largest } else { 0.0 };
        let d = query.len();
        math::split(query, factor, &mut self.hi[..d], &mut self.lo[..d]);
        self.unit = largest / math::FOLD_MAX;
        self.zero = zero;
    }
}

struct State<'a, S> {
    s: S,
    job: &'a Decode<'a>,
    heads: usize,
    /// Numbers per head in `part.out`.
    stride: usize,
    /// Scores, then weights, of the tile: `[heads][TILE]`.
    p: Vec<f32>,
    folded: Vec<Folded>,
    part: Part,
}

impl Job for Decode<'_> {
    type Out = Part;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Part {
        let layout = self.head.layout;
        let heads = self.q.len() / layout.d;
        let stride = layout.d + layout.value_groups();
        let part = Part {
            max: vec![f32::NEG_INFINITY; heads],
            sum: vec![0.0; heads],
            out: vec![0.0; heads * stride],
            raw: self.keep_scores.then(|| vec![0.0; heads * (self.hi - self.lo)]),
        };
        let folded = (0..heads).map(|_| Folded::EMPTY).collect();
        let mut state =
            State { s, job: &self, heads, stride, p: vec![0.0; heads * TILE], folded, part };
        state.fold_queries_once();
        for t in (self.lo..self.hi).step_by(TILE) {
            state.tile(t, self.hi.min(t + TILE));
        }
        state.finish()
    }
}

impl<S: Simd> State<'_, S> {
    #[inline(always)]
    fn tile(&mut self, t: usize, end: usize) {
        self.key_scores(t, end);
        self.softmax(t, end);
        self.add_values(t, end);
    }

    /// With per-token scales the query is folded once for all tokens.
    #[inline(always)]
    fn fold_queries_once(&mut self) {
        let d = self.job.head.layout.d;
        let ones = [1.0; D_MAX];
        let mut same = [0.0; D_MAX];
        for (query, folded) in self.job.q.chunks_exact(d).zip(&mut self.folded) {
            let largest = math::multiply(query, &ones[..d], &mut same[..d]);
            folded.set(query, largest, math::dot(query, &ones[..d]));
            let factor = if largest > 0.0 { math::FOLD_MAX / largest } else { 0.0 };
            math::to_i16(query, factor, &mut folded.wide[..d]);
        }
    }

    #[inline(always)]
    fn key_scores(&mut self, t: usize, end: usize) {
        let (head, layout) = (self.job.head, self.job.head.layout);
        let split = layout.kq.clamp(t, end);
        let mut ahead = self.values_ahead(t, end);
        if split > t {
            match layout.codec {
                Codec::Int { bits: 2, key_group: Some(g), .. } => {
                    self.keys_per_channel::<2>(t, split, g, &mut ahead)
                }
                Codec::Int { bits: 4, key_group: Some(g), .. } => {
                    self.keys_per_channel::<4>(t, split, g, &mut ahead)
                }
                Codec::Int { bits, .. } => self.keys_per_token(bits, t, split, &mut ahead),
                _ => self.dense_scores(
                    &head.k_codes()[t * layout.d..split * layout.d],
                    0,
                    &mut ahead,
                ),
            }
        }
        if split < end {
            let rows = (split - layout.kq) * layout.d..(end - layout.kq) * layout.d;
            self.dense_scores(&head.k_full()[rows], split - t, &mut ahead);
        }
    }

    #[inline(always)]
    fn dense_scores<E: super::simd::Element>(&mut self, rows: &[E], at: usize, ahead: &mut Ahead) {
        let rows = Rows::of(rows, self.job.head.layout.d);
        debug_assert!(at.is_multiple_of(4) && at + rows.n <= TILE);
        // SAFETY: `p` has TILE columns for each head; `at` is a multiple of 4, so fours stay inside.
        unsafe {
            let out = self.p.as_mut_ptr().add(at);
            scores(self.s, &rows, self.job.q.as_ptr(), self.heads, out, TILE, ahead);
        }
    }

    #[inline(always)]
    fn keys_per_channel<const BITS: usize>(
        &mut self,
        t: usize,
        end: usize,
        group: usize,
        ahead: &mut Ahead,
    ) {
        let (head, d) = (self.job.head, self.job.head.layout.d);
        let row_bytes = d * BITS / 8;
        let (mut scale, mut min, mut query) = ([0.0; D_MAX], [0.0; D_MAX], [0.0; D_MAX]);
        for start in (t..end).step_by(group) {
            let params = &head.k_params()[start / group * 2 * d..][..2 * d];
            widen(self.s, &params[..d], &mut scale);
            widen(self.s, &params[d..], &mut min);
            for (h, folded) in self.folded.iter_mut().enumerate() {
                let q = &self.job.q[h * d..(h + 1) * d];
                let largest = math::multiply(q, &scale[..d], &mut query[..d]);
                folded.set(&query[..d], largest, math::dot(q, &min[..d]));
            }
            for token in (start..start + group).step_by(4) {
                ahead.advance(self.s, 4 * row_bytes);
                let first = head.k_codes()[token * row_bytes..][..4 * row_bytes].as_ptr();
                let rows = std::array::from_fn(|i| first.wrapping_add(i * row_bytes));
                for (h, folded) in self.folded.iter().enumerate() {
                    let dots =
                        KeyDots { rows, row_bytes, hi: folded.hi.as_ptr(), lo: folded.lo.as_ptr() };
                    // SAFETY: four rows were sliced above; the query holds D_MAX channels.
                    let sums = unsafe { self.s.key_dots::<BITS>(dots) };
                    let out = &mut self.p[h * TILE + token - t..][..4];
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = sum as f32 * folded.unit + folded.zero;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn keys_per_token(&mut self, bits: usize, t: usize, end: usize, ahead: &mut Ahead) {
        let (head, layout) = (self.job.head, self.job.head.layout);
        let row_bytes = layout.d * bits / 8;
        let (scales, mins) = head.k_params().split_at(layout.kq);
        for token in (t..end).step_by(4) {
            ahead.advance(self.s, 4 * row_bytes);
            let rows = std::array::from_fn(|i| {
                head.k_codes()[(token + i).min(end - 1) * row_bytes..][..row_bytes].as_ptr()
            });
            for (h, folded) in self.folded.iter().enumerate() {
                // SAFETY: four rows were sliced above; the query holds D_MAX channels.
                let sums = unsafe {
                    if bits == 8 {
                        self.s.key_dots8(rows, folded.wide.as_ptr(), layout.d)
                    } else {
                        let dots = KeyDots {
                            rows,
                            row_bytes,
                            hi: folded.hi.as_ptr(),
                            lo: folded.lo.as_ptr(),
                        };
                        self.s.key_dots::<4>(dots)
                    }
                };
                for i in 0..4.min(end - token) {
                    let (scale, min) = (scales[token + i].to_f32(), mins[token + i].to_f32());
                    self.p[h * TILE + token - t + i] =
                        sums[i] as f32 * folded.unit * scale + folded.zero * min;
                }
            }
        }
    }

    /// Turns the tile's scores into weights and rescales what was gathered before when the maximum grows.
    #[inline(always)]
    fn softmax(&mut self, t: usize, end: usize) {
        let n = end - t;
        let width = n.next_multiple_of(16);
        for h in 0..self.heads {
            let p = &mut self.p[h * TILE..(h + 1) * TILE];
            p[n..].fill(f32::NEG_INFINITY);
            if let Some(raw) = &mut self.part.raw {
                let span = self.job.hi - self.job.lo;
                raw[h * span + t - self.job.lo..][..n].copy_from_slice(&p[..n]);
            }
            let max = math::max(&p[..width]).max(self.part.max[h]);
            if max > self.part.max[h] {
                let shrink = math::exp(self.part.max[h] - max);
                self.part.sum[h] *= shrink;
                math::scale(&mut self.part.out[h * self.stride..(h + 1) * self.stride], shrink);
                self.part.max[h] = max;
            }
            self.part.sum[h] += math::exp_sum(&mut p[..width], max);
            p[n..].fill(0.0);
        }
    }

    #[inline(always)]
    fn add_values(&mut self, t: usize, end: usize) {
        let (head, layout) = (self.job.head, self.job.head.layout);
        let split = layout.vq.clamp(t, end);
        let mut ahead = self.keys_ahead(end);
        if split > t {
            match layout.codec {
                Codec::Int { bits: 2, .. } => self.values_int::<2>(t, split, &mut ahead),
                Codec::Int { bits: 4, .. } => self.values_int::<4>(t, split, &mut ahead),
                Codec::Int { .. } => self.values_int::<8>(t, split, &mut ahead),
                _ => {
                    let gain = <u8 as super::simd::Element>::GAIN;
                    math::scale(&mut self.p, gain);
                    self.dense_values(
                        &head.v_codes()[t * layout.d..split * layout.d],
                        0,
                        &mut ahead,
                    );
                }
            }
        }
        if split < end {
            let rows = (split - layout.vq) * layout.d..(end - layout.vq) * layout.d;
            self.dense_values(&head.v_full()[rows], split - t, &mut ahead);
        }
    }

    #[inline(always)]
    fn dense_values<E: super::simd::Element>(&mut self, rows: &[E], at: usize, ahead: &mut Ahead) {
        let rows = Rows::of(rows, self.job.head.layout.d);
        // SAFETY: `p` has TILE columns and `out` has `stride >= d` numbers for each head.
        unsafe {
            let (p, out) = (self.p.as_ptr().add(at), self.part.out.as_mut_ptr());
            weighted(self.s, &rows, p, TILE, self.heads, out, self.stride, ahead);
        }
    }

    #[inline(always)]
    fn values_int<const BITS: usize>(&mut self, t: usize, end: usize, ahead: &mut Ahead) {
        let (head, d) = (self.job.head, self.job.head.layout.d);
        let groups = self.job.head.layout.value_groups();
        let (mut scale, mut min) = ([0.0; BLOCK], [0.0; BLOCK]);
        for start in (t..end).step_by(BLOCK) {
            let live = BLOCK.min(end - start);
            let codes = &head.v_codes()[start * d * BITS / 8..][..BLOCK * d * BITS / 8];
            let params = &head.v_params()[start * groups * 2..][..BLOCK * groups * 2];
            for (group, params) in params.chunks_exact(2 * BLOCK).enumerate() {
                ahead.advance(self.s, codes.len() / groups);
                widen(self.s, &params[..BLOCK], &mut scale);
                widen(self.s, &params[BLOCK..], &mut min);
                for h in 0..self.heads {
                    let mut p = [0.0; BLOCK];
                    p[..live].copy_from_slice(&self.p[h * TILE + start - t..][..live]);
                    self.value_group::<BITS>(h, group, &p, (&scale, &min), codes);
                }
            }
        }
    }

    /// One group of channels of one block of tokens for one head.
    #[inline(always)]
    fn value_group<const BITS: usize>(
        &mut self,
        h: usize,
        group: usize,
        p: &[f32; BLOCK],
        (scale, min): (&[f32; BLOCK], &[f32; BLOCK]),
        codes: &[u8],
    ) {
        let layout = self.job.head.layout;
        let channels = layout.d / layout.value_groups();
        let mut weights = [0.0; BLOCK];
        let largest = math::multiply(p, scale, &mut weights);
        let out = &mut self.part.out[h * self.stride..(h + 1) * self.stride];
        out[layout.d + group] += math::dot(p, min);
        if largest <= 0.0 {
            return;
        }
        let (factor, unit) = (math::FOLD_MAX / largest, largest / math::FOLD_MAX);
        let (mut hi, mut lo, mut wide) = ([0; BLOCK], [0; BLOCK], [0; BLOCK]);
        if BITS == 8 {
            math::to_i16(&weights, factor, &mut wide);
        } else {
            math::split(&weights, factor, &mut hi, &mut lo);
        }
        let mut channel = group * channels;
        let end = channel + channels;
        while channel < end {
            let blocks = ((end - channel) / 8).min(4);
            let codes = codes[channel * BLOCK * BITS / 8..][..blocks * BLOCK * BITS].as_ptr();
            let out = out[channel..channel + 8 * blocks].as_mut_ptr();
            // SAFETY: codes and channels were sliced just above; 32 weights exist.
            unsafe {
                if BITS == 8 {
                    self.s.value_dots8(codes, blocks, wide.as_ptr(), unit, out);
                } else {
                    let dots = ValueDots { codes, blocks, hi: hi.as_ptr(), lo: lo.as_ptr(), unit };
                    self.s.value_dots::<BITS>(dots, out);
                }
            }
            channel += 8 * blocks;
        }
    }

    /// What the value phase of this tile will read first.
    #[inline(always)]
    fn values_ahead(&self, t: usize, end: usize) -> Ahead {
        let (head, layout) = (self.job.head, self.job.head.layout);
        if t >= layout.vq {
            return Ahead::of(
                &head.v_full()[(t - layout.vq) * layout.d..(end - layout.vq) * layout.d],
            );
        }
        let bytes = head.v_codes().len() / layout.vq.next_multiple_of(BLOCK).max(1);
        Ahead::of(&head.v_codes()[t * bytes..(end * bytes).min(head.v_codes().len())])
    }

    /// What the key phase of the next tile will read first.
    #[inline(always)]
    fn keys_ahead(&self, t: usize) -> Ahead {
        let (head, layout) = (self.job.head, self.job.head.layout);
        let end = self.job.hi.min(t + TILE);
        if t >= end {
            return Ahead::none();
        }
        if t >= layout.kq {
            return Ahead::of(
                &head.k_full()[(t - layout.kq) * layout.d..(end - layout.kq) * layout.d],
            );
        }
        let bytes = head.k_codes().len() / layout.kq;
        Ahead::of(&head.k_codes()[t * bytes..end.min(layout.kq) * bytes])
    }

    /// Moves the minima's share of each value group onto its channels.
    #[inline(always)]
    fn finish(mut self) -> Part {
        let layout = self.job.head.layout;
        if let Some(width) = layout.d.checked_div(layout.value_groups()) {
            for out in self.part.out.chunks_exact_mut(self.stride) {
                let (channels, zeros) = out.split_at_mut(layout.d);
                for (group, zero) in channels.chunks_exact_mut(width).zip(zeros) {
                    group.iter_mut().for_each(|o| *o += *zero);
                }
            }
        }
        self.part
    }
}

/// Joins parts of the same head into `(outputs [heads][d], log-sum-exp per head)`.
pub(crate) fn merge(parts: &[Part], d: usize) -> (Vec<f32>, Vec<f32>) {
    let heads = parts[0].max.len();
    let mut out = vec![0.0; heads * d];
    let mut lse = vec![0.0; heads];
    for h in 0..heads {
        let max = parts.iter().map(|p| p.max[h]).fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = parts.iter().map(|p| p.sum[h] * math::exp(p.max[h] - max)).sum();
        for part in parts {
            let stride = part.out.len() / heads;
            let weight = math::exp(part.max[h] - max) / sum;
            let from = &part.out[h * stride..][..d];
            out[h * d..][..d].iter_mut().zip(from).for_each(|(o, x)| *o += weight * x);
        }
        lse[h] = max + sum.ln();
    }
    (out, lse)
}
