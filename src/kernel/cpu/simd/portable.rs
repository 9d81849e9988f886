//! Plain Rust: the meaning of every primitive, at 8 or 16 lanes, and the fallback on other machines.

use half::f16;

use super::{KeyDots, Simd, ValueDots};

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
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
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
unsafe fn weight(hi: *const i8, lo: *const i8, i: usize) -> i32 {
    // SAFETY: the callers stay inside both arrays.
    unsafe { i32::from(*hi.add(i)) * 256 + i32::from(*lo.add(i)) }
}

/// See [`Simd::key_dots`]. Byte `i` of a row holds channels `i`, `i + row_bytes`, ... from its low bits up.
pub(crate) unsafe fn key_dots<const BITS: usize>(a: KeyDots) -> [i32; 4] {
    a.rows.map(|row| {
        let mut sum = 0;
        for i in 0..a.row_bytes {
            // SAFETY: `i` is inside the row.
            let byte = unsafe { *row.add(i) };
            for plane in 0..8 / BITS {
                let code = i32::from(byte >> (plane * BITS)) & ((1 << BITS) - 1);
                // SAFETY: the query has `row_bytes * 8 / BITS` channels.
                sum += code * unsafe { weight(a.hi, a.lo, plane * a.row_bytes + i) };
            }
        }
        sum
    })
}

/// See [`Simd::value_dots`].
pub(crate) unsafe fn value_dots<const BITS: usize>(a: ValueDots, out: *mut f32) {
    for channel in 0..8 * a.blocks {
        let mut sum = 0;
        for token in 0..32 {
            let (byte, shift) = super::super::layout::value_code_at(BITS, channel, token);
            // SAFETY: the place is inside `blocks` blocks; 32 weights exist.
            let code = i32::from(unsafe { *a.codes.add(byte) } >> shift) & ((1 << BITS) - 1);
            // SAFETY: as above.
            sum += code * unsafe { weight(a.hi, a.lo, token) };
        }
        // SAFETY: `out` holds `8 * blocks` channels.
        unsafe { *out.add(channel) += a.unit * sum as f32 };
    }
}

/// See [`Simd::key_dots8`].
pub(crate) unsafe fn key_dots8(rows: [*const u8; 4], query: *const i16, n: usize) -> [i32; 4] {
    rows.map(|row| {
        // SAFETY: the caller promises `n` values in each row and in the query.
        (0..n).map(|i| unsafe { i32::from(*row.add(i)) * i32::from(*query.add(i)) }).sum()
    })
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
            let (byte, _) = super::super::layout::value_code_at(8, channel, token);
            // SAFETY: the place is inside `blocks` blocks; 32 weights exist.
            sum += unsafe { i32::from(*codes.add(byte)) * i32::from(*weights.add(token)) };
        }
        // SAFETY: `out` holds `8 * blocks` channels.
        unsafe { *out.add(channel) += unit * sum as f32 };
    }
}
