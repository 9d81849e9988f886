//! One simulation.

use std::collections::{BTreeMap, BTreeSet};

use super::CellKey;
use crate::{
    record::{RouteEngineRow, RouteRequestRow},
    route::experiment::Slo,
    stats::Sample,
    units::ns_to_s,
};

/// A quantity over the requests of one simulation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile; `None` below 368 requests, see [`crate::stats::needed_for`].
    pub p99: Option<f64>,
}

/// What one simulation says. Shares are of one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CellStats {
    /// Which cell.
    pub key: CellKey,
    /// Number of its seed.
    pub seed: i64,
    /// Requests.
    pub n: usize,
    /// Numbers of the requests that nobody served.
    pub failed: BTreeSet<i64>,
    /// Seconds from arrival to last token.
    pub e2e_s: Option<Spread>,
    /// Seconds from arrival to first token.
    pub ttft_s: Option<Spread>,
    /// Seconds a token after the first, of answers of two tokens or more.
    pub tpot_s: Option<Spread>,
    /// Seconds from arrival to last token, a token of the answer.
    pub normalised_s: Option<Spread>,
    /// Share of all requests that kept every limit; `None` without limits.
    pub on_time: Option<f64>,
    /// Requests a second that kept every limit, from the first arrival to the last answer's end; `None` without limits.
    pub goodput_per_s: Option<f64>,
    /// Share of served requests whose method breaks the prompt; `None` where that is not known of all.
    pub harmed: Option<f64>,
    /// Number of them.
    pub n_harmed: Option<usize>,
    /// Share of served requests by method.
    pub by_method: BTreeMap<String, f64>,
    /// Share of requests by reason of the decision.
    pub by_reason: BTreeMap<String, f64>,
    /// Share of the time in which a step ran, by engine; without those that do not tell.
    pub busy: BTreeMap<String, f64>,
    /// Times that a request lost its place in a cache; `None` where engines do not tell.
    pub n_preempted: Option<i64>,
    /// Share of requests that came while another was inside.
    pub overlapped: f64,
    /// Share of served requests that ended after the last arrival.
    pub drained: f64,
    /// By how much the number inside grew while requests came, the first quarter of that time (the filling) left out: the slope of the
    /// least-squares line through it times that time, as a part of its mean. 0 where it stays, 2 where it grows evenly from nothing; `None`
    /// where there was nobody, or no time.
    pub growth: Option<f64>,
}

/// Statistics of every simulation that the rows hold. Rows of one simulation stand together, as they are written.
pub fn stats_of(
    requests: &[RouteRequestRow],
    engines: &[RouteEngineRow],
    slo: Option<Slo>,
) -> Vec<CellStats> {
    let mut busy: BTreeMap<(CellKey, i64), Vec<&RouteEngineRow>> = BTreeMap::new();
    for row in engines {
        busy.entry((CellKey::of_engine(row), row.seed)).or_default().push(row);
    }
    let groups = requests.chunk_by(is_same);
    let one = |rows: &[RouteRequestRow]| {
        let key = CellKey::of(&rows[0]);
        let engines = busy.get(&(key, rows[0].seed));
        of(rows, engines.map_or(&[], Vec::as_slice), slo)
    };
    groups.map(one).collect()
}

/// Whether two rows are of one simulation.
pub(super) fn is_same(a: &RouteRequestRow, b: &RouteRequestRow) -> bool {
    a.seed == b.seed
        && a.policy == b.policy
        && a.skill == b.skill
        && a.load == b.load
        && a.trace == b.trace
        && a.pool == b.pool
}

impl CellKey {
    fn of(row: &RouteRequestRow) -> Self {
        Self {
            pool: row.pool.clone(),
            trace: row.trace.clone(),
            load: row.load.clone(),
            skill: row.skill.clone(),
            policy: row.policy.clone(),
        }
    }

    fn of_engine(row: &RouteEngineRow) -> Self {
        Self {
            pool: row.pool.clone(),
            trace: row.trace.clone(),
            load: row.load.clone(),
            skill: row.skill.clone(),
            policy: row.policy.clone(),
        }
    }
}

impl Spread {
    /// Of these values; `None` of none.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let sample = Sample::new(values).ok()?;
        Some(Self { mean: sample.mean(), p50: sample.median(), p99: sample.percentile(99) })
    }
}

/// A request that was served to its end.
#[derive(Debug, Clone, Copy)]
struct Served {
    arrived_ns: i64,
    first_ns: Option<i64>,
    finished_ns: i64,
    output_tokens: Option<i64>,
}

impl Served {
    fn of(row: &RouteRequestRow) -> Option<Self> {
        let finished_ns = row.finished_ns.filter(|_| row.err.is_none())?;
        Some(Self {
            arrived_ns: row.arrived_ns,
            first_ns: row.first_token_ns,
            finished_ns,
            output_tokens: row.output_tokens,
        })
    }

    fn e2e_s(&self) -> f64 {
        ns_to_s(self.finished_ns - self.arrived_ns)
    }

    fn ttft_s(&self) -> Option<f64> {
        self.first_ns.map(|first| ns_to_s(first - self.arrived_ns))
    }

    fn tpot_s(&self) -> Option<f64> {
        let more = self.output_tokens.filter(|tokens| *tokens >= 2)? - 1;
        Some(ns_to_s(self.finished_ns - self.first_ns?) / more as f64)
    }

    fn normalised_s(&self) -> Option<f64> {
        self.output_tokens.filter(|tokens| *tokens > 0).map(|tokens| self.e2e_s() / tokens as f64)
    }

