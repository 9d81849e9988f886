//! Decode over integer codes: folding scales into queries and weights, then products of 8-bit integers.

use super::{
    decode::{D_MAX, State, TILE},
    layout::BLOCK,
    math,
    simd::{KeyDots, Simd, Split, ValueDots},
    tile::{Ahead, widen},
};

/// A query folded for integer products.
#[derive(Clone)]
pub(super) struct Folded {
    hi: [i8; D_MAX],
    lo: [i8; D_MAX],
    wide: [i16; D_MAX],
    unit: f32,
    /// The query's sum, for per-token scales.
    sum: f32,
}

impl Folded {
    pub(super) const EMPTY: Folded =
        Folded { hi: [0; D_MAX], lo: [0; D_MAX], wide: [0; D_MAX], unit: 0.0, sum: 0.0 };

    #[inline(always)]
    fn split(&self) -> Split {
        Split { hi: self.hi.as_ptr(), lo: self.lo.as_ptr() }
    }

    /// Takes a query of at most `D_MAX` values whose largest magnitude is `largest`.
    #[inline(always)]
    fn set<S: Simd>(&mut self, s: S, query: &[f32], largest: f32) {
        let factor = if largest > 0.0 { math::FOLD_MAX / largest } else { 0.0 };
        assert!(query.len() <= D_MAX && query.len().is_multiple_of(32));
        // SAFETY: the length was just checked against all three.
        unsafe {
            s.split(query.as_ptr(), query.len(), factor, self.hi.as_mut_ptr(), self.lo.as_mut_ptr())
        };
        self.unit = largest * (1.0 / math::FOLD_MAX);
    }
}

/// `out = a * b`; gives the largest magnitude of it and `a . c`. All of one length, a multiple of 32.
#[inline(always)]
fn fold<S: Simd>(s: S, a: &[f32], b: &[f32], c: &[f32], out: &mut [f32]) -> (f32, f32) {
    let n = a.len();
    assert!(n.is_multiple_of(32) && b.len() >= n && c.len() >= n && out.len() >= n);
    let (mut largest, mut dot) = ([s.splat(0.0); 4], [s.splat(0.0); 4]);
    for i in (0..n).step_by(32) {
        // One accumulator for each of the 2 or 4 vectors: indices known at compile time keep them in registers.
        for lane in 0..32 / S::LANES {
            let i = i + lane * S::LANES;
            // SAFETY: `i + LANES <= n`, which all four slices hold.
            unsafe {
                let x = s.load(a.as_ptr().add(i));
                let product = s.mul(x, s.load(b.as_ptr().add(i)));
                s.store(out.as_mut_ptr().add(i), product);
                largest[lane] = s.max(largest[lane], s.abs(product));
                dot[lane] = s.fma(x, s.load(c.as_ptr().add(i)), dot[lane]);
            }
        }
    }
    let (largest, dot) = (s.maxes(largest), s.sums(dot));
    (largest[0].max(largest[1]).max(largest[2]).max(largest[3]), dot[0] + dot[1] + dot[2] + dot[3])
}

