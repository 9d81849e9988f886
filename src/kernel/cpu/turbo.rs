//! TurboQuant at 4 bits on the CPU: keys as codes of points in a turned space, values as 4-bit integers.
//!
//! A decode step turns each query once (`D log2 D` additions in f64) and then never turns a key back. A score is the sum of
//! 16 table entries times the turned query, times the key's scale: per 16 elements of a key one load and two to seven
//! instructions of table look-up (one permutation on AVX-512, two and a blend on AVX2) beside one multiply-add a query head.
//! Codes of the integer methods meet 32 elements an instruction, so keys cost more here than `int4`'s; the points have no
//! integer form that holds the gate at 8 bits. Values are `int4`'s in layout and cost.
//!
//! Compression finds key codes in f32, where a coordinate within rounding of a midpoint may fall to its other side. Value
//! codes are found in f64: halves are frequent there (the middle between minimum and maximum is one), and how they round
//! depends on the last bit of the quotient.

use half::f16;

use super::{
    compress::pack_row,
    decode::{State, TILE},
    layout::BLOCK,
    simd::Simd,
    tile::{Ahead, widen},
};
use crate::method::turbo::{self, POINTS};

/// Added to a row's length before dividing by it, as in the reference.
const LENGTH_FLOOR: f32 = 1e-8;
/// Largest code of a value, and the least step between two, as in the reference.
const TOP: f64 = 15.0;
const STEP_FLOOR: f64 = 1e-8;

/// The 16 points in f32.
fn table() -> [f32; POINTS] {
    turbo::points().map(|x| x as f32)
}

/// Queries `[heads][d]` turned as keys are.
pub(super) fn turned(q: &[f32], d: usize) -> Vec<f32> {
    let mut wide: Vec<f64> = q.iter().map(|&x| f64::from(x)).collect();
    wide.chunks_exact_mut(d).for_each(turbo::rotate);
    wide.into_iter().map(|x| x as f32).collect()
}

impl<S: Simd> State<'_, S> {
    /// Scores of tokens `t..end` against keys of points. Rows are padded to a multiple of 32; scores past `end` are thrown
    /// away later.
    #[inline(always)]
    pub(super) fn point_scores(&mut self, t: usize, end: usize, ahead: &mut Ahead) {
        let (head, layout) = (self.job.head, self.job.head.layout);
        let (d, row_bytes, tokens) =
            (layout.d, layout.row_bytes(), (end - t).next_multiple_of(BLOCK));
        let (table, scales) = (table(), &mut self.params[..tokens]);
        widen(self.s, &head.k_params()[t..t + tokens], scales);
        let rows = &head.k_codes()[t * row_bytes..][..tokens * row_bytes];
        for (i, rows) in rows.chunks_exact(4 * row_bytes).enumerate() {
            ahead.advance(self.s, rows.len());
            for h in (0..self.heads).step_by(2) {
                let q = &self.turned[h * d..];
                let out = &mut self.p[h * TILE + 4 * i..];
                // SAFETY: four rows of `d / 2` bytes; queries and score rows of this head, and of the next where it exists.
                unsafe {
                    if h + 1 < self.heads {
                        four_rows::<S, 2>(self.s, &table, rows, d, q.as_ptr(), out.as_mut_ptr());
                    } else {
                        four_rows::<S, 1>(self.s, &table, rows, d, q.as_ptr(), out.as_mut_ptr());
                    }
                }
            }
        }
        for p in self.p.chunks_exact_mut(TILE) {
            p.iter_mut().zip(&*scales).for_each(|(p, scale)| *p *= scale);
        }
    }
}

/// `out[h * TILE + i] = q[h] . points[row[i]]` for four packed rows of `d` codes.
///
/// # Safety
/// `rows` holds four rows, `q` holds `H * d` numbers, and `out` four for each head.
#[inline(always)]
unsafe fn four_rows<S: Simd, const H: usize>(
    s: S,
    table: &[f32; POINTS],
    rows: &[u8],
    d: usize,
    q: *const f32,
    out: *mut f32,
) {
    let half = d / 2;
    let mut acc = [[s.splat(0.0); 4]; H];
    for c in (0..half).step_by(S::LANES) {
        for i in 0..4 {
            // SAFETY: `c + LANES <= half`, the length of a row and half that of a query.
            unsafe {
                let (low, high) = s.points(table, rows.as_ptr().add(i * half + c));
                for (h, acc) in acc.iter_mut().enumerate() {
                    let q = q.add(h * d + c);
                    acc[i] = s.fma(low, s.load(q), acc[i]);
                    acc[i] = s.fma(high, s.load(q.add(half)), acc[i]);
                }
            }
        }
    }
    for (h, acc) in acc.into_iter().enumerate() {
        for (i, sum) in s.sums(acc).into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *out.add(h * TILE + i) = sum };
        }
    }
}

/// Multiplies by the Hadamard matrix, not divided by `sqrt(D)`.
#[inline(always)]
fn turn(row: &mut [f32]) {
    let mut half = 1;
    while half < row.len() {
        for block in row.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// Packs keys: codes, and a scale per token; scales of the padding are 0, whatever the memory held.
#[inline(always)]
pub(super) fn keys<S: Simd>(s: S, k: &[f16], d: usize, codes: &mut [u8], params: &mut [f16]) {
    let table = table();
    let points = turbo::points();
    let edges: [f32; POINTS - 1] =
        std::array::from_fn(|i| f64::midpoint(points[i], points[i + 1]) as f32);
    let (mut x, mut line) = (vec![0.0; d], vec![0; d]);
    params.fill(f16::ZERO);
    let rows = k.chunks_exact(d).zip(codes.chunks_exact_mut(d / 2));
    for ((k, packed), param) in rows.zip(params) {
        widen(s, k, &mut x);
        let length = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() as f32;
        let unit = 1.0 / (length + LENGTH_FLOOR);
        x.iter_mut().for_each(|x| *x *= unit);
        // Turned and in units of the standard deviation: the two factors of sqrt(D) cancel.
        turn(&mut x);
        line.fill(0);
        for edge in edges {
            line.iter_mut().zip(&x).for_each(|(code, x)| *code += u8::from(*x >= edge));
        }
        let chosen: f32 = line.iter().map(|&code| table[usize::from(code)].powi(2)).sum();
        *param = f16::from_f32(length / chosen.sqrt());
        pack_row(&line, 4, packed);
    }
}

/// Codes of a value between its ends, halves rounded up, with the exact step; gives the stored scale and minimum.
#[inline(always)]
pub(super) fn value_codes(x: &[f32], (lo, hi): (f32, f32), codes: &mut [u8]) -> (f16, f16) {
    let min = f64::from(lo);
    let step = ((f64::from(hi) - min) / TOP).max(STEP_FLOOR);
    for (x, code) in x.iter().zip(codes) {
        // Never negative, so that cutting off is rounding down.
        *code = ((f64::from(*x) - min) / step + 0.5).min(TOP) as u8;
    }
    (f16::from_f64(step), f16::from_f32(lo))
}
