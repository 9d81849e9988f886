//! AVX-512: sixteen lanes of f32; the integer dot products stay 256 bits wide, as in [`super::avx2`].

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Job, KeyDots, Simd, Split, ValueDots, avx2};

/// Sixteen lanes. Only [`run`] makes one.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// # Safety
/// The machine has the features named.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(crate) unsafe fn run<J: Job>(job: J) -> J::Out {
    job.run(Avx512(()))
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: a value of this type exists only where AVX-512 does; so in every function of this impl.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> __m512 {
        // SAFETY: the caller's promise; sixteen f16 are 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_fp8(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's promise; sixteen bytes are read. The mask is explained at the AVX2 twin.
        unsafe {
            let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast()));
            _mm512_cvtph_ps(_mm256_and_si256(
                _mm256_slli_epi16::<7>(wide),
                _mm256_set1_epi16(0xBFFF_u16 as i16),
            ))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m512 {
        // SAFETY: the caller's promise; sixteen bf16 are 32 bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn points(self, table: &[f32; 16], p: *const u8) -> (__m512, __m512) {
        // The permutation looks at the low four bits of an index only.
        // SAFETY: the caller's promise; sixteen bytes are read.
        unsafe {
            let table = _mm512_loadu_ps(table.as_ptr());
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let high = _mm512_srli_epi32::<4>(bytes);
            (_mm512_permutexvar_ps(bytes, table), _mm512_permutexvar_ps(high, table))
        }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_abs_ps(a) }
    }

    #[inline(always)]
    fn maxes(self, v: [__m512; 4]) -> [f32; 4] {
        // SAFETY: see `splat`; halves first, then as on AVX2.
        unsafe {
            let mut halves = [_mm256_setzero_ps(); 4];
            for (half, x) in halves.iter_mut().zip(v) {
                *half = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            }
            avx2::maxes(halves)
        }
    }

    #[inline(always)]
    fn sums(self, v: [__m512; 4]) -> [f32; 4] {
        // SAFETY: see `splat`; the halves are added, then summed as on AVX2.
        unsafe {
            let mut halves = [_mm256_setzero_ps(); 4];
            for (half, x) in halves.iter_mut().zip(v) {
                *half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            }
            avx2::sums(halves)
        }
    }

    #[inline(always)]
    unsafe fn sum_words(self, p: *const u32, n: usize) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { avx2::sum_words(p, n) }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn split(self, x: *const f32, n: usize, factor: f32, hi: *mut i8, lo: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe { avx2::split(x, n, factor, hi, lo) }
    }

    #[inline(always)]
    unsafe fn key_dots<const BITS: usize>(self, a: KeyDots<Split>, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { avx2::key_dots::<BITS>(a, out) }
    }

    #[inline(always)]
    unsafe fn value_dots<const BITS: usize>(self, a: ValueDots, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { avx2::value_dots::<BITS>(a, out) }
    }

    #[inline(always)]
    unsafe fn key_dots8(self, a: KeyDots<*const i16>, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { avx2::key_dots8(a, out) }
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
        unsafe { avx2::value_dots8(codes, blocks, weights, unit, out) }
    }
}
