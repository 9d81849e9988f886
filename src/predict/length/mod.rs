//! How long the answer to a prompt will be: its 10 %, 50 % and 90 % quantiles, from the prompt's text alone.
//!
//! What is predicted is `ln(1 + tokens)` of the baseline method, plus a shift for each other method that is learnt as a difference on the
//! same prompts ([`shift`]), because a method moves lengths by far less than prompts do.
//!
//! - An answer that ended at `max_tokens` is a lower bound of its own length. It is treated as one ([`censor`]), and every prediction is
//!   cut at the `max_tokens` that is asked for.
//! - One answer is a bad label where the engine samples: the median of a prompt's answers is what the middle is fitted to and judged by,
//!   all of its answers, which together weigh 1, what the ends are: q90 is to hold for the next answer, not for a median.
//! - T0 knows the task and `max_tokens` ([`groups`]). T1 reads the prompt ([`text`], [`words`]), knows T0's task as a feature, and is three
//!   forests ([`gbdt`]) whose ends are widened on prompts that no tree has seen (conformalised quantile regression,
//!   Romano, Patterson and Candes 2019; each end by itself).
//! - T2 is T1 with what an encoder that the user supplies says of the prompt as further columns ([`encoder`]); trees and calibration are
//!   the same.
//! - Prompts that are nearly the same are one family ([`family`]), and no family is ever on both sides of a split.

use serde::{Deserialize, Serialize};

pub mod censor;
mod conformal;
pub mod encoder;
pub mod evaluate;
mod explain;
pub mod family;
mod fold;
pub mod gbdt;
pub mod groups;
mod inputs;
pub mod model;
mod principal;
mod ridge;
pub mod score;
pub mod shift;
#[cfg(test)]
mod tests;
pub mod text;
mod whole;
pub mod words;

pub use explain::{Explained, Moved};
pub use model::{Inputs, Model, Query, SCHEMA, SCHEMA_ENCODER};
pub use shift::Shift;

/// The quantiles that are predicted.
pub const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Length {
    /// Its tokens.
    pub tokens: u32,
    /// Whether it ended because `max_tokens` were reached, so that its own length is at least `tokens`.
    pub censored: bool,
}

/// The answers of one method to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The prompt's text.
    pub prompt: String,
    /// Number of the prompt's family, see [`family::families`].
    pub family: usize,
    /// Task or endpoint that it belongs to, where one is known.
    pub task: Option<String>,
    /// Most tokens that were asked for.
    pub max_tokens: u32,
    /// Method, by its name in the scenario.
    pub method: String,
    /// One answer a run.
    pub lengths: Vec<Length>,
}

impl Sample {
    /// Median of the answers as `ln(1 + tokens)`, and whether it is a lower bound; of an even number the mean of the middle two.
    /// `None` without answers.
    pub fn median(&self) -> Option<(f64, bool)> {
        let mut lengths = self.lengths.clone();
        lengths.sort_by_key(|length| (length.tokens, length.censored));
        let upper = *lengths.get(lengths.len() / 2)?;
        let lower = lengths[(lengths.len() - 1) / 2];
        let middle = (to_log(lower.tokens) + to_log(upper.tokens)) / 2.0;
        Some((middle, lower.censored || upper.censored))
    }

    /// Answers that are lower bounds.
    pub fn n_censored(&self) -> usize {
        self.lengths.iter().filter(|length| length.censored).count()
    }
}

/// The scale on which lengths are predicted; an empty answer has a place on it.
pub fn to_log(tokens: u32) -> f64 {
    f64::from(tokens).ln_1p()
}

/// Tokens of a value of [`to_log`]'s scale.
pub fn to_tokens(log: f64) -> f64 {
    log.exp_m1().max(0.0)
}

/// Why no model can be fitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// Too little to learn from.
    #[error(
        "expected answers of the baseline `{baseline}` to at least {} prompts in at least {} families, got {prompts} in {families}\n  hint: name more runs, or runs of a larger data set",
        model::PROMPTS_MIN,
        model::FAMILIES_MIN
    )]
    TooFew {
        /// Method that was looked for.
        baseline: String,
        /// Prompts with an answer of it.
        prompts: usize,
        /// Families that they are of.
        families: usize,
    },
    /// Prompts that the encoder has not read.
    #[error(
        "encoder: expected a vector of {width} numbers of each of {prompts} prompts, got none of {without}"
    )]
    NotEncoded {
        /// Numbers of a vector.
        width: usize,
        /// Prompts.
        prompts: usize,
        /// Those without one.
        without: usize,
    },
}
