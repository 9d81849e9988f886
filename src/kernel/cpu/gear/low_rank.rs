//! The power iteration in f32, over columns: `[rank][n]` and `[rank][d]` where the reference has `[n][rank]` and
//! `[d][rank]`, so that both products are the tile products of attention.

use super::super::{
    simd::Simd,
    tile::{Ahead, Rows, scores, weighted},
};
use crate::method::gear;

/// Rows of the error that both products take at once: they stay in the first-level cache.
const ROWS: usize = 32;
/// Lanes of the sums; divides every number of rows and channels.
const LANES: usize = 8;
/// See [`crate::method::gear::low_rank`]: a column this much shorter without the others lies in their span.
const DEPENDENT: f32 = 1e-5;

/// `A` (orthonormal columns, `[rank][n]`) and `B = error^T A` (`[rank][d]`) of `error`, `[n][d]`.
#[inline(always)]
pub(super) fn low_rank<S: Simd>(
    s: S,
    error: &[f32],
    d: usize,
    rank: usize,
    iterations: usize,
) -> (Vec<f32>, Vec<f32>) {
    let n = error.len() / d;
    assert!(n.is_multiple_of(LANES) && d.is_multiple_of(32));
    let start = gear::start(d, rank);
    let mut p: Vec<f32> = (0..rank * d).map(|i| start[i % d * rank + i / d] as f32).collect();
    let mut q = vec![0.0; rank * n];
    for round in 0..iterations {
        orthonormalise(&mut p, d);
        product(s, error, d, &p, &mut q);
        if round + 1 == iterations {
            orthonormalise(&mut q, n);
        }
        transposed_product(s, error, d, &q, &mut p);
    }
    (q, p)
}

/// `q [rank][n] = error [n][d]` times `p [rank][d]` transposed.
#[inline(always)]
fn product<S: Simd>(s: S, error: &[f32], d: usize, p: &[f32], q: &mut [f32]) {
    let (n, rank) = (error.len() / d, p.len() / d);
    for (i, rows) in error.chunks(ROWS * d).enumerate() {
        let rows = Rows::of(rows, d);
        // SAFETY: `q` has `n` columns for each of `rank` rows, `n` a multiple of 4 like every chunk.
        unsafe {
            let q = q.as_mut_ptr().add(i * ROWS);
            scores(s, &rows, p.as_ptr(), rank, q, n, &mut Ahead::none());
        }
    }
}

/// `p [rank][d] = q [rank][n]` times `error [n][d]`.
#[inline(always)]
fn transposed_product<S: Simd>(s: S, error: &[f32], d: usize, q: &[f32], p: &mut [f32]) {
    let (n, rank) = (error.len() / d, p.len() / d);
    p.fill(0.0);
    for (i, rows) in error.chunks(ROWS * d).enumerate() {
        let rows = Rows::of(rows, d);
        // SAFETY: `q` has `n` columns and `p` has `d` for each of `rank` rows.
        unsafe {
            let q = q.as_ptr().add(i * ROWS);
            weighted(s, &rows, q, n, rank, p.as_mut_ptr(), d, &mut Ahead::none());
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum()
}

/// Gram-Schmidt, twice, on the columns of `x`, `len` numbers each.
#[inline(always)]
fn orthonormalise(x: &mut [f32], len: usize) {
    for j in 0..x.len() / len {
        let (others, rest) = x.split_at_mut(j * len);
        let column = &mut rest[..len];
        let before = dot(column, column).sqrt();
        for _ in 0..2 {
            for other in others.chunks_exact(len) {
                let share = dot(column, other);
                column.iter_mut().zip(other).for_each(|(x, o)| *x -= share * o);
            }
        }
        let length = dot(column, column).sqrt();
        let scale = if length > DEPENDENT * before { 1.0 / length } else { 0.0 };
        column.iter_mut().for_each(|x| *x *= scale);
    }
}
