//! How requests arrive, as the file spells it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{InFlight, Rate, Seconds};
use crate::scenario::value::{Int, List, Real, Sp};

/// A list of requests per second.
pub(in crate::scenario) type RateList = List<Rate>;

/// How requests arrive; lists are swept, one cell a value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::scenario) enum Load {
    /// A fixed number in flight; the batch size on kernel targets.
    Closed(Closed),
    /// Equal gaps.
    Constant(Rates),
    /// Exponential gaps.
    Poisson(Rates),
    /// Gamma gaps.
    Gamma(Gamma),
    /// Exponential gaps at a rate that rises or falls.
    Ramp(Ramp),
    /// Exponential gaps with a burst at the end of each period.
    Burst(Burst),
    /// The times of the trace itself.
    Replay(Replay),
    /// Searches the highest Poisson rate that meets `[slo]`.
    Saturation(Saturation),
}

/// Closed loop.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Closed {
    /// Requests in flight.
    pub(in crate::scenario) concurrency: List<InFlight>,
}

/// Open loop with one parameter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Rates {
    /// Requests per second.
    pub(in crate::scenario) rate: RateList,
}

/// Open loop with bursts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Gamma {
    /// Requests per second.
    pub(in crate::scenario) rate: RateList,
    /// Shape of the gamma distribution: 1 = Poisson, smaller = burstier.
    pub(in crate::scenario) burstiness: Real<10, 1_000_000>,
}

/// Open loop whose rate goes from one value to another and stays there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Ramp {
    /// Requests per second at the start.
    pub(in crate::scenario) from: Sp<Rate>,
    /// Requests per second at the end, and for whatever is left of the workload after it.
    pub(in crate::scenario) to: Rate,
    /// Length of the ramp, seconds.
    pub(in crate::scenario) over_s: Seconds,
    /// Stairs of equal length instead of a slope, the first at `from`, the last at `to`.
    pub(in crate::scenario) steps: Option<Int<2, 1000>>,
}

/// Open loop with a burst in each period.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Burst {
    /// Requests per second between bursts; may be 0.
    pub(in crate::scenario) base_rate: Real<0, 100_000_000>,
    /// Requests per second within a burst.
    pub(in crate::scenario) burst_rate: Rate,
    /// From one burst to the next, seconds.
    pub(in crate::scenario) period_s: Seconds,
    /// Length of a burst, seconds: the end of each period.
    pub(in crate::scenario) burst_s: Sp<Seconds>,
}

/// Open loop at the times that a trace holds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Replay {
    /// How many times as fast as it was recorded.
    pub(in crate::scenario) speed: RateList,
}

/// A search: the rate doubles until too few requests meet the SLO, then the bracket is halved.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Saturation {
    /// Requests per second of the first probe.
    pub(in crate::scenario) start_rate: Rate,
    /// Part of the requests that must meet `[slo]`.
    #[serde(default = "attainment")]
    pub(in crate::scenario) attainment: Real<1, 999>,
    /// Width of the bracket at which the search ends, as a part of the sustained rate.
    #[serde(default = "tolerance")]
    pub(in crate::scenario) tolerance: Real<10, 1000>,
    /// Requests of a probe at first, and added while it is in doubt.
    #[serde(default = "requests_per_probe")]
    pub(in crate::scenario) requests_per_probe: Sp<Int<10, 100_000>>,
    /// Most requests of a probe.
    #[serde(default = "probe_max_requests")]
    pub(in crate::scenario) probe_max_requests: Int<10, 100_000>,
}

fn attainment() -> Real<1, 999> {
    Real(0.9)
}

fn tolerance() -> Real<10, 1000> {
    Real(0.1)
}

fn requests_per_probe() -> Sp<Int<10, 100_000>> {
    Sp { value: Int(100), at: 0 }
}

fn probe_max_requests() -> Int<10, 100_000> {
    Int(400)
}
