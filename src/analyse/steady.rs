//! The steady part of a served cell, beside its whole run: ramp and drain are time in which the server was not under the load
//! that the cell is named after.
//!
//! A closed loop is steady from the first to the last moment at which at least 95 % of its requests are in flight (the rule
//! of vLLM's Rust bench client). Between two answers a slot is empty for a moment, so the moments between count as well, as
//! long as the loop is full for nine tenths of the window: a run that mostly waits for its slowest request has no steady part.
//!
//! Any other load is steady from when the requests in flight first reach their time-weighted median, taken while requests
//! are still being sent, until the last one is sent: what comes before fills an empty server, what comes after drains it
//! (initial-data deletion, Law, "Simulation Modeling and Analysis", ch. 9; the median is our choice of level).
//!
//! Rates count what was done within the window, whenever it began. Latencies are of requests that lie wholly within it, so a
//! window that is short against the latency leaves long requests out: `share` and `n_within` are there to be looked at.

use super::{
    Estimate, Point, RunData, SummaryRow,
    requests::{Served, by_repeat},
    summary::{Series, rng_for, single, summarise},
};
use crate::{record::RequestRow, stats, units::ns_to_s};

/// Part of a closed loop's requests that must be in flight.
const FULL: f64 = 0.95;
/// Part of the window in which they must be.
const FULL_TIME: f64 = 0.9;

/// The steady part of all repeats of a served point.
#[derive(Debug, Clone, PartialEq)]
pub struct SteadyPoint {
    /// Which.
    pub point: Point,
    /// Repeats, with and without a steady window.
    pub n_repeats: usize,
    /// Repeats with one; only these are in the numbers below.
    pub n_steady: usize,
    /// Length of the window over the length of the run, mean over repeats.
    pub share: Option<f64>,
    /// Good requests that lie wholly within it.
    pub n_within: usize,
    /// Good requests done in the window per second.
    pub requests_per_s: Option<Estimate>,
    /// Output tokens of them per second; `None` where one was not counted.
    pub output_tokens_per_s: Option<Estimate>,
    /// `steady_ttft`, `steady_tpot`, `steady_e2e` in ms; what nobody could measure is absent.
    pub metrics: Vec<SummaryRow>,
    /// Why a repeat has no window; `None` where all have one.
    pub missing: Option<String>,
}

impl SteadyPoint {
    /// The distribution of one metric.
    pub fn metric(&self, name: &str) -> Option<&SummaryRow> {
        self.metrics.iter().find(|row| row.metric == name)
    }
}

/// A steady window.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    start_ns: i64,
    end_ns: i64,
    /// Its length over that of the run.
    share: f64,
}

/// One repeat with its window and rows, as indices.
struct Steady {
    window: Window,
    within: Vec<usize>,
    done: Vec<usize>,
}

/// Steady parts of all served points with at least one sent request, and their summary rows.
pub(super) fn points(data: &RunData, served: &Served) -> (Vec<SteadyPoint>, Vec<SummaryRow>) {
    let (mut points, mut summary) = (Vec::new(), Vec::new());
    for (point, rows) in served.points(data) {
        let (mut steady, mut missing, mut n_repeats) = (Vec::new(), None, 0);
        for repeat in by_repeat(served, &rows).into_values() {
            n_repeats += 1;
            let id = served.facts[repeat[0]].cell_id.clone();
            match of_cell(served, &repeat, concurrency(data, &id)) {
                Ok(one) => {
                    let here =
                        describe(data, served, &id, point.clone(), std::slice::from_ref(&one));
                    summary.extend(rows_of(&id, &here));
                    steady.push(one);
                }
                Err(why) => missing = missing.or(Some(why)),
            }
        }
        let id = data.pooled_id(&point);
        let pooled = describe(data, served, &id, point, &steady);
        summary.extend(rows_of(&id, &pooled));
        points.push(SteadyPoint { n_repeats, missing, ..pooled });
    }
    (points, summary)
}

/// Requests that the cell's closed loop keeps in flight; `None` for any other load.
fn concurrency(data: &RunData, cell_id: &str) -> Option<u32> {
    data.manifest.cells.iter().find(|cell| cell.id == cell_id)?.concurrency
}

