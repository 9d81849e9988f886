use super::*;

/// Bytes that look random.
fn bytes(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn floats(n: usize) -> Vec<f32> {
    bytes(n).into_iter().map(|b| f32::from(b) - 120.0).collect()
}

fn assert_same(job: impl Job<Out = Vec<f32>> + Clone) {
    let expected = Isa::Portable.dispatch(job.clone());
    assert!(expected.iter().any(|x| x.abs() > 0.0), "the test must compute something");
    for isa in Isa::available() {
        let got = isa.dispatch(job.clone());
        assert_eq!(got.len(), expected.len());
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert!(
                (got - expected).abs() <= 2e-6 * expected.abs().max(1.0),
                "{isa:?} at {i}: {got}, {expected}"
            );
        }
    }
}

#[derive(Clone)]
struct Keys<const BITS: usize>(usize);

impl<const BITS: usize> Job for Keys<BITS> {
    type Out = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let Keys(row_bytes) = self;
        let (codes, mut out) = (bytes(8 * row_bytes), vec![0.0; 8]);
        let hi: Vec<i8> = bytes(256).into_iter().map(|b| (b / 2) as i8).collect();
        let lo: Vec<i8> = bytes(256).into_iter().rev().map(|b| b as i8).collect();
        let query = Split { hi: hi.as_ptr(), lo: lo.as_ptr() };
        let codes = codes.as_ptr();
        let dots =
            KeyDots { codes, row_bytes, tokens: 8, query, unit: 0.5, zero: 3.0, ahead: codes };
        // SAFETY: eight rows, 256 channels, eight scores.
        unsafe { s.key_dots::<BITS>(dots, out.as_mut_ptr()) };
        out
    }
}

#[test]
fn key_dots_agree() {
    for row_bytes in [32, 48, 64, 128] {
        assert_same(Keys::<4>(row_bytes));
    }
    for row_bytes in [16, 32, 64] {
        assert_same(Keys::<2>(row_bytes));
    }
}

/// Largest codes against the largest query: where 16-bit sums would overflow first.
#[test]
fn key_dots_do_not_overflow() {
    #[derive(Clone)]
    struct Extreme(i8, i8);
    impl Job for Extreme {
        type Out = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let (codes, hi, lo, mut out) =
                ([0xFF_u8; 512], [self.0; 256], [self.1; 256], vec![0.0; 4]);
            let query = Split { hi: hi.as_ptr(), lo: lo.as_ptr() };
            let codes = codes.as_ptr();
            let dots = KeyDots {
                codes,
                row_bytes: 128,
                tokens: 4,
                query,
                unit: 1.0,
                zero: 0.0,
                ahead: codes,
            };
            // SAFETY: four rows of 128 bytes, 256 channels, four scores.
            unsafe { s.key_dots::<4>(dots, out.as_mut_ptr()) };
            out
        }
    }
    assert_same(Extreme(127, 127));
    assert_same(Extreme(-127, -128));
}

#[derive(Clone)]
struct Values<const BITS: usize>(usize, u8);

impl<const BITS: usize> Job for Values<BITS> {
    type Out = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let Values(blocks, floor) = self;
        let codes: Vec<u8> = bytes(blocks * 32 * BITS).into_iter().map(|b| b | floor).collect();
        let mut out = floats(8 * blocks);
        let hi: Vec<i8> = bytes(32).into_iter().map(|b| (b / 2) as i8).collect();
        let lo: Vec<i8> = bytes(64)[32..].iter().map(|&b| b as i8).collect();
        let weights = Split { hi: hi.as_ptr(), lo: lo.as_ptr() };
        let dots = ValueDots { codes: codes.as_ptr(), blocks, weights, unit: 0.25 };
        // SAFETY: the codes of `blocks` blocks, 32 weights, eight channels a block.
        unsafe { s.value_dots::<BITS>(dots, out.as_mut_ptr()) };
        out
    }
}

#[test]
fn value_dots_agree() {
    for blocks in 1..=9 {
        assert_same(Values::<4>(blocks, 0));
        assert_same(Values::<2>(blocks, 0));
        assert_same(Values::<4>(blocks, 0xFF));
    }
}

