//! What a request would find at an engine, and what it would do to those inside: from counts alone, in the same few operations
//! however many requests there are.
//!
//! The engine serves in the order of arrival. A request waits until a place and room in the KV cache are free, then for the
//! prompts before its own, and decodes in the batch that it joins. The batch is taken to stay as large as it is: the places of
//! those who leave are taken by those who come, as they are where load matters. From this follow
//!
//! - its own time: `wait + prefill + (tokens - 1) * step(with it)`;
//! - the delay of others: `beside * (prefill + (tokens - 1) * (step(with it) - step(without)))`. Beside it are as many as there
//!   are now in each of its steps, whoever they are, and its prompt stops each of them once;
//! - what it will see of newcomers, whose prompts stop it in turn: of a batch of `beside`, each with `left` tokens to come, one
//!   leaves every `left / beside` steps. This is in the time that is told, and in no cost: it is the newcomers' doing, and the
//!   rule charges it to them when they come.

use super::{EngineState, steps::Steps};
use crate::predict::simulate::{EngineConfig, Mixing};

/// What is believed of a request at an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    /// Seconds until its first token.
    pub(super) ttft_s: f64,
    /// Seconds until its last token, if nobody came after it.
    pub(super) own_s: f64,
    /// Seconds until its last token, with as many newcomers as there are leavers.
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
    /// Requests that decode beside it once it runs.
    beside: f64,
    /// Cached tokens of those.
    kv_tokens: f64,
    /// Requests that have to leave before it may run.
    to_leave: f64,
    /// Tokens that are still to come of each: the mean, and not less than its own answer has, since those who have outrun what was
    /// expected of them count for next to nothing and stay.
    left: f64,
}

/// Prompts at an engine.
struct Prefill {
    /// Seconds until they are computed.
    done_s: f64,
    /// Seconds by which each of those who decode is held up.
    holds_up_s: f64,
}