    /// A limit on what nobody measured does not hold, but an answer of one token has no TPOT to be late with.
    fn is_on_time(&self, slo: &Slo) -> bool {
        let within = |limit: Option<f64>, value: Option<f64>| {
            limit.is_none_or(|limit| value.is_some_and(|value| value <= limit))
        };
        within(slo.ttft_s, self.ttft_s())
            && within(slo.e2e_s, Some(self.e2e_s()))
            && (self.output_tokens == Some(1) || within(slo.tpot_s, self.tpot_s()))
    }
}

fn of(rows: &[RouteRequestRow], engines: &[&RouteEngineRow], slo: Option<Slo>) -> CellStats {
    let served: Vec<Served> = rows.iter().filter_map(Served::of).collect();
    let all =
        |value: fn(&Served) -> Option<f64>| Spread::of(served.iter().filter_map(value).collect());
    let n_on_time = slo.map(|slo| served.iter().filter(|one| one.is_on_time(&slo)).count());
    let span_s = span_s(rows, &served);
    let n_harmed = n_harmed(rows);
    CellStats {
        key: CellKey::of(&rows[0]),
        seed: rows[0].seed,
        n: rows.len(),
        failed: rows.iter().filter(|row| !is_served(row)).map(|row| row.request_id).collect(),
        e2e_s: all(|one| Some(one.e2e_s())),
        ttft_s: all(Served::ttft_s),
        tpot_s: all(Served::tpot_s),
        normalised_s: all(Served::normalised_s),
        on_time: n_on_time.map(|n| n as f64 / rows.len() as f64),
        goodput_per_s: n_on_time.filter(|_| span_s > 0.0).map(|n| n as f64 / span_s),
        harmed: n_harmed.filter(|_| !served.is_empty()).map(|n| n as f64 / served.len() as f64),
        n_harmed,
        by_method: shares(served_rows(rows).filter_map(|row| row.method.as_deref())),
        by_reason: shares(rows.iter().map(|row| row.reason.as_str())),
        busy: engines.iter().filter_map(|row| busy(row)).collect(),
        n_preempted: rows.iter().map(|row| row.n_preempted).sum(),
        overlapped: overlapped(rows, &served),
        drained: drained(rows, &served),
        growth: growth(rows),
    }
}

fn served_rows(rows: &[RouteRequestRow]) -> impl Iterator<Item = &RouteRequestRow> {
    rows.iter().filter(|row| is_served(row))
}

fn is_served(row: &RouteRequestRow) -> bool {
    row.err.is_none() && row.finished_ns.is_some()
}

fn shares<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, f64> {
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    let mut n = 0.0;
    for name in names {
        n += 1.0;
        match counts.get_mut(name) {
            Some(count) => *count += 1.0,
            None => {
                counts.insert(name.to_owned(), 1.0);
            }
        }
    }
    counts.values_mut().for_each(|count| *count /= n);
    counts
}

fn n_harmed(rows: &[RouteRequestRow]) -> Option<usize> {
    served_rows(rows).map(|row| row.breaks.map(usize::from)).sum()
}

fn busy(row: &RouteEngineRow) -> Option<(String, f64)> {
    let span_ns = row.ended_ns - row.began_ns;
    let busy_ns = row.busy_ns.filter(|_| span_ns > 0)?;
    Some((row.engine.clone(), busy_ns as f64 / span_ns as f64))
}

fn arrivals(rows: &[RouteRequestRow]) -> (i64, i64) {
    let times = || rows.iter().map(|row| row.arrived_ns);
    (times().min().unwrap_or(0), times().max().unwrap_or(0))
}

/// Seconds from the first arrival to the last end.
fn span_s(rows: &[RouteRequestRow], served: &[Served]) -> f64 {
    let (first, last) = arrivals(rows);
    let end = served.iter().map(|one| one.finished_ns).max().unwrap_or(last);
    ns_to_s(end - first)
}

/// Share of requests that found another one inside.
fn overlapped(rows: &[RouteRequestRow], served: &[Served]) -> f64 {
    let mut stays: Vec<(i64, i64)> = served.iter().map(|s| (s.arrived_ns, s.finished_ns)).collect();
    stays.sort_unstable();
    let mut until = i64::MIN;
    let mut met = 0;
    for (arrived, finished) in stays {
        met += usize::from(arrived < until);
        until = until.max(finished);
    }
    met as f64 / rows.len() as f64
}

fn drained(rows: &[RouteRequestRow], served: &[Served]) -> f64 {
    let (_, last) = arrivals(rows);
    let late = served.iter().filter(|one| one.finished_ns > last).count();
    late as f64 / served.len().max(1) as f64
}

/// Those that were given up were inside until then.
///
/// The number inside is a step function, so sums over its stays are integrals: the slope over a time L with the middle c is `12 / L^3`
/// times the integral of `(t - c) n(t)`, and divided by the mean of n and times L it is `12 / L` times the mean distance from c at which
/// requests spend their time.
fn growth(rows: &[RouteRequestRow]) -> Option<f64> {
    let (first, last) = arrivals(rows);
    let (from, to) = (ns_to_s(first) + ns_to_s(last - first) / 4.0, ns_to_s(last));
    let middle = f64::midpoint(from, to);
    let (mut inside_s, mut moment) = (0.0, 0.0);
    for row in rows {
        let Some(end_ns) = row.finished_ns.filter(|_| row.err.is_none()).or(row.gone_ns) else {
            continue;
        };
        let (begins, ends) = (ns_to_s(row.arrived_ns).max(from), ns_to_s(end_ns).min(to));
        let stay_s = (ends - begins).max(0.0);
        inside_s += stay_s;
        moment += stay_s * (f64::midpoint(begins, ends) - middle);
    }
    (inside_s > 0.0).then(|| 12.0 * moment / inside_s / (to - from))
}
