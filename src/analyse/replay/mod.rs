//! Observe, replay, compare: a run's requests through a simulated engine, and how far off its times are.
//!
//! Step times are fitted to a few cells and judged by others, so that what is printed is a forecast and not a fit. Unless told
//! otherwise each method is calibrated on its closed loop of least and the one of most concurrency that the engine computes at a
//! time, all repeats of them. A method's A/A control is neither: it tells what two runs of one thing differ by.
//!
//! An open load is replayed with the times at which its requests were really sent, a closed one with as many in flight. Answers have
//! the lengths they had.

mod calibrate;
mod compare;
mod doubt;
mod file;
mod null;
mod rules;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use regex::Regex;

use calibrate::calibrate_rules;
pub use calibrate::{Calibration, calibrate};
pub use compare::{Compared, METRICS, Metric, STATS, Stat};
pub use file::from_file;
pub use rules::Stated;

use super::{
    Point, RunData,
    observed_trace::{self, CellTrace, Observed},
};
use crate::{
    predict::{
        StepTimes,
        simulate::{Client, Engine, EngineConfig, Load, Outcome, Replayed, Times, replay},
    },
    stats,
    units::{ns_to_s, s_to_ns},
};

/// Step times of a target and method from elsewhere, by the most tokens of a sequence that the method keeps there.
pub type FittedBefore<'a> = dyn Fn(&str, &str, Option<u64>) -> anyhow::Result<Fitted> + 'a;

/// How to replay.
#[derive(Clone, Default)]
pub struct Options<'a> {
    /// Cells to calibrate on, by id; `None` for the usual ones.
    pub calibrate: Option<&'a Regex>,
    /// Cells to judge, by id; `None` for all that were not calibrated on.
    pub judge: Option<&'a Regex>,
    /// Rules of the engine that the run does not tell.
    pub stated: Stated,
    /// Use times of cells whose client or server were found INVALID.
    pub keep_invalid: bool,
    /// Step times that were fitted before; without them they are fitted to the run.
    pub fitted: Option<&'a FittedBefore<'a>>,
}

/// Step times with the constants around them.
#[derive(Clone)]
pub struct Fitted {
    /// Of the engine.
    pub times: Times,
    /// Of the way to the engine and back, once a request.
    pub request_s: f64,
    /// From the end of an answer to the next request of a closed loop.
    pub turnaround_s: f64,
    /// Where they come from, in words.
    pub source: String,
    /// What was fitted, where this run was fitted.
    pub calibration: Option<Calibration>,
}

/// A method on a target: the engine that is simulated.
#[derive(Clone)]
pub struct Simulated {
    /// Target.
    pub target: String,
    /// Method.
    pub method: String,
    /// Rules.
    pub config: EngineConfig,
    /// Times.
    pub fitted: Fitted,
}

/// A load under a method: measured, simulated, compared.
#[derive(Debug, Clone)]
pub struct ReplayPoint {
    /// Which.
    pub point: Point,
    /// Requests that were compared, all repeats together.
    pub n: usize,
    /// Repeats.
    pub n_repeats: usize,
    /// Requests that the simulated engine refused.
    pub n_rejected: usize,
    /// Times that a simulated request was thrown out.
    pub n_preempted: u64,
    /// Most tokens that lay in the simulated cache at a time.
    pub kv_tokens_most: u64,
    /// Requests sent a second, mean over repeats.
    pub rate_per_s: f64,
    /// Mean number in flight, measured.
    pub in_flight: f64,
    /// The same, simulated.
    pub in_flight_simulated: f64,
    /// Numbers side by side.
    pub compared: Vec<Compared>,
    /// E2E of each request, ms.
    pub e2e_ms: Vec<f64>,
    /// The same, simulated.
    pub e2e_simulated_ms: Vec<f64>,
}

