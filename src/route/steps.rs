//! What an engine's steps take, as tables: a decision looks at some hundred steps and has microseconds, and a fitted model with
//! corrections at its measured points takes a good part of one for each.
//!
//! Tables have eight (prompts) or four (decoding) knots to each doubling and are linear between them. So decoding that is linear
//! in sequences and cached tokens comes out exactly, and a prompt's quadratic part within half a percent.

use std::sync::Arc;

use super::Member;
use crate::predict::{
    Work,
    simulate::{EngineConfig, Mixing, Times},
};

/// Longest prompt of the table; beyond it the last line goes on.
const PROMPT_TOKENS_MOST: f64 = 262_144.0;
/// Most cached tokens a sequence of the table; beyond them the last line goes on.
const KV_TOKENS_MOST: f64 = 1_048_576.0;
/// Most sequences of the table; beyond them the last line goes on.
const SEQUENCES_MOST: usize = 16_384;

/// Knots at `2^e (1 + j / 2^BITS) - 1`, which can be found in the bits of a number.
#[derive(Debug, Clone, Copy)]
struct Axis<const BITS: u32> {
    n_knots: usize,
}

/// A place between two knots.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: usize,
    /// 0 at the lower knot, 1 at the upper one, more beyond the last.
    share: f64,
}

const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;
const BIAS: u64 = 1023;

impl<const BITS: u32> Axis<BITS> {
    /// Up to the first knot that is at least `most`.
    fn up_to(most: f64) -> Self {
        Self { n_knots: Self::cell(most) + 2 }
    }

    fn cell(x: f64) -> usize {
        let cell = (x + 1.0).to_bits() >> (MANTISSA_BITS - BITS);
        usize::try_from(cell - (BIAS << BITS)).unwrap_or(usize::MAX)
    }

    fn knot(at: usize) -> f64 {
        f64::from_bits((at as u64 + (BIAS << BITS)) << (MANTISSA_BITS - BITS)) - 1.0
    }

    fn knots(self) -> impl Iterator<Item = f64> {
        (0..self.n_knots).map(Self::knot)
    }

    /// Of a number that is not below 0.
    fn place(self, x: f64) -> Place {
        let x = x.max(0.0);
        let at = Self::cell(x).min(self.n_knots - 2);
        let (low, high) = (Self::knot(at), Self::knot(at + 1));
        Place { at, share: (x - low) / (high - low) }
    }
}

fn between(low: f64, high: f64, share: f64) -> f64 {
    low + (high - low) * share
}

/// Step times of one engine.
#[derive(Debug)]
pub(super) struct Steps {
    prompts: Axis<3>,
    /// Seconds of a prompt alone, all of its passes.
    prefill_s: Vec<f64>,
    sequences: Axis<2>,
    kv: Axis<2>,
    /// Seconds of a decode step, by sequences and then by cached tokens a sequence.
    decode_s: Vec<f64>,
    /// What a step that holds prompts and decoding saves against two steps.
    pub(super) shared_s: f64,
}

impl Steps {
    fn new(times: &Times, config: &EngineConfig) -> Self {
        let prompts = Axis::up_to(PROMPT_TOKENS_MOST);
        let sequences = Axis::up_to(config.max_num_seqs.min(SEQUENCES_MOST) as f64 + 1.0);
        let kv = Axis::up_to(KV_TOKENS_MOST);
        let decode = |batch: f64, kv: f64| {
            times.step_s(None, Some(&Work::decode_alike(batch.max(1.0), kv, None)))
        };
        let decode_s = sequences.knots().flat_map(|b| kv.knots().map(move |k| (b, k)));
        Self {
            prompts,
            prefill_s: prompts.knots().map(|n| prefill_s(times, config, n)).collect(),
            sequences,
            kv,
            decode_s: decode_s.map(|(batch, kv)| decode(batch, kv)).collect(),
            shared_s: shared_s(times),
        }
    }

    /// One for each engine; engines that are alike share theirs.
    pub(super) fn of_all(engines: &[Member]) -> Vec<Arc<Self>> {
        let mut all: Vec<Arc<Self>> = Vec::with_capacity(engines.len());
        for (at, member) in engines.iter().enumerate() {
            let alike = engines[..at].iter().position(|other| {
                Arc::ptr_eq(&other.times, &member.times) && other.config == member.config
            });
            let own = || Arc::new(Self::new(&member.times, &member.config));
            all.push(alike.map_or_else(own, |at| all[at].clone()));
        }
        all
    }

    /// Seconds in which a prompt of so many tokens is computed, nothing else in its steps; 0 for none.
    pub(super) fn prefill_s(&self, tokens: f64) -> f64 {
        if tokens < 1.0 {
            return 0.0;
        }
        let place = self.prompts.place(tokens);
        between(self.prefill_s[place.at], self.prefill_s[place.at + 1], place.share)
    }