fn of_cell(served: &Served, repeat: &[usize], full: Option<u32>) -> Result<Steady, String> {
    let rows: Vec<&RequestRow> = repeat.iter().map(|&row| &served.rows[row]).collect();
    let window = window(&rows, full)?;
    let inside = |at: i64| (window.start_ns..=window.end_ns).contains(&at);
    let good = |row: &&usize| !served.facts[**row].failed;
    let ends = |row: usize| end_ns(&served.rows[row]).is_some_and(inside);
    let begins = |row: usize| served.rows[row].sent_ns.is_some_and(inside);
    let done: Vec<usize> = repeat.iter().filter(good).copied().filter(|&row| ends(row)).collect();
    let within: Vec<usize> = done.iter().copied().filter(|&row| begins(row)).collect();
    if within.is_empty() {
        return Err("no good request lies within the steady window".to_owned());
    }
    Ok(Steady { window, within, done })
}

fn end_ns(row: &RequestRow) -> Option<i64> {
    row.done_ns.or(row.last_token_ns)
}

/// How many requests are in flight between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    from_ns: i64,
    to_ns: i64,
    n: usize,
}

/// Requests in flight over time, in order, without gaps. A request whose end nobody saw is left out.
fn levels(rows: &[&RequestRow]) -> Vec<Level> {
    let spans = rows.iter().filter_map(|row| row.sent_ns.zip(end_ns(row)));
    let mut steps: Vec<(i64, i64)> =
        spans.flat_map(|(from, to)| [(from, 1), (to.max(from), -1)]).collect();
    steps.sort_unstable();
    let (mut levels, mut n) = (Vec::new(), 0_i64);
    for pair in steps.windows(2) {
        n += pair[0].1;
        if pair[1].0 > pair[0].0 {
            let n = usize::try_from(n).unwrap_or(0);
            levels.push(Level { from_ns: pair[0].0, to_ns: pair[1].0, n });
        }
    }
    levels
}

fn window(rows: &[&RequestRow], full: Option<u32>) -> Result<Window, String> {
    let levels = levels(rows);
    let (Some(first), Some(last)) = (levels.first(), levels.last()) else {
        return Err("no request was sent and answered".to_owned());
    };
    let (start_ns, end_ns) = match full {
        Some(full) => full_loop(&levels, full)?,
        None => between_ramp_and_drain(&levels, rows)?,
    };
    let share = (end_ns - start_ns) as f64 / (last.to_ns - first.from_ns) as f64;
    Ok(Window { start_ns, end_ns, share })
}

fn full_loop(levels: &[Level], concurrency: u32) -> Result<(i64, i64), String> {
    let wanted = (FULL * f64::from(concurrency)).ceil() as usize;
    let is_full = |level: &&Level| level.n >= wanted;
    let (Some(first), Some(last)) =
        (levels.iter().find(is_full), levels.iter().rev().find(is_full))
    else {
        let most = levels.iter().map(|level| level.n).max().unwrap_or(0);
        return Err(format!("at most {most} of {concurrency} requests were in flight together"));
    };
    let (start, end) = (first.from_ns, last.to_ns);
    let full_ns: i64 = levels.iter().filter(is_full).map(|level| level.to_ns - level.from_ns).sum();
    let part = full_ns as f64 / (end - start) as f64;
    if part < FULL_TIME {
        let percent = 100.0 * part;
        return Err(format!(
            "{wanted} of {concurrency} requests were in flight for {percent:.0} % of the time between ramp and drain, \
             expected 90 %"
        ));
    }
    Ok((start, end))
}

fn between_ramp_and_drain(levels: &[Level], rows: &[&RequestRow]) -> Result<(i64, i64), String> {
    let last_sent = rows.iter().filter_map(|row| row.sent_ns).max();
    let last_sent = last_sent.ok_or("no request was sent")?;
    let sending: Vec<Level> = levels
        .iter()
        .filter(|level| level.from_ns < last_sent)
        .map(|level| Level { to_ns: level.to_ns.min(last_sent), ..*level })
        .collect();
    let median = median_level(&sending).ok_or("all requests were sent at one moment")?;
    let start = sending.iter().find(|level| level.n >= median).map(|level| level.from_ns);
    Ok((start.ok_or("the requests in flight never reach their median")?, last_sent))
}

