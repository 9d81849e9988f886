//! One decode step over part of one head's cache: flash attention in tiles of 128 tokens, all query heads of the group
//! at once, online softmax in f32.
//!
//! Quantised keys: the per-channel scale is folded into the query once per group of tokens and the minima into one
//! scalar; the folded query becomes a 15-bit integer split into two signed bytes, so that 32 codes meet 32 of its bytes
//! in one instruction. Quantised values: the scale is folded into the softmax weight, the minima go into one number per
//! group of channels, and the codes of four tokens are summed per instruction.
//!
//! Instructions per KV element on AVX2, counted by callgrind (difference of 5 and 2 launches, whole launch included; one
//! head, D = 128, 8192 tokens, one query head, rustc 1.95 release): fp16 0.86, fp8 1.17, int8 0.43, int4 0.39, kivi-4 0.50,
//! kivi-2 0.49. fp16 has its loads converted 8 at a time; codes are multiplied 32 at a time.

use super::{
    gear::{LowRank, expand},
    layout::{BLOCK, Codec, HeadRef, Keys, brain, row_scale},
    math,
    quantised::Folded,
    simd::{Job, Simd},
    tile::{Ahead, Rows, scores, weighted},
    turbo,
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
    /// Weighted values, per head `stride` numbers: `d` channels, then what the minima of each value group add, then
    /// the weights times factor A of GEAR's values.
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

/// The work under way; the quantised parts are in [`super::quantised`].
pub(super) struct State<'a, S> {
    pub(super) s: S,
    pub(super) job: &'a Decode<'a>,
    pub(super) heads: usize,
    /// Numbers per head in `part.out`.
    pub(super) stride: usize,
    /// Scores, then weights, of the tile: `[heads][TILE]`.
    pub(super) p: Vec<f32>,
    pub(super) folded: Vec<Folded>,
    /// Scales and minima of the tokens at hand.
    pub(super) params: Vec<f32>,
    pub(super) low_rank: LowRank,
    /// Queries turned as TurboQuant's keys are, `[heads][d]`; empty for the other methods.
    pub(super) turned: Vec<f32>,
    pub(super) part: Part,
}

impl Job for Decode<'_> {
    type Out = Part;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Part {
        let layout = self.head.layout;
        let heads = self.q.len() / layout.d;
        let stride = layout.d + layout.value_groups() + layout.rank;
        let part = Part {
            max: vec![f32::NEG_INFINITY; heads],
            sum: vec![0.0; heads],
            out: vec![0.0; heads * stride],
            raw: self.keep_scores.then(|| vec![0.0; heads * (self.hi - self.lo)]),
        };
        let folded = vec![Folded::EMPTY; heads];
        let params = vec![0.0; 2 * D_MAX.max(BLOCK * layout.value_groups())];
        let p = vec![0.0; heads * TILE];
        let low_rank = LowRank::new(&self.head.extras.keys, self.q, layout.d);
        let turned = match layout.codec {
            Codec::Int { keys: Keys::Points, .. } => turbo::turned(self.q, layout.d),
            _ => Vec::new(),
        };
        let mut state =
            State { s, job: &self, heads, stride, p, folded, params, low_rank, turned, part };
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
        let layout = self.job.head.layout;
        self.key_scores(t, end);
        if layout.rank > 0 && t < layout.kq {
            self.correct_scores(t, end);
        }
        self.softmax(t, end);
        self.add_values(t, end);
        if layout.rank > 0 && t < layout.vq {
            self.correct_values(t, end);
        }
    }

    #[inline(always)]
    fn key_scores(&mut self, t: usize, end: usize) {
        let (head, layout) = (self.job.head, self.job.head.layout);
        let split = layout.kq.clamp(t, end);
        let mut ahead = self.values_ahead(t, end);
        if split > t {
            match layout.codec {
                Codec::Int { bits: 2, keys: Keys::PerChannel(g), .. } => {
                    self.keys_per_channel::<2>(t, split, g, &mut ahead)
                }
                Codec::Int { keys: Keys::PerChannel(g), .. } => {
                    self.keys_per_channel::<4>(t, split, g, &mut ahead)
                }
                Codec::Int { keys: Keys::Points, .. } => self.point_scores(t, split, &mut ahead),
                Codec::Int { bits, .. } => self.keys_per_token(bits, t, split, &mut ahead),
                _ => {
                    let rows = &head.k_codes()[t * layout.d..split * layout.d];
                    self.dense_scores(rows, 0, &mut ahead);
                    self.scale_rows(head.k_params(), t, split);
                }
            }
        }
        if split < end {
            let rows = (split - layout.kq) * layout.d..(end - layout.kq) * layout.d;
            let rows = &head.k_full()[rows];
            if layout.codec == Codec::Brain {
                self.dense_scores(brain(rows), split - t, &mut ahead);
            } else {
                self.dense_scores(rows, split - t, &mut ahead);
            }
        }
    }

    /// Scores, or weights, of tokens `t..end` times their rows' scales, where e4m3 rows have some.
    #[inline(always)]
    fn scale_rows(&mut self, params: &[half::f16], t: usize, end: usize) {
        if (self.job.head.layout.codec != Codec::Fp8 { scaled: true }) {
            return;
        }
        for (i, token) in (t..end).enumerate() {
            self.params[i] = row_scale(params, token);
        }
        for p in self.p.chunks_exact_mut(TILE) {
            p.iter_mut().zip(&self.params[..end - t]).for_each(|(p, scale)| *p *= scale);
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
                    self.scale_rows(head.v_params(), t, split);
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
            let rows = &head.v_full()[rows];
            if layout.codec == Codec::Brain {
                self.dense_values(brain(rows), split - t, &mut ahead);
            } else {
                self.dense_values(rows, split - t, &mut ahead);
            }
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

    /// What the value phase of this tile will read first.
    #[inline(always)]
    fn values_ahead(&self, t: usize, end: usize) -> Ahead {
        let (head, layout) = (self.job.head, self.job.head.layout);
        if t >= layout.vq {
            return Ahead::of(
                &head.v_full()[(t - layout.vq) * layout.d..(end - layout.vq) * layout.d],
            );
        }
        let bytes = layout.row_bytes();
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
        let bytes = layout.row_bytes();
        Ahead::of(&head.k_codes()[t * bytes..end.min(layout.kq) * bytes])
    }

    /// Moves the minima's share of each value group, and GEAR's low-rank term, onto the channels.
    #[inline(always)]
    fn finish(mut self) -> Part {
        let layout = self.job.head.layout;
        let groups = layout.value_groups();
        let Some(group) = layout.d.checked_div(groups) else { return self.part };
        for out in self.part.out.chunks_exact_mut(self.stride) {
            let (channels, zeros) = out.split_at_mut(layout.d);
            let (zeros, sums) = zeros.split_at(groups);
            for (channels, zero) in channels.chunks_exact_mut(group).zip(zeros) {
                channels.iter_mut().for_each(|o| *o += *zero);
            }
            expand(&self.job.head.extras.values, sums, channels);
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
