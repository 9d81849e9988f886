//! What another method does to lengths, as a difference on the same prompt, beside what the baseline does to itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Sample, fold,
    model::{Known, Read},
    to_log,
};
use crate::stats;

/// Folds in which a slope must prove itself.
const FOLDS: usize = 5;
/// Families below which no slope is looked for.
const SLOPE_MIN: usize = 50;

/// A mean difference of `ln(1 + tokens)` with its 95 % interval over families; `None` with fewer than two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Mean.
    pub mean: f32,
    /// Lower end.
    pub low: Option<f32>,
    /// Upper end.
    pub high: Option<f32>,
    /// Prompts.
    pub n_prompts: usize,
    /// Prompts all of whose answers ended at `max_tokens`, on both sides: nothing is known of their difference.
    pub n_left_out: usize,
    /// Prompts of which only own answers were cut at `max_tokens`: they differ by at least what they count with.
    pub n_own_cut: usize,
    /// Prompts of which only answers of the other side were cut: they differ by at most what they count with.
    pub n_other_cut: usize,
    /// Prompts with cut answers on both sides, and an answer that was not.
    pub n_both_cut: usize,
}

/// How a difference goes with the prompt's length: `slope (ln_bytes - centre)` is added to the mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slope {
    /// Per unit of the feature `ln_bytes`.
    pub slope: f32,
    /// Mean of the feature.
    pub centre: f32,
}

/// A method beside the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    /// The method.
    pub method: String,
    /// Its answers less the baseline's.
    pub difference: Difference,
    /// The baseline's first answer less its others: what chance alone does. `None` where no prompt has two answers.
    pub null: Option<Difference>,
    /// `None` where held-out prompts are not predicted the better for it.
    pub slope: Option<Slope>,
}

impl Shift {
    /// Whether predictions use it: only a shift whose interval excludes 0 and that exceeds the null, where there is one. Another would
    /// add its own noise to every prediction.
    pub fn is_used(&self) -> bool {
        let Difference { low, high, .. } = self.difference;
        let excludes_zero = low.is_some_and(|low| low > 0.0) || high.is_some_and(|high| high < 0.0);
        excludes_zero && self.exceeds_null().unwrap_or(true)
    }

    /// What is added to a prompt's prediction; 0 where the shift is not used.
    pub(super) fn at(&self, read: &Read) -> f64 {
        if !self.is_used() {
            return 0.0;
        }
        let by_length = self.slope.as_ref().map_or(0.0, |slope| {
            f64::from(slope.slope) * (f64::from(read.features[0]) - f64::from(slope.centre))
        });
        f64::from(self.difference.mean) + by_length
    }

    /// Whether the interval of the method's shift has a part outside the null's: `None` where either has none.
    pub fn exceeds_null(&self) -> Option<bool> {
        let (low, high) = (self.difference.low?, self.difference.high?);
        let null = self.null.as_ref()?;
        Some(low > null.high?.max(0.0) || high < null.low?.min(0.0))
    }
}

/// A difference on one prompt.
struct Paired {
    family: usize,
    ln_bytes: f64,
    value: f64,
    /// Whether there are cut answers, own and of the other side.
    cut: [bool; 2],
}

/// The shifts of all methods but the baseline that share a prompt with it, by name.
pub fn learn<'a>(all: &[Known<'a>], baseline: &str, seed: u64) -> Vec<Shift> {
    let mut base: BTreeMap<(&str, u32), &'a Sample> = BTreeMap::new();
    let mut methods: BTreeMap<&str, Vec<Known<'a>>> = BTreeMap::new();
    for known in all.iter().filter(|known| !known.sample.lengths.is_empty()) {
        let sample = known.sample;
        if sample.method == baseline {
            base.insert((&sample.prompt, sample.max_tokens), sample);
        } else {
            methods.entry(&sample.method).or_default().push(*known);
        }
    }
    let null = null(all, baseline, seed);
    let one = |(method, samples): (&str, Vec<Known<'a>>)| {
        let both = |known: Known<'a>| {
            let theirs = base.get(&(known.sample.prompt.as_str(), known.sample.max_tokens))?;
            Some((known, known.sample.lengths.as_slice(), theirs.lengths.as_slice()))
        };
        let (pairs, n_left_out) = paired(samples.into_iter().filter_map(both));
        let difference = difference(&pairs, n_left_out, seed)?;
        let whole: Vec<&Paired> = pairs.iter().filter(|pair| pair.cut == [false; 2]).collect();
        let slope = slope(&whole, seed);
        Some(Shift { method: method.to_owned(), difference, null: null.clone(), slope })
    };
    methods.into_iter().filter_map(one).collect()
}