/// Everything of one run.
#[derive(Clone)]
pub struct Replays {
    /// Engines.
    pub simulated: Vec<Simulated>,
    /// Ids of cells that step times were fitted to.
    pub calibrated_on: Vec<String>,
    /// Points that were judged, in plan order.
    pub points: Vec<ReplayPoint>,
    /// Rows that are in no trace, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// Cells that were calibrated on or judged though their client or server were found SUSPECT.
    pub n_suspect: usize,
    /// What has to be said beside the numbers.
    pub notes: Vec<String>,
}

/// Mean error of a fit on its own cells, in percent, from which it is doubted.
const FIT_ERROR_PCT: f64 = 10.0;

/// Replays a run.
///
/// # Errors
/// Nothing to calibrate on or to judge, rules that nobody tells, a fit without enough requests.
pub fn run(data: &RunData, options: &Options<'_>) -> anyhow::Result<Replays> {
    let mut out = Replays {
        simulated: Vec::new(),
        calibrated_on: Vec::new(),
        points: Vec::new(),
        left_out: BTreeMap::new(),
        n_suspect: 0,
        notes: Vec::new(),
    };
    let mut used = doubt::Used::default();
    let cells = usable(data, options, &mut out)?;
    for (target, method) in engines(&cells, &data.aa_method()) {
        let own: Vec<&CellTrace> =
            cells.iter().filter(|t| t.cell.target == target && t.cell.method == method).collect();
        let rules = rules::rules(&data.manifest, (&target, &method), &options.stated)?;
        note(&mut out.notes, &target, rules.notes);
        let mut config = rules.config;
        // Step times from elsewhere know of no tiles.
        config.tiles = config.tiles.filter(|_| options.fitted.is_none());
        let (fitted, fitted_to) = fitted(&own, (&target, &method), &mut config, options)?;
        let judged: Vec<&CellTrace> = own
            .iter()
            .copied()
            .filter(|trace| !fitted_to.contains(&trace.cell.id))
            .filter(|trace| options.judge.is_none_or(|filter| filter.is_match(&trace.cell.id)))
            .collect();
        let calibrated: Vec<&CellTrace> =
            own.iter().copied().filter(|trace| fitted_to.contains(&trace.cell.id)).collect();
        note(&mut out.notes, &target, unsteady(&method, &fitted, &calibrated));
        note(&mut out.notes, &target, rested(&method, (&fitted, &config), &judged));
        used.calibrated.extend(calibrated);
        used.judged.extend(&judged);
        out.calibrated_on.extend(fitted_to);
        let engine = Simulated { target, method, config, fitted };
        let points: Vec<ReplayPoint> = by_point(&judged)
            .iter()
            .map(|traces| point(data, &engine, traces, &cells))
            .collect::<anyhow::Result<_>>()?;
        note(&mut out.notes, &engine.target, too_full(&engine, &points, rules.shared_tokens));
        out.points.extend(points);
        out.simulated.push(engine);
    }
    out.n_suspect = used.n_suspect();
    out.notes.extend(used.notes());
    out.points.sort_by_key(|p| data.rank(&p.point));
    anyhow::ensure!(
        !out.points.is_empty(),
        "expected cells to judge beside those that were calibrated on ({}), got none; left out: {}\n  hint: say which with --calibrate and --cells; --keep-invalid uses times of INVALID cells",
        out.calibrated_on.join(", "),
        reasons(&out.left_out)
    );
    Ok(out)
}

/// What has to be said where step times do not fit their own cells.
fn unsteady(method: &str, fitted: &Fitted, calibrated: &[&CellTrace]) -> Vec<String> {
    let off = fitted.calibration.as_ref().map(|fit| fit.fit_error_pct);
    let n_suspect = calibrated.iter().filter(|trace| trace.suspect.is_some()).count();
    let or = match n_suspect {
        0 => String::new(),
        n => format!(", or its cells are no good ({n} of {} are SUSPECT)", calibrated.len()),
    };
    let say = |off: f64| {
        format!(
            "{method}: its step times fit the calibration cells to {off:.0} % only: the machine was not steady, or the rules are not the engine's{or}"
        )
    };
    off.filter(|off| *off > FIT_ERROR_PCT).map(say).into_iter().collect()
}

