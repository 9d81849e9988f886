//! Plain Rust: the meaning of every primitive, at 8 or 16 lanes, and the fallback on other machines.

use half::{bf16, f16};

use super::{super::layout::value_code_at, KeyDots, Simd, Split, ValueDots};

/// `N` lanes in an array.
#[derive(Clone, Copy)]
pub(crate) struct Wide<const N: usize>;

/// An e4m3 byte as an f16 that is 256 times too small.
#[inline(always)]
pub(crate) fn fp8_as_f16(byte: u8) -> f16 {
    let (sign, magnitude) = (u16::from(byte & 0x80), u16::from(byte & 0x7f));
    f16::from_bits(sign << 8 | magnitude << 7)
}

impl<const N: usize> Simd for Wide<N> {
    type V = [f32; N];
    const LANES: usize = N;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; N]
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { *p.add(i) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *p.add(i) = x };
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::V {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { *p.add(i) }.to_f32())
    }

    #[inline(always)]
    unsafe fn load_fp8(self, p: *const u8) -> Self::V {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| fp8_as_f16(unsafe { *p.add(i) }).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { *p.add(i) }.to_f32())
    }

    #[inline(always)]
    unsafe fn points(self, table: &[f32; 16], p: *const u8) -> (Self::V, Self::V) {
        // SAFETY: the caller's promise.
        let bytes: [u8; N] = std::array::from_fn(|i| unsafe { *p.add(i) });
        (bytes.map(|b| table[usize::from(b & 15)]), bytes.map(|b| table[usize::from(b >> 4)]))
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn maxes(self, v: [Self::V; 4]) -> [f32; 4] {
        v.map(|x| x.into_iter().fold(f32::NEG_INFINITY, f32::max))
    }

    #[inline(always)]
    fn sums(self, v: [Self::V; 4]) -> [f32; 4] {
        v.map(|x| x.iter().sum())
    }
}

/// Wrapping sum in 32 independent lanes, so that the compiler may use any vector width.
pub(crate) unsafe fn sum_words(p: *const u32, n: usize) -> u32 {
    // SAFETY: the caller promises `n` readable words.
    let words = unsafe { std::slice::from_raw_parts(p, n) };
    let mut lanes = [0_u32; 32];
    for chunk in words.chunks_exact(32) {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = lane.wrapping_add(*x));
    }
    lanes.into_iter().fold(0, u32::wrapping_add)
}

#[inline(always)]
unsafe fn number(x: Split, i: usize) -> i32 {
    // SAFETY: the callers stay inside both arrays.
    unsafe { i32::from(*x.hi.add(i)) * 256 + i32::from(*x.lo.add(i)) }
}

/// See [`Simd::key_dots`]. Byte `i` of a row holds channels `i`, `i + row_bytes`, ... from its low bits up.
pub(crate) unsafe fn key_dots<const BITS: usize>(a: KeyDots<Split>, out: *mut f32) {
    for t in 0..a.tokens {
        let mut sum = 0;
        for i in 0..a.row_bytes {
            // SAFETY: `i` is inside row `t`.
            let byte = unsafe { *a.codes.add(t * a.row_bytes + i) };
            for plane in 0..8 / BITS {
                let code = i32::from(byte >> (plane * BITS)) & ((1 << BITS) - 1);
                // SAFETY: the query has `row_bytes * 8 / BITS` channels.
                sum += code * unsafe { number(a.query, plane * a.row_bytes + i) };
            }
        }
        // SAFETY: `out` holds `tokens` scores.
        unsafe { *out.add(t) = sum as f32 * a.unit + a.zero };
    }
}

/// See [`Simd::value_dots`].
pub(crate) unsafe fn value_dots<const BITS: usize>(a: ValueDots, out: *mut f32) {
    for channel in 0..8 * a.blocks {
        let mut sum = 0;
        for token in 0..32 {
            let (byte, shift) = value_code_at(BITS, channel, token);
            // SAFETY: the place is inside `blocks` blocks; 32 weights exist.
            let code = i32::from(unsafe { *a.codes.add(byte) } >> shift) & ((1 << BITS) - 1);
            // SAFETY: as above.
            sum += code * unsafe { number(a.weights, token) };
        }
        // SAFETY: `out` holds `8 * blocks` channels.
        unsafe { *out.add(channel) += a.unit * sum as f32 };
    }
}

/// See [`Simd::key_dots8`].
pub(crate) unsafe fn key_dots8(a: KeyDots<*const i16>, out: *mut f32) {
    for t in 0..a.tokens {
        let mut sum = 0;
        for i in 0..a.row_bytes {
            // SAFETY: `i` is inside row `t` and the query; `out` holds `tokens` scores.
            sum += unsafe {
                i32::from(*a.codes.add(t * a.row_bytes + i)) * i32::from(*a.query.add(i))
            };
        }
        // SAFETY: `out` holds `tokens` scores.
        unsafe { *out.add(t) = sum as f32 * a.unit + a.zero };
    }
}

/// See [`Simd::value_dots8`].
pub(crate) unsafe fn value_dots8(
    codes: *const u8,
    blocks: usize,
    weights: *const i16,
    unit: f32,
    out: *mut f32,
) {
    for channel in 0..8 * blocks {
        let mut sum = 0;
        for token in 0..32 {
            let (byte, _) = value_code_at(8, channel, token);
            // SAFETY: the place is inside `blocks` blocks; 32 weights exist.
            sum += unsafe { i32::from(*codes.add(byte)) * i32::from(*weights.add(token)) };
        }
        // SAFETY: `out` holds `8 * blocks` channels.
        unsafe { *out.add(channel) += unit * sum as f32 };
    }
}