    /// Seconds of a decode step of `batch` sequences with `kv_tokens` cached tokens together; 0 for none.
    pub(super) fn decode_s(&self, batch: f64, kv_tokens: f64) -> f64 {
        if batch < 1.0 {
            return 0.0;
        }
        let (row, column) = (self.sequences.place(batch), self.kv.place(kv_tokens / batch));
        let line = |row: usize| {
            let at = row * self.kv.n_knots + column.at;
            between(self.decode_s[at], self.decode_s[at + 1], column.share)
        };
        between(line(row.at), line(row.at + 1), row.share)
    }
}

/// Seconds of all passes of a prompt.
fn prefill_s(times: &Times, config: &EngineConfig, tokens: f64) -> f64 {
    let step = config.max_batched_tokens.filter(|_| config.chunked_prefill);
    let pass = match config.mixing {
        Mixing::Slots { ubatch_tokens } => {
            Some(step.map_or(ubatch_tokens, |s| s.min(ubatch_tokens)))
        }
        Mixing::DecodeFirst | Mixing::PrefillFirst => step,
    };
    let pass = pass.map_or(f64::INFINITY, |tokens| tokens as f64).max(1.0);
    let (mut there, mut sum_s) = (0.0, 0.0);
    while there < tokens {
        let chunk = pass.min(tokens - there);
        sum_s += times.step_s(Some(&Work::prefill_alike(1.0, (chunk, there))), None);
        there += chunk;
    }
    sum_s
}

/// At one place for all: models say that it is the overhead of a pass, which does not depend on the place.
fn shared_s(times: &Times) -> f64 {
    let prefill = Work::prefill_alike(1.0, (512.0, 0.0));
    let decode = Work::decode_alike(8.0, 512.0, None);
    let apart = times.step_s(Some(&prefill), None) + times.step_s(None, Some(&decode));
    (apart - times.step_s(Some(&prefill), Some(&decode))).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::simulate::LinearTimes;

    fn linear() -> Times {
        Arc::new(LinearTimes {
            step_s: 0.03,
            per_sequence_s: 2e-5,
            per_kv_token_s: 9e-7,
            per_prompt_s: 1e-3,
            per_prompt_token_s: 1.5e-4,
            per_pair_s: 4e-8,
        })
    }

    fn near(found: f64, expected: f64, share: f64) -> bool {
        (found / expected - 1.0).abs() <= share
    }

    #[test]
    fn decoding_that_is_linear_comes_out_exactly() {
        let (times, config) = (linear(), EngineConfig::unlimited(64));
        let steps = Steps::new(&times, &config);
        for batch in [1.0, 2.0, 3.0, 17.0, 64.0, 65.0, 90.0] {
            for kv in [0.0, 1.0, 77.5, 513.0, 4096.0, 2e6] {
                let expected = times.step_s(None, Some(&Work::decode_alike(batch, kv, None)));
                let found = steps.decode_s(batch, batch * kv);
                assert!(near(found, expected, 1e-9), "{batch} x {kv}: {found} {expected}");
            }
        }
        assert!(steps.decode_s(0.0, 0.0).abs() < 1e-12);
    }

    #[test]
    fn prompts_are_within_half_a_percent() {
        let times = linear();
        let steps = Steps::new(&times, &EngineConfig::unlimited(64));
        for tokens in [1.0, 2.0, 100.0, 999.0, 4000.0, 60_000.0] {
            let expected = times.step_s(Some(&Work::prefill_alike(1.0, (tokens, 0.0))), None);
            assert!(near(steps.prefill_s(tokens), expected, 5e-3), "{tokens}");
        }
        assert!(steps.prefill_s(0.0).abs() < 1e-12);
        assert!(near(steps.shared_s, 0.03, 1e-9), "the overhead of a pass counts once");
    }

    #[test]
    fn a_prompt_that_is_cut_takes_a_pass_for_each_piece() {
        let times = linear();
        let cut = EngineConfig {
            max_batched_tokens: Some(512),
            chunked_prefill: true,
            ..EngineConfig::unlimited(64)
        };
        let pieces = [(512.0, 0.0), (512.0, 512.0), (76.0, 1024.0)];
        let expected: f64 = pieces
            .map(|piece| times.step_s(Some(&Work::prefill_alike(1.0, piece)), None))
            .iter()
            .sum();
        assert!(near(prefill_s(&times, &cut, 1100.0), expected, 1e-9));
        let slots = EngineConfig { mixing: Mixing::Slots { ubatch_tokens: 256 }, ..cut };
        assert!(prefill_s(&times, &slots, 1100.0) > expected + 0.05);
    }

    #[test]
    fn engines_alike_share_a_table() {
        let member = |times: &Times, n| Member {
            name: "e".to_owned(),
            method: 0,
            config: EngineConfig::unlimited(n),
            times: times.clone(),
        };
        let (one, other) = (linear(), linear());
        let all =
            Steps::of_all(&[member(&one, 8), member(&one, 8), member(&one, 9), member(&other, 8)]);
        assert!(Arc::ptr_eq(&all[0], &all[1]));
        assert!(!Arc::ptr_eq(&all[0], &all[2]) && !Arc::ptr_eq(&all[0], &all[3]));
    }
}
