//! AVX2 with FMA and F16C, and the 256-bit integer dot products that AVX-512 machines use too.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Job, KeyDots, Simd, Split, ValueDots};

/// Eight lanes. Only [`run`] makes one.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// # Safety
/// The machine has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn run<J: Job>(job: J) -> J::Out {
    job.run(Avx2(()))
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: a value of this type exists only where AVX2 does; so in every function of this impl.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> __m256 {
        // SAFETY: the caller's promise; eight f16 are 16 bytes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_fp8(self, p: *const u8) -> __m256 {
        // Sign extension puts the sign into bit 14 as well once shifted; the mask takes it out again.
        // SAFETY: the caller's promise; eight bytes are read.
        unsafe {
            let wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(p.cast()));
            _mm256_cvtph_ps(_mm_and_si128(
                _mm_slli_epi16::<7>(wide),
                _mm_set1_epi16(0xBFFF_u16 as i16),
            ))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m256 {
        // SAFETY: the caller's promise; eight bf16 are 16 bytes.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn points(self, table: &[f32; 16], p: *const u8) -> (__m256, __m256) {
        // SAFETY: the caller's promise; eight bytes are read.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            (entries(table, bytes), entries(table, _mm256_srli_epi32::<4>(bytes)))
        }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see `splat`.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see `splat`.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see `splat`.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: see `splat`.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }

    #[inline(always)]
    fn maxes(self, v: [__m256; 4]) -> [f32; 4] {
        // SAFETY: see `splat`.
        unsafe { maxes(v) }
    }

    #[inline(always)]
    fn sums(self, v: [__m256; 4]) -> [f32; 4] {
        // SAFETY: see `splat`.
        unsafe { sums(v) }
    }

    #[inline(always)]
    unsafe fn sum_words(self, p: *const u32, n: usize) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { sum_words(p, n) }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn split(self, x: *const f32, n: usize, factor: f32, hi: *mut i8, lo: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe { split(x, n, factor, hi, lo) }
    }

    #[inline(always)]
    unsafe fn key_dots<const BITS: usize>(self, a: KeyDots<Split>, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { key_dots::<BITS>(a, out) }
    }

    #[inline(always)]
    unsafe fn value_dots<const BITS: usize>(self, a: ValueDots, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { value_dots::<BITS>(a, out) }
    }

    #[inline(always)]
    unsafe fn key_dots8(self, a: KeyDots<*const i16>, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { key_dots8(a, out) }
    }

    #[inline(always)]
    unsafe fn value_dots8(
        self,
        codes: *const u8,
        blocks: usize,
        weights: *const i16,
        unit: f32,
        out: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe { value_dots8(codes, blocks, weights, unit, out) }
    }
}

/// Table entries by the low four bits: three choose within a half, the fourth, moved to the sign, chooses the half.
#[inline(always)]
unsafe fn entries(table: &[f32; 16], index: __m256i) -> __m256 {
    // SAFETY: register arithmetic, and two loads of eight entries each.
    unsafe {
        let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), index);
        let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), index);
        _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
    }
}

/// Lane sums of four vectors.
#[inline(always)]
pub(super) unsafe fn sums(v: [__m256; 4]) -> [f32; 4] {
    let mut out = [0.0; 4];
    // SAFETY: register arithmetic, and a store of four values into four.
    unsafe {
        let pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
        let both = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
        _mm_storeu_ps(out.as_mut_ptr(), both);
    }
    out
}

/// Largest lanes of four vectors.
#[inline(always)]
pub(super) unsafe fn maxes(v: [__m256; 4]) -> [f32; 4] {
    let mut out = [0.0; 4];
    // SAFETY: register arithmetic, and a store of four values into four.
    unsafe {
        let ab = _mm256_max_ps(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
        let cd = _mm256_max_ps(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
        let all =
            _mm256_max_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xEE>(ab, cd));
        let both = _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
        _mm_storeu_ps(out.as_mut_ptr(), both);
    }
    out
}

/// Lane sums of four integer vectors, scaled and shifted, stored.
#[inline(always)]
unsafe fn store_sums(v: [__m256i; 4], unit: f32, zero: f32, out: *mut f32) {
    // SAFETY: register arithmetic; the callers give four writable scores.
    unsafe {
        let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
        let both =
            _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        let scores = _mm_fmadd_ps(_mm_cvtepi32_ps(both), _mm_set1_ps(unit), _mm_set1_ps(zero));
        _mm_storeu_ps(out, scores);
    }
}

/// Sixteen values times `factor`, rounded to i16, in order.
#[inline(always)]
unsafe fn to_words(x: *const f32, factor: __m256) -> __m256i {
    // SAFETY: the callers give sixteen values. Packing works on halves; the permutation restores the order.
    unsafe {
        let low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), factor));
        let high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.add(8)), factor));
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high))
    }
}

