//! How requests arrive.

use super::{Scenario, Workload, error::Fault, wire};
use crate::record::manifest::SearchRule;

/// A name and a load.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedLoad {
    /// Key in `[load]`.
    pub name: String,
    /// The load.
    pub kind: Load,
}

/// How requests arrive. Lists are swept: one cell a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// Closed loop with a fixed number of requests in flight. On kernel targets this is the batch size.
    Closed {
        /// Requests in flight.
        concurrency: Vec<usize>,
    },
    /// Equal gaps.
    Constant {
        /// Requests per second.
        rate: Vec<f64>,
    },
    /// Exponential gaps.
    Poisson {
        /// Requests per second.
        rate: Vec<f64>,
    },
    /// Gamma gaps with shape = `burstiness` (1 = Poisson, smaller = burstier).
    Gamma {
        /// Requests per second.
        rate: Vec<f64>,
        /// Shape of the gamma distribution.
        burstiness: f64,
    },
    /// Exponential gaps at a rate that goes from one value to another and stays there.
    Ramp {
        /// Requests per second at the start.
        from: f64,
        /// Requests per second at the end and after it.
        to: f64,
        /// Length of the ramp.
        over_s: f64,
        /// Stairs of equal length; `None` = a slope.
        steps: Option<usize>,
    },
    /// Exponential gaps with a burst at the end of each period.
    Burst {
        /// Requests per second between bursts.
        base_rate: f64,
        /// Requests per second within a burst.
        burst_rate: f64,
        /// From one burst to the next.
        period_s: f64,
        /// Length of a burst, less than the period.
        burst_s: f64,
    },
    /// The times that the workload, a trace, holds itself.
    Replay {
        /// How many times as fast as recorded.
        speed: Vec<f64>,
    },
    /// The highest Poisson rate that meets the scenario's SLO, which is there, is searched for.
    Saturation(SearchRule),
}

/// One entry of `[load]`.
pub(super) fn build(wire: &wire::Load) -> Result<Load, Fault> {
    let rates = |list: &wire::RateList| list.0.iter().map(|rate| rate.0).collect();
    Ok(match wire {
        wire::Load::Closed(closed) => {
            Load::Closed { concurrency: closed.concurrency.0.iter().map(|n| n.usize()).collect() }
        }
        wire::Load::Constant(open) => Load::Constant { rate: rates(&open.rate) },
        wire::Load::Poisson(open) => Load::Poisson { rate: rates(&open.rate) },
        wire::Load::Gamma(open) => {
            Load::Gamma { rate: rates(&open.rate), burstiness: open.burstiness.0 }
        }
        wire::Load::Ramp(wire) => ramp(wire)?,
        wire::Load::Burst(wire) => burst(wire)?,
        wire::Load::Saturation(wire) => saturation(wire)?,
        wire::Load::Replay(wire) => Load::Replay { speed: rates(&wire.speed) },
    })
}

/// A `replay` load takes its times from the workload, so each has to have some.
pub(super) fn have_times(scenario: &Scenario, file: &wire::File) -> Result<(), Fault> {
    let prompts = |kind: &Workload| !matches!(kind, Workload::Shapes { .. });
    let timeless = scenario.workloads.iter().find(|w| prompts(&w.kind) && !w.kind.has_times());
    let Some(timeless) = timeless else { return Ok(()) };
    for ((name, _), load) in file.load.0.iter().zip(&scenario.loads) {
        if matches!(load.kind, Load::Replay { .. }) {
            let message = format!(
                "expected workloads with times for the `replay` load `{}`, got `{}`, which has none",
                name.value, timeless.name
            );
            let hint = "traces of the formats `mooncake`, `azure` and `burstgpt` have times; put other workloads into a scenario of their own";
            return Err(Fault::new(name.at, message, hint));
        }
    }
    Ok(())
}

fn saturation(wire: &wire::Saturation) -> Result<Load, Fault> {
    let (first, most) = (wire.requests_per_probe.value.usize(), wire.probe_max_requests.usize());
    if first > most {
        let message = format!(
            "expected `requests_per_probe` to be at most `probe_max_requests` ({most}), got {first}"
        );
        let hint = "raise `probe_max_requests` beside it, or lower `requests_per_probe`";
        return Err(Fault::new(wire.requests_per_probe.at, message, hint));
    }
    Ok(Load::Saturation(SearchRule {
        attainment: wire.attainment.0,
        start_rate: wire.start_rate.0,
        tolerance: wire.tolerance.0,
        requests_per_probe: first,
        probe_max_requests: most,
    }))
}

/// A search asks how many requests meet the SLO, so there has to be one.
pub(super) fn have_slo(scenario: &Scenario, file: &wire::File) -> Result<(), Fault> {
    let search = |(_, load): &(_, &NamedLoad)| matches!(load.kind, Load::Saturation(_));
    match file.load.0.iter().zip(&scenario.loads).find(search) {
        Some(((name, _), _)) if scenario.slo.is_none() => Err(Fault::new(
            name.at,
            format!("expected [slo] for the `saturation` load `{}`, got none", name.value),
            "say what a good answer is, for example `[slo]` with `ttft_ms = 500`",
        )),
        _ => Ok(()),
    }
}

fn ramp(wire: &wire::Ramp) -> Result<Load, Fault> {
    let (from, to) = (wire.from.value.0, wire.to.0);
    if from.to_bits() == to.to_bits() {
        let message = format!("expected `from` to differ from `to`, got {from} twice");
        return Err(Fault::new(wire.from.at, message, "a rate that stays is a `poisson` load"));
    }
    let steps = wire.steps.map(|n| n.usize());
    Ok(Load::Ramp { from, to, over_s: wire.over_s.0, steps })
}

fn burst(wire: &wire::Burst) -> Result<Load, Fault> {
    let (period_s, burst_s) = (wire.period_s.0, wire.burst_s.value.0);
    if burst_s >= period_s {
        let message =
            format!("expected `burst_s` to be less than `period_s` ({period_s}), got {burst_s}");
        return Err(Fault::new(wire.burst_s.at, message, "a burst is a part of its period"));
    }
    let (base_rate, burst_rate) = (wire.base_rate.0, wire.burst_rate.0);
    Ok(Load::Burst { base_rate, burst_rate, period_s, burst_s })
}
