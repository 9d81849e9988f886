//! Replays as tables, sentences and figures: simulated beside measured, beside the null and the noise.

use super::super::{
    Column, Figure, Table, Value,
    figure::{Axis, Kind, Panel, Point, Scale, Series, cdf},
    run::Plot,
};
use crate::{
    analyse::{
        Point as Place,
        replay::{Compared, Metric, ReplayPoint, Replays, Simulated, Stat},
    },
    units::significant,
};

#[cfg(test)]
mod tests;

/// Slots of the two series: the same in every picture.
const MEASURED: usize = 0;
const SIMULATED: usize = 1;
/// Half the distance of two markers at one load.
const BESIDE: f64 = 0.1;

/// Error up to which a number counts as foretold, in percent, where there is a bar: mean E2E 10, its p99 15, mean TTFT 20.
pub fn bar_pct(metric: Metric, stat: Stat) -> Option<f64> {
    match (metric, stat) {
        (Metric::E2e, Stat::Mean) => Some(10.0),
        (Metric::E2e, Stat::P99) => Some(15.0),
        (Metric::Ttft, Stat::Mean) => Some(20.0),
        _ => None,
    }
}

/// Whether a number counts as foretold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Within its bar, wherever in its interval the measured number is.
    Yes,
    /// Beyond it, wherever.
    No,
    /// The interval of the measured number has both.
    CannotTell,
}

impl Holds {
    /// As in tables.
    pub fn name(self) -> &'static str {
        match self {
            Holds::Yes => "yes",
            Holds::No => "no",
            Holds::CannotTell => "cannot tell",
        }
    }
}

/// Whether a number is within its bar; `None` where there is no bar. What was measured is known to its interval only, so the
/// error is judged at both ends of it: one repeat more could have been at either.
pub fn holds(one: &Compared) -> Option<Holds> {
    let bar = bar_pct(one.metric, one.stat)?;
    let error = |measured_ms: f64| 100.0 * (one.simulated_ms / measured_ms - 1.0);
    // The longer the measured time, the lower the error.
    let (most, least) = match one.interval {
        Some(interval) => (error(interval.low), error(interval.high)),
        None => (one.error_pct(), one.error_pct()),
    };
    Some(if most <= bar && least >= -bar {
        Holds::Yes
    } else if least > bar || most < -bar {
        Holds::No
    } else {
        Holds::CannotTell
    })
}

