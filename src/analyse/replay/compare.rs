//! Measured and simulated side by side, with what stands beside the error: the null, the last load, the noise.

use super::{Repeat, Simulated, null, rate_per_s};
use crate::{
    analyse::{Point, RunData, observed_trace::CellTrace, summary::rng_for},
    stats::{self, Interval, Sample},
};

/// A time of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Sending to last token.
    E2e,
    /// Sending to first token.
    Ttft,
    /// A token after the first.
    Tpot,
}

/// A number over requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// Arithmetic mean.
    Mean,
    /// Median.
    P50,
    /// 99th percentile; of fewer than 368 requests there is none, see [`stats::needed_for`].
    P99,
}

/// All metrics.
pub const METRICS: [Metric; 3] = [Metric::E2e, Metric::Ttft, Metric::Tpot];
/// All numbers.
pub const STATS: [Stat; 3] = [Stat::Mean, Stat::P50, Stat::P99];

impl Metric {
    /// As in summaries.
    pub fn name(self) -> &'static str {
        match self {
            Metric::E2e => "e2e",
            Metric::Ttft => "ttft",
            Metric::Tpot => "tpot",
        }
    }
}

impl Stat {
    /// As in summaries.
    pub fn name(self) -> &'static str {
        match self {
            Stat::Mean => "mean",
            Stat::P50 => "p50",
            Stat::P99 => "p99",
        }
    }

    /// Of values; `None` where there are too few.
    fn of(self, values: &[f64]) -> Option<f64> {
        match self {
            Stat::Mean => stats::mean(values),
            Stat::P50 => Sample::new(values.to_vec()).ok()?.percentile(50),
            Stat::P99 => Sample::new(values.to_vec()).ok()?.percentile(99),
        }
    }
}

/// One number of one point. All times in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Of what.
    pub metric: Metric,
    /// Which number.
    pub stat: Stat,
    /// Measured.
    pub measured_ms: f64,
    /// 95 % interval of it over repeats, then requests.
    pub interval: Option<Interval>,
    /// Simulated, for the same requests.
    pub simulated_ms: f64,
    /// The null: no queue, steps of the mean batch.
    pub null_ms: Option<f64>,
    /// What was measured at the load of the next lower rate (of the same kind, open or closed, if there is one), and which it is.
    pub last_ms: Option<(String, f64)>,
    /// Mean difference between two repeats, as a share of their mean, in percent. Repeats draw prompts and times of their own, so
    /// it holds what those differ by.
    pub noise_pct: Option<f64>,
    /// Difference between the baseline and its A/A control at this workload and load, in percent of the baseline: the same prompts
    /// at the same times.
    pub aa_pct: Option<f64>,
}

impl Compared {
    /// Simulated against measured.
    pub fn error_pct(&self) -> f64 {
        100.0 * (self.simulated_ms / self.measured_ms - 1.0)
    }

    /// The null against measured.
    pub fn null_error_pct(&self) -> Option<f64> {
        self.null_ms.map(|null| 100.0 * (null / self.measured_ms - 1.0))
    }

    /// The last load's number against measured.
    pub fn last_error_pct(&self) -> Option<f64> {
        self.last_ms.as_ref().map(|(_, last)| 100.0 * (last / self.measured_ms - 1.0))
    }
}

/// Values of one metric, one group a repeat: measured, simulated, null.
#[derive(Default)]
struct Groups {
    measured: Vec<Vec<f64>>,
    simulated: Vec<Vec<f64>>,
    null: Vec<Vec<f64>>,
}

