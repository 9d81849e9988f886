//! How far the ends must be moved so that they hold as often as they say, on prompts that no tree has seen.

use super::{Sample, gbdt::quantile, to_log};

/// Prompts below which nothing is moved: the 90 % quantile of fewer values is one of the largest few.
pub(super) const PROMPTS_MIN: usize = 20;

/// How often each end is to hold.
const HOLDS: f64 = 0.9;

/// A prompt of the calibration fold with an end of its interval, on the scale of [`to_log`].
pub(super) struct Held<'a> {
    pub(super) sample: &'a Sample,
    pub(super) end: f64,
}

/// What is added to the upper end. Prompts whose upper end is at their `max_tokens` are left out: cut there, it holds whatever is added, and
/// counting them would let the others hold less often. `None` where too few are left.
pub(super) fn upper(held: &[Held<'_>]) -> Option<f32> {
    let free: Vec<&Held<'_>> =
        held.iter().filter(|held| held.end < to_log(held.sample.max_tokens)).collect();
    margin(&free, |end, value| value - end)
}

/// What is taken from the lower end.
pub(super) fn lower(held: &[Held<'_>]) -> Option<f32> {
    margin(&held.iter().collect::<Vec<_>>(), |end, value| end - value)
}

/// The quantile of what an end misses by that is enough for one more prompt of the same kind (Romano et al. 2019, with the answers of a
/// prompt sharing its weight).
fn margin(held: &[&Held<'_>], missed: impl Fn(f64, f64) -> f64) -> Option<f32> {
    if held.len() < PROMPTS_MIN {
        return None;
    }
    let mut scores: Vec<(f64, f64)> = Vec::new();
    for Held { sample, end } in held {
        let weight = 1.0 / sample.lengths.len().max(1) as f64;
        let score = |length: &super::Length| (missed(*end, to_log(length.tokens)), weight);
        scores.extend(sample.lengths.iter().map(score));
    }
    let level = HOLDS * (1.0 + 1.0 / held.len() as f64);
    quantile(&mut scores, level.min(1.0)).map(|margin| margin as f32)
}
