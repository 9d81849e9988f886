//! Plain loops over f32 that the compiler vectorises for the instruction set they are inlined into.

/// Largest magnitude of a folded query or weight: its high byte stays within 127.
pub(crate) const FOLD_MAX: f32 = 32_512.0;

const LANES: usize = 16;
/// 1.5 * 2^23: added to a small float it leaves the rounded integer in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// e^x for x <= 0 to about 1e-7 relative; below -87 it is e^-87. Cephes' polynomial after the usual range reduction.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + c;
    }
    let power = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    (p * r * r + r + 1.0) * f32::from_bits(power)
}

/// `x[i] = e^(x[i] - max)`; gives the sum. The length is a multiple of 16.
#[inline(always)]
pub(crate) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    for chunk in x.chunks_exact_mut(LANES) {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - max);
            sums[i] += chunk[i];
        }
    }
    sums.iter().sum()
}

/// Largest value. The length is a multiple of 16.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut m = [f32::NEG_INFINITY; LANES];
    for chunk in x.chunks_exact(LANES) {
        for i in 0..LANES {
            m[i] = if chunk[i] > m[i] { chunk[i] } else { m[i] };
        }
    }
    m.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Multiplies all values.
#[inline(always)]
pub(crate) fn scale(x: &mut [f32], by: f32) {
    x.iter_mut().for_each(|x| *x *= by);
}

/// The integer nearest to a small float.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}

/// Rounds `x * factor` and splits it into `hi * 256 + lo` with both in i8.
#[inline(always)]
pub(crate) fn split(x: &[f32], factor: f32, hi: &mut [i8], lo: &mut [i8]) {
    for ((x, hi), lo) in x.iter().zip(hi).zip(lo) {
        let n = nearest(x * factor);
        let high = (n + 128) >> 8;
        *hi = high as i8;
        *lo = (n - (high << 8)) as i8;
    }
}

/// Rounds `x * factor` to i16.
#[inline(always)]
pub(crate) fn to_i16(x: &[f32], factor: f32, out: &mut [i16]) {
    for (x, out) in x.iter().zip(out) {
        *out = nearest(x * factor) as i16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "at {x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn split_is_exact() {
        let x: Vec<f32> = (-32_512..=32_512).map(|i| i as f32).collect();
        let (mut hi, mut lo) = (vec![0; x.len()], vec![0; x.len()]);
        split(&x, 1.0, &mut hi, &mut lo);
        for i in 0..x.len() {
            assert_eq!(i32::from(hi[i]) * 256 + i32::from(lo[i]), x[i] as i32);
        }
    }

    #[test]
    fn reductions() {
        let x: Vec<f32> = (0..32).map(|i| i as f32 - 20.0).collect();
        assert!((max(&x) - 11.0).abs() < 1e-6);
    }
}