fn null(all: &[Known<'_>], baseline: &str, seed: u64) -> Option<Difference> {
    let of_base = all.iter().filter(|known| known.sample.method == baseline);
    let halves = of_base.filter_map(|known| {
        let (first, others) = known.sample.lengths.split_at_checked(1)?;
        (!others.is_empty()).then_some((*known, first, others))
    });
    let (pairs, n_left_out) = paired(halves);
    difference(&pairs, n_left_out, seed)
}

type Two<'a> = (Known<'a>, &'a [super::Length], &'a [super::Length]);

/// Differences of means, and how many prompts have none.
///
/// A cut answer counts with the tokens that were seen. Without such prompts a method that makes answers longer would be judged by
/// those that it did not make longer; with them its shift is the one of cut answers, which is no larger than the true one. Where all
/// answers of both sides are cut the difference of what was seen is 0 whatever the method does, and the prompt is left out. Whether it
/// is does not depend on whose answers they are, so that a method without an effect still has a mean of 0.
fn paired<'a>(both: impl Iterator<Item = Two<'a>>) -> (Vec<Paired>, usize) {
    let mut left_out = 0;
    let mut pairs = Vec::new();
    for (known, own, theirs) in both {
        if own.iter().chain(theirs).all(|length| length.censored) {
            left_out += 1;
            continue;
        }
        let has_cut = |lengths: &[super::Length]| lengths.iter().any(|length| length.censored);
        let mean = |lengths: &[super::Length]| {
            lengths.iter().map(|length| to_log(length.tokens)).sum::<f64>() / lengths.len() as f64
        };
        pairs.push(Paired {
            family: known.sample.family,
            ln_bytes: f64::from(known.read.features[0]),
            value: mean(own) - mean(theirs),
            cut: [has_cut(own), has_cut(theirs)],
        });
    }
    (pairs, left_out)
}

/// Means of families, which are what is independent.
fn by_family(values: impl Iterator<Item = (usize, f64)>) -> Vec<f64> {
    let mut families: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (family, value) in values {
        let sum = families.entry(family).or_default();
        *sum = (sum.0 + value, sum.1 + 1.0);
    }
    families.into_values().map(|(sum, n)| sum / n).collect()
}

fn difference(pairs: &[Paired], n_left_out: usize, seed: u64) -> Option<Difference> {
    let means = by_family(pairs.iter().map(|pair| (pair.family, pair.value)));
    let mean = stats::mean(&means)?;
    let interval = stats::mean_interval(&means, &mut stats::seeded(seed));
    let count = |cut: [bool; 2]| pairs.iter().filter(|pair| pair.cut == cut).count();
    Some(Difference {
        mean: mean as f32,
        low: interval.map(|interval| interval.low as f32),
        high: interval.map(|interval| interval.high as f32),
        n_prompts: pairs.len(),
        n_left_out,
        n_own_cut: count([true, false]),
        n_other_cut: count([false, true]),
        n_both_cut: count([true, true]),
    })
}

/// A least-squares line, kept only where the interval of what it saves on held-out families (squared error) excludes nothing. It is of
/// prompts without cut answers: a limit that long prompts alone reach would look like a slope.
fn slope(pairs: &[&Paired], seed: u64) -> Option<Slope> {
    let families: Vec<usize> = pairs.iter().map(|pair| pair.family).collect();
    let folds = fold::deal(&families, FOLDS, seed);
    let mut saved = vec![0.0; pairs.len()];
    for fold in 0..FOLDS {
        let (held, rest): (Vec<usize>, Vec<usize>) =
            (0..pairs.len()).partition(|at| folds[*at] == fold);
        let (mean, line) = line(&rest.iter().map(|at| pairs[*at]).collect::<Vec<_>>())?;
        for at in held {
            let Paired { ln_bytes, value, .. } = *pairs[at];
            let by_line = mean + f64::from(line.slope) * (ln_bytes - f64::from(line.centre));
            saved[at] = (value - mean).powi(2) - (value - by_line).powi(2);
        }
    }
    let saved = by_family(families.iter().copied().zip(saved));
    let interval = stats::mean_interval(&saved, &mut stats::seeded(seed))?;
    if saved.len() < SLOPE_MIN || interval.low <= 0.0 {
        return None;
    }
    line(pairs).map(|(_, line)| line)
}

/// Mean and line; `None` where all prompts are of one length.
fn line(pairs: &[&Paired]) -> Option<(f64, Slope)> {
    let n = pairs.len() as f64;
    let mean = |of: fn(&Paired) -> f64| pairs.iter().map(|pair| of(pair)).sum::<f64>() / n;
    let (x, y) = (mean(|pair| pair.ln_bytes), mean(|pair| pair.value));
    let xx: f64 = pairs.iter().map(|pair| (pair.ln_bytes - x).powi(2)).sum();
    let xy: f64 = pairs.iter().map(|pair| (pair.ln_bytes - x) * (pair.value - y)).sum();
    (xx > 1e-9).then(|| (y, Slope { slope: (xy / xx) as f32, centre: x as f32 }))
}
