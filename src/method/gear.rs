//! GEAR (arXiv 2403.05527): KIVI's quantisation of what is left when a few outliers are set aside, plus a low-rank
//! approximation of the error that makes.
//!
//! For a block of `n` tokens: (1) of every channel of K, and of every token of V across all KV heads, the `s / 2` largest
//! and the `s / 2` smallest entries are outliers and are replaced by the mean of their vector; (2) K is quantised per
//! channel in groups of tokens, V per token in groups of channels; (3) outliers come back as they were; (4) the error of
//! each KV head, a matrix `[n][D]`, is projected onto the subspace that a power iteration finds: `A [n][r]` has
//! orthonormal columns, `B = error^T A [D][r]`, and `A B^T` is added. Newest tokens are fp16 until there are
//! `residual` of them; then K and V are flushed whole, with their own `B` and `flush_rank`.
//!
//! Where the published code and the paper differ, the paper counts: the code takes the outliers of a K channel by the
//! width of the layer instead of the number of tokens. GQA: the code is for one query head per KV head; here the layer
//! is its KV heads. Factors, scales and minima are fp16. An outlier is kept as the fp16 difference to its quantised value
//! with its place, four bytes, so that a kernel can add it. The iteration starts from fixed numbers in (0, 1) instead of
//! random ones.

use serde::{Deserialize, Serialize};

use super::quant::{self, round_f16};

/// GEAR's parameters; without outliers the method is called GEAR-L.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gear {
    /// Code width: 2 or 4.
    pub bits: u32,
    /// Group size g: tokens of one channel (K), channels of one token (V).
    pub group: usize,
    /// Tokens that are flushed together, a multiple of `group`: up to as many stay fp16.
    pub residual: usize,
    /// Rank of the prompt's error.
    pub rank: usize,
    /// Rank of a flushed residual's error.
    pub flush_rank: usize,
    /// Rounds of the power iteration.
    pub iterations: usize,
    /// Part of the entries that are outliers, both ends together: 0.02 in the paper.
    pub outliers: f64,
}

/// Largest rank: kernels hold the factors in eight rows of a tensor-core fragment.
pub const RANK_MAX: usize = 8;
/// Bytes of an outlier: place and difference, fp16 each.
pub const OUTLIER_BYTES: u64 = 4;
/// Tokens that share an entry of the outliers' table, and the bytes of an entry: first place and number.
pub const OUTLIER_TILE: usize = 16;
const OFFSET_BYTES: u64 = 8;

/// Which vectors outliers are sought in and along what groups run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// By channel.
    Key,
    /// By token.
    Value,
}

/// One head after compression, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Codes with scales and minima, dequantised, `[n][d]`; outliers not yet added.
    pub quantised: Vec<f64>,
    /// Outliers: index into `[n][d]`, ascending, and the difference to `quantised`.
    pub outliers: Vec<(usize, f64)>,
    /// `A`, `[n][rank]`.
    pub a: Vec<f64>,
    /// `B`, `[d][rank]`.
    pub b: Vec<f64>,
}

impl Gear {
    /// Whether the parameters make sense on their own.
    ///
    /// # Errors
    /// The parameter, what was expected and what was given.
    pub fn check(&self) -> Result<(), String> {
        super::check_kivi(self.bits, self.group, self.residual)?;
        for (name, rank) in [("rank", self.rank), ("flush_rank", self.flush_rank)] {
            if rank == 0 || rank > RANK_MAX || !rank.is_multiple_of(2) {
                return Err(format!("{name}: expected 2, 4, 6 or {RANK_MAX}, got {rank}"));
            }
        }
        super::at_least_one("iterations", self.iterations)?;
        if !(0.0..0.5).contains(&self.outliers) {
            return Err(format!(
                "outliers: expected a part from 0 to below 0.5, got {}",
                self.outliers
            ));
        }
        Ok(())
    }

    /// `gear2-g64-r4-s2`, or `gearl2-g64-r4` without outliers.
    pub(super) fn label(&self) -> String {
        let Gear { bits, group, rank, outliers, .. } = self;
        if *outliers > 0.0 {
            format!("gear{bits}-g{group}-r{rank}-s{}", outliers * 100.0)
        } else {
            format!("gearl{bits}-g{group}-r{rank}")
        }
    }

    /// Outliers at either end of a vector of `width` entries: `floor(width s / 2)`.
    pub fn outliers_per_end(&self, width: usize) -> usize {
        // Without the small addition 0.02 * 300 / 2 could come out just below 3.
        (width as f64 * self.outliers / 2.0 + 1e-9) as usize
    }

    /// Bytes a token and KV head has beside codes, scales and minima, K and V, in a long sequence.
    pub(super) fn extra_bytes(&self, d: f64) -> f64 {
        let sparse = d * self.outliers * OUTLIER_BYTES as f64;
        let offsets = OFFSET_BYTES as f64 / OUTLIER_TILE as f64;
        2.0 * (2.0 * self.rank as f64 + sparse + if self.outliers > 0.0 { offsets } else { 0.0 })
    }