fn groups(engine: &Simulated, repeats: &[Repeat<'_>], metric: Metric) -> Groups {
    let mut groups = Groups::default();
    for repeat in repeats {
        let alone = null::without_queue(engine, repeat.trace);
        let (mut measured, mut simulated, mut null) = (Vec::new(), Vec::new(), Vec::new());
        for ((own, outcome), alone) in
            repeat.trace.requests.iter().zip(&repeat.outcomes).zip(&alone)
        {
            let Some(outcome) = outcome else { continue };
            let triple = match metric {
                Metric::E2e => Some((own.e2e_s(), outcome.e2e_s(), alone.e2e_s)),
                Metric::Ttft => Some((own.ttft_s(), outcome.ttft_s(), alone.ttft_s)),
                Metric::Tpot => own
                    .tpot_s()
                    .zip(outcome.tpot_s())
                    .zip(alone.tpot_s)
                    .map(|((own, outcome), alone)| (own, outcome, alone)),
            };
            if let Some((own_s, outcome_s, alone_s)) = triple {
                measured.push(1e3 * own_s);
                simulated.push(1e3 * outcome_s);
                null.push(1e3 * alone_s);
            }
        }
        groups.measured.push(measured);
        groups.simulated.push(simulated);
        groups.null.push(null);
    }
    groups
}

/// E2E of all requests, measured and simulated, ms.
pub(super) fn e2e_ms(repeats: &[Repeat<'_>]) -> (Vec<f64>, Vec<f64>) {
    let pairs =
        repeats.iter().flat_map(|repeat| repeat.trace.requests.iter().zip(&repeat.outcomes));
    pairs
        .filter_map(|(own, outcome)| Some((1e3 * own.e2e_s(), 1e3 * outcome.as_ref()?.e2e_s())))
        .unzip()
}

/// Every metric and number of a point; those of too few requests are not there.
pub(super) fn compare(
    data: &RunData,
    engine: &Simulated,
    point: &Point,
    repeats: &[Repeat<'_>],
    cells: &[CellTrace],
) -> Vec<Compared> {
    let mut out = Vec::new();
    for metric in METRICS {
        let groups = groups(engine, repeats, metric);
        for stat in STATS {
            let of = |groups: &[Vec<f64>]| stat.of(&groups.concat());
            let (Some(measured_ms), Some(simulated_ms)) =
                (of(&groups.measured), of(&groups.simulated))
            else {
                continue;
            };
            let name = format!("replay {point} {} {}", metric.name(), stat.name());
            let mut rng = rng_for(data.manifest.scenario.seed, &name);
            out.push(Compared {
                metric,
                stat,
                measured_ms,
                interval: stats::bootstrap(&groups.measured, &mut rng, |drawn| stat.of(drawn)),
                simulated_ms,
                null_ms: of(&groups.null),
                last_ms: last(point, cells, metric, stat),
                noise_pct: noise_pct(&groups.measured, stat),
                aa_pct: aa_pct(data, point, cells, metric, stat),
            });
        }
    }
    out
}

fn measured(cells: &[&CellTrace], metric: Metric, stat: Stat) -> Option<f64> {
    let values: Vec<f64> = cells
        .iter()
        .flat_map(|trace| &trace.requests)
        .filter_map(|own| match metric {
            Metric::E2e => Some(own.e2e_s()),
            Metric::Ttft => Some(own.ttft_s()),
            Metric::Tpot => own.tpot_s(),
        })
        .map(|s| 1e3 * s)
        .collect();
    stat.of(&values)
}

fn at<'a>(cells: &'a [CellTrace], point: &Point) -> Vec<&'a CellTrace> {
    cells.iter().filter(|trace| super::of(trace) == *point).collect()
}

/// What was measured at the load of the next lower rate of the same workload: an open one for an open one, where there is one.
fn last(point: &Point, cells: &[CellTrace], metric: Metric, stat: Stat) -> Option<(String, f64)> {
    let rate = |load: &str| {
        let rates: Vec<f64> = at(cells, &Point { load: load.to_owned(), ..point.clone() })
            .into_iter()
            .map(rate_per_s)
            .collect();
        stats::mean(&rates)
    };
    let own = rate(&point.load)?;
    let is_closed = |load: &str| {
        cells.iter().any(|trace| trace.cell.load == load && trace.cell.concurrency.is_some())
    };
    let lower = || {
        cells
            .iter()
            .map(|trace| &trace.cell)
            .filter(|cell| cell.target == point.target && cell.method == point.method)
            .filter(|cell| cell.workload == point.workload && cell.load != point.load)
            .filter_map(|cell| Some((cell.load.clone(), rate(&cell.load)?)))
            .filter(|(_, rate)| *rate < own)
    };
    let alike = |(load, _): &(String, f64)| is_closed(load) == is_closed(&point.load);
    let highest = |a: &(String, f64), b: &(String, f64)| a.1.total_cmp(&b.1);
    let (load, _) = lower().filter(alike).max_by(highest).or_else(|| lower().max_by(highest))?;
    let there = at(cells, &Point { load: load.clone(), ..point.clone() });
    measured(&there, metric, stat).map(|value| (load, value))
}

fn noise_pct(groups: &[Vec<f64>], stat: Stat) -> Option<f64> {
    let values: Vec<f64> = groups.iter().filter_map(|group| stat.of(group)).collect();
    let mean = stats::mean(&values)?;
    let apart: Vec<f64> = (0..values.len())
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| (values[i] - values[j]).abs())
        .collect();
    stats::mean(&apart).map(|apart| 100.0 * apart / mean)
}

fn aa_pct(
    data: &RunData,
    point: &Point,
    cells: &[CellTrace],
    metric: Metric,
    stat: Stat,
) -> Option<f64> {
    let of = |method: &str| {
        measured(&at(cells, &Point { method: method.to_owned(), ..point.clone() }), metric, stat)
    };
    let (baseline, control) = (of(&data.manifest.scenario.baseline)?, of(&data.aa_method())?);
    Some(100.0 * (control / baseline - 1.0).abs())
}
