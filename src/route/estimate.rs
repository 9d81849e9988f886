//! What a request would find at an engine, and what it would do to those inside: from counts alone, in the same few operations
//! however many requests there are.
//!
//! The engine serves in the order of arrival. A request waits until a place and room in the KV cache are free, then for the prompts
//! before its own, and decodes in the batch that it joins. The batch is taken as it is: those who leave are replaced by those who
//! come, as they are where load matters.

use super::{EngineState, steps::Steps};
use crate::predict::simulate::{EngineConfig, Mixing};

/// What is believed of a request at an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    /// Seconds until its first token.
    pub(super) ttft_s: f64,
    /// Seconds until its last token.
    pub(super) e2e_s: f64,
    /// Seconds by which all others are delayed, summed.
    pub(super) delay_s: f64,
}

/// A request at an engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) config: &'a EngineConfig,
    pub(super) steps: &'a Steps,
    pub(super) state: &'a EngineState,
    pub(super) prompt_tokens: f64,
    pub(super) output_tokens: f64,
}

/// Those inside and the room that they leave.
struct Inside {
    /// Requests.
    n: f64,
    /// Requests that decode beside it once it runs.
    beside: f64,
    /// Cached tokens of those.
    kv_tokens: f64,
    /// Requests that have to leave before it may run.
    to_leave: f64,
    /// Mean tokens that are still to come of each.
    left: f64,
}

impl Visit<'_> {
    /// The estimate.
    pub(super) fn estimate(&self) -> Estimate {
        let inside = self.inside();
        let own_kv = self.kept(self.prompt_tokens + self.output_tokens / 2.0);
        let alone_s = self.steps.decode_s(inside.beside, inside.kv_tokens);
        let joined_s = self.steps.decode_s(inside.beside + 1.0, inside.kv_tokens + own_kv);
        let prefill_s = self.prefill_s(self.prompt_tokens, inside.beside, alone_s);
        let ttft_s = self.wait_s(&inside, alone_s) + prefill_s;
        let decoded = (self.output_tokens - 1.0).max(0.0);
        let slower_s = (joined_s - alone_s).max(0.0) * inside.beside;
        Estimate {
            ttft_s,
            e2e_s: ttft_s + decoded * joined_s,
            delay_s: inside.beside * self.interrupts_s(prefill_s, alone_s)
                + slower_s * decoded.min(inside.left),
        }
    }

    /// Seconds in which the batch that the request would join yields a token of any of its sequences: one over its throughput.
    pub(super) fn seconds_a_token(&self) -> f64 {
        let inside = self.inside();
        let batch = inside.beside + 1.0;
        let kv_tokens = inside.kv_tokens + kept(self.config, self.prompt_tokens);
        self.steps.decode_s(batch, kv_tokens) / batch
    }

    fn kept(&self, tokens: f64) -> f64 {
        kept(self.config, tokens)
    }
}

/// Tokens of a sequence that stay in the cache, of so many that went in.
fn kept(config: &EngineConfig, tokens: f64) -> f64 {
    config.kv_budget.map_or(tokens, |most| tokens.min(most as f64))
}

/// Most sequences of a batch that has no limit of its own, for [`full_batch_s`].
const BATCH_MOST: f64 = 256.0;

/// Seconds of an engine's time that a request of so many tokens (prompt, answer) takes where the batch is always full.
pub(super) fn full_batch_s(
    config: &EngineConfig,
    steps: &Steps,
    (prompt, answer): (f64, f64),
) -> f64 {
    let own = kept(config, prompt + answer / 2.0);
    let room = config.kv_blocks.map_or(f64::INFINITY, |n| (n * config.block_tokens) as f64 / own);
    let batch = room.floor().min(config.max_num_seqs as f64).clamp(1.0, BATCH_MOST);
    steps.prefill_s(prompt) + answer * steps.decode_s(batch, batch * own) / batch
}

impl Visit<'_> {
    fn inside(&self) -> Inside {
        let state = self.state;
        let n = state.outstanding() as f64;
        let left = if n > 0.0 { (state.output_tokens_left / n).max(1.0) } else { 0.0 };
        let kv_tokens = state.kv_tokens as f64 + self.kept_of_prompts();
        let places = n + 1.0 - self.config.max_num_seqs as f64;
        let to_leave = places.max(self.too_many(n, kv_tokens)).clamp(0.0, n);
        let beside = n - to_leave;
        let kv_tokens = if n > 0.0 { kv_tokens * beside / n } else { 0.0 };
        Inside { n, beside, kv_tokens, to_leave, left }
    }

    /// Tokens that prompts will hold in the cache when they are computed.
    fn kept_of_prompts(&self) -> f64 {
        let tokens = self.state.prompt_tokens_left as f64;
        let n = (self.state.waiting as f64).max(1.0);
        n * self.kept(tokens / n)
    }

    /// Requests that have to leave until its prompt has room in the cache.
    fn too_many(&self, n: f64, kv_tokens: f64) -> f64 {
        let Some(blocks) = self.config.kv_blocks else { return 0.0 };
        let room = (blocks * self.config.block_tokens) as f64;
        let over = kv_tokens + self.kept(self.prompt_tokens) - room;
        if over > 0.0 && kv_tokens > 0.0 { (over * n / kv_tokens).ceil() } else { 0.0 }
    }

    /// Seconds until its prompt is begun.
    fn wait_s(&self, inside: &Inside, step_s: f64) -> f64 {
        let before_s = self.prefill_s(self.state.prompt_tokens_left as f64, inside.beside, step_s);
        if inside.to_leave <= 0.0 {
            return before_s;
        }
        // Of so many that run, each with `left` steps to go, one leaves every `left / batch` steps.
        let batch = inside.beside.max(1.0);
        before_s + inside.to_leave * inside.left * step_s / batch
    }

    /// Seconds in which so many tokens of prompts are computed beside a batch that decodes.
    fn prefill_s(&self, tokens: f64, beside: f64, step_s: f64) -> f64 {
        if tokens < 1.0 {
            return 0.0;
        }
        let prompts = (tokens / self.prompt_tokens.max(1.0)).max(1.0);
        let alone_s = prompts * self.steps.prefill_s(tokens / prompts);
        if self.config.mixing == Mixing::PrefillFirst || beside < 1.0 {
            return alone_s;
        }
        let mixed_s = (step_s - self.steps.shared_s).max(0.0);
        let room =
            self.config.max_batched_tokens.map_or(f64::INFINITY, |most| most as f64 - beside);
        alone_s + (tokens / room.max(1.0)).ceil() * mixed_s
    }

    /// Seconds by which its prompt holds up each of those that decode.
    fn interrupts_s(&self, prefill_s: f64, step_s: f64) -> f64 {
        if self.config.mixing == Mixing::PrefillFirst {
            return prefill_s;
        }
        let room = self.config.max_batched_tokens.map_or(f64::INFINITY, |most| most as f64);
        (prefill_s - (self.prompt_tokens / room).ceil() * step_s).max(0.0)
    }
}