    /// Bytes of a layer beside codes, scales, minima and residual, when a prompt left `n` quantised tokens.
    pub(super) fn layer_bytes(&self, n: usize, heads_kv: usize, d: usize) -> u64 {
        if n == 0 {
            return 0;
        }
        let factors = 2 * (n + d) * self.rank * 2 * heads_kv;
        let (keys, values) = self.outliers_of_layer(n, heads_kv, d);
        let tiles = n.div_ceil(OUTLIER_TILE);
        let offsets = if self.outliers > 0.0 { 2 * tiles * heads_kv } else { 0 };
        factors as u64 + (keys + values) as u64 * OUTLIER_BYTES + offsets as u64 * OFFSET_BYTES
    }

    /// Most outliers of K and of V in a layer with `n` quantised tokens: an entry at both ends counts once only.
    pub fn outliers_of_layer(&self, n: usize, heads_kv: usize, d: usize) -> (usize, usize) {
        let keys = 2 * self.outliers_per_end(n) * d * heads_kv;
        (keys, 2 * self.outliers_per_end(heads_kv * d) * n)
    }

    /// See [`super::Method::round_trip_layer`].
    pub(super) fn round_trip(&self, k: &mut [Vec<f64>], v: &mut [Vec<f64>], d: usize) {
        for (side, heads) in [(Side::Key, k), (Side::Value, v)] {
            let n = heads.first().map_or(0, |head| head.len() / d / self.residual * self.residual);
            let blocks: Vec<&[f64]> = heads.iter().map(|head| &head[..n * d]).collect();
            let stored = self.compress(side, &blocks, d, self.rank);
            for (head, stored) in heads.iter_mut().zip(stored) {
                head[..n * d].copy_from_slice(&stored.restored(d));
            }
        }
    }

    /// Compresses one side of a layer: its KV heads, `[n][d]` each, `n` a multiple of the group.
    pub fn compress(&self, side: Side, heads: &[&[f64]], d: usize, rank: usize) -> Vec<Stored> {
        (0..heads.len()).map(|head| self.compress_head(side, heads, head, d, rank)).collect()
    }

    /// One head of what [`Gear::compress`] gives.
    pub fn compress_head(
        &self,
        side: Side,
        heads: &[&[f64]],
        which: usize,
        d: usize,
        rank: usize,
    ) -> Stored {
        let head = heads[which];
        let width = if side == Side::Key { head.len() / d } else { heads.len() * d };
        let count = self.outliers_per_end(width);
        let (mask, means) = find_outliers(side, heads, which, d, count);
        let mut quantised = replaced(side, head, (&mask, &means), d);
        let n = head.len() / d;
        match side {
            Side::Key => quant::per_channel(&mut quantised, n, d, self.group, self.bits),
            Side::Value => quant::per_token(&mut quantised, n, d, self.group, self.bits),
        }
        let error: Vec<f64> =
            (0..head.len()).map(|i| if mask[i] { 0.0 } else { head[i] - quantised[i] }).collect();
        let (a, b) = low_rank(&error, d, &start(d, rank), self.iterations);
        let found = (0..head.len()).filter(|&i| mask[i]);
        let outliers = found.map(|i| (i, round_f16(head[i] - quantised[i]))).collect();
        let rounded = |x: Vec<f64>| x.into_iter().map(round_f16).collect();
        Stored { quantised, outliers, a: rounded(a), b: rounded(b) }
    }
}

/// Which entries of a head are outliers, `count` at either end of a vector, and the means of its vectors.
pub(super) fn find_outliers(
    side: Side,
    heads: &[&[f64]],
    which: usize,
    d: usize,
    count: usize,
) -> (Vec<bool>, Vec<f64>) {
    let (head, n) = (heads[which], heads[which].len() / d);
    let (mut mask, mut means) = (vec![false; n * d], Vec::new());
    match side {
        Side::Key => {
            for channel in 0..d {
                let vector: Vec<f64> = (0..n).map(|t| head[t * d + channel]).collect();
                means.push(mean(&vector));
                ends(&vector, count, |t| mask[t * d + channel] = true);
            }
        }
        Side::Value => {
            for token in 0..n {
                let of_head = |head: &&[f64]| head[token * d..][..d].to_vec();
                let vector: Vec<f64> = heads.iter().flat_map(of_head).collect();
                means.push(mean(&vector));
                let own = |i: usize| (i / d == which).then_some(token * d + i % d);
                ends(&vector, count, |i| own(i).into_iter().for_each(|at| mask[at] = true));
            }
        }
    }
    (mask, means)
}

