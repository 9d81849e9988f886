//! What is compared: names, units, directions. A name says metric, unit and statistic: `ttft_ms_p99`.

use crate::analyse::{Better, definitions};

/// Statistics of a distribution over requests: the name's end, and the percentile (`None` for the mean).
pub(super) const STATISTICS: [(&str, Option<u32>); 5] =
    [("mean", None), ("p50", Some(50)), ("p90", Some(90)), ("p95", Some(95)), ("p99", Some(99))];

/// Distributions over requests: stem of the name, name of the definition, unit, direction.
pub(super) const SERVED: [(&str, &str, &str, Better); 6] = [
    ("ttft_ms", "ttft", "ms", Better::Lower),
    ("ttft_due_ms", "ttft_due", "ms", Better::Lower),
    ("e2e_ms", "e2e", "ms", Better::Lower),
    ("e2e_due_ms", "e2e_due", "ms", Better::Lower),
    ("tpot_ms", "tpot", "ms", Better::Lower),
    ("output_tokens", "output_tokens", "tokens", Better::Neither),
];

/// Numbers of a whole cell.
pub(super) const RATES: [(&str, &str); 3] =
    [("requests_per_s", "1/s"), ("output_tokens_per_s", "tokens/s"), ("goodput_per_s", "1/s")];

/// Operations of kernels, and what is compared of each.
pub(super) const OPS: [&str; 3] = ["decode", "prefill", "compress"];
pub(super) const OF_OP: [(&str, &str); 3] =
    [("ms_p50", "ms"), ("cpu_ms_p50", "ms"), ("vs_probe", "1")];

/// Mean score of scored answers.
pub(super) const SCORE: &str = "score_mean";
/// Failed requests or launches, which are always compared.
pub(super) const FAILED: &str = "failed";

/// One metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Such as `ttft_ms_p99`.
    pub name: String,
    /// Unit, `1` for none.
    pub unit: &'static str,
    /// Which direction is better.
    pub better: Better,
    /// Id of the definition, see `kvbench definitions`.
    pub definition: Option<&'static str>,
}

impl Metric {
    pub(super) fn new(
        name: impl Into<String>,
        unit: &'static str,
        better: Better,
        of: &str,
    ) -> Self {
        Self { name: name.into(), unit, better, definition: definitions::of_metric(of) }
    }
}

/// Every name that a gate can have, but for the counts of negatives.
pub fn names() -> Vec<String> {
    let served = SERVED.iter().flat_map(|(stem, ..)| {
        STATISTICS.iter().map(move |(statistic, _)| format!("{stem}_{statistic}"))
    });
    let ops = OPS.iter().flat_map(|op| OF_OP.iter().map(move |(what, _)| format!("{op}_{what}")));
    let rates = RATES.iter().map(|(name, _)| (*name).to_owned());
    served.chain(rates).chain(ops).chain([SCORE.to_owned()]).collect()
}

/// Loss that a count of negatives is at, percent: 10 of `negatives_10pct`.
pub fn negatives_percent(name: &str) -> Option<f64> {
    let percent: f64 = name.strip_prefix("negatives_")?.strip_suffix("pct")?.parse().ok()?;
    (percent > 0.0 && percent <= 100.0).then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_counts_are_read() {
        let names = names();
        let set: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(set.len(), names.len());
        assert!(names.iter().any(|name| name == "tpot_ms_p99"));
        assert_eq!(negatives_percent("negatives_10pct"), Some(10.0));
        assert_eq!(negatives_percent("negatives_0pct"), None);
        assert_eq!(negatives_percent("tpot_ms_p99"), None);
    }
}
