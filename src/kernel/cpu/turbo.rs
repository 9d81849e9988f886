//! TurboQuant at 4 bits on the CPU: keys as codes of points in a turned space, values as 4-bit integers.
//!
//! A decode step turns each query once (`D log2 D` additions in f64) and then never turns a key back. A score is the sum of
//! 16 table entries times the turned query, times the key's scale: per 16 elements of a key one load and two to seven
//! instructions of table look-up (one permutation on AVX-512, two and a blend on AVX2) beside one multiply-add a query head.
//! Codes of the integer methods meet 32 elements an instruction, so keys cost more here than `int4`'s; the points have no
//! integer form that holds the gate at 8 bits. Values are `int4`'s in layout and cost.
//!
//! Compression works in f64, at half the lanes of f32: a coordinate within rounding of a midpoint would fall to its other side
//! once in some 10^6, and one such code in a prompt of 200 tokens is a relative error above the gate. Of values, halves are
//! frequent (the middle between minimum and maximum is one), and how they round hangs on the last bit of the quotient.

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
const LENGTH_FLOOR: f64 = 1e-8;
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

/// Packs keys: codes, and a scale per token; scales of the padding are 0, whatever the memory held.
///
/// The steps are the reference's, in f64 and in its order, so that the codes are its codes to the last bit.
#[inline(always)]
pub(super) fn keys<S: Simd>(s: S, k: &[f16], d: usize, codes: &mut [u8], params: &mut [f16]) {
    let points = turbo::points();
    let edges: [f64; POINTS - 1] = std::array::from_fn(|i| f64::midpoint(points[i], points[i + 1]));
    let deviations = (d as f64).sqrt();
    let (mut narrow, mut x, mut line) = (vec![0.0; d], vec![0.0; d], vec![0; d]);
    params.fill(f16::ZERO);
    let rows = k.chunks_exact(d).zip(codes.chunks_exact_mut(d / 2));
    for ((k, packed), param) in rows.zip(params) {
        widen(s, k, &mut narrow);
        let length = narrow.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let divisor = length + LENGTH_FLOOR;
        x.iter_mut().zip(&narrow).for_each(|(x, &k)| *x = f64::from(k) / divisor);
        turbo::rotate(&mut x);
        x.iter_mut().for_each(|x| *x *= deviations);
        line.fill(0);
        for edge in edges {
            line.iter_mut().zip(&x).for_each(|(code, x)| *code += u8::from(*x >= edge));
        }
        let chosen: f64 = line.iter().map(|&code| points[usize::from(code)].powi(2)).sum();
        *param = f16::from_f64(length / chosen.sqrt());
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

#[cfg(test)]
mod tests {
    use super::{
        super::simd::{Isa, Job},
        *,
    };
    use crate::kernel::data::{Data, Kind, Place};

    const D: usize = 64;

    /// Codes in packed rows, and scales.
    #[derive(Clone)]
    struct Keys<'a>(&'a [f16]);

    impl Job for Keys<'_> {
        type Out = (Vec<u8>, Vec<f16>);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Out {
            let n = self.0.len() / D;
            let (mut codes, mut params) = (vec![0xFF; n * D / 2], vec![f16::NAN; n]);
            keys(s, self.0, D, &mut codes, &mut params);
            (codes, params)
        }
    }

    /// One code of a step beside the reference's is a relative error of 1e-3 in a short prompt: none may be.
    #[test]
    fn codes_of_keys_are_the_reference_s_to_the_last_bit() {
        let (data, n) = (Data::new(1), 4000);
        let mut k = vec![f16::ZERO; n * D];
        data.fill(Kind::Key, Place { copy: 0, seq: 0, head: 0 }, D, &mut k);
        // Coordinates on a midpoint: two entries that cancel, a row of zeros, a row of ones.
        k[..3 * D].fill(f16::ZERO);
        (k[5], k[9]) = (f16::ONE, f16::NEG_ONE);
        k[2 * D..3 * D].fill(f16::ONE);
        for isa in Isa::available() {
            let (codes, params) = isa.dispatch(Keys(&k));
            for (t, row) in k.chunks(D).enumerate() {
                let row: Vec<f64> = row.iter().map(|x| x.to_f64()).collect();
                let (expected, scale) = turbo::key_codes(&row);
                let packed = &codes[t * D / 2..][..D / 2];
                let low = packed.iter().map(|x| usize::from(x & 15));
                let got: Vec<usize> =
                    low.chain(packed.iter().map(|x| usize::from(x >> 4))).collect();
                assert_eq!(got, expected, "{isa:?} row {t}");
                assert_eq!(params[t], f16::from_f64(scale), "{isa:?} row {t}");
            }
        }
    }

    #[test]
    fn codes_of_values_round_halves_as_the_reference() {
        // 15 steps of 2, with every half between.
        let x: Vec<f32> = (0..=30).map(|i| i as f32 - 11.0).chain([0.03125]).collect();
        for scale in [1.0, 0.37, 0.001] {
            let x: Vec<f32> = x.iter().map(|x| f16::from_f32(x * scale).to_f32()).collect();
            let ends = x.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
            let mut codes = vec![0; x.len()];
            let (step, min) = value_codes(&x, ends, &mut codes);
            let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let (expected, affine) = turbo::value_codes(&wide);
            let got: Vec<f64> = codes.into_iter().map(f64::from).collect();
            assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.5), "{got:?}");
            assert!(
                (step.to_f64() - affine.scale).abs() + (min.to_f64() - affine.min).abs() < 1e-12
            );
        }
    }
}