/// A head with its outliers replaced by the means of their vectors.
pub(super) fn replaced(
    side: Side,
    head: &[f64],
    (mask, means): (&[bool], &[f64]),
    d: usize,
) -> Vec<f64> {
    let value = |i: usize| if mask[i] { means[vector_of(side, i, d)] } else { head[i] };
    (0..head.len()).map(value).collect()
}

/// Index of the vector that an entry of `[n][d]` belongs to.
fn vector_of(side: Side, i: usize, d: usize) -> usize {
    match side {
        Side::Key => i % d,
        Side::Value => i / d,
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Calls `take` for the `count` largest and the `count` smallest, in no order; of equals the earlier.
fn ends(vector: &[f64], count: usize, mut take: impl FnMut(usize)) {
    if count == 0 {
        return;
    }
    let mut order: Vec<usize> = (0..vector.len()).collect();
    let down = |&a: &usize, &b: &usize| vector[b].total_cmp(&vector[a]).then(a.cmp(&b));
    let up = |&a: &usize, &b: &usize| vector[a].total_cmp(&vector[b]).then(a.cmp(&b));
    order.select_nth_unstable_by(count - 1, down);
    order[..count].iter().copied().for_each(&mut take);
    order.select_nth_unstable_by(count - 1, up);
    order[..count].iter().copied().for_each(take);
}

impl Stored {
    /// What the cache gives back, `[n][d]`.
    pub fn restored(&self, d: usize) -> Vec<f64> {
        let mut all = self.quantised.clone();
        for &(i, difference) in &self.outliers {
            all[i] += difference;
        }
        let rank = self.b.len() / d;
        for (row, a) in all.chunks_mut(d).zip(self.a.chunks(rank)) {
            for (x, b) in row.iter_mut().zip(self.b.chunks(rank)) {
                *x += a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            }
        }
        all
    }
}

/// Where the power iteration starts: `[d][rank]`, fixed numbers in (0, 1), exact in f32.
pub fn start(d: usize, rank: usize) -> Vec<f64> {
    let number = |i: usize| {
        let mut x = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((x ^ (x >> 31)) >> 41) as f64 + 0.5) / 8_388_608.0
    };
    (0..d * rank).map(number).collect()
}

/// `A [n][r]` with orthonormal columns and `B = error^T A [d][r]`, after `iterations` rounds from `start [d][r]`.
///
/// Only the space that the columns of `start` span matters, so each round may orthonormalise; the published code does so in
/// the last one.
pub fn low_rank(error: &[f64], d: usize, start: &[f64], iterations: usize) -> (Vec<f64>, Vec<f64>) {
    let rank = start.len() / d;
    let mut p = start.to_vec();
    let mut q = Vec::new();
    for round in 0..iterations {
        orthonormalise(&mut p, rank);
        q = product(error, &p, d, rank);
        if round + 1 == iterations {
            orthonormalise(&mut q, rank);
        }
        p = transposed_product(error, &q, d, rank);
    }
    (q, p)
}

/// `error [n][d]` times `p [d][r]`.
fn product(error: &[f64], p: &[f64], d: usize, rank: usize) -> Vec<f64> {
    let row = |row: &[f64]| -> Vec<f64> {
        let column = |j| row.iter().zip(p.chunks(rank)).map(|(e, p)| e * p[j]).sum();
        (0..rank).map(column).collect()
    };
    error.chunks(d).flat_map(row).collect()
}

/// `error [n][d]` transposed times `q [n][r]`.
fn transposed_product(error: &[f64], q: &[f64], d: usize, rank: usize) -> Vec<f64> {
    let mut p = vec![0.0; d * rank];
    for (row, q) in error.chunks(d).zip(q.chunks(rank)) {
        for (e, p) in row.iter().zip(p.chunks_mut(rank)) {
            p.iter_mut().zip(q).for_each(|(p, q)| *p += e * q);
        }
    }
    p
}

/// A column that is this much shorter after the others were taken out of it lies in their span.
const DEPENDENT: f64 = 1e-5;

/// Gram-Schmidt on the columns of `x [rows][rank]`; a column in the span of the ones before becomes 0.
fn orthonormalise(x: &mut [f64], rank: usize) {
    let dot = |x: &[f64], i: usize, j: usize| -> f64 { x.chunks(rank).map(|r| r[i] * r[j]).sum() };
    for j in 0..rank {
        let before = dot(x, j, j).sqrt();
        // Twice, since once loses digits where columns are close to each other.
        for _ in 0..2 {
            for i in 0..j {
                let share = dot(x, i, j);
                x.chunks_mut(rank).for_each(|row| row[j] -= share * row[i]);
            }
        }
        let length = dot(x, j, j).sqrt();
        let scale = if length > DEPENDENT * before { 1.0 / length } else { 0.0 };
        x.chunks_mut(rank).for_each(|row| row[j] *= scale);
    }
}