impl<S: Simd> State<'_, S> {
    /// With per-token scales the query is folded once for all tokens.
    #[inline(always)]
    pub(super) fn fold_queries_once(&mut self) {
        let d = self.job.head.layout.d;
        let (ones, mut same) = ([1.0; D_MAX], [0.0; D_MAX]);
        for (query, folded) in self.job.q.chunks_exact(d).zip(&mut self.folded) {
            let (largest, sum) = fold(self.s, query, &ones, &ones, &mut same);
            folded.set(self.s, query, largest);
            folded.sum = sum;
            let factor = if largest > 0.0 { math::FOLD_MAX / largest } else { 0.0 };
            math::to_i16(query, factor, &mut folded.wide[..d]);
        }
    }

    #[inline(always)]
    pub(super) fn keys_per_channel<const BITS: usize>(
        &mut self,
        t: usize,
        end: usize,
        group: usize,
        ahead: &mut Ahead,
    ) {
        let (head, d) = (self.job.head, self.job.head.layout.d);
        let row_bytes = d * BITS / 8;
        let mut query = [0.0; D_MAX];
        for start in (t..end).step_by(group) {
            widen(self.s, &head.k_params()[start / group * 2 * d..][..2 * d], &mut self.params);
            let codes = head.k_codes()[start * row_bytes..][..group * row_bytes].as_ptr();
            let fetch = ahead.take(group * row_bytes);
            for (h, folded) in self.folded.iter_mut().enumerate() {
                let q = &self.job.q[h * d..(h + 1) * d];
                let (scale, min) = self.params.split_at(d);
                let (largest, zero) = fold(self.s, q, scale, min, &mut query);
                folded.set(self.s, &query[..d], largest);
                let out = &mut self.p[h * TILE + start - t..][..group];
                let dots = KeyDots {
                    codes,
                    row_bytes,
                    tokens: group,
                    query: folded.split(),
                    unit: folded.unit,
                    zero,
                    ahead: fetch,
                };
                // SAFETY: rows and scores were sliced above, `group` is a multiple of 4; the query holds D_MAX channels.
                unsafe { self.s.key_dots::<BITS>(dots, out.as_mut_ptr()) };
            }
        }
    }

    /// Rows are padded to a multiple of 32, so whole fours can be read; scores past `end` are thrown away later.
    #[inline(always)]
    pub(super) fn keys_per_token(&mut self, bits: usize, t: usize, end: usize, ahead: &mut Ahead) {
        let (head, layout) = (self.job.head, self.job.head.layout);
        let (row_bytes, tokens) = (layout.row_bytes(), (end - t).next_multiple_of(BLOCK));
        let (scales, mins) = head.k_params().split_at(head.k_params().len() / 2);
        let (scale, min) = self.params.split_at_mut(TILE);
        widen(self.s, &scales[t..t + tokens], scale);
        widen(self.s, &mins[t..t + tokens], min);
        let codes = head.k_codes()[t * row_bytes..][..tokens * row_bytes].as_ptr();
        let ahead = ahead.take(tokens * row_bytes);
        for (h, folded) in self.folded.iter().enumerate() {
            let out = &mut self.p[h * TILE..][..tokens];
            let (unit, query) = (folded.unit, folded.split());
            // SAFETY: rows and scores were sliced above; the query holds D_MAX channels.
            unsafe {
                if bits == 8 {
                    let query = folded.wide.as_ptr();
                    let dots = KeyDots { codes, row_bytes, tokens, query, unit, zero: 0.0, ahead };
                    self.s.key_dots8(dots, out.as_mut_ptr());
                } else {
                    let dots = KeyDots { codes, row_bytes, tokens, query, unit, zero: 0.0, ahead };
                    self.s.key_dots::<4>(dots, out.as_mut_ptr());
                }
            }
            for ((out, scale), min) in out.iter_mut().zip(&*scale).zip(&*min) {
                *out = *out * scale + folded.sum * min;
            }
        }
    }

    #[inline(always)]
    pub(super) fn values_int<const BITS: usize>(
        &mut self,
        t: usize,
        end: usize,
        ahead: &mut Ahead,
    ) {
        let (head, d) = (self.job.head, self.job.head.layout.d);
        let groups = self.job.head.layout.value_groups();
        let channels = d / groups;
        let bytes = BLOCK * d * BITS / 8;
        for start in (t..end).step_by(BLOCK) {
            let live = BLOCK.min(end - start);
            ahead.advance(self.s, bytes);
            let codes = &head.v_codes()[start / BLOCK * bytes..][..bytes];
            widen(
                self.s,
                &head.v_params()[start * groups * 2..][..BLOCK * groups * 2],
                &mut self.params,
            );
            for h in 0..self.heads {
                let mut p = [0.0; BLOCK];
                p.copy_from_slice(&self.p[h * TILE + start - t..][..BLOCK]);
                // Weights of tokens that are not in this block's codes are not this block's.
                if live < BLOCK {
                    p[live..].fill(0.0);
                }
                for first in (0..groups).step_by(4) {
                    self.value_groups::<BITS>(h, (first, groups, channels), &p, codes);
                }
            }
        }
    }

    /// Up to four groups of channels of one block of tokens for one head: four, since four lane sums cost as one.
    #[inline(always)]
    fn value_groups<const BITS: usize>(
        &mut self,
        h: usize,
        (first, groups, channels): (usize, usize, usize),
        p: &[f32; BLOCK],
        codes: &[u8],
    ) {
        let (s, d) = (self.s, self.job.head.layout.d);
        let mut weights = [[0.0; BLOCK]; 4];
        let (mut largest, mut zeros) = ([s.splat(0.0); 4], [s.splat(0.0); 4]);
        for g in 0..4.min(groups - first) {
            let params = &self.params[(first + g) * 2 * BLOCK..][..2 * BLOCK];
            for i in (0..BLOCK).step_by(S::LANES) {
                // SAFETY: `i + LANES <= BLOCK`, and `params` holds twice BLOCK.
                unsafe {
                    let p = s.load(p.as_ptr().add(i));
                    let weight = s.mul(p, s.load(params.as_ptr().add(i)));
                    s.store(weights[g].as_mut_ptr().add(i), weight);
                    largest[g] = s.max(largest[g], weight);
                    zeros[g] = s.fma(p, s.load(params.as_ptr().add(BLOCK + i)), zeros[g]);
                }
            }
        }
        let (largest, zeros) = (s.maxes(largest), s.sums(zeros));
        let out = &mut self.part.out[h * self.stride..(h + 1) * self.stride];
        for g in 0..4.min(groups - first) {
            out[d + first + g] += zeros[g];
            let at = (first + g) * channels;
            let codes = &codes[at * BLOCK * BITS / 8..][..channels * BLOCK * BITS / 8];
            group_dots::<S, BITS>(s, &weights[g], largest[g], codes, &mut out[at..at + channels]);
        }
    }
}