/// The level below which requests in flight spend half of the time.
fn median_level(levels: &[Level]) -> Option<usize> {
    let mut by_level: Vec<(usize, i64)> =
        levels.iter().map(|level| (level.n, level.to_ns - level.from_ns)).collect();
    by_level.sort_unstable();
    let half = by_level.iter().map(|(_, ns)| ns).sum::<i64>() as f64 / 2.0;
    let mut passed = 0.0;
    by_level.into_iter().find_map(|(n, ns)| {
        passed += ns as f64;
        (passed >= half).then_some(n)
    })
}

fn describe(
    data: &RunData,
    served: &Served,
    id: &str,
    point: Point,
    repeats: &[Steady],
) -> SteadyPoint {
    let seed = data.manifest.scenario.seed;
    let shares: Vec<f64> = repeats.iter().map(|one| one.window.share).collect();
    let rate = |label: &str, count: fn(&Served, usize) -> Option<f64>| {
        let per_s = |one: &Steady| {
            let counted: Option<f64> = one.done.iter().map(|&row| count(served, row)).sum();
            Some(counted? / ns_to_s(one.window.end_ns - one.window.start_ns))
        };
        let rates = repeats.iter().map(per_s).collect::<Option<Vec<f64>>>()?;
        let (value, n) = (stats::mean(&rates)?, rates.len());
        let mut rng = rng_for(seed, &format!("{id} {label}"));
        Some(Estimate::new(value, stats::bootstrap(&[rates], &mut rng, |v| stats::mean(v)), n))
    };
    SteadyPoint {
        point,
        n_repeats: repeats.len(),
        n_steady: repeats.len(),
        share: stats::mean(&shares),
        n_within: repeats.iter().map(|one| one.within.len()).sum(),
        requests_per_s: rate("steady requests", super::requests::good),
        output_tokens_per_s: rate("steady tokens", super::requests::good_tokens),
        metrics: latencies(seed, id, served, repeats),
        missing: None,
    }
}