impl Visit<'_> {
    /// The estimate.
    pub(super) fn estimate(&self) -> Estimate {
        let inside = self.inside();
        let own_kv = kept(self.config, self.prompt_tokens + self.output_tokens / 2.0);
        let alone_s = self.steps.decode_s(inside.beside, inside.kv_tokens);
        let joined_s = self.steps.decode_s(inside.beside + 1.0, inside.kv_tokens + own_kv);
        let prompt = self.prefill(1.0, self.prompt_tokens, inside.beside, alone_s);
        let ttft_s = self.wait_s(&inside, alone_s) + prompt.done_s;
        let decoded = (self.output_tokens - 1.0).max(0.0);
        let own_s = ttft_s + decoded * joined_s;
        let newcomers = decoded * inside.beside / inside.left;
        let slower_s = decoded * (joined_s - alone_s).max(0.0);
        Estimate {
            ttft_s,
            own_s,
            e2e_s: own_s + newcomers * prompt.holds_up_s,
            delay_s: inside.beside * (prompt.holds_up_s + slower_s),
        }
    }

    /// Seconds in which the batch that the request would join yields a token of any of its sequences: one over its throughput.
    pub(super) fn seconds_a_token(&self) -> f64 {
        let inside = self.inside();
        let batch = inside.beside + 1.0;
        let kv_tokens = inside.kv_tokens + kept(self.config, self.prompt_tokens);
        self.steps.decode_s(batch, kv_tokens) / batch
    }

    fn inside(&self) -> Inside {
        let state = self.state;
        let n = state.outstanding() as f64;
        let kv_tokens = state.kv_tokens as f64 + self.kept_of_prompts();
        let places = n + 1.0 - self.config.max_num_seqs as f64;
        let to_leave = places.max(self.too_many(n, kv_tokens)).clamp(0.0, n);
        let beside = n - to_leave;
        let per_request = 1.0 / n.max(1.0);
        Inside {
            beside,
            kv_tokens: kv_tokens * per_request * beside,
            to_leave,
            left: (state.output_tokens_left * per_request).max(self.output_tokens),
        }
    }

    /// Prompts that are not computed yet. Some of them may be begun already; those that wait are whole.
    fn n_prompts(&self) -> f64 {
        (self.state.waiting as f64).max(1.0)
    }

    /// Tokens that those prompts will hold in the cache.
    fn kept_of_prompts(&self) -> f64 {
        let n = self.n_prompts();
        n * kept(self.config, self.state.prompt_tokens_left as f64 / n)
    }

    /// Requests that have to leave until its prompt has room in the cache.
    fn too_many(&self, n: f64, kv_tokens: f64) -> f64 {
        let Some(blocks) = self.config.kv_blocks else { return 0.0 };
        let room = blocks as f64 * self.config.block_tokens as f64;
        let over = kv_tokens + kept(self.config, self.prompt_tokens) - room;
        if over > 0.0 && kv_tokens > 0.0 { (over * n / kv_tokens).ceil() } else { 0.0 }
    }

    /// Seconds until its prompt is begun.
    fn wait_s(&self, inside: &Inside, step_s: f64) -> f64 {
        let tokens = self.state.prompt_tokens_left as f64;
        let before = self.prefill(self.n_prompts(), tokens, inside.beside, step_s);
        if inside.to_leave <= 0.0 {
            return before.done_s;
        }
        // Of a batch whose members have `left` steps to go, one leaves every `left / batch` steps.
        before.done_s + inside.to_leave * inside.left * step_s / inside.beside.max(1.0)
    }

    /// So many prompts with so many tokens together, beside a batch that decodes in steps of `step_s`.
    fn prefill(&self, n: f64, tokens: f64, beside: f64, step_s: f64) -> Prefill {
        if tokens < 1.0 {
            return Prefill { done_s: 0.0, holds_up_s: 0.0 };
        }
        // Prompts that share a step share its overhead.
        let shared_s = self.steps.shared_s;
        let each_s = (self.steps.prefill_s(tokens / n) - shared_s).max(0.0);
        let alone_s = n * each_s + shared_s;
        if self.config.mixing == Mixing::PrefillFirst || beside < 1.0 {
            return Prefill { done_s: alone_s, holds_up_s: alone_s };
        }
        let room = self.config.max_batched_tokens.map_or(f64::INFINITY, |n| n as f64 - beside);
        let n_steps = (tokens / room.max(1.0)).ceil().max(1.0);
        Prefill {
            done_s: alone_s + n_steps * (step_s - shared_s).max(0.0),
            holds_up_s: (alone_s - n_steps * shared_s).max(0.0),
        }
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
    let room = |blocks: u64| blocks as f64 * config.block_tokens as f64 / own;
    let batch = config.kv_blocks.map_or(f64::INFINITY, room).floor();
    let batch = batch.min(config.max_num_seqs as f64).clamp(1.0, BATCH_MOST);
    steps.prefill_s(prompt) + answer * steps.decode_s(batch, batch * own) / batch
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        predict::simulate::{Engine, Happening, LinearTimes, Request, Times},
        route::Member,
        units::ns_to_s,
    };

    fn member(mixing: Mixing, kv_blocks: Option<u64>) -> Member {
        let times: Times = Arc::new(LinearTimes {
            step_s: 0.03,
            per_sequence_s: 2e-5,
            per_kv_token_s: 9e-7,
            per_prompt_s: 0.0,
            per_prompt_token_s: 1.5e-4,
            per_pair_s: 4e-8,
        });
        let config = EngineConfig {
            max_batched_tokens: Some(2048),
            chunked_prefill: mixing == Mixing::DecodeFirst,
            mixing,
            kv_blocks,
            ..EngineConfig::unlimited(16)
        };
        Member { name: "e".to_owned(), method: 0, config, times }
    }

    fn request(id: u64) -> Request {
        Request { id, prompt_tokens: 1000, cached_tokens: 0, output_tokens: 200 }
    }

    /// Seconds to the first and the last token of one more request at an engine that holds `n`, as simulated, and as estimated.
    fn both(member: &Member, n: u64) -> ((f64, f64), Estimate) {
        let mut engine = Engine::new(member.config, member.times.clone()).unwrap();
        let mut events = Vec::new();
        (0..n).for_each(|id| engine.push(0, request(id)).unwrap());
        while engine.state().prompt_tokens_left > 0 && engine.state().running < 16 && n > 0 {
            engine.advance(&mut events).unwrap();
            if engine.state().prompt_tokens_left == 0 || engine.state().waiting > 0 {
                break;
            }
        }
        let seen = engine.state();
        let now_ns = engine.next_event_ns().unwrap_or(0);
        let left: u64 = engine.requests().map(|request| 200 - request.generated_tokens).sum();
        let state = EngineState {
            is_up: true,
            running: seen.running,
            waiting: seen.waiting,
            prompt_tokens_left: seen.prompt_tokens_left,
            kv_tokens: seen.kv_tokens,
            output_tokens_left: left as f64,
        };
        let steps = Steps::of_all(std::slice::from_ref(member));
        let visit = Visit {
            config: &member.config,
            steps: &steps[0],
            state: &state,
            prompt_tokens: 1000.0,
            output_tokens: 200.0,
        };
        engine.push(now_ns, request(n)).unwrap();
        events.clear();
        while engine.next_event_ns().is_some() {
            engine.advance(&mut events).unwrap();
        }
        let at = |what| {
            let found = events.iter().find(|event| event.id == n && event.what == what);
            ns_to_s(found.unwrap().at_ns - now_ns)
        };
        ((at(Happening::FirstToken), at(Happening::Finished)), visit.estimate())
    }

    fn near(found: f64, expected: f64, share: f64) -> bool {
        (found / expected - 1.0).abs() <= share
    }

    #[test]
    fn an_idle_engine_is_known_to_a_percent() {
        for mixing in [Mixing::PrefillFirst, Mixing::DecodeFirst] {
            let ((ttft_s, e2e_s), estimate) = both(&member(mixing, None), 0);
            assert!(near(estimate.ttft_s, ttft_s, 0.01), "{ttft_s} {estimate:?}");
            assert!(near(estimate.own_s, e2e_s, 0.01), "{e2e_s} {estimate:?}");
            assert!(estimate.delay_s.abs() < 1e-12, "nobody is there to be delayed");
        }
    }

    /// Without newcomers: the engine is left alone after the request.
    #[test]
    fn a_batch_with_room_is_known_to_a_tenth() {
        for mixing in [Mixing::PrefillFirst, Mixing::DecodeFirst] {
            let ((_, e2e_s), estimate) = both(&member(mixing, None), 8);
            assert!(near(estimate.own_s, e2e_s, 0.1), "{mixing:?}: {e2e_s} {estimate:?}");
            assert!(estimate.delay_s > 8.0 * 0.15, "each waits for the prompt: {estimate:?}");
            assert!(estimate.e2e_s > estimate.own_s);
        }
    }

    /// A full engine makes wait, by places or by memory, about as long as simulated.
    #[test]
    fn a_full_engine_makes_wait() {
        // Places for 16; room for 8 requests of 1200 tokens.
        for (blocks, n) in [(None, 40), (Some(600), 20)] {
            let member = member(Mixing::PrefillFirst, blocks);
            let ((ttft_s, e2e_s), estimate) = both(&member, n);
            let (_, idle) = both(&member, 0);
            assert!(ttft_s > 5.0 * idle.ttft_s && estimate.ttft_s > 5.0 * idle.ttft_s);
            assert!(near(estimate.own_s, e2e_s, 0.5), "{blocks:?}: {e2e_s} {estimate:?}");
        }
    }
}
