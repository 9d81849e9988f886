//! What a forward pass works on, and what one took.

use serde::{Deserialize, Serialize};

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
}

impl Work {
    /// A decode step over sequences of these lengths, of which the method keeps at most `budget` tokens each.
    pub fn decode(kv_lens: impl IntoIterator<Item = f64>, budget: Option<f64>) -> Self {
        let mut work = Self { phase: Phase::Decode, batch: 0.0, new_tokens: 0.0, attended: 0.0 };
        for kv_len in kv_lens {
            work.batch += 1.0;
            work.attended += budget.map_or(kv_len, |most| kv_len.min(most));
        }
        work.new_tokens = work.batch;
        work
    }

    /// A prefill pass over `(chunk, kv)`: new tokens of a sequence, and those of it that lie in the cache already. What a method
    /// evicts is evicted after the pass, so there is no budget here.
    pub fn prefill(chunks: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut work = Self { phase: Phase::Prefill, batch: 0.0, new_tokens: 0.0, attended: 0.0 };
        for (chunk, kv) in chunks {
            work.batch += 1.0;
            work.new_tokens += chunk;
            work.attended += chunk * (kv + chunk / 2.0);
        }
        work
    }

    /// The regressors: 1, sequences (decode) or new tokens (prefill), what attention reads.
    pub fn features(&self) -> [f64; 3] {
        [1.0, self.new_tokens, self.attended]
    }
}

/// One measured pass, or the median of its repeats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// What it worked on.
    pub work: Work,
    /// What it took.
    pub duration_s: f64,
    /// Mean absolute deviation of single repeats from the median, as a share of it: the noise floor of any prediction of one
    /// repeat. `None` where there was one.
    pub noise: Option<f64>,
    /// Repeats behind it.
    pub n: u32,
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
    }

    #[test]
    fn a_prompt_in_two_chunks_attends_as_often_as_in_one() {
        let whole = Work::prefill([(1000.0, 0.0)]);
        let first = Work::prefill([(400.0, 0.0)]);
        let second = Work::prefill([(600.0, 400.0)]);
        assert!((whole.attended - first.attended - second.attended).abs() < 1e-6);
    }
}