/// One group of channels of one block of tokens; `out` are its channels, a multiple of 8.
#[inline(always)]
fn group_dots<S: Simd, const BITS: usize>(
    s: S,
    weights: &[f32; BLOCK],
    largest: f32,
    codes: &[u8],
    out: &mut [f32],
) {
    if largest <= 0.0 {
        return;
    }
    assert!(codes.len() == out.len() * BLOCK * BITS / 8);
    let (factor, unit) = (math::FOLD_MAX / largest, largest * (1.0 / math::FOLD_MAX));
    if BITS == 8 {
        let mut wide = [0; BLOCK];
        math::to_i16(weights, factor, &mut wide);
        // SAFETY: the codes belong to these channels, as asserted; 32 weights exist.
        unsafe {
            s.value_dots8(codes.as_ptr(), out.len() / 8, wide.as_ptr(), unit, out.as_mut_ptr())
        };
        return;
    }
    let (mut hi, mut lo) = ([0; BLOCK], [0; BLOCK]);
    // SAFETY: all three hold BLOCK numbers.
    unsafe { s.split(weights.as_ptr(), BLOCK, factor, hi.as_mut_ptr(), lo.as_mut_ptr()) };
    // Left to itself the compiler turns the 16 broadcasts of what was just stored into shuffles, and spills them: four
    // times the instructions. Behind the box they are loads.
    let (hi, lo) = (std::hint::black_box(&hi), std::hint::black_box(&lo));
    let weights = Split { hi: hi.as_ptr(), lo: lo.as_ptr() };
    let codes = ValueDots { codes: codes.as_ptr(), blocks: out.len() / 8, weights, unit };
    // SAFETY: the codes belong to these channels, as asserted.
    unsafe { s.value_dots::<BITS>(codes, out.as_mut_ptr()) };
}
