//! What a forward pass works on, and what one took.

use serde::{Deserialize, Serialize};

use super::origin::Rows;
use crate::stats;

/// Which half of serving a pass belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Tokens of prompts enter the cache.
    Prefill,
    /// One new token a sequence.
    Decode,
}

/// What one pass does of one phase: the three quantities that its time is linear in.
///
/// Decode: `a + b * batch + c * sum(kv_eff)`; prefill: `a + b * n + c * sum(chunk * (kv + chunk / 2))`. A pass that does both is
/// two of these with one overhead `a`, see [`StepTimes`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The phase.
    pub phase: Phase,
    /// Sequences.
    pub batch: f64,
    /// Tokens that enter the cache, of all sequences together: decode, the batch; prefill, the chunks.
    pub new_tokens: f64,
    /// What attention reads. Decode: cached tokens of all sequences together, as far as the method keeps them.
    /// Prefill: pairs of a new token and a token it attends to, `sum(chunk * (kv + chunk / 2))`.
    pub attended: f64,
    /// Cached tokens of all sequences together before the pass, whatever the method has evicted: what tells which work of
    /// another method is the same.
    pub cached: f64,
}

impl Work {
    /// A decode step over sequences of these lengths, of which the method keeps at most `budget` tokens each.
    pub fn decode(kv_lens: impl IntoIterator<Item = f64>, budget: Option<f64>) -> Self {
        let mut work =
            Self { phase: Phase::Decode, batch: 0.0, new_tokens: 0.0, attended: 0.0, cached: 0.0 };
        for kv_len in kv_lens {
            work.batch += 1.0;
            work.cached += kv_len;
            work.attended += budget.map_or(kv_len, |most| kv_len.min(most));
        }
        work.new_tokens = work.batch;
        work
    }

    /// The same over `batch` sequences of one length, however many: nothing is counted one by one.
    pub fn decode_alike(batch: f64, kv_len: f64, budget: Option<f64>) -> Self {
        Self {
            phase: Phase::Decode,
            batch,
            new_tokens: batch,
            attended: batch * budget.map_or(kv_len, |most| kv_len.min(most)),
            cached: batch * kv_len,
        }
    }

    /// A prefill pass over `batch` sequences of one `(chunk, kv)`, see [`Work::prefill`].
    pub fn prefill_alike(batch: f64, (chunk, kv): (f64, f64)) -> Self {
        Self {
            phase: Phase::Prefill,
            batch,
            new_tokens: batch * chunk,
            attended: batch * chunk * (kv + chunk / 2.0),
            cached: batch * kv,
        }
    }

    /// A prefill pass over `(chunk, kv)`: new tokens of a sequence, and those of it that lie in the cache already. What a method
    /// evicts is evicted after the pass, so there is no budget here.
    pub fn prefill(chunks: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut work =
            Self { phase: Phase::Prefill, batch: 0.0, new_tokens: 0.0, attended: 0.0, cached: 0.0 };
        for (chunk, kv) in chunks {
            work.batch += 1.0;
            work.new_tokens += chunk;
            work.cached += kv;
            work.attended += chunk * (kv + chunk / 2.0);
        }
        work
    }

    /// The mean of works of one phase, the first one's; `None` of nothing.
    pub fn mean(works: &[Work]) -> Option<Work> {
        let first = works.first()?;
        let mean = |of: fn(&Work) -> f64| works.iter().map(of).sum::<f64>() / works.len() as f64;
        Some(Work {
            phase: first.phase,
            batch: mean(|work| work.batch),
            new_tokens: mean(|work| work.new_tokens),
            attended: mean(|work| work.attended),
            cached: mean(|work| work.cached),
        })
    }

    /// The regressors: 1, sequences (decode) or new tokens (prefill), what attention reads.
    pub fn features(&self) -> [f64; 3] {
        [1.0, self.new_tokens, self.attended]
    }
}

/// What one pass took, once a repeat.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// What it worked on.
    pub work: Work,
    /// Seconds, one value a repeat; never empty.
    pub repeats_s: Vec<f64>,
}

impl Pass {
    /// Median over repeats: what a model is fitted to and judged by. NaN without a repeat.
    pub fn duration_s(&self) -> f64 {
        stats::median(&mut self.repeats_s.clone()).unwrap_or(f64::NAN)
    }

    /// Mean absolute deviation of the repeats from their median, as a share of it: no prediction of one repeat can be expected to
    /// do better. `None` where there was one repeat.
    pub fn noise(&self) -> Option<f64> {
        if self.repeats_s.len() < 2 {
            return None;
        }
        let median = self.duration_s();
        let off: Vec<f64> =
            self.repeats_s.iter().map(|value| (value / median - 1.0).abs()).collect();
        stats::mean(&off)
    }
}

/// Where rows of a subject come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// One attention layer of our own kernels.
    Kernel,
    /// Whole steps of an engine.
    Engine,
    /// A file of somebody else's measurements.
    File,
}

/// What a model is of: nothing fitted on one subject is used for another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Where its rows come from.
    pub source: Source,
    /// Target of the scenario, with its variant: one binary may be set up in several ways, and each is a server of its own. `None` for
    /// a file of somebody else's, which has no targets.
    pub target: Option<String>,
    /// Engine with its version, or kernel back end, such as `llamacpp b9917`, `cpu-avx512`.
    pub engine: String,
    /// Device as the machine names it.
    pub device: String,
    /// Model, or model shape.
    pub model: String,
    /// Ranks that share a layer's heads.
    pub tensor_parallel: u32,
    /// How its server was started: words and environment beside the engine's own and the method's, as the scenario has them. `None`
    /// where there are none, or where nobody tells (kernels, a server that ran already, a file of somebody else's).
    pub started_with: Option<String>,
}

/// A pass of a method on a subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// What was measured.
    pub subject: Subject,
    /// Name of the method in its scenario.
    pub method: String,
    /// Whether the method is the uncompressed baseline.
    pub is_baseline: bool,
    /// Most tokens a sequence that the method keeps, `None` for a method that keeps all.
    pub budget: Option<f64>,
    /// What it took. Its work is after the budget.
    pub pass: Pass,
    /// The rows it rests on; empty where nobody told.
    pub rows: Vec<Rows>,
}

/// Whatever can tell what a step of an engine takes.
pub trait StepTimes {
    /// Seconds of a step that does both works, of which one may be empty (`None`); with both, the overhead counts once.
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_caps_each_sequence_not_the_sum() {
        let free = Work::decode([100.0, 900.0], None);
        let capped = Work::decode([100.0, 900.0], Some(512.0));
        assert!((free.attended - 1000.0).abs() < 1e-9);
        assert!((capped.attended - 612.0).abs() < 1e-9);
        assert!((capped.batch - 2.0).abs() < 1e-9);
        assert!((capped.cached - free.cached).abs() < 1e-9);
    }

    #[test]
    fn sequences_alike_are_counted_at_once() {
        for budget in [None, Some(512.0)] {
            let all = Work::decode([900.0; 7], budget);
            assert_eq!(Work::decode_alike(7.0, 900.0, budget), all);
        }
        assert_eq!(Work::prefill_alike(3.0, (640.0, 96.0)), Work::prefill([(640.0, 96.0); 3]));
    }

    #[test]
    fn a_prompt_in_two_chunks_attends_as_often_as_in_one() {
        let whole = Work::prefill([(1000.0, 0.0)]);
        let first = Work::prefill([(400.0, 0.0)]);
        let second = Work::prefill([(600.0, 400.0)]);
        assert!((whole.attended - first.attended - second.attended).abs() < 1e-6);
    }
}