/// Requests that met an idle engine from which their times are held to the calibration's.
const IDLE_MIN: usize = 20;
/// How much later their first token may come, as a share, before it is said.
const IDLE_OFF: f64 = 0.1;

/// What has to be said where an engine that had rested is slower, or faster, than one between the requests of a closed loop: a machine
/// that wakes up, caches that others have filled. Closed loops do not show it, and it is not simulated.
fn rested(
    method: &str,
    (fitted, config): (&Fitted, &EngineConfig),
    judged: &[&CellTrace],
) -> Vec<String> {
    let Some(fit) = &fitted.calibration else { return Vec::new() };
    let mut ratios = calibrate::idle_ratios(judged, config, fit);
    let n = ratios.len();
    let off = stats::median(&mut ratios).map(|ratio| ratio - 1.0);
    let say = |off: f64| {
        format!(
            "{method}: {n} requests of judged cells that met an idle engine had their first token {:.0} % {} than those of the calibration cells foretell (median): an engine that has rested takes other times here, which is not simulated",
            100.0 * off.abs(),
            if off > 0.0 { "later" } else { "sooner" }
        )
    };
    off.filter(|off| n >= IDLE_MIN && off.abs() > IDLE_OFF).map(say).into_iter().collect()
}

/// What has to be said where more lay in the simulated cache than the slots of llama-server share.
fn too_full(engine: &Simulated, points: &[ReplayPoint], shared: Option<u64>) -> Vec<String> {
    let most = points.iter().map(|point| point.kv_tokens_most).max().unwrap_or(0);
    let over = shared.filter(|shared| most > *shared);
    let say = |shared: u64| {
        format!(
            "{}: up to {most} tokens of prompts and answers lay in the simulated cache at a time, and the slots of llama-server share {shared}: full, it ends all answers with an error, which is not simulated",
            engine.method
        )
    };
    over.map(say).into_iter().collect()
}

fn note(notes: &mut Vec<String>, target: &str, more: Vec<String>) {
    for said in more.into_iter().map(|said| format!("{target}: {said}")) {
        if !notes.contains(&said) {
            notes.push(said);
        }
    }
}

/// Cells with good requests; what is not used is counted.
fn usable(
    data: &RunData,
    options: &Options<'_>,
    out: &mut Replays,
) -> anyhow::Result<Vec<CellTrace>> {
    let mut kept = Vec::new();
    let mut unknown = 0;
    for trace in observed_trace::cells(data)? {
        for (why, n) in &trace.left_out {
            *out.left_out.entry(why.clone()).or_default() += n;
        }
        let n = trace.requests.len();
        match &trace.invalid {
            Some(why) if !options.keep_invalid => {
                *out.left_out.entry(format!("of an INVALID cell ({why})")).or_default() += n;
            }
            _ if n > 0 => {
                unknown += trace.n_cached_unknown;
                kept.push(trace);
            }
            _ => {}
        }
    }
    if unknown > 0 {
        out.notes.push(format!(
            "{unknown} rows do not tell how much of their prompt a cache served: none is assumed"
        ));
    }
    anyhow::ensure!(
        !kept.is_empty(),
        "expected served requests with token counts, got none ({})\n  hint: `kvbench report` says what failed; --keep-invalid uses times of INVALID cells",
        reasons(&out.left_out)
    );
    Ok(kept)
}

/// Rows that are not used, in words.
fn reasons(left_out: &BTreeMap<String, usize>) -> String {
    let each: Vec<String> = left_out.iter().map(|(why, n)| format!("{n} {why}")).collect();
    if each.is_empty() { "no row".to_owned() } else { each.join(", ") }
}

