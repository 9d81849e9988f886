//! Served requests: what follows from their times, per cell and per point.

use std::collections::BTreeMap;

use super::{
    Estimate, Point, RequestFacts, RequestPoint, RunData, SummaryRow,
    summary::{Series, rng_for, single, summarise},
};
use crate::{
    record::{RequestRow, manifest::SloFacts, parquet::TableRow as _, tpot_ms},
    stats,
    units::{ns_to_ms, ns_to_s},
};

/// A distribution over requests: name, unit, and the values of one request.
type Metric = (&'static str, &'static str, fn(&RequestFacts) -> Vec<f64>);

/// Everything with a distribution. Failed requests never get here.
const METRICS: [Metric; 10] = [
    ("ttft", "ms", |facts| facts.ttft_ms.into_iter().collect()),
    ("ttft_due", "ms", |facts| facts.ttft_due_ms.into_iter().collect()),
    ("e2e", "ms", |facts| facts.e2e_ms.into_iter().collect()),
    ("e2e_due", "ms", |facts| facts.e2e_due_ms.into_iter().collect()),
    ("tpot", "ms", |facts| facts.tpot_ms.into_iter().collect()),
    ("itl", "ms", |facts| facts.itl_ms.clone()),
    ("icl", "ms", |facts| facts.icl_ms.clone()),
    ("queue_delay", "ms", |facts| facts.queue_delay_ms.into_iter().collect()),
    ("prompt_tokens", "tokens", |facts| {
        facts.prompt_tokens.map(|n| n as f64).into_iter().collect()
    }),
    ("output_tokens", "tokens", |facts| {
        facts.answer_tokens.map(|n| n as f64).into_iter().collect()
    }),
];

/// Rows with what follows from them.
pub(super) struct Served {
    pub(super) rows: Vec<RequestRow>,
    pub(super) facts: Vec<RequestFacts>,
}

impl Served {
    pub(super) fn of(data: &RunData) -> anyhow::Result<Self> {
        let rows = RequestRow::rows(&data.requests)?;
        let facts = rows.iter().map(|row| facts(row, data.manifest.scenario.slo)).collect();
        Ok(Self { rows, facts })
    }

    /// Indices of the rows of each point, points in plan order.
    pub(super) fn points(&self, data: &RunData) -> Vec<(Point, Vec<usize>)> {
        let mut points: BTreeMap<&Point, Vec<usize>> = BTreeMap::new();
        for (index, facts) in self.facts.iter().enumerate() {
            points.entry(&facts.point).or_default().push(index);
        }
        let mut points: Vec<_> =
            points.into_iter().map(|(point, rows)| (point.clone(), rows)).collect();
        points.sort_by_key(|(point, _)| data.rank(point));
        points
    }
}

/// What follows from one request's times.
pub fn facts(row: &RequestRow, slo: Option<SloFacts>) -> RequestFacts {
    let failed = row.err.is_some();
    let good = |value: Option<f64>| value.filter(|_| !failed);
    let between = |from: Option<i64>, to: Option<i64>| {
        good(from.zip(to).map(|(from, to)| ns_to_ms(to - from)))
    };
    let (due, first, last) = (Some(row.due_ns), row.first_token_ns, row.last_token_ns);
    RequestFacts {
        cell_id: row.cell_id.clone(),
        point: Point {
            target: row.target.clone(),
            workload: row.workload.clone(),
            load: row.load.clone(),
            method: row.method.clone(),
        },
        repeat: row.repeat,
        request_id: row.request_id,
        failed,
        ttft_ms: between(row.sent_ns, first),
        ttft_due_ms: between(due, first),
        e2e_ms: between(row.sent_ns, last),
        e2e_due_ms: between(due, last),
        tpot_ms: tpot_ms(row).filter(|_| !failed),
        itl_ms: if failed { Vec::new() } else { gaps_ms(&token_arrivals(row)) },
        icl_ms: if failed { Vec::new() } else { gaps_ms(&row.chunk_ns) },
        queue_delay_ms: row.sent_ns.map(|sent| ns_to_ms(sent - row.due_ns)),
        prompt_tokens: row.prompt_tokens,
        output_tokens: row.output_tokens,
        answer_tokens: row.output_tokens.filter(|_| !cut_by_context(row)),
        within_slo: slo.map(|slo| slo.holds(row)),
    }
}

