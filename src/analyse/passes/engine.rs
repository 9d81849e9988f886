//! Request rows: whole steps of a server, as its client sees them.
//!
//! - Decode: the time between two tokens while a fixed set of streams decoded and no prompt was on its way ([`super::timeline`]).
//!   Steps of a repeat are put into bins of the same batch and of cached tokens within 12 %; a bin's value is its median.
//! - Prefill: TTFT of a request that was sent to an idle server. It holds what the client, the network and the server's HTTP
//!   layer take as well, which a fit puts into the overhead.
//! - Cells are left out that judging calls INVALID: the client did not keep up, or the server was not what the scenario says.
//!   One in which every request failed has nothing to give.
//! - The budget is that of the scenario's method. What an engine evicts under a method of its own, or in an imported run, is
//!   not known here: all cached tokens count.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Collected, Key, Repeat, Run, Told,
    timeline::{self, Stream, Tokens},
};
use crate::{
    predict::{Phase, Subject, Work},
    record::{RequestRow, manifest::Verdict, parquet::TableRow as _},
    stats,
    units::ns_to_s,
};

/// Ratio between the borders of a bin.
const BIN_RATIO: f64 = 1.12;
/// Fewest steps of the engine in a bin of one repeat, each counted once however many streams show it: a median of fewer is little
/// more than one of them.
pub(super) const STEPS_MIN: usize = 5;

/// Rows of one server in one repeat.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Cell<'a> {
    target: &'a str,
    method: &'a str,
    workload: &'a str,
    load: &'a str,
    repeat: i64,
}

/// Adds what every cell shows.
pub(super) fn add(run: &Run<'_>, found: &mut Collected) -> anyhow::Result<()> {
    let measured = RequestRow::rows(&run.data.requests)?;
    let before = RequestRow::rows(&run.data.warm_up)?;
    found.leave_out("request sent before measuring began", before.len());
    let mut cells: BTreeMap<Cell<'_>, Vec<Stream<'_>>> = BTreeMap::new();
    let rows = measured.iter().map(|row| (row, true)).chain(before.iter().map(|row| (row, false)));
    // Rows before measuring give nothing, so their numbers are nobody's.
    for (number, (row, is_measured)) in (0..).zip(rows) {
        let stream = Stream { row, number, is_measured, tokens: Tokens::of(row) };
        cells.entry(cell(row)).or_default().push(stream);
    }
    let invalid = invalid(run);
    for (cell, streams) in &cells {
        let measured = || streams.iter().filter(|stream| stream.is_measured);
        if measured().any(|stream| invalid.contains(stream.row.cell_id.as_str())) {
            let reason =
                "request of a cell that is INVALID (client or server, see `kvbench report`)";
            found.leave_out(reason, measured().count());
        } else {
            observe(run, cell, streams, found);
        }
    }
    Ok(())
}

fn cell(row: &RequestRow) -> Cell<'_> {
    Cell {
        target: &row.target,
        method: &row.method,
        workload: &row.workload,
        load: &row.load,
        repeat: row.repeat,
    }
}

fn invalid<'a>(run: &Run<'a>) -> BTreeSet<&'a str> {
    let manifest = &run.data.manifest;
    let clients = manifest.client_health.iter().map(|it| (it.verdict, it.cell_id.as_str()));
    let proofs = manifest.proofs.iter().map(|it| (it.verdict, it.cell_id.as_str()));
    clients.chain(proofs).filter(|(it, _)| *it == Verdict::Invalid).map(|(_, id)| id).collect()
}

/// One repeat of one point.
struct Place<'a> {
    run: &'a Run<'a>,
    subject: Subject,
    method: Told,
    name: String,
    streams: &'a [Stream<'a>],
}

impl Place<'_> {
    fn key(&self, shape: Vec<i64>) -> Key {
        Key {
            subject: self.subject.clone(),
            method: self.method.name.clone(),
            label: self.method.label.clone(),
            place: self.name.clone(),
            shape,
        }
    }

    /// What a bin of streams shows.
    fn repeat(
        &self,
        (work, duration_s): (Work, f64),
        streams: impl Iterator<Item = usize>,
    ) -> Repeat {
        let rows = self.run.rows(streams.map(|stream| self.streams[stream].number));
        Repeat { work, duration_s, rows }
    }
}

