//! What no router can beat, and what a pool can serve at most.
//!
//! The bounds hold for every way to route and to batch, as long as step times never fall with the work of a step. They are bounds and
//! not optima: nothing says that a router can reach them, and with a KV cache of limited size finding the best schedule is NP-hard
//! (arXiv 2508.06133).

use super::{cluster::Arrival, world::MethodWorld};
use crate::{
    predict::{
        StepTimes, Work,
        simulate::{Engine, EngineConfig, Event, Happening, Request, StepError, Times},
    },
    units::ns_to_s,
};

/// Points at which the growing cache of an answer is looked at.
const LOOKS: u64 = 64;
/// Requests of a run that looks for saturation.
const SATURATING: usize = 2000;

/// Lower bounds of a trace on a pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Of the mean seconds from arrival to last token: each request alone on the engine that serves it soonest.
    pub e2e_mean_s: f64,
    /// Of the mean seconds to the first token, in the same way.
    pub ttft_mean_s: f64,
    /// Of the seconds that an engine is busy, on average over the engines: each request by the method that needs least, its steps
    /// shared with a full batch (work over capacity).
    pub work_s: f64,
}

/// The bounds of `arrivals` for engines of these methods, one entry an engine; `None` without arrivals or engines.
pub fn bound(arrivals: &[Arrival], engines: &[(usize, &MethodWorld)]) -> Option<Bound> {
    let mut methods = engines.to_vec();
    methods.sort_by_key(|(method, _)| *method);
    methods.dedup_by_key(|(method, _)| *method);
    let mut sum = Least { ttft_s: 0.0, e2e_s: 0.0, work_s: 0.0 };
    // Of those that are given up no time counts.
    let arrivals: Vec<&Arrival> = arrivals.iter().filter(|one| one.leaves_ns.is_none()).collect();
    for arrival in &arrivals {
        let each = methods.iter().map(|(place, method)| {
            let service = Service { config: &method.config, times: method.times.as_ref() };
            service.least(arrival.prompt_tokens, arrival.output_tokens[*place])
        });
        let least = each.reduce(Least::min)?;
        sum.ttft_s += least.ttft_s;
        sum.e2e_s += least.e2e_s;
        sum.work_s += least.work_s;
    }
    let n = arrivals.len() as f64;
    (!arrivals.is_empty()).then(|| Bound {
        e2e_mean_s: sum.e2e_s / n,
        ttft_mean_s: sum.ttft_s / n,
        work_s: sum.work_s / engines.len() as f64,
    })
}

#[derive(Debug, Clone, Copy)]
struct Least {
    ttft_s: f64,
    e2e_s: f64,
    work_s: f64,
}

impl Least {
    fn min(self, other: Self) -> Self {
        Self {
            ttft_s: self.ttft_s.min(other.ttft_s),
            e2e_s: self.e2e_s.min(other.e2e_s),
            work_s: self.work_s.min(other.work_s),
        }
    }
}

struct Service<'a> {
    config: &'a EngineConfig,
    times: &'a dyn StepTimes,
}

impl Service<'_> {
    fn least(&self, prompt: u64, output: u64) -> Least {
        let prefill_s = self.prefill_s(prompt);
        let batch = self.config.max_num_seqs as f64;
        Least {
            ttft_s: prefill_s,
            e2e_s: prefill_s + self.decode_s(prompt, output, 1.0),
            // A prompt shares its step with others: what it adds is counted, and not the step.
            work_s: (prefill_s - self.prefill_s(1)).max(0.0) + self.decode_s(prompt, output, batch),
        }
    }

    fn prefill_s(&self, tokens: u64) -> f64 {
        self.times.step_s(Some(&Work::prefill([(tokens as f64, 0.0)])), None)
    }

    /// Seconds of all decode steps of an answer, its share of a batch of so many alike. The cache grows with every token: it is looked
    /// at [`LOOKS`] times, and taken for as small as it was at the last look.
    fn decode_s(&self, prompt: u64, output: u64, batch: f64) -> f64 {
        let stride = output.div_ceil(LOOKS).max(1);
        let budget = self.config.kv_budget.map(|most| most as f64);
        let block = |first: u64| {
            let kv = (prompt + first) as f64;
            let step_s = self.times.step_s(None, Some(&Work::decode_alike(batch, kv, budget)));
            (output - first).min(stride) as f64 * step_s / batch
        };
        (1..output).step_by(stride as usize).map(block).sum()
    }
}

