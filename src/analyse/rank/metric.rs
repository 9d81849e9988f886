//! Metrics by name: a quantity and the statistic that is taken of it, `tpot_ms_p50`.

use std::str::FromStr;

use crate::{
    analyse::{
        Better, RequestFacts,
        requests::{Served, good, good_tokens},
    },
    record::KernelRow,
    stats::{self, needed_for},
    units::{ns_to_ms, ns_to_s},
};

/// What is taken of the observations of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    /// Arithmetic mean of all repeats together; of a rate, which is one number a repeat, the mean over repeats.
    Mean,
    /// This percentile of all repeats together.
    Percentile(u32),
}

impl Statistic {
    /// The statistic of these observations, which are reordered; `None` of nothing.
    pub(in crate::analyse) fn of(self, values: &mut [f64]) -> Option<f64> {
        match self {
            Statistic::Mean => stats::mean(values),
            Statistic::Percentile(percent) => {
                values.sort_unstable_by(f64::total_cmp);
                stats::quantile_sorted(values, f64::from(percent) / 100.0)
            }
        }
    }

    /// Observations below which the statistic is not stated.
    pub fn needed(self) -> usize {
        match self {
            Statistic::Mean => 1,
            Statistic::Percentile(percent) => needed_for(percent),
        }
    }
}

type OfRequest = fn(&RequestFacts) -> Vec<f64>;

/// Where observations come from.
#[derive(Debug, Clone, Copy)]
pub(in crate::analyse) enum Source {
    /// Values of each good request.
    Request(OfRequest),
    /// Values of each request, failed ones too.
    Attempt(OfRequest),
    /// What a request adds to a rate; one value a repeat.
    Rate(fn(&Served, usize) -> Option<f64>),
    /// Launches of an operation of our kernels.
    Launch(&'static str, fn(&KernelRow) -> Option<f64>),
}

/// A metric with its name as on the command line.
#[derive(Debug, Clone)]
pub struct Metric {
    /// `ttft_due_ms_p99`.
    pub name: String,
    /// Unit of its values.
    pub unit: &'static str,
    /// Direction.
    pub better: Better,
    /// What is taken.
    pub statistic: Statistic,
    pub(in crate::analyse) source: Source,
}

type Quantity = (&'static str, &'static str, Better, Source);

const LOWER: Better = Better::Lower;

/// Quantities with a distribution; a statistic is part of the metric's name.
const SPREAD: [Quantity; 12] = [
    ("ttft_ms", "ms", LOWER, Source::Request(|f| f.ttft_ms.into_iter().collect())),
    ("ttft_due_ms", "ms", LOWER, Source::Request(|f| f.ttft_due_ms.into_iter().collect())),
    ("e2e_ms", "ms", LOWER, Source::Request(|f| f.e2e_ms.into_iter().collect())),
    ("e2e_due_ms", "ms", LOWER, Source::Request(|f| f.e2e_due_ms.into_iter().collect())),
    ("tpot_ms", "ms", LOWER, Source::Request(|f| f.tpot_ms.into_iter().collect())),
    ("itl_ms", "ms", LOWER, Source::Request(|f| f.itl_ms.clone())),
    ("icl_ms", "ms", LOWER, Source::Request(|f| f.icl_ms.clone())),
    ("queue_delay_ms", "ms", LOWER, Source::Request(|f| f.queue_delay_ms.into_iter().collect())),
    (
        "output_tokens",
        "tokens",
        LOWER,
        Source::Request(|f| f.answer_tokens.map(|n| n as f64).into_iter().collect()),
    ),
    ("decode_ms", "ms", LOWER, Source::Launch("decode", duration_ms)),
    ("prefill_ms", "ms", LOWER, Source::Launch("prefill", duration_ms)),
    ("compress_ms", "ms", LOWER, Source::Launch("compress", duration_ms)),
];

/// Quantities that are one number a repeat, or a share.
const WHOLE: [Quantity; 4] = [
    ("requests_per_s", "1/s", Better::Higher, Source::Rate(good)),
    ("output_tokens_per_s", "tokens/s", Better::Higher, Source::Rate(good_tokens)),
    (
        "goodput_per_s",
        "1/s",
        Better::Higher,
        Source::Rate(|served, row| {
            served.facts[row].within_slo.map(|held| f64::from(u8::from(held)))
        }),
    ),
    ("failed_share", "1", LOWER, Source::Attempt(|f| vec![f64::from(u8::from(f.failed))])),
];

const STATISTICS: [(&str, Statistic); 5] = [
    ("_mean", Statistic::Mean),
    ("_p50", Statistic::Percentile(50)),
    ("_p90", Statistic::Percentile(90)),
    ("_p95", Statistic::Percentile(95)),
    ("_p99", Statistic::Percentile(99)),
];

fn duration_ms(row: &KernelRow) -> Option<f64> {
    row.duration_ns.map(ns_to_ms)
}

/// Sequences a second through one attention layer: a token of each is decoded by a launch.
fn decoded_per_s(row: &KernelRow) -> Option<f64> {
    row.duration_ns.filter(|ns| *ns > 0).map(|ns| row.batch as f64 / ns_to_s(ns))
}

impl Metric {
    fn new((name, unit, better, source): Quantity, statistic: Statistic, full: &str) -> Self {
        debug_assert!(full.starts_with(name), "the name of a metric begins with its quantity");
        Self { name: full.to_owned(), unit, better, statistic, source }
    }

