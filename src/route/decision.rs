//! What a policy decides, and on which grounds.

use serde::{Deserialize, Serialize};

/// Why an engine was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The rule liked it best.
    Rule,
    /// The rule liked it best among those that the guard left.
    Guarded,
    /// The guard left engines of the baseline alone.
    GuardBaseline,
    /// It was the only one that could be asked.
    OnlyOne,
    /// No engine may be asked: none is up, or none that is safe.
    NoneSafe,
}

/// What the policy believed of its choice; `None` where the rule does not look at it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Predicted {
    /// Tokens of the answer under the chosen method.
    pub output_tokens: Option<f64>,
    /// Seconds until the first token.
    pub ttft_s: Option<f64>,
    /// Seconds until the last token, with as many newcomers as there are leavers while it is there.
    pub e2e_s: Option<f64>,
    /// Seconds by which all others are delayed, summed: as many as there are beside it now, in all of its steps.
    pub delay_s: Option<f64>,
    /// Upper confidence bound of the excess rate of negatives of the chosen method, of one.
    pub harm_upper: Option<f64>,
}

/// A choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Place of the engine in [`super::Pool::engines`]; `None` where no engine may be asked.
    pub engine: Option<usize>,
    /// Why.
    pub reason: Reason,
    /// What was believed.
    pub predicted: Predicted,
    /// Engines that the rule chose among.
    pub n_candidates: usize,
}

impl Reason {
    /// As it stands in rows and headers.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Rule => "rule",
            Reason::Guarded => "guarded",
            Reason::GuardBaseline => "guard_baseline",
            Reason::OnlyOne => "only_one",
            Reason::NoneSafe => "none_safe",
        }
    }
}