/// Every table with its key in JSON.
pub fn named_tables(replays: &Replays) -> [(&'static str, Table); 4] {
    [
        ("compared", compared(&replays.points)),
        ("loads", loads(&replays.points)),
        ("engines", engines(&replays.simulated)),
        ("left_out", left_out(replays)),
    ]
}

fn table(title: &str, columns: &[(&str, &str)]) -> Table {
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    Table::new(title, columns)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

const PLACE: [(&str, &str); 4] = [("target", ""), ("method", ""), ("workload", ""), ("load", "")];

fn place(point: &Place) -> Vec<Value> {
    [&point.target, &point.method, &point.workload, &point.load].map(|name| text(name)).into()
}

fn compared(points: &[ReplayPoint]) -> Table {
    let names = [
        ("metric", ""),
        ("stat", ""),
        ("measured", "ms"),
        ("simulated", "ms"),
        ("error", "%"),
        ("bar", "%"),
        ("holds", ""),
        ("no_queue_error", "%"),
        ("last_load", ""),
        ("last_load_error", "%"),
        ("repeats_differ", "%"),
        ("aa_differ", "%"),
    ];
    let title = "Simulated against measured; errors of the simulation, of the null without a queue, of taking the last load's number; what repeats and the A/A control differ by";
    let mut table = table(title, &[&PLACE[..], &names].concat());
    for (point, one) in points.iter().flat_map(|p| p.compared.iter().map(move |one| (p, one))) {
        let interval = one.interval.map(|i| (i.low, i.high)).unzip();
        let mut row = place(&point.point);
        row.extend([
            text(one.metric.name()),
            text(one.stat.name()),
            Value::estimate(Some(one.measured_ms), interval.0, interval.1),
            Value::Float(one.simulated_ms),
            Value::Float(one.error_pct()),
            Value::maybe(bar_pct(one.metric, one.stat)),
            holds(one).map_or(Value::Missing, |holds| text(holds.name())),
            Value::maybe(one.null_error_pct()),
            one.last_ms.as_ref().map_or(Value::Missing, |(load, _)| text(load)),
            Value::maybe(one.last_error_pct()),
            Value::maybe(one.noise_pct),
            Value::maybe(one.aa_pct),
        ]);
        table.rows.push(row);
    }
    table
}

fn loads(points: &[ReplayPoint]) -> Table {
    let names = [
        ("requests", ""),
        ("repeats", ""),
        ("rate", "1/s"),
        ("in_flight", ""),
        ("in_flight_simulated", ""),
        ("rejected", ""),
        ("preempted", ""),
        ("kv_tokens_most", ""),
    ];
    let mut table = table("What was replayed", &[&PLACE[..], &names].concat());
    for p in points {
        let mut row = place(&p.point);
        row.extend([
            Value::count(p.n),
            Value::count(p.n_repeats),
            Value::Float(p.rate_per_s),
            Value::Float(p.in_flight),
            Value::Float(p.in_flight_simulated),
            Value::count(p.n_rejected),
            i64::try_from(p.n_preempted).map_or(Value::Missing, Value::Int),
            i64::try_from(p.kv_tokens_most).map_or(Value::Missing, Value::Int),
        ]);
        table.rows.push(row);
    }
    table
}

fn engines(simulated: &[Simulated]) -> Table {
    let names = [
        ("target", ""),
        ("method", ""),
        ("rules", ""),
        ("step_times", ""),
        ("step", "us"),
        ("per_sequence", "us"),
        ("per_kv_token", "us"),
        ("per_prompt", "us"),
        ("per_prompt_token", "us"),
        ("per_pair", "us"),
        ("way", "us"),
        ("turnaround", "us"),
        ("answers", ""),
        ("alone", ""),
        ("fit_error", "%"),
    ];
    let mut table = table("Simulated engines and what their steps cost", &names);
    for engine in simulated {
        let fit = engine.fitted.calibration.as_ref();
        let us = |of: Option<f64>| Value::maybe(of.map(|s| 1e6 * s));
        let times = fit.map(|fit| fit.times);
        table.rows.push(vec![
            text(&engine.target),
            text(&engine.method),
            text(&rules(engine)),
            text(&engine.fitted.source),
            us(times.map(|t| t.step_s)),
            us(times.map(|t| t.per_sequence_s)),
            us(times.map(|t| t.per_kv_token_s)),
            us(times.map(|t| t.per_prompt_s)),
            us(times.map(|t| t.per_prompt_token_s)),
            us(times.map(|t| t.per_pair_s)),
            us(Some(engine.fitted.request_s)),
            us(Some(engine.fitted.turnaround_s)),
            fit.map_or(Value::Missing, |fit| Value::count(fit.n_answers)),
            fit.map_or(Value::Missing, |fit| Value::count(fit.n_alone)),
            Value::maybe(fit.map(|fit| fit.fit_error_pct)),
        ]);
    }
    table
}

/// The rules of an engine in a few words.
fn rules(engine: &Simulated) -> String {
    use crate::predict::simulate::Mixing;
    let config = &engine.config;
    let mixing = match config.mixing {
        Mixing::DecodeFirst => "decode first".to_owned(),
        Mixing::PrefillFirst => "prefill first".to_owned(),
        Mixing::Slots { ubatch_tokens } => format!("slots, passes of {ubatch_tokens} tokens"),
    };
    let step = config.max_batched_tokens.map_or(String::new(), |n| format!(", {n} tokens a step"));
    let pool = config
        .kv_blocks
        .map_or(String::new(), |n| format!(", {n} blocks of {} tokens", config.block_tokens));
    let budget = config.kv_budget.map_or(String::new(), |n| format!(", keeps {n} tokens"));
    let context = config.context_tokens.map_or(String::new(), |n| format!(", contexts of {n}"));
    let tiles = config.tiles.map_or(String::new(), |tiles| {
        format!(", attention in tiles of {} x {}", tiles.rows, tiles.cells)
    });
    format!("{} sequences, {mixing}{step}{pool}{budget}{context}{tiles}", config.max_num_seqs)
}

fn left_out(replays: &Replays) -> Table {
    let mut table = table("Rows that are in no replay", &[("reason", ""), ("rows", "")]);
    let row = |(why, n): (&String, &usize)| vec![text(why), Value::count(*n)];
    table.rows.extend(replays.left_out.iter().map(row));
    table
}

/// What came of it, one sentence a load, and one on the null and the last load's number.
pub fn finding(replays: &Replays) -> Vec<String> {
    let mut said: Vec<String> = replays.points.iter().map(sentence).collect();
    let all = replays.points.iter().flat_map(|p| &p.compared);
    let means: Vec<&Compared> =
        all.filter(|one| (one.metric, one.stat) == (Metric::E2e, Stat::Mean)).collect();
    said.extend(against_null(&means, replays.n_suspect));
    said.extend(against_last(&means));
    said
}

/// How many have another forecast as well, and how far the simulation's and the other's are off there on average, in percent:
/// two averages say something of one another only over the same loads.
fn beside(means: &[&Compared], other: fn(&Compared) -> Option<f64>) -> Option<(usize, f64, f64)> {
    let pairs = means.iter().filter_map(|one| Some((one.error_pct().abs(), other(one)?.abs())));
    let (own, other): (Vec<f64>, Vec<f64>) = pairs.unzip();
    Some((own.len(), crate::stats::mean(&own)?, crate::stats::mean(&other)?))
}

fn against_null(means: &[&Compared], n_suspect: usize) -> Option<String> {
    let (n, own, null) = beside(means, Compared::null_error_pct)?;
    let or = match n_suspect {
        0 => String::new(),
        n => format!(", or was not measured rightly ({n} cells are SUSPECT)"),
    };
    let verdict = if own < null {
        String::new()
    } else {
        format!(
            " The simulation does not beat the null: a queue is not what makes these requests slow, or is not simulated rightly{or}."
        )
    };
    Some(format!(
        "Mean E2E is {} % off on average over {n} loads; without a queue it would be {} %.{verdict}",
        short(own),
        short(null)
    ))
}

fn against_last(means: &[&Compared]) -> Option<String> {
    let (n, own, last) = beside(means, Compared::last_error_pct)?;
    let verdict = if own < last { "" } else { " The last load's number is the better forecast." };
    Some(format!(
        "Over the {n} loads that have a load of lower rate, mean E2E is {} % off on average, and that load's number {} %.{verdict}",
        short(own),
        short(last)
    ))
}

fn short(value: f64) -> String {
    significant(value, 2)
}

fn sentence(point: &ReplayPoint) -> String {
    let Place { target, method, workload, load } = &point.point;
    let aa = point.compared.first().and_then(|one| one.aa_pct);
    let noise = aa.map_or(String::new(), |aa| {
        format!(" Two runs of one method differ by {} % in mean E2E.", short(aa))
    });
    let refused = match point.n_rejected {
        0 => String::new(),
        n => format!(" The simulated engine refused {n} of {} requests.", n + point.n),
    };
    let judged = [(Metric::E2e, Stat::Mean), (Metric::E2e, Stat::P99), (Metric::Ttft, Stat::Mean)];
    let judged = judged.map(|which| number(point, which)).join(", ");
    format!(
        "{method} on {target} at {workload}, {load} ({} requests, {} in flight): {judged}.{refused}{noise}",
        point.n,
        short(point.in_flight),
    )
}

/// One number's error, with what it is worth.
fn number(point: &ReplayPoint, (metric, stat): (Metric, Stat)) -> String {
    let name = format!("{} {}", stat.name(), metric.name().to_uppercase());
    let found = point.compared.iter().find(|one| (one.metric, one.stat) == (metric, stat));
    let Some(one) = found else {
        let why = if point.n == 0 { "no request was simulated" } else { "too few requests" };
        return format!("{name} cannot be judged ({why})");
    };
    let bar = short(bar_pct(metric, stat).unwrap_or(f64::NAN));
    let verdict = match holds(one) {
        Some(Holds::No) => format!(", beyond its bar of {bar} %"),
        Some(Holds::CannotTell) => format!(", and cannot be told from its bar of {bar} %"),
        Some(Holds::Yes) | None => String::new(),
    };
    let repeats = one
        .noise_pct
        .map_or(String::new(), |noise| format!(" (repeats differ by {} %)", short(noise)));
    format!("{name} {} % off{repeats}{verdict}", signed(one.error_pct()))
}

fn signed(value: f64) -> String {
    if value >= 0.0 { format!("+{}", short(value)) } else { short(value) }
}

/// Distributions of E2E, and means and 99th percentiles: measured beside simulated, one picture of each kind a target and method.
pub fn figures(replays: &Replays) -> Vec<Plot> {
    let mut plots = Vec::new();
    for engine in &replays.simulated {
        let own: Vec<&ReplayPoint> = replays
            .points
            .iter()
            .filter(|p| p.point.target == engine.target && p.point.method == engine.method)
            .collect();
        if own.is_empty() {
            continue;
        }
        let name = |kind: &str| {
            let part = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            format!("replay-{kind}-{}-{}", part(&engine.target), part(&engine.method))
        };
        plots.push(Plot { name: name("cdf"), figure: distributions(engine, &own) });
        plots.push(Plot { name: name("times"), figure: numbers(engine, &own) });
    }
    plots
}

fn label(point: &ReplayPoint, all: &[&ReplayPoint]) -> String {
    let one_workload = all.iter().all(|other| other.point.workload == point.point.workload);
    if one_workload {
        point.point.load.clone()
    } else {
        format!("{}, {}", point.point.workload, point.point.load)
    }
}

fn distributions(engine: &Simulated, points: &[&ReplayPoint]) -> Figure {
    let title = format!("E2E, measured and simulated: {} on {}", engine.method, engine.target);
    let caption = format!(
        "Share of requests that took no longer; all repeats together. Step times: {}.",
        engine.fitted.source
    );
    let axis = || Axis::from_zero("E2E", "ms");
    let panels = points.iter().map(|point| {
        let groups = [
            ("measured".to_owned(), MEASURED, point.e2e_ms.clone()),
            ("simulated".to_owned(), SIMULATED, point.e2e_simulated_ms.clone()),
        ];
        let one = cdf(&title, "", axis(), &groups);
        one.panels.into_iter().map(move |panel| Panel { label: label(point, points), ..panel })
    });
    let panels = panels.flatten().collect();
    Figure {
        x: axis(),
        y: Axis::from_zero("share of requests", "%"),
        title: title.clone(),
        caption,
        panels,
    }
}

fn numbers(engine: &Simulated, points: &[&ReplayPoint]) -> Figure {
    let kinds = [(Metric::E2e, Stat::Mean), (Metric::E2e, Stat::P99), (Metric::Ttft, Stat::Mean)];
    let panel = |(metric, stat): (Metric, Stat)| {
        let mut series = [("measured", MEASURED), ("simulated", SIMULATED)].map(|(name, slot)| {
            Series { name: name.to_owned(), slot, kind: Kind::Points, points: Vec::new() }
        });
        for (at, point) in points.iter().enumerate() {
            let found = point.compared.iter().find(|one| (one.metric, one.stat) == (metric, stat));
            let Some(one) = found else { continue };
            let (low, high) = one.interval.map(|i| (i.low, i.high)).unzip();
            series[0].points.push(Point { x: at as f64 - BESIDE, y: one.measured_ms, low, high });
            series[1].points.push(Point::new(at as f64 + BESIDE, one.simulated_ms));
        }
        let label = format!("{} {}", stat.name(), metric.name().to_uppercase());
        Panel { label, series: series.into(), ..Panel::default() }
    };
    let names = points.iter().map(|point| label(point, points)).collect();
    Figure {
        title: format!(
            "Times by load, measured and simulated: {} on {}",
            engine.method, engine.target
        ),
        caption:
            "Bars: 95 % bootstrap interval of the measured number over repeats, then requests."
                .to_owned(),
        x: Axis::new("load", "", Scale::Category(names)),
        y: Axis::from_zero("time", "ms"),
        panels: kinds.into_iter().map(panel).filter(|p| !p.series[0].points.is_empty()).collect(),
    }
}