    /// Output tokens of servers a second.
    pub(in crate::analyse) fn served_throughput() -> Self {
        Self::new(WHOLE[1], Statistic::Mean, "output_tokens_per_s")
    }

    /// Median tokens a second through one attention layer.
    pub(in crate::analyse) fn layer_throughput() -> Self {
        let name = "decode_tokens_per_s";
        let source = Source::Launch("decode", decoded_per_s);
        let quantity = (name, "tokens/s", Better::Higher, source);
        Self::new(quantity, Statistic::Percentile(50), name)
    }

    /// What a run is ranked by where nobody says: throughput, TPOT and TTFT of servers, decode and prefill of kernels.
    pub fn usual() -> Vec<Self> {
        let names = [
            "output_tokens_per_s",
            "tpot_ms_p50",
            "ttft_due_ms_p50",
            "decode_ms_p50",
            "prefill_ms_p50",
        ];
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Whether it is of servers, or of our kernels.
    pub(in crate::analyse) fn is_served(&self) -> bool {
        !matches!(self.source, Source::Launch(..))
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(whole) = WHOLE.iter().find(|quantity| quantity.0 == name) {
            return Ok(Self::new(*whole, Statistic::Mean, name));
        }
        for (suffix, statistic) in STATISTICS {
            let stem = name.strip_suffix(suffix);
            let spread = SPREAD.iter().find(|quantity| Some(quantity.0) == stem);
            if let Some(spread) = spread {
                return Ok(Self::new(*spread, statistic, name));
            }
        }
        let known = |all: &[Quantity]| all.iter().map(|q| q.0).collect::<Vec<_>>().join(", ");
        Err(format!(
            "expected one of {}, or one of {} followed by _mean, _p50, _p90, _p95 or _p99, such as ttft_due_ms_p99",
            known(&WHOLE),
            known(&SPREAD)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_others_refused() {
        let p99: Metric = "ttft_due_ms_p99".parse().unwrap();
        assert_eq!((p99.statistic, p99.better), (Statistic::Percentile(99), Better::Lower));
        assert_eq!("goodput_per_s".parse::<Metric>().unwrap().better, Better::Higher);
        for wrong in ["ttft", "ttft_ms", "ttft_ms_p98", "goodput_per_s_p50", ""] {
            let error = wrong.parse::<Metric>().unwrap_err();
            assert!(error.contains("_p99"), "{wrong}: {error}");
        }
        assert!(Metric::usual().len() == 5 && Metric::layer_throughput().unit == "tokens/s");
    }
}