/// See [`Simd::split`].
#[inline(always)]
pub(super) unsafe fn split(x: *const f32, n: usize, factor: f32, hi: *mut i8, lo: *mut i8) {
    // SAFETY: `n` values, a multiple of 32, in all three.
    unsafe {
        let factor = _mm256_set1_ps(factor);
        let half = _mm256_set1_epi16(128);
        for i in (0..n).step_by(32) {
            let (a, b) = (to_words(x.add(i), factor), to_words(x.add(i + 16), factor));
            let high_a = _mm256_srai_epi16::<8>(_mm256_add_epi16(a, half));
            let high_b = _mm256_srai_epi16::<8>(_mm256_add_epi16(b, half));
            let low_a = _mm256_sub_epi16(a, _mm256_slli_epi16::<8>(high_a));
            let low_b = _mm256_sub_epi16(b, _mm256_slli_epi16::<8>(high_b));
            let high =
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(high_a, high_b));
            let low = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low_a, low_b));
            _mm256_storeu_si256(hi.add(i).cast(), high);
            _mm256_storeu_si256(lo.add(i).cast(), low);
        }
    }
}

/// Eight accumulators of 32 bytes; lines are asked for 2 KiB ahead.
#[inline(always)]
pub(super) unsafe fn sum_words(p: *const u32, n: usize) -> u32 {
    let mut lanes = [0_u32; 8];
    // SAFETY: the caller promises `n` readable words, a multiple of 128; `lanes` is 32 bytes.
    unsafe {
        let mut acc = [_mm256_setzero_si256(); 8];
        for i in (0..n).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(i + 512).cast());
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(i + 528).cast());
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(i + 544).cast());
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(i + 560).cast());
            for (j, a) in acc.iter_mut().enumerate() {
                *a = _mm256_add_epi32(*a, _mm256_loadu_si256(p.add(i + 8 * j).cast()));
            }
        }
        let total =
            acc.into_iter().reduce(|a, b| _mm256_add_epi32(a, b)).unwrap_or(_mm256_setzero_si256());
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total);
    }
    lanes.into_iter().fold(0, u32::wrapping_add)
}

/// The codes at bit `PLANE * BITS` of each byte, as bytes.
#[inline(always)]
unsafe fn plane<const BITS: usize>(x: __m256i, plane: usize) -> __m256i {
    // SAFETY: register arithmetic. A 16-bit shift drags bits over the byte border, which the mask removes.
    unsafe {
        let mask = _mm256_set1_epi8((1 << BITS) - 1);
        let down = match plane * BITS {
            0 => x,
            2 => _mm256_srli_epi16::<2>(x),
            4 => _mm256_srli_epi16::<4>(x),
            _ => _mm256_srli_epi16::<6>(x),
        };
        _mm256_and_si256(down, mask)
    }
}

/// `256 * hi + lo` of two sums of 16-bit pairs, as eight i32.
#[inline(always)]
unsafe fn join(hi: __m256i, lo: __m256i) -> __m256i {
    // SAFETY: register arithmetic.
    unsafe {
        let high = _mm256_madd_epi16(hi, _mm256_set1_epi16(256));
        _mm256_add_epi32(high, _mm256_madd_epi16(lo, _mm256_set1_epi16(1)))
    }
}

/// Asks for `bytes` at `p`.
#[inline(always)]
unsafe fn prefetch_lines(p: *const u8, bytes: usize) {
    for i in (0..bytes).step_by(64) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(i).cast()) };
    }
}

/// One 16-bit lane takes at most 256 / 32 = 8 products of pairs of at most 2 * 15 * 128 = 3840: no overflow.
#[inline(always)]
pub(super) unsafe fn key_dots<const BITS: usize>(a: KeyDots<Split>, out: *mut f32) {
    // Constant widths let the loop over a row unroll; models have 128 channels, or 64.
    // SAFETY: the caller's promise.
    unsafe {
        match a.row_bytes {
            32 => key_rows::<BITS, 32>(a, out),
            64 => key_rows::<BITS, 64>(a, out),
            128 => key_rows::<BITS, 128>(a, out),
            _ => super::portable::key_dots::<BITS>(a, out),
        }
    }
}

#[inline(always)]
unsafe fn key_rows<const BITS: usize, const ROW: usize>(a: KeyDots<Split>, out: *mut f32) {
    // Loops, not closures: a closure that is not inlined loses the features and calls every intrinsic.
    for t in (0..a.tokens).step_by(4) {
        // SAFETY: rows `t..t + 4` and their scores exist.
        unsafe {
            prefetch_lines(a.ahead.wrapping_add(t * ROW), 4 * ROW);
            let mut sums = [_mm256_setzero_si256(); 4];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = key_row::<BITS, ROW>(a.codes.add((t + r) * ROW), a.query);
            }
            store_sums(sums, a.unit, a.zero, out.add(t));
        }
    }
}