/// Requests a second that one engine finishes when its queue is never empty: the most that it keeps up with. Requests of these
/// (prompt, answer) tokens, over and over until 2000, are all there at the start; the rate is taken between the moments at which a
/// quarter and three quarters of them have ended, when the batch is neither filling nor running dry. `None` where the engine takes
/// none of them.
///
/// # Errors
/// Step times that are no times.
pub fn saturation_per_s(
    config: EngineConfig,
    times: &Times,
    lengths: &[(u64, u64)],
) -> Result<Option<f64>, StepError> {
    let Ok(mut engine) = Engine::new(config, Times::clone(times)) else { return Ok(None) };
    for (id, (prompt_tokens, output_tokens)) in lengths.iter().cycle().take(SATURATING).enumerate()
    {
        let (prompt_tokens, output_tokens) = (*prompt_tokens, *output_tokens);
        let request = Request { id: id as u64, prompt_tokens, cached_tokens: 0, output_tokens };
        // What does not fit is no load.
        let _ = engine.push(0, request);
    }
    let (mut events, mut ends_ns) = (Vec::new(), Vec::new());
    while engine.next_event_ns().is_some() {
        engine.advance(&mut events)?;
        let ended = |event: Event| (event.what == Happening::Finished).then_some(event.at_ns);
        ends_ns.extend(events.drain(..).filter_map(ended));
    }
    let (from, to) = (ends_ns.len() / 4, ends_ns.len() * 3 / 4);
    let (Some(first), Some(last)) = (ends_ns.get(from), ends_ns.get(to)) else { return Ok(None) };
    let took_s = ns_to_s(last - first);
    Ok((took_s > 0.0).then(|| (to - from) as f64 / took_s))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::predict::simulate::LinearTimes;

    fn times(step_s: f64, per_sequence_s: f64, per_prompt_token_s: f64) -> Times {
        Arc::new(LinearTimes {
            step_s,
            per_sequence_s,
            per_kv_token_s: 0.0,
            per_prompt_s: 0.0,
            per_prompt_token_s,
            per_pair_s: 0.0,
        })
    }

    fn method(times: Times, max_num_seqs: usize) -> MethodWorld {
        MethodWorld {
            name: "m".to_owned(),
            times,
            config: EngineConfig::unlimited(max_num_seqs),
            shift: super::super::world::LengthShift { mean_log: 0.0, sigma_log: 0.0 },
            excess: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn one_sequence_at_a_time_saturates_at_one_over_its_service() {
        let config = EngineConfig::unlimited(1);
        // Prefill 0.01 + 10 * 0.001, then 4 steps of 0.01 + 0.002: 0.068 s.
        let rate = saturation_per_s(config, &times(0.01, 0.002, 0.001), &[(10, 5)]).unwrap();
        assert!((rate.unwrap() * 0.068 - 1.0).abs() < 1e-3, "{rate:?}");
    }

    #[test]
    fn an_engine_that_takes_nothing_has_no_rate() {
        let config = EngineConfig { kv_blocks: Some(1), ..EngineConfig::unlimited(1) };
        assert_eq!(saturation_per_s(config, &times(0.01, 0.0, 0.0), &[(1000, 5)]).unwrap(), None);
    }

    #[test]
    fn bounds_are_those_by_hand() {
        let (slow, fast) = (method(times(0.02, 0.0, 0.001), 2), method(times(0.01, 0.0, 0.002), 1));
        let arrival = Arrival {
            id: 0,
            at_ns: 0,
            prompt_tokens: 10,
            task: None,
            output_tokens: vec![5, 5],
            predicted_tokens: vec![5.0, 5.0],
            breaks: vec![false, false],
            leaves_ns: None,
        };
        let found = bound(&[arrival], &[(0, &slow), (1, &fast), (1, &fast)]).unwrap();
        // First token: 0.02 + 0.01 and 0.01 + 0.02. Then four steps: 0.08 and 0.04.
        assert!((found.ttft_mean_s - 0.03).abs() < 1e-9 && (found.e2e_mean_s - 0.07).abs() < 1e-9);
        // Work: 0.009 + 4 * 0.02 / 2 and 0.018 + 4 * 0.01; of three engines.
        assert!((found.work_s - 0.049 / 3.0).abs() < 1e-9, "{found:?}");
        assert_eq!(bound(&[], &[(0, &slow)]), None);
    }
}
