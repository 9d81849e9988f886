//! What a method does to the length of answers, beside what chance does.
//!
//! The paper (arXiv 2503.24000, section 4.2) compares one sampled answer of a method with one of the baseline, prompt by prompt, by
//! D = (baseline - method) / baseline, and calls the spread of D an effect. Another seed spreads D as well: T = 0.9 or 1.1 alone make more
//! than a quarter of the answers half as long again. So here every statement stands beside its null:
//!
//! - A *pair* is a method's and the baseline's answer to the very same prompt in the same repeat. Answers without a length are left
//!   out, counted by reason.
//! - *Controls* compress nothing ([`crate::scenario::Control`]): the baseline again, another seed, rounding without fewer bits, and the
//!   baseline's other repeats.
//! - Two questions are asked by a randomisation test over prompts ([`crate::stats::sign_flip_test`]): are the method's answers longer or
//!   shorter than the baseline's and the controls' (mean of ln tokens), and are more of them at least half as long again than are so
//!   the other way round? Each prompt gives one value, however many runs are behind it, because runs may be copies of one another:
//!   greedy repeats are, and so is the A/A control of a deterministic engine. Without an effect 5 % of the tests say yes; over methods
//!   the false discovery rate is held (Benjamini and Hochberg). An empty answer counts as one token there.
//! - Wilcoxon's test on ln ratios to the baseline alone is given too; it does not know the controls.
//! - The E2E ratio of geometric means is exactly the product of the length ratio and the ratio of times a token.
//! - The smallest shift that would be found in 80 % of such runs is told, so that "not shown" can be read.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;

use super::{Estimate, Point};
use crate::{record::Manifest, scenario::Control};

mod answers;
pub mod forced;
mod pairs;
mod shift;
#[cfg(test)]
mod tests;

pub use answers::{COLUMNS, Unusable};
pub use pairs::Divergence;
pub use shift::Against;

/// Answers at least so many times as long count as long, as in the paper's table 5 (D <= -50 %).
pub const LONG: f64 = 1.5;
/// Answers at most so many times as long count as short (D >= 50 %).
pub const SHORT: f64 = 0.5;
/// D below which the paper's script drops a pair, percent.
pub const D_DROPPED: f64 = -200.0;
/// Prompts below which nothing is claimed.
pub const PROMPTS_MIN: usize = 10;
/// Chance that is taken.
pub const ALPHA: f64 = 0.05;

/// Lengths of one method's answers at one place beside the baseline's.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthPoint {
    /// Which.
    pub point: Point,
    /// What it is compared with.
    pub baseline: Point,
    /// In what it differs from the baseline where it compresses nothing; `None` for a method under test.
    pub control: Option<Control>,
    /// The baseline's other repeats, in the place of a method.
    pub is_repeat: bool,
    /// Bits of one number in the method's cache and in the baseline's, where the engine's data say.
    pub bits: Option<(f64, f64)>,
    /// Pairs.
    pub n_pairs: usize,
    /// Prompts with a pair.
    pub n_prompts: usize,
    /// Answers left out, by reason.
    pub excluded: BTreeMap<Unusable, usize>,
    /// Mean tokens of the method's answers and of the baseline's.
    pub mean_tokens: (f64, f64),
    /// Geometric mean over prompts of the ratio of lengths; pairs with an empty answer are not in it.
    pub ratio: Estimate,
    /// Median ratio of lengths over pairs.
    pub ratio_p50: Option<f64>,
    /// Share of pairs at least [`LONG`] times as long.
    pub long: Estimate,
    /// Share of pairs whose baseline is at least [`LONG`] times as long: the null of the share above.
    pub long_mirror: Estimate,
    /// Share of pairs at most [`SHORT`] times as long.
    pub short: Estimate,
    /// Shares that ended at `max_tokens`, of the method and of the baseline: their true length is unknown.
    pub capped: (f64, f64),
    /// Two-sided exact p-value of McNemar's test on the first pair of each prompt ending at `max_tokens`.
    pub p_capped: f64,
    /// Shares that the model itself ended.
    pub eos: (f64, f64),
    /// Empty answers.
    pub n_empty: (usize, usize),
    /// Pairs whose D is below [`D_DROPPED`]: the paper's script drops them.
    pub n_dropped_by_paper: usize,
    /// Pairs without a D, because the baseline's answer is empty.
    pub n_without_d: usize,
    /// Wilcoxon's signed-rank test of ln ratios, one value a prompt.
    pub p_wilcoxon: Option<f64>,
    /// Whether answers are longer or shorter than all baseline-like ones.
    pub shift: Option<Against>,
    /// Whether more of them are long than of the baseline-like ones.
    pub spread: Option<Against>,
    /// E2E latency into length and time a token.
    pub e2e: Option<Decomposition>,
    /// Where texts part from the baseline's.
    pub divergence: Divergence,
    /// Ratio of lengths of each pair without an empty answer, rising.
    pub ratios: Vec<f64>,
}

