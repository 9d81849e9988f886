//! What is true in a simulated world: how fast methods are, how long their answers get, which prompts they break.

use std::collections::BTreeMap;

use crate::predict::simulate::{EngineConfig, Times};

/// A request of a trace, before a method has answered it.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced {
    /// When it comes, nanoseconds from the start of the trace.
    pub at_ns: i64,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Tokens of its answer under the baseline.
    pub output_tokens: u64,
    /// Its task, where one is known.
    pub task: Option<String>,
}

/// How lengths of a method differ from the baseline's on the same prompt: `ln(tokens)` by a normal of this mean and deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthShift {
    /// Mean of the shift in `ln(tokens)`.
    pub mean_log: f64,
    /// Standard deviation of it from prompt to prompt.
    pub sigma_log: f64,
}

/// A method, as it is.
#[derive(Clone)]
pub struct MethodWorld {
    /// Its name.
    pub name: String,
    /// What steps take.
    pub times: Times,
    /// How its engines batch.
    pub config: EngineConfig,
    /// Its lengths. Of the baseline both are 0.
    pub shift: LengthShift,
    /// Share of prompts that it breaks beyond chance, by task; the key `""` is for tasks that are not listed.
    pub excess: BTreeMap<String, f64>,
}

/// How good the predictors of a simulated router are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Skill {
    /// Standard deviation of predicted against true `ln(tokens)` of the baseline's answer.
    pub length_sigma_log: f64,
    /// Whether the predictor knows each method's mean shift.
    pub knows_shift: bool,
    /// Factor on the believed step times of every method but the baseline: 1 for none, 0.8 for one that believes them 20 % faster.
    pub speed_factor: f64,
    /// Answers by which a learned guard has judged each task, length and method.
    pub guard_answers: u64,
}

impl std::fmt::Debug for MethodWorld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("MethodWorld");
        shown.field("name", &self.name).field("config", &self.config).field("shift", &self.shift);
        shown.field("excess", &self.excess).finish_non_exhaustive()
    }
}