fn observe(run: &Run<'_>, cell: &Cell<'_>, streams: &[Stream<'_>], found: &mut Collected) {
    let method = run.method(cell.method);
    let place = Place {
        run,
        subject: run.subject(cell.target, cell.method),
        name: format!("{}/{}/{}", cell.target, cell.workload, cell.load),
        method,
        streams,
    };
    let seen = timeline::read(streams, place.method.budget);
    let mut used: BTreeSet<usize> = decode(&place, &seen, found);
    used.extend(prefill(&place, &seen.alone, run.has_no_prefix_cache(cell.target), found));
    for (reason, steps) in seen.left_out {
        found.leave_steps_out(reason, steps);
    }
    found.n_rows_used += used.len();
    for (index, stream) in streams.iter().enumerate() {
        if stream.is_measured && !used.contains(&index) {
            found.leave_out(why_not(stream), 1);
        }
    }
}

fn why_not(stream: &Stream<'_>) -> &'static str {
    let row = stream.row;
    if row.err.is_some() {
        "request that failed"
    } else if row.sent_ns.is_none() || row.first_token_ns.is_none() {
        "request without an answer"
    } else if row.prompt_tokens.is_none() || row.token_source.is_none() {
        "request whose tokens the server did not count"
    } else if stream.tokens.is_none() {
        "request whose chunks hold an unknown number of tokens"
    } else {
        "request that never decoded long enough beside a fixed set of streams, nor met an idle server"
    }
}

fn bin(tokens: f64) -> i64 {
    (tokens.max(1.0).ln() / BIN_RATIO.ln()).round() as i64
}

/// One value a bin; the streams that gave one.
fn decode(place: &Place<'_>, seen: &timeline::Seen, found: &mut Collected) -> BTreeSet<usize> {
    let mut bins: BTreeMap<(usize, i64), Vec<&timeline::Step>> = BTreeMap::new();
    for step in &seen.steps {
        bins.entry((step.batch, bin(step.kv_len))).or_default().push(step);
    }
    let mut used = BTreeSet::new();
    for ((batch, kv_bin), steps) in bins {
        // Chunks that came all at once are no steps, and say so below.
        let n_steps = timeline::n_distinct(&steps);
        if (1..STEPS_MIN).contains(&n_steps) {
            found.leave_steps_out(
                "decode step of a bin with fewer than 5 steps of the engine in its repeat",
                steps.len(),
            );
            continue;
        }
        let durations = steps.iter().map(|step| step.duration_s).collect();
        let works: Vec<Work> = steps.iter().map(|step| step.work).collect();
        let Some(value) = value(&works, durations) else {
            found
                .leave_steps_out("decode step of a bin whose chunks came all at once", steps.len());
            continue;
        };
        let batch = i64::try_from(batch).unwrap_or(i64::MAX);
        let key = place.key(vec![phase(&value.0), batch, kv_bin]);
        let streams = steps.iter().map(|step| step.stream);
        found.observe(key, &place.method, place.repeat(value, streams));
        used.extend(steps.iter().map(|step| step.stream));
    }
    used
}

/// A request, its prompt's work and its TTFT in seconds.
type Prompt = (usize, Work, f64);

/// The same of prompts that met an idle server.
fn prefill(
    place: &Place<'_>,
    alone: &[usize],
    nothing_cached: bool,
    found: &mut Collected,
) -> BTreeSet<usize> {
    let mut bins: BTreeMap<(i64, i64), Vec<Prompt>> = BTreeMap::new();
    for &index in alone {
        let row = place.streams[index].row;
        let cached = row.cached_tokens.or(nothing_cached.then_some(0));
        let ttft = row.first_token_ns.zip(row.sent_ns).map(|(first, sent)| ns_to_s(first - sent));
        let Some(((prompt, cached), ttft_s)) = row.prompt_tokens.zip(cached).zip(ttft) else {
            continue;
        };
        let (chunk, kv) = ((prompt - cached) as f64, cached as f64);
        if chunk > 0.0 && cached >= 0 {
            let work = Work::prefill([(chunk, kv)]);
            bins.entry((bin(chunk), bin(kv))).or_default().push((index, work, ttft_s));
        }
    }
    let mut used = BTreeSet::new();
    for ((chunk_bin, kv_bin), requests) in bins {
        let works: Vec<Work> = requests.iter().map(|(_, work, _)| *work).collect();
        let durations = requests.iter().map(|(_, _, ttft_s)| *ttft_s).collect();
        if let Some(value) = value(&works, durations) {
            let key = place.key(vec![phase(&value.0), chunk_bin, kv_bin]);
            let streams = requests.iter().map(|(index, ..)| *index);
            found.observe(key, &place.method, place.repeat(value, streams));
            used.extend(requests.iter().map(|(index, ..)| *index));
        }
    }
    used
}

fn phase(work: &Work) -> i64 {
    i64::from(work.phase == Phase::Decode)
}

/// Mean work and median time; `None` where that is no time.
fn value(works: &[Work], mut durations_s: Vec<f64>) -> Option<(Work, f64)> {
    let median = stats::median(&mut durations_s).filter(|median| *median > 0.0)?;
    Some((Work::mean(works)?, median))
}