/// Target and method of each engine, in plan order, the A/A control aside.
fn engines(cells: &[CellTrace], aa_method: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for cell in cells.iter().map(|trace| &trace.cell).filter(|cell| cell.method != aa_method) {
        let one = (cell.target.clone(), cell.method.clone());
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

/// Step times of an engine and the cells they were fitted to.
fn fitted(
    own: &[&CellTrace],
    (target, method): (&str, &str),
    config: &mut EngineConfig,
    options: &Options<'_>,
) -> anyhow::Result<(Fitted, Vec<String>)> {
    if let Some(given) = options.fitted {
        return Ok((given(target, method, config.kv_budget)?, Vec::new()));
    }
    let chosen: Vec<&CellTrace> = match options.calibrate {
        Some(filter) => own.iter().copied().filter(|t| filter.is_match(&t.cell.id)).collect(),
        None => usual(own, config.max_num_seqs),
    };
    let ids: Vec<String> = chosen.iter().map(|trace| trace.cell.id.clone()).collect();
    let calibration =
        calibrate_rules(&chosen, config).map_err(anyhow::Error::msg).with_context(|| {
            format!(
                "{target}, {method}: cannot be calibrated on {} cells ({})",
                ids.len(),
                loads(&chosen)
            )
        })?;
    let source = format!("fitted to {} of this run, all repeats", loads(&chosen));
    let fitted = Fitted {
        times: Arc::new(calibration.times),
        request_s: calibration.request_s,
        turnaround_s: calibration.turnaround_s,
        source,
        calibration: Some(calibration),
    };
    Ok((fitted, ids))
}

fn loads(cells: &[&CellTrace]) -> String {
    let mut loads: Vec<&str> = cells.iter().map(|trace| trace.cell.load.as_str()).collect();
    loads.sort_unstable();
    loads.dedup();
    if loads.is_empty() { "no load".to_owned() } else { loads.join(", ") }
}

/// Closed loops of least concurrency and of the most that the engine computes at a time; without any the open load of least rate.
fn usual<'a>(own: &[&'a CellTrace], max_num_seqs: usize) -> Vec<&'a CellTrace> {
    let within = |n: &u32| (*n as usize) <= max_num_seqs;
    let closed = || own.iter().filter_map(|trace| trace.cell.concurrency);
    let (least, most) = (closed().min(), closed().filter(within).max());
    if least.is_some() {
        let is_one = |trace: &&&CellTrace| {
            let n = trace.cell.concurrency;
            n.is_some() && (n == least || n == most)
        };
        return own.iter().filter(is_one).copied().collect();
    }
    let slowest = own.iter().min_by(|a, b| rate_per_s(a).total_cmp(&rate_per_s(b)));
    let load = slowest.map(|trace| trace.cell.load.as_str());
    own.iter().filter(|trace| Some(trace.cell.load.as_str()) == load).copied().collect()
}

/// Requests sent a second.
fn rate_per_s(trace: &CellTrace) -> f64 {
    let sent = |i: usize| trace.requests[i].sent_ns;
    match trace.requests.len() {
        0 | 1 => 0.0,
        n => (n - 1) as f64 / ns_to_s((sent(n - 1) - sent(0)).max(1)),
    }
}

/// Repeats of each point, in plan order.
fn by_point<'a>(cells: &[&'a CellTrace]) -> Vec<Vec<&'a CellTrace>> {
    let mut points: Vec<Vec<&CellTrace>> = Vec::new();
    for trace in cells {
        let same = |other: &&mut Vec<&CellTrace>| of(other[0]) == of(trace);
        match points.iter_mut().find(same) {
            Some(point) => point.push(trace),
            None => points.push(vec![trace]),
        }
    }
    points
}

fn of(trace: &CellTrace) -> Point {
    Point {
        target: trace.cell.target.clone(),
        workload: trace.cell.workload.clone(),
        load: trace.cell.load.clone(),
        method: trace.cell.method.clone(),
    }
}

/// What became of one repeat in the simulator.
struct Repeat<'a> {
    trace: &'a CellTrace,
    /// By request; `None` for those that the engine refused.
    outcomes: Vec<Option<Outcome>>,
    n_preempted: u64,
    kv_tokens_most: u64,
}