#[test]
fn byte_dots_agree() {
    #[derive(Clone)]
    struct Bytes(usize);
    impl Job for Bytes {
        type Out = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let codes = bytes(8 * 256);
            let query: Vec<i16> = floats(256).into_iter().map(|x| (x * 250.0) as i16).collect();
            let (row_bytes, mut out) = (self.0, floats(8 + 24));
            let (codes, ahead) = (codes.as_ptr(), codes.as_ptr());
            let dots = KeyDots {
                codes,
                row_bytes,
                tokens: 8,
                query: query.as_ptr(),
                unit: 0.5,
                zero: 1.0,
                ahead,
            };
            // SAFETY: eight rows and scores; three blocks of 256 bytes and 24 channels; 32 weights.
            unsafe {
                s.key_dots8(dots, out.as_mut_ptr());
                s.value_dots8(codes, 3, query.as_ptr(), 0.125, out.as_mut_ptr().add(8));
            }
            out
        }
    }
    for row_bytes in [64, 96, 128, 256] {
        assert_same(Bytes(row_bytes));
    }
}

#[test]
fn loads_and_reductions_agree() {
    #[derive(Clone)]
    struct Lanes;
    impl Job for Lanes {
        type Out = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let (x, mut out) = (floats(256), vec![0.0; 256 * 4]);
            let halves: Vec<f16> = x.iter().map(|&x| f16::from_f32(x / 7.0)).collect();
            // e4m3 has two NaNs, 0x7F and 0xFF, which no kernel stores.
            let all: Vec<u8> = (0..=255).map(|b| if b & 0x7F == 0x7F { 1 } else { b }).collect();
            for i in (0..256).step_by(S::LANES) {
                // SAFETY: `i + LANES <= 256` in every array.
                unsafe {
                    let (a, h) = (s.load(x.as_ptr().add(i)), s.load_f16(halves.as_ptr().add(i)));
                    let f = s.load_fp8(all.as_ptr().add(i));
                    s.store(out.as_mut_ptr().add(i), s.fma(a, h, s.splat(2.0)));
                    s.store(out.as_mut_ptr().add(256 + i), s.fma(f, s.splat(256.0), s.splat(0.0)));
                    s.store(out.as_mut_ptr().add(512 + i), s.max(s.abs(a), s.mul(a, h)));
                    let (sums, maxes) = (s.sums([a, h, f, a]), s.maxes([a, h, f, s.abs(a)]));
                    // Sums depend on the number of lanes, so they are added up and the maxima combined.
                    for j in 0..4 {
                        out[768 + j] += sums[j];
                        out[776 + j] = f32::max(out[776 + j], maxes[j]);
                    }
                }
            }
            out
        }
    }
    assert_same(Lanes);
}

#[test]
fn look_ups_and_bf16_agree() {
    #[derive(Clone)]
    struct Loads;
    impl Job for Loads {
        type Out = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let table: [f32; 16] = std::array::from_fn(|i| (i * i) as f32 - 7.0);
            let all: Vec<u8> = (0..=255).collect();
            let brain: Vec<bf16> = floats(256).into_iter().map(bf16::from_f32).collect();
            let mut out = vec![0.0; 3 * 256];
            for i in (0..256).step_by(S::LANES) {
                // SAFETY: `i + LANES <= 256` in every array.
                unsafe {
                    let (low, high) = s.points(&table, all.as_ptr().add(i));
                    s.store(out.as_mut_ptr().add(i), low);
                    s.store(out.as_mut_ptr().add(256 + i), high);
                    s.store(out.as_mut_ptr().add(512 + i), s.load_bf16(brain.as_ptr().add(i)));
                }
            }
            out
        }
    }
    assert_same(Loads);
    let got = Isa::Portable.dispatch(Loads);
    assert!((got[0x3A] - 93.0).abs() < 1e-6 && (got[256 + 0x3A] - 2.0).abs() < 1e-6);
}

#[test]
fn splits_and_sums_agree() {
    #[derive(Clone)]
    struct Whole;
    impl Job for Whole {
        type Out = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let (x, words) = (floats(64), bytes(4 * 256));
            let words: Vec<u32> =
                words.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
            let (mut hi, mut lo) = ([0; 64], [0; 64]);
            // SAFETY: 64 values in all three, 256 words.
            let sum = unsafe {
                s.split(x.as_ptr(), 64, 238.7, hi.as_mut_ptr(), lo.as_mut_ptr());
                s.sum_words(words.as_ptr(), 256)
            };
            let split = hi.into_iter().zip(lo).map(|(h, l)| f32::from(h) * 256.0 + f32::from(l));
            split.chain([(sum >> 16) as f32, (sum & 0xFFFF) as f32]).collect()
        }
    }
    assert_same(Whole);
}
