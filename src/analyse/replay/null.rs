//! What one would say without a simulator: no request waits, and every step holds the mean batch.

use super::Simulated;
use crate::{
    analyse::observed_trace::{CellTrace, Observed},
    predict::{StepTimes as _, Work},
};

/// Rounds in which the mean batch and the time of a request settle on each other.
const ROUNDS: usize = 100;

/// Times of one request, seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alone {
    pub(super) ttft_s: f64,
    pub(super) e2e_s: f64,
    pub(super) tpot_s: Option<f64>,
}

/// Every request of a cell without a queue: its prompt as if alone, then steps of the mean batch. The mean batch is not measured (that
/// would be looking): by Little's law it is the rate times the mean time of a request, which depends on it again.
pub(super) fn without_queue(engine: &Simulated, trace: &CellTrace) -> Vec<Alone> {
    let most = engine.config.max_num_seqs as f64;
    let at = |batch: f64| -> Vec<Alone> {
        trace.requests.iter().map(|request| alone(engine, request, batch)).collect()
    };
    let batch = match trace.cell.concurrency {
        Some(n) => f64::from(n).min(most),
        None => {
            let rate = super::rate_per_s(trace);
            let mut batch = 1.0_f64;
            for _ in 0..ROUNDS {
                let times = at(batch);
                let mean = times.iter().map(|one| one.e2e_s).sum::<f64>() / times.len() as f64;
                // Half way each time, or it may swing.
                batch = 0.5 * (batch + (rate * mean).clamp(1.0, most));
            }
            batch
        }
    };
    at(batch)
}

fn alone(engine: &Simulated, request: &Observed, batch: f64) -> Alone {
    let cached = request.cached_tokens.min(request.prompt_tokens - 1) as f64;
    let prefill = Work::prefill([(request.prompt_tokens as f64 - cached, cached)]);
    let ttft_s = engine.fitted.request_s + engine.fitted.step_s(Some(&prefill), None);
    let steps = (request.output_tokens - 1) as f64;
    let kv_len = request.prompt_tokens as f64 + request.output_tokens as f64 / 2.0;
    let mut decode = Work::decode([kv_len], engine.config.kv_budget.map(|most| most as f64));
    for value in
        [&mut decode.batch, &mut decode.new_tokens, &mut decode.attended, &mut decode.cached]
    {
        *value *= batch;
    }
    let step_s = engine.fitted.step_s(None, Some(&decode));
    Alone { ttft_s, e2e_s: ttft_s + steps * step_s, tpot_s: (steps > 0.0).then_some(step_s) }
}