fn simulate<'a>(engine: &Simulated, trace: &'a CellTrace) -> anyhow::Result<Repeat<'a>> {
    let place = || format!("{}: cannot be simulated", trace.cell.id);
    let times: Vec<i64> = trace.requests.iter().map(|request| request.sent_ns).collect();
    let requests: Vec<_> = trace.requests.iter().map(|request| request.request()).collect();
    let load = match trace.cell.concurrency {
        Some(n) => Load::Closed { concurrency: n as usize, start_ns: times[0] },
        None => Load::Open(times),
    };
    let client = Client {
        request_ns: s_to_ns(engine.fitted.request_s),
        turnaround_ns: s_to_ns(engine.fitted.turnaround_s),
    };
    let idle = Engine::new(engine.config, engine.fitted.times.clone()).with_context(place)?;
    let mut done = replay(idle.with_tokens(), &requests, &load, client).with_context(place)?;
    for (request, index) in trace.requests.iter().zip(0..).filter(|(own, _)| own.is_stopped) {
        as_seen(request, &mut done, index);
    }
    let n_preempted = done.engine.state().n_preempted;
    let kv_tokens_most = done.engine.kv_tokens_most();
    Ok(Repeat { trace, outcomes: done.outcomes, n_preempted, kv_tokens_most })
}

/// What a client sees of an answer that a stop token ended: the token before it is the last that comes.
fn as_seen(request: &Observed, done: &mut Replayed, index: usize) {
    let last = request.output_tokens.checked_sub(1).and_then(|last| usize::try_from(last).ok());
    let came = last.and_then(|last| done.token_ns[index].get(last).copied());
    if let (Some(outcome), Some(came)) = (&mut done.outcomes[index], came) {
        (outcome.finished_ns, outcome.output_tokens) = (came, request.output_tokens);
    }
}

fn point(
    data: &RunData,
    engine: &Simulated,
    traces: &[&CellTrace],
    cells: &[CellTrace],
) -> anyhow::Result<ReplayPoint> {
    let repeats: Vec<Repeat<'_>> =
        traces.iter().map(|trace| simulate(engine, trace)).collect::<anyhow::Result<_>>()?;
    let point = of(traces[0]);
    let n_rejected = repeats.iter().flat_map(|r| &r.outcomes).filter(|o| o.is_none()).count();
    let mean = |of: &dyn Fn(&Repeat<'_>) -> f64| {
        repeats.iter().map(of).sum::<f64>() / repeats.len() as f64
    };
    let compared = compare::compare(data, engine, &point, &repeats, cells);
    let (e2e_ms, e2e_simulated_ms) = compare::e2e_ms(&repeats);
    Ok(ReplayPoint {
        n: e2e_ms.len(),
        n_repeats: repeats.len(),
        n_rejected,
        n_preempted: repeats.iter().map(|r| r.n_preempted).sum(),
        kv_tokens_most: repeats.iter().map(|r| r.kv_tokens_most).max().unwrap_or(0),
        rate_per_s: mean(&|r| rate_per_s(r.trace)),
        in_flight: mean(&|r| {
            in_flight(r.trace.requests.iter().map(|o| (o.sent_ns, o.last_token_ns)))
        }),
        in_flight_simulated: mean(&|r| {
            in_flight(r.outcomes.iter().flatten().map(|o| (o.sent_ns, o.finished_ns)))
        }),
        compared,
        e2e_ms,
        e2e_simulated_ms,
        point,
    })
}

/// Mean number in flight between the first that was sent and the last that ended; 0 of nothing.
fn in_flight(spans: impl Iterator<Item = (i64, i64)> + Clone) -> f64 {
    let start = spans.clone().map(|(sent, _)| sent).min().unwrap_or(0);
    let end = spans.clone().map(|(_, end)| end).max().unwrap_or(0);
    let inside: i64 = spans.map(|(sent, end)| end - sent).sum();
    if end > start { inside as f64 / (end - start) as f64 } else { 0.0 }
}

impl StepTimes for Fitted {
    fn step_s(
        &self,
        prefill: Option<&crate::predict::Work>,
        decode: Option<&crate::predict::Work>,
    ) -> f64 {
        self.times.step_s(prefill, decode)
    }
}
