//! Which entries are outliers, as bits, and the means that stand in for them.
//!
//! fp16 numbers are compared by their bits, turned so that they ascend as integers: the order is `f64::total_cmp`'s, as in
//! the reference. A mean is summed in f32 and rounded to fp16, the precision that the data have: where it is an end of its
//! group, the group's scale can come out one fp16 step beside the reference.

use half::f16;
use rayon::prelude::*;

use super::super::simd::{Isa, Job, Simd};
use crate::method::{Gear, gear::OUTLIER_TILE};

/// Bits of a word.
const WORD: usize = u32::BITS as usize;
/// Tokens that one task marks.
const TOKENS: usize = 4 * OUTLIER_TILE;

/// Outliers of a block of tokens: a bit per entry, a mean per vector.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    /// Words of a token.
    row_words: usize,
    /// `[tokens][row_words]`; entry `i` of a token is bit `i % 32` of word `i / 32`.
    words: Vec<u32>,
    /// Mean of each channel (K) or token (V).
    pub(super) means: Vec<f16>,
}

impl Marks {
    /// Words `first..first + n` of a token.
    #[inline(always)]
    pub(super) fn row(&self, token: usize, first: usize, n: usize) -> &[u32] {
        &self.words[token * self.row_words + first..][..n]
    }
}

/// Marks the outliers of V of one sequence: `n` tokens of `heads` rows of `d` values, as `row(head, token)` gives them.
pub(crate) fn mark_values<'a>(
    isa: Isa,
    gear: &Gear,
    (n, heads, d): (usize, usize, usize),
    row: impl Fn(usize, usize) -> &'a [f16] + Sync,
) -> Marks {
    let row_words = heads * d / WORD;
    let mut marks = Marks { row_words, words: vec![0; n * row_words], means: vec![f16::ZERO; n] };
    let tasks = marks.words.par_chunks_mut(TOKENS * row_words);
    let tasks = tasks.zip(marks.means.par_chunks_mut(TOKENS)).enumerate();
    tasks.for_each(|(task, (words, means))| {
        let (mut vector, mut finder) = (Vec::with_capacity(heads * d), Finder::default());
        let tokens = words.chunks_exact_mut(row_words).zip(means).enumerate();
        for (i, (words, mean)) in tokens {
            vector.clear();
            for head in 0..heads {
                vector.extend_from_slice(row(head, task * TOKENS + i));
            }
            let count = gear.outliers_per_end(heads * d);
            let token = Token { vector: &vector, count, words, finder: &mut finder };
            *mean = isa.dispatch(token);
        }
    });
    marks
}

/// The job: one token's outliers across all heads; gives the mean.
struct Token<'a> {
    vector: &'a [f16],
    count: usize,
    words: &'a mut [u32],
    finder: &'a mut Finder,
}

impl Job for Token<'_> {
    type Out = f16;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f16 {
        let Token { vector, count, words, finder } = self;
        finder.take(vector.iter().copied());
        finder.ends(count, |i| words[i / WORD] |= 1 << (i % WORD));
        let (ones, mut sums) = (s.splat(1.0), [s.splat(0.0); 4]);
        for i in (0..vector.len()).step_by(S::LANES) {
            // SAFETY: rows have a multiple of 32 values, so `i + LANES` is within them.
            let x = unsafe { s.load_f16(vector.as_ptr().add(i)) };
            sums[0] = s.fma(x, ones, sums[0]);
        }
        f16::from_f32(s.sums(sums)[0] / vector.len() as f32)
    }
}

/// Marks the outliers of K of one head, `[n][d]`, channel by channel.
#[inline(always)]
pub(super) fn mark_keys(gear: &Gear, k: &[f16], d: usize) -> Marks {
    let n = k.len() / d;
    let row_words = d / WORD;
    let mut marks = Marks { row_words, words: vec![0; n * row_words], means: Vec::new() };
    let mut finder = Finder::default();
    for channel in 0..d {
        let column = || k.iter().skip(channel).step_by(d).copied();
        let sum: f32 = column().map(f16::to_f32).sum();
        marks.means.push(f16::from_f32(sum / n as f32));
        finder.take(column());
        let (word, bit) = (channel / WORD, 1 << (channel % WORD));
        finder.ends(gear.outliers_per_end(n), |t| marks.words[t * row_words + word] |= bit);
    }
    marks
}

/// Finds the ends of a vector; keeps its memory from vector to vector.
#[derive(Default)]
pub(super) struct Finder {
    /// Bits of the values, ascending as integers.
    keys: Vec<i16>,
    scratch: Vec<i16>,
}

impl Finder {
    /// Takes a vector in.
    #[inline(always)]
    pub(super) fn take(&mut self, vector: impl Iterator<Item = f16>) {
        self.keys.clear();
        self.keys.extend(vector.map(|x| {
            let bits = x.to_bits() as i16;
            bits ^ ((bits >> 15) & 0x7FFF)
        }));
    }

    /// Calls `mark` for the `count` smallest and the `count` largest, of equals the earlier; at most half of all.
    #[inline(always)]
    pub(super) fn ends(&mut self, count: usize, mut mark: impl FnMut(usize)) {
        if count == 0 {
            return;
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.keys);
        let (_, &mut low, rest) = self.scratch.select_nth_unstable(count - 1);
        let high = *rest.select_nth_unstable(rest.len() - count).1;
        let number = |is: fn(&i16, i16) -> bool, than| {
            self.keys.iter().map(|key| usize::from(is(key, than))).sum::<usize>()
        };
        let mut equal_low = count - number(|a, b| *a < b, low);
        let mut equal_high = count - number(|a, b| *a > b, high);
        for (i, &key) in self.keys.iter().enumerate() {
            if key > low && key < high {
                continue;
            }
            let tied_low = key == low && equal_low > 0;
            let tied_high = key == high && equal_high > 0;
            equal_low -= usize::from(tied_low);
            equal_high -= usize::from(tied_high);
            if key < low || key > high || tied_low || tied_high {
                mark(i);
            }
        }
    }
}
