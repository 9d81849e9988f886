//! The few vector primitives that the kernels are written over, and the choice of instruction set at run time.
//!
//! Kernels are generic over [`Simd`] and compiled once per instruction set through [`Isa::dispatch`]: everything below
//! it is `inline(always)`, so the compiler sees the whole kernel inside one function with the features switched on.
//! f32 work runs on 8 lanes (AVX2, `Wide<8>`) or 16 (AVX-512, `Wide<16>`). The integer dot products are 256 bits wide
//! on AVX2 and on AVX-512 alike (every AVX-512 machine has AVX2), so only a handful of loads, fused multiply-adds and
//! one horizontal sum are peculiar to AVX-512.

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;
#[cfg(test)]
mod tests;

/// Instruction set a kernel runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 F, BW, VL, DQ with AVX2, FMA and F16C.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// Plain Rust, arrays of 8.
    Portable,
    /// Plain Rust, arrays of 16: proves the algorithms at AVX-512's width on any machine.
    PortableWide,
}

impl Isa {
    /// The `backend` column.
    pub fn backend(self) -> &'static str {
        match self {
            Isa::Avx512 => "cpu-avx512",
            Isa::Avx2 => "cpu-avx2",
            Isa::Portable | Isa::PortableWide => "cpu-portable",
        }
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Avx512 => avx512_available(),
            Isa::Avx2 => avx2_available(),
            Isa::Portable | Isa::PortableWide => true,
        }
    }

    /// Everything this machine can run, fastest first.
    pub fn available() -> Vec<Isa> {
        let all = [Isa::Avx512, Isa::Avx2, Isa::Portable, Isa::PortableWide];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Runs `job` compiled for this instruction set.
    pub(crate) fn dispatch<J: Job>(self, job: J) -> J::Out {
        assert!(
            self.is_available(),
            "open() refuses an instruction set that the machine does not have"
        );
        match self {
            // SAFETY: the features were found at run time just above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::run(job) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::run(job) },
            Isa::PortableWide => job.run(portable::Wide::<16>),
            _ => job.run(portable::Wide::<8>),
        }
    }
}

/// The fastest instruction set of this machine.
pub fn isa() -> Isa {
    Isa::available()[0]
}