fn latencies(seed: u64, id: &str, served: &Served, repeats: &[Steady]) -> Vec<SummaryRow> {
    type Latency = (&'static str, fn(&super::RequestFacts) -> Option<f64>);
    let metrics: [Latency; 3] = [
        ("steady_ttft", |facts| facts.ttft_ms),
        ("steady_tpot", |facts| facts.tpot_ms),
        ("steady_e2e", |facts| facts.e2e_ms),
    ];
    let one = |(name, of): &Latency| {
        let of_request = |&row: &usize| of(&served.facts[row]).into_iter().collect::<Vec<f64>>();
        let of_repeat = |one: &Steady| one.within.iter().map(of_request).collect::<Vec<_>>();
        let series: Series = repeats.iter().map(of_repeat).collect();
        summarise(seed, id, name, "ms", &series)
    };
    metrics.iter().filter_map(one).collect()
}

fn rows_of(id: &str, point: &SteadyPoint) -> Vec<SummaryRow> {
    let share = point.share.map(|share| Estimate::new(share, None, point.n_steady));
    let wholes = [
        ("steady_share", "1", share),
        ("steady_requests_per_s", "1/s", point.requests_per_s),
        ("steady_output_tokens_per_s", "tokens/s", point.output_tokens_per_s),
    ];
    let whole = |(metric, unit, estimate): (&str, &str, Option<Estimate>)| {
        estimate.map(|estimate| single(id, metric, unit, estimate))
    };
    wholes.into_iter().filter_map(whole).chain(point.metrics.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sent_ns: i64, done_ns: i64) -> RequestRow {
        RequestRow { sent_ns: Some(sent_ns), done_ns: Some(done_ns), ..RequestRow::default() }
    }

    fn of(rows: &[RequestRow], full: Option<u32>) -> Result<Window, String> {
        window(&rows.iter().collect::<Vec<_>>(), full)
    }

    /// Two slots, three requests each of 10, the second slot starting at 2: full from 2 to 30.
    #[test]
    fn a_closed_loop_is_steady_while_it_is_full() {
        let rows: Vec<RequestRow> =
            (0..3).flat_map(|i| [row(10 * i, 10 * i + 10), row(10 * i + 2, 10 * i + 12)]).collect();
        let window = of(&rows, Some(2)).unwrap();
        assert_eq!((window.start_ns, window.end_ns), (2, 30));
        assert!((window.share - 28.0 / 32.0).abs() < 1e-12);
        assert_eq!(
            of(&rows, Some(4)).unwrap_err(),
            "at most 2 of 4 requests were in flight together"
        );
    }

    /// One of two slots is held by one slow request; the loop is full at both ends only.
    #[test]
    fn a_loop_that_waits_for_its_slowest_has_no_steady_part() {
        let rows = [row(0, 10), row(0, 100), row(95, 100)];
        let why = of(&rows, Some(2)).unwrap_err();
        assert!(why.starts_with("2 of 2 requests were in flight for 15 % of the time"), "{why}");
    }

    /// A request every 10 that takes 35: four in flight from 30 on, five never; the last is sent at 90.
    #[test]
    fn an_open_loop_is_steady_between_ramp_and_drain() {
        let rows: Vec<RequestRow> = (0..10).map(|i| row(10 * i, 10 * i + 35)).collect();
        let window = of(&rows, None).unwrap();
        // In flight: 1, 2, 3, then 4 for half of each gap and 3 for the other half; the median is 3.
        assert_eq!((window.start_ns, window.end_ns), (20, 90));
    }

    #[test]
    fn no_window_is_said_and_not_zero() {
        assert_eq!(of(&[], Some(1)).unwrap_err(), "no request was sent and answered");
        let burst = [row(0, 10), row(0, 20)];
        assert_eq!(of(&burst, None).unwrap_err(), "all requests were sent at one moment");
        let unended = RequestRow { sent_ns: Some(0), ..RequestRow::default() };
        assert!(of(&[unended], None).is_err());
    }

    /// Two at a time, each a second: the loop is full from the first to the last moment.
    fn two_rounds(row: &mut RequestRow) {
        let later = 1_000_000_000 * (row.request_id / 2);
        row.sent_ns = row.sent_ns.map(|at| at + later);
        row.done_ns = row.done_ns.map(|at| at + later);
        row.first_token_ns = row.first_token_ns.map(|at| at + later);
        row.last_token_ns = row.last_token_ns.map(|at| at + later);
        row.chunk_ns.iter_mut().for_each(|at| *at += later);
    }

    #[test]
    fn steady_numbers_stand_beside_those_of_the_whole_run() {
        use crate::analyse::{judge, tests::served_run};
        let cell = "example/srv/fp16/chat/closed-2/0";
        let mut data = served_run(&[cell], 4, two_rounds);
        let judgement = judge(&data).unwrap();
        let value = |metric: &str| {
            let row = judgement.summary.iter().find(|r| r.cell_id == cell && r.metric == metric);
            row.map(|row| (row.mean, row.definition.clone().unwrap())).unwrap()
        };
        assert_eq!(value("steady_share"), (1.0, "steady.share_of_run".to_owned()));
        assert_eq!(
            value("steady_requests_per_s"),
            (2.0, "throughput.requests_per_s.steady_state".to_owned())
        );
        assert_eq!(value("steady_output_tokens_per_s").0.round() as i64, 20);
        assert_eq!(value("steady_ttft"), (10.0, "ttft.first_content.steady_state".to_owned()));
        assert_eq!((judgement.steady[0].n_within, judgement.steady[0].n_steady), (4, 1));
        data.manifest.cells[0].concurrency = Some(8);
        let judgement = judge(&data).unwrap();
        let why = judgement.steady[0].missing.clone().unwrap();
        assert_eq!(why, "at most 2 of 8 requests were in flight together");
        assert!(judgement.summary.iter().all(|row| !row.metric.starts_with("steady")));
    }
}
