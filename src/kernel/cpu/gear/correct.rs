//! What a decode step adds for GEAR. Per tile of 128 tokens and query head: `rank` multiply-adds a token for either side, and
//! one an outlier, against `D` a token for the codes. `q B` is computed once, and `p A` is multiplied by `B` once, at the end.

use super::{
    super::{
        decode::{State, TILE},
        simd::Simd,
        tile::widen,
    },
    Extra, place,
};
use crate::method::gear::{OUTLIER_TILE, RANK_MAX};

/// Outliers whose differences are widened at once.
const BATCH: usize = 32;

/// The low-rank term of a span of tokens, in f32.
pub(crate) struct LowRank {
    /// `q B` of K, `[heads][RANK_MAX]`.
    queries: Vec<f32>,
    /// Factor A of the tile at hand, `[rank][TILE]`, then zeros up to `RANK_MAX` rows.
    a: Vec<f32>,
}

impl LowRank {
    /// Projects the queries, `[heads][d]`; nothing where there is no low-rank term.
    #[inline(always)]
    pub(crate) fn new(keys: &Extra, q: &[f32], d: usize) -> LowRank {
        if keys.b.is_empty() {
            return LowRank { queries: Vec::new(), a: Vec::new() };
        }
        let mut queries = vec![0.0; q.len() / d * RANK_MAX];
        for (q, out) in q.chunks_exact(d).zip(queries.chunks_exact_mut(RANK_MAX)) {
            for (b, out) in keys.b.chunks_exact(d).zip(out) {
                *out = q.iter().zip(b).map(|(q, b)| q * b.to_f32()).sum();
            }
        }
        LowRank { queries, a: vec![0.0; RANK_MAX * TILE] }
    }
}

impl<S: Simd> State<'_, S> {
    /// Adds `(q B) A^T` and the outliers of K to the scores of the tile from `t`.
    #[inline(always)]
    pub(crate) fn correct_scores(&mut self, t: usize, end: usize) {
        let (keys, layout) = (&self.job.head.extras.keys, self.job.head.layout);
        let (s, rank, d) = (self.s, layout.rank, layout.d);
        widen(s, &keys.a[t * rank..][..TILE * rank], &mut self.low_rank.a);
        let queries = self.low_rank.queries.chunks_exact(RANK_MAX);
        for (p, query) in self.p.chunks_exact_mut(TILE).zip(queries) {
            for i in (0..TILE).step_by(S::LANES) {
                // SAFETY: `p` and each row of A have TILE numbers.
                unsafe {
                    let mut sum = s.load(p.as_ptr().add(i));
                    for (j, query) in query[..rank].iter().enumerate() {
                        let a = s.load(self.low_rank.a.as_ptr().add(j * TILE + i));
                        sum = s.fma(a, s.splat(*query), sum);
                    }
                    s.store(p.as_mut_ptr().add(i), sum);
                }
            }
        }
        for tile in tiles(t, end.min(layout.kq)) {
            let first = tile * OUTLIER_TILE - t;
            outliers(s, keys, tile, |places, differences| {
                for (p, q) in self.p.chunks_exact_mut(TILE).zip(self.job.q.chunks_exact(d)) {
                    let p = &mut p[first..first + OUTLIER_TILE];
                    for (&at, difference) in places.iter().zip(differences) {
                        let (token, channel) = place(at);
                        p[token] += q[channel] * difference;
                    }
                }
            });
        }
    }

    /// Adds `p A` of V to its sums behind the channels, and the outliers of V to the channels.
    #[inline(always)]
    pub(crate) fn correct_values(&mut self, t: usize, end: usize) {
        let (values, layout) = (&self.job.head.extras.values, self.job.head.layout);
        let (s, rank) = (self.s, layout.rank);
        widen(s, &values.a[t * rank..][..TILE * rank], &mut self.low_rank.a);
        let behind = self.stride - rank;
        let heads = self.part.out.chunks_exact_mut(self.stride);
        for (p, out) in self.p.chunks_exact(TILE).zip(heads) {
            for first in (0..rank).step_by(4) {
                let mut sums = [s.splat(0.0); 4];
                for i in (0..TILE).step_by(S::LANES) {
                    // SAFETY: `p` has TILE numbers, A has RANK_MAX rows of them, a multiple of four.
                    unsafe {
                        let p = s.load(p.as_ptr().add(i));
                        for (j, sum) in sums.iter_mut().enumerate() {
                            let a = s.load(self.low_rank.a.as_ptr().add((first + j) * TILE + i));
                            *sum = s.fma(a, p, *sum);
                        }
                    }
                }
                let out = &mut out[behind + first..];
                out.iter_mut().zip(s.sums(sums)).for_each(|(out, sum)| *out += sum);
            }
        }
        for tile in tiles(t, end.min(layout.vq)) {
            let first = tile * OUTLIER_TILE - t;
            outliers(s, values, tile, |places, differences| {
                let heads = self.part.out.chunks_exact_mut(self.stride);
                for (p, out) in self.p.chunks_exact(TILE).zip(heads) {
                    let p = &p[first..first + OUTLIER_TILE];
                    for (&at, difference) in places.iter().zip(differences) {
                        let (token, channel) = place(at);
                        out[channel] += p[token] * difference;
                    }
                }
            });
        }
    }
}

/// Tiles of outliers with tokens in `t..end`; `t` is the first of one.
#[inline(always)]
fn tiles(t: usize, end: usize) -> std::ops::Range<usize> {
    t / OUTLIER_TILE..end.div_ceil(OUTLIER_TILE)
}

/// Gives the places and differences of a tile, a batch at a time.
#[inline(always)]
fn outliers<S: Simd>(s: S, from: &Extra, tile: usize, mut take: impl FnMut(&[u16], &[f32])) {
    let (first, end) = (from.offsets[tile] as usize, from.offsets[tile + 1] as usize);
    let mut wide = [0.0; BATCH];
    for at in (first..end).step_by(BATCH) {
        // Past the tile's end lie other tiles' differences or the padding; the places end where the tile does.
        widen(s, &from.differences[at..at + BATCH], &mut wide);
        take(&from.places[at..end.min(at + BATCH)], &wide);
    }
}

/// Adds `(p A) B^T` to the channels of each head.
#[inline(always)]
pub(crate) fn expand(values: &Extra, sums: &[f32], channels: &mut [f32]) {
    for (b, sum) in values.b.chunks_exact(channels.len()).zip(sums) {
        channels.iter_mut().zip(b).for_each(|(out, b)| *out += sum * b.to_f32());
    }
}