#[cfg(target_arch = "x86_64")]
fn avx2_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn avx512_available() -> bool {
    avx2_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

#[cfg(not(target_arch = "x86_64"))]
fn avx2_available() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn avx512_available() -> bool {
    false
}

/// A piece of work compiled for each instruction set. `run` must be `inline(always)`.
pub(crate) trait Job {
    /// What it gives back.
    type Out;
    /// The work.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Packed key rows and what they are multiplied with: `out[t] = unit * (code[t] . query) + zero`.
#[derive(Clone, Copy)]
pub(crate) struct KeyDots<Q> {
    /// First row.
    pub(crate) codes: *const u8,
    /// Bytes of a packed row.
    pub(crate) row_bytes: usize,
    /// Rows, a multiple of 4.
    pub(crate) tokens: usize,
    /// The folded query, one number per channel.
    pub(crate) query: Q,
    /// What one unit of the product is worth.
    pub(crate) unit: f32,
    /// Added to each score.
    pub(crate) zero: f32,
    /// Memory to ask for while at it, as much as is read; may be anything.
    pub(crate) ahead: *const u8,
}

/// High and low bytes (signed) of 15-bit numbers: `hi * 256 + lo`.
#[derive(Clone, Copy)]
pub(crate) struct Split {
    /// High bytes.
    pub(crate) hi: *const i8,
    /// Low bytes.
    pub(crate) lo: *const i8,
}

/// Codes of `blocks` value blocks of 8 channels by 32 tokens, and the weights of the 32 tokens.
#[derive(Clone, Copy)]
pub(crate) struct ValueDots {
    /// Packed codes, see [`super::layout`].
    pub(crate) codes: *const u8,
    /// Blocks of 8 channels.
    pub(crate) blocks: usize,
    /// The 32 weights.
    pub(crate) weights: Split,
    /// What one unit of a weight is worth.
    pub(crate) unit: f32,
}

/// Vector primitives. Pointers must be valid for the lanes or bytes named; no alignment is asked for.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// f32 lanes.
    type V: Copy;
    /// Number of lanes.
    const LANES: usize;

    /// The same value in all lanes.
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p` is valid for reading `LANES` values.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` is valid for writing `LANES` values.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// # Safety
    /// `p` is valid for reading `LANES` values.
    unsafe fn load_f16(self, p: *const f16) -> Self::V;
    /// e4m3 bytes as values divided by 256: the shift that makes them f16 leaves the exponent 8 too low.
    /// # Safety
    /// `p` is valid for reading `LANES` bytes.
    unsafe fn load_fp8(self, p: *const u8) -> Self::V;
    /// bf16 numbers.
    /// # Safety
    /// `p` is valid for reading `LANES` values.
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V;
    /// Table entries of the low and of the high four bits of `LANES` bytes.
    /// # Safety
    /// `p` is valid for reading `LANES` bytes.
    unsafe fn points(self, table: &[f32; 16], p: *const u8) -> (Self::V, Self::V);
    /// `a * b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane by lane the larger.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Magnitudes.
    fn abs(self, a: Self::V) -> Self::V;
    /// Largest lane of four vectors.
    fn maxes(self, v: [Self::V; 4]) -> [f32; 4];
    /// Lane sums of four vectors.
    fn sums(self, v: [Self::V; 4]) -> [f32; 4];
    /// Wrapping sum of 32-bit words, for the read probe. `n` is a multiple of 128.
    /// # Safety
    /// `p` is valid for reading `n` words.
    unsafe fn sum_words(self, p: *const u32, n: usize) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { portable::sum_words(p, n) }
    }
    /// Asks for the cache line at `p`; never faults.
    fn prefetch(self, _p: *const u8) {}
    /// Rounds `n` values times `factor` and splits them; `n` is a multiple of 32.
    /// # Safety
    /// All three are valid for `n` values.
    #[inline(always)]
    unsafe fn split(self, x: *const f32, n: usize, factor: f32, hi: *mut i8, lo: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe {
            let (hi, lo) =
                (std::slice::from_raw_parts_mut(hi, n), std::slice::from_raw_parts_mut(lo, n));
            super::math::split(std::slice::from_raw_parts(x, n), factor, hi, lo);
        }
    }
    /// Scores of rows of 2- or 4-bit codes. At most 256 channels.
    /// # Safety
    /// Rows, query and `out` are valid at the sizes told.
    unsafe fn key_dots<const BITS: usize>(self, a: KeyDots<Split>, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { portable::key_dots::<BITS>(a, out) }
    }
    /// Adds `unit * sum_t code[t][c] * (hi[t] * 256 + lo[t])` to `out[c]` for `8 * blocks` channels.
    /// # Safety
    /// Codes, weights and `out` are valid at the sizes told.
    unsafe fn value_dots<const BITS: usize>(self, a: ValueDots, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { portable::value_dots::<BITS>(a, out) }
    }
    /// Scores of rows of 8-bit codes; `row_bytes` is a multiple of 16 and at most 256.
    /// # Safety
    /// Rows, query and `out` are valid at the sizes told.
    unsafe fn key_dots8(self, a: KeyDots<*const i16>, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { portable::key_dots8(a, out) }
    }
    /// Adds `unit * sum_t code[t][c] * weight[t]` to `out[c]` for `8 * blocks` channels and 32 tokens of 8-bit codes.
    /// # Safety
    /// Codes (256 bytes a block), 32 weights and `out` are valid.
    unsafe fn value_dots8(
        self,
        codes: *const u8,
        blocks: usize,
        weights: *const i16,
        unit: f32,
        out: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe { portable::value_dots8(codes, blocks, weights, unit, out) }
    }
}

/// A storage type that loads as f32: f16, bf16, e4m3, or f32 itself.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Loaded values times this are the true values.
    const GAIN: f32;
    /// # Safety
    /// `p` is valid for reading `LANES` values.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;
}

impl Element for f16 {
    const GAIN: f32 = 1.0;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(p) }
    }
}

impl Element for bf16 {
    const GAIN: f32 = 1.0;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(p) }
    }
}

impl Element for f32 {
    const GAIN: f32 = 1.0;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
}

impl Element for u8 {
    const GAIN: f32 = 256.0;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_fp8(p) }
    }
}