/// Ratios of geometric means over prompts; `e2e = length x per_token` exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decomposition {
    /// E2E latency of the method over that of the baseline.
    pub e2e: Estimate,
    /// Tokens of the answer.
    pub length: Estimate,
    /// E2E latency a token of the answer.
    pub per_token: Estimate,
}

/// What of a run is looked at.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// What was run.
    pub manifest: &'a Manifest,
    /// `requests.parquet` with at least [`COLUMNS`], without warm-ups.
    pub requests: &'a DataFrame,
    /// Makes tokens of an answer, so that texts can part at a token; without it they part at a character.
    pub encode: Option<&'a Encode<'a>>,
}

/// Makes tokens of a text, without BOS.
pub type Encode<'a> = dyn Fn(&str) -> anyhow::Result<Vec<u32>> + 'a;

/// Every method and control at every place, methods in plan order, then the baseline's repeats.
///
/// # Errors
/// A column is missing or of another type, or an answer cannot be encoded.
pub fn points(source: Source<'_>) -> anyhow::Result<Vec<LengthPoint>> {
    let answers = answers::Answers::of(source.requests)?;
    let compared = pairs::compared(source, &answers)?;
    let seed = source.manifest.scenario.seed;
    let mut points: Vec<LengthPoint> =
        compared.iter().map(|compared| compared.point(seed)).collect();
    shift::judge(seed, &answers, &compared, &mut points);
    Ok(points)
}

impl LengthPoint {
    /// A method under test, not a control.
    pub fn is_subject(&self) -> bool {
        self.control.is_none() && !self.is_repeat
    }

    /// A control that is noise; a warmer or cooler sampler is a yardstick.
    pub fn is_null(&self) -> bool {
        self.is_repeat || self.control.is_some_and(is_null)
    }

    /// What to call it in tables.
    pub fn name(&self) -> String {
        if self.is_repeat {
            format!("{}, other repeats", self.baseline.method)
        } else {
            self.point.method.clone()
        }
    }
}

/// Whether a control is noise, as against a yardstick.
fn is_null(control: Control) -> bool {
    !matches!(control, Control::Temperature(_))
}

/// What may be said of the length of a method's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Fewer than [`PROMPTS_MIN`] prompts: nothing.
    TooFew,
    /// No difference that the data can show.
    NotShown,
    /// Longer than baseline-like runs.
    Longer,
    /// Shorter than baseline-like runs.
    Shorter,
}

impl LengthPoint {
    /// What the test of the mean allows to say.
    pub fn claim(&self) -> Claim {
        match self.shift {
            None => Claim::TooFew,
            Some(shift) if shift.q > ALPHA => Claim::NotShown,
            Some(shift) if shift.value > 0.0 => Claim::Longer,
            Some(_) => Claim::Shorter,
        }
    }

    /// Whether more answers are long than of baseline-like runs.
    pub fn more_are_long(&self) -> bool {
        self.spread.is_some_and(|spread| spread.q <= ALPHA && spread.value > 0.0)
    }
}