#[inline(always)]
unsafe fn key_row<const BITS: usize, const ROW: usize>(row: *const u8, q: Split) -> __m256i {
    // SAFETY: the row has `ROW` bytes and the query `ROW * 8 / BITS` channels.
    unsafe {
        let (mut hi, mut lo) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for i in (0..ROW).step_by(32) {
            let x = _mm256_loadu_si256(row.add(i).cast());
            for p in 0..8 / BITS {
                let codes = plane::<BITS>(x, p);
                let at = p * ROW + i;
                let (high, low) = (
                    _mm256_loadu_si256(q.hi.add(at).cast()),
                    _mm256_loadu_si256(q.lo.add(at).cast()),
                );
                hi = _mm256_add_epi16(hi, _mm256_maddubs_epi16(codes, high));
                lo = _mm256_add_epi16(lo, _mm256_maddubs_epi16(codes, low));
            }
        }
        join(hi, lo)
    }
}

#[inline(always)]
pub(super) unsafe fn value_dots<const BITS: usize>(a: ValueDots, out: *mut f32) {
    let mut b = 0;
    // SAFETY: the caller's promise, for blocks below `blocks`.
    unsafe {
        while b < a.blocks {
            let rest = ValueDots { codes: a.codes.add(b * 32 * BITS), ..a };
            let n = 1 << (a.blocks - b).min(4).ilog2();
            match n {
                4 => value_blocks::<BITS, 4>(rest, out.add(8 * b)),
                2 => value_blocks::<BITS, 2>(rest, out.add(8 * b)),
                _ => value_blocks::<BITS, 1>(rest, out.add(8 * b)),
            }
            b += n;
        }
    }
}

/// Eight quads of tokens, so at most 8 * 3840 in a 16-bit lane: no overflow.
#[inline(always)]
unsafe fn value_blocks<const BITS: usize, const N: usize>(a: ValueDots, out: *mut f32) {
    let planes = 8 / BITS;
    // SAFETY: a block is `32 * BITS` bytes: `8 / planes` loads of 32; the weights are 8 quads of 4 bytes.
    unsafe {
        let (mut hi, mut lo) = ([_mm256_setzero_si256(); N], [_mm256_setzero_si256(); N]);
        for load in 0..BITS {
            let mut x = [_mm256_setzero_si256(); N];
            for (b, x) in x.iter_mut().enumerate() {
                *x = _mm256_loadu_si256(a.codes.add(b * 32 * BITS + load * 32).cast());
            }
            for p in 0..planes {
                let quad = load * planes + p;
                let whi = _mm256_set1_epi32(a.weights.hi.cast::<i32>().add(quad).read_unaligned());
                let wlo = _mm256_set1_epi32(a.weights.lo.cast::<i32>().add(quad).read_unaligned());
                for b in 0..N {
                    let codes = plane::<BITS>(x[b], p);
                    hi[b] = _mm256_add_epi16(hi[b], _mm256_maddubs_epi16(codes, whi));
                    lo[b] = _mm256_add_epi16(lo[b], _mm256_maddubs_epi16(codes, wlo));
                }
            }
        }
        for b in 0..N {
            add_scaled(out.add(8 * b), join(hi[b], lo[b]), a.unit);
        }
    }
}

#[inline(always)]
unsafe fn add_scaled(out: *mut f32, sums: __m256i, unit: f32) {
    // SAFETY: the callers give eight writable channels.
    unsafe {
        let sum =
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(unit), _mm256_loadu_ps(out));
        _mm256_storeu_ps(out, sum);
    }
}

#[inline(always)]
pub(super) unsafe fn key_dots8(a: KeyDots<*const i16>, out: *mut f32) {
    for t in (0..a.tokens).step_by(4) {
        // SAFETY: rows `t..t + 4` and their scores exist; rows are a multiple of 16 long.
        unsafe {
            prefetch_lines(a.ahead.wrapping_add(t * a.row_bytes), 4 * a.row_bytes);
            let rows = a.codes.add(t * a.row_bytes);
            let mut sums = [_mm256_setzero_si256(); 4];
            for i in (0..a.row_bytes).step_by(16) {
                let q = _mm256_loadu_si256(a.query.add(i).cast());
                for (r, sum) in sums.iter_mut().enumerate() {
                    let codes = _mm_loadu_si128(rows.add(r * a.row_bytes + i).cast());
                    *sum =
                        _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(codes), q));
                }
            }
            store_sums(sums, a.unit, a.zero, out.add(t));
        }
    }
}

/// A block of 8 channels by 32 tokens of 8-bit codes: 16 pairs of tokens, 16 bytes each.
#[inline(always)]
pub(super) unsafe fn value_dots8(
    codes: *const u8,
    blocks: usize,
    weights: *const i16,
    unit: f32,
    out: *mut f32,
) {
    for b in 0..blocks {
        // SAFETY: a block is 256 bytes; 16 pairs of weights exist; `out` has `8 * blocks` channels.
        unsafe {
            let mut sum = [_mm256_setzero_si256(); 2];
            for pair in 0..16 {
                let x =
                    _mm256_cvtepu8_epi16(_mm_loadu_si128(codes.add(b * 256 + pair * 16).cast()));
                let w = _mm256_set1_epi32(weights.cast::<i32>().add(pair).read_unaligned());
                sum[pair & 1] = _mm256_add_epi32(sum[pair & 1], _mm256_madd_epi16(x, w));
            }
            add_scaled(out.add(8 * b), _mm256_add_epi32(sum[0], sum[1]), unit);
        }
    }
}