/// Stopped for length before `max_tokens`: the context was full, and the answer's own length is unknown (vLLM and
/// llama.cpp both do this without an error).
fn cut_by_context(row: &RequestRow) -> bool {
    row.finish_reason.as_deref() == Some("length")
        && row.output_tokens.is_some_and(|tokens| tokens < row.max_tokens)
}

/// When each token came, where that is known: tokens of one chunk came together. Empty where the server did not say how
/// many tokens a chunk holds and their number does not settle it.
pub(super) fn token_arrivals(row: &RequestRow) -> Vec<i64> {
    let chunks = &row.chunk_ns;
    if row.chunk_tokens.len() == chunks.len() {
        let repeat = |(at, tokens): (&i64, &i64)| {
            std::iter::repeat_n(*at, usize::try_from(*tokens).unwrap_or(0))
        };
        return chunks.iter().zip(&row.chunk_tokens).flat_map(repeat).collect();
    }
    let one_each =
        row.output_tokens.is_some_and(|tokens| usize::try_from(tokens) == Ok(chunks.len()));
    if one_each { chunks.clone() } else { Vec::new() }
}

fn gaps_ms(at_ns: &[i64]) -> Vec<f64> {
    at_ns.windows(2).map(|pair| ns_to_ms(pair[1] - pair[0])).collect()
}

/// Points with their rates and distributions, and the summary rows of cells and points.
pub(super) fn points(data: &RunData, served: &Served) -> (Vec<RequestPoint>, Vec<SummaryRow>) {
    let (mut points, mut summary) = (Vec::new(), Vec::new());
    for (point, rows) in served.points(data) {
        let repeats = by_repeat(served, &rows);
        let seed = data.manifest.scenario.seed;
        // A search's probes are no cells: they are summarised as points only.
        let is_cell = crate::plan::search::probe_rate(&point.load).is_none();
        for repeat in repeats.values().filter(|_| is_cell) {
            let (id, one) = (&served.facts[repeat[0]].cell_id, std::slice::from_ref(repeat));
            let metrics = distributions(seed, id, served, one);
            summary.extend(rows_of(id, &describe(data, served, point.clone(), one, metrics)));
        }
        let repeats: Vec<Vec<usize>> = repeats.into_values().collect();
        let id = data.pooled_id(&point);
        let metrics = distributions(seed, &id, served, &repeats);
        let point = describe(data, served, point, &repeats, metrics);
        summary.extend(rows_of(&id, &point));
        points.push(point);
    }
    (points, summary)
}

/// Distributions, then what is one number for the whole of a cell or point.
fn rows_of(id: &str, point: &RequestPoint) -> Vec<SummaryRow> {
    let share = point.n_failed as f64 / point.n_requests as f64;
    let wholes = [
        ("requests_per_s", "1/s", point.requests_per_s),
        ("output_tokens_per_s", "tokens/s", point.output_tokens_per_s),
        ("goodput_per_s", "1/s", point.goodput_per_s),
        ("failed_share", "1", Some(Estimate::new(share, None, point.n_requests))),
    ];
    let whole = |(metric, unit, estimate): (&str, &str, Option<Estimate>)| {
        estimate.map(|estimate| single(id, metric, unit, estimate))
    };
    point.metrics.iter().cloned().chain(wholes.into_iter().filter_map(whole)).collect()
}

/// Rows of each repeat.
pub(super) fn by_repeat(served: &Served, rows: &[usize]) -> BTreeMap<i64, Vec<usize>> {
    let mut repeats: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    rows.iter().for_each(|&row| repeats.entry(served.facts[row].repeat).or_default().push(row));
    repeats
}

fn distributions(seed: u64, id: &str, served: &Served, repeats: &[Vec<usize>]) -> Vec<SummaryRow> {
    let good = |row: &&usize| !served.facts[**row].failed;
    let one = |(name, unit, values): &Metric| {
        let series: Series = repeats
            .iter()
            .map(|rows| rows.iter().filter(good).map(|&row| values(&served.facts[row])).collect())
            .collect();
        summarise(seed, id, name, unit, &series)
    };
    METRICS.iter().filter_map(one).collect()
}

