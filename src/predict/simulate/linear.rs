//! Step times that are linear in what a step works on.

use serde::{Deserialize, Serialize};

use super::super::{StepTimes, Work};

/// `step + per_sequence * B + per_kv_token * sum(kv_eff) + per_prompt * P + per_prompt_token * n + per_pair * pairs`, see [`Work`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinearTimes {
    /// Of every step.
    pub step_s: f64,
    /// Of every sequence that decodes.
    pub per_sequence_s: f64,
    /// Of every cached token that decoding reads.
    pub per_kv_token_s: f64,
    /// Of every prompt of which the step holds tokens.
    pub per_prompt_s: f64,
    /// Of every token of a prompt.
    pub per_prompt_token_s: f64,
    /// Of every pair of a prompt's token and a token it attends to.
    pub per_pair_s: f64,
}

impl StepTimes for LinearTimes {
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64 {
        let part = |work: Option<&Work>, per_token: f64, per_attended: f64| {
            work.map_or(0.0, |work| per_token * work.new_tokens + per_attended * work.attended)
        };
        self.step_s
            + prefill.map_or(0.0, |work| self.per_prompt_s * work.batch)
            + part(prefill, self.per_prompt_token_s, self.per_pair_s)
            + part(decode, self.per_sequence_s, self.per_kv_token_s)
    }
}
