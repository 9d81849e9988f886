//! Distribution of a time, as the file spells it.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::scenario::value::{Real, Sp};

/// Up to an hour.
type ThinkSeconds = Real<0, 3_600_000>;

/// Distribution of a time, seconds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::scenario) enum Think {
    /// Always this.
    Fixed(ThinkSeconds),
    /// Uniform on `min` to `max`.
    Uniform(UniformThink),
    /// Log-normal, cut at `max`.
    Lognormal(LognormalThink),
}

/// Bounds of a uniform time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct UniformThink {
    /// Shortest.
    pub(in crate::scenario) min: Sp<ThinkSeconds>,
    /// Longest.
    pub(in crate::scenario) max: ThinkSeconds,
}

/// Parameters of a log-normal time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct LognormalThink {
    /// Median.
    pub(in crate::scenario) median: Sp<Real<1, 3_600_000>>,
    /// Standard deviation of the logarithm.
    pub(in crate::scenario) sigma: Real<0, 5_000>,
    /// Longest.
    pub(in crate::scenario) max: ThinkSeconds,
}