fn describe(
    data: &RunData,
    served: &Served,
    point: Point,
    repeats: &[Vec<usize>],
    metrics: Vec<SummaryRow>,
) -> RequestPoint {
    let all: Vec<usize> = repeats.concat();
    let good: Vec<&RequestRow> =
        all.iter().map(|&row| &served.rows[row]).filter(|row| row.err.is_none()).collect();
    let mut failures = BTreeMap::new();
    for err in all.iter().filter_map(|&row| served.rows[row].err.as_deref()) {
        *failures.entry(class(err).to_owned()).or_insert(0) += 1;
    }
    let seed = data.manifest.scenario.seed;
    let estimate = |name: &str, count: Count<'_>| {
        rate(seed, &format!("{point} {name}"), rates(served, repeats, count))
    };
    let held = |row: usize| served.facts[row].within_slo.map(|held| f64::from(u8::from(held)));
    RequestPoint {
        requests_per_s: estimate("requests", &|row| self::good(served, row)),
        output_tokens_per_s: estimate("tokens", &|row| good_tokens(served, row)),
        goodput_per_s: estimate("goodput", &held),
        duration_s: repeats.iter().map(|rows| duration_s(served, rows)).sum(),
        n_repeats: repeats.len(),
        n_requests: all.len(),
        n_failed: all.len() - good.len(),
        failures,
        n_retried: all.iter().filter(|&&row| served.rows[row].attempt > 1).count(),
        n_truncated: good
            .iter()
            .filter(|row| row.finish_reason.as_deref() == Some("length"))
            .count(),
        prompt_tokens: good.iter().map(|row| row.prompt_tokens).sum(),
        output_tokens: good.iter().map(|row| row.output_tokens).sum(),
        metrics,
        point,
    }
}

/// Text of an error up to its first colon: what follows names the one request.
pub(super) fn class(err: &str) -> &str {
    err.split([':', '\n']).next().unwrap_or(err).trim()
}

/// First request sent to last one done, failed ones included: the time the server was under this load. `None` where
/// nothing was sent, or nothing ended later than it began.
fn duration_s(served: &Served, rows: &[usize]) -> Option<f64> {
    let rows = || rows.iter().map(|&row| &served.rows[row]);
    let first = rows().filter_map(|row| row.sent_ns).min()?;
    let last = rows().filter_map(|row| row.done_ns.or(row.last_token_ns)).max()?;
    (last > first).then(|| ns_to_s(last - first))
}

/// What a request adds to a rate; unknown makes the rate unknown.
pub(super) type Count<'a> = &'a dyn Fn(usize) -> Option<f64>;

/// `count` per second of each repeat.
pub(super) fn rates(served: &Served, repeats: &[Vec<usize>], count: Count<'_>) -> Option<Vec<f64>> {
    let one = |rows: &Vec<usize>| {
        let counted: Option<f64> = rows.iter().map(|&row| count(row)).sum();
        Some(counted? / duration_s(served, rows)?)
    };
    repeats.iter().map(one).collect()
}

/// 1 for a good request, 0 for a failed one.
pub(super) fn good(served: &Served, row: usize) -> Option<f64> {
    Some(f64::from(u8::from(!served.facts[row].failed)))
}

/// Output tokens of a good request, 0 for a failed one.
pub(super) fn good_tokens(served: &Served, row: usize) -> Option<f64> {
    if served.facts[row].failed {
        Some(0.0)
    } else {
        served.facts[row].output_tokens.map(|tokens| tokens as f64)
    }
}

/// The mean rate over repeats, with an interval from the spread between them.
fn rate(seed: u64, label: &str, rates: Option<Vec<f64>>) -> Option<Estimate> {
    let rates = rates?;
    let value = stats::mean(&rates)?;
    let n = rates.len();
    let interval =
        stats::bootstrap(&[rates], &mut rng_for(seed, label), |drawn| stats::mean(drawn));
    Some(Estimate::new(value, interval, n))
}
