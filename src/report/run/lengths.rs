//! Lengths of answers: what is said of them, tables, and figures with the null beside each method.

use super::{
    Looks, Plot, distinct, slug,
    tables::{columns, count, estimate, text},
};
use crate::{
    analyse::{
        Point as Place,
        lengths::{Against, Claim, D_DROPPED, LengthPoint, PROMPTS_MIN},
    },
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Reference, Scale, Series},
        palette::looks,
        table::{Table, Value},
    },
    scenario::Control,
    stats,
    units::significant,
};

/// Share of answers at `max_tokens` from which a ratio of lengths is called a bound.
const CAPPED: f64 = 0.05;
/// Share of answers left out from which they are spoken of.
const LEFT_OUT: f64 = 0.05;
/// Places at which a curve is drawn.
const CURVE: usize = 240;

/// Effect, endings and time, each only if there is something to say.
pub fn tables(points: &[LengthPoint]) -> Vec<Table> {
    let tables = named_tables(points).map(|(_, table)| table);
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

/// The same by a short name, empty ones among them.
pub fn named_tables(points: &[LengthPoint]) -> [(&'static str, Table); 3] {
    [("lengths", effects(points)), ("endings", endings(points)), ("time", times(points))]
}

const PLACE: [(&str, &str); 4] = [("target", ""), ("workload", ""), ("load", ""), ("method", "")];

fn place(p: &LengthPoint) -> Vec<Value> {
    let Place { target, workload, load, .. } = &p.point;
    vec![text(target), text(workload), text(load), text(&p.name())]
}

fn effects(points: &[LengthPoint]) -> Table {
    let names = [
        ("role", ""),
        ("prompts", ""),
        ("tokens", ""),
        ("baseline_tokens", ""),
        ("length_ratio", ""),
        ("at_least_1.5x", "%"),
        ("baseline_1.5x", "%"),
        ("at_most_0.5x", "%"),
        ("shift", "%"),
        ("q_shift", ""),
        ("would_be_found", "%"),
        ("excess_1.5x", "points"),
        ("q_1.5x", ""),
        ("p_wilcoxon", ""),
        ("longer_than_chance", ""),
    ];
    let title = "Length of answers against the baseline's, and what compresses nothing beside it";
    let mut table = Table::new(title, columns(&[&PLACE[..], &names].concat()));
    table.rows = points.iter().map(effect).collect();
    table
}

fn effect(p: &LengthPoint) -> Vec<Value> {
    let of = |against: Option<Against>, value: fn(Against) -> f64| Value::maybe(against.map(value));
    let percent = |ln: f64| 100.0 * (ln.exp() - 1.0);
    let mut row = place(p);
    row.extend([
        text(&role(p)),
        count(p.n_prompts),
        known(p.n_pairs > 0, Value::Float(p.mean_tokens.0)),
        known(p.n_pairs > 0, Value::Float(p.mean_tokens.1)),
        known(p.ratio.value.is_finite(), estimate(Some(p.ratio))),
        known(p.long.value.is_finite(), estimate(Some(p.long.scaled(100.0)))),
        known(p.long_mirror.value.is_finite(), estimate(Some(p.long_mirror.scaled(100.0)))),
        known(p.short.value.is_finite(), estimate(Some(p.short.scaled(100.0)))),
        Value::maybe(p.shift.map(|shift| percent(shift.value))),
        of(p.shift, |shift| shift.q),
        Value::maybe(p.shift.and_then(|shift| shift.found_at).map(percent)),
        of(p.spread, |spread| 100.0 * spread.value),
        of(p.spread, |spread| spread.q),
        Value::maybe(p.p_wilcoxon),
        verdict(p),
    ]);
    row
}

fn known(is: bool, value: Value) -> Value {
    if is { value } else { Value::Missing }
}

fn verdict(p: &LengthPoint) -> Value {
    text(match (p.is_repeat, p.claim()) {
        (true, _) => return Value::Missing,
        (_, Claim::TooFew) => "too few prompts",
        (_, Claim::NotShown) => "not shown",
        (_, Claim::Longer) => "longer",
        (_, Claim::Shorter) => "shorter",
    })
}

/// What a row is there for.
fn role(p: &LengthPoint) -> String {
    if p.is_repeat { "control: another repeat".to_owned() } else { role_of(p.control) }
}

pub(super) fn role_of(control: Option<Control>) -> String {
    match control {
        None => "method".to_owned(),
        Some(Control::Again) => "control: the same again".to_owned(),
        Some(Control::Seed) => "control: another seed".to_owned(),
        Some(Control::Uncompressed) => "control: other rounding, no fewer bits".to_owned(),
        Some(Control::Temperature(by)) => format!("yardstick: temperature {by:+.2}"),
    }
}

fn endings(points: &[LengthPoint]) -> Table {
    let names = [
        ("pairs", ""),
        ("left_out", ""),
        ("at_max_tokens", "%"),
        ("baseline_at_max_tokens", "%"),
        ("p_at_max_tokens", ""),
        ("ended_by_itself", "%"),
        ("baseline_ended_by_itself", "%"),
        ("empty", ""),
        ("no_D", ""),
        ("D_below_-200", ""),
        ("same_text", ""),
        ("first_difference_p50", "characters"),
        ("first_token_difference_p50", "tokens"),
    ];
    let title = "How answers end, and what D hides: answers at max_tokens, empty ones, pairs that the paper's script drops";
    let mut table = Table::new(title, columns(&[&PLACE[..], &names].concat()));
    table.rows = points.iter().map(ending).collect();
    table
}

fn middle(sorted: Option<&Vec<f64>>) -> Value {
    Value::maybe(sorted.and_then(|sorted| stats::quantile_sorted(sorted, 0.5)))
}

fn ending(p: &LengthPoint) -> Vec<Value> {
    let percent = |share: f64| known(p.n_pairs > 0, Value::Float(100.0 * share));
    let left_out: Vec<String> =
        p.excluded.iter().map(|(why, n)| format!("{n} {}", why.words())).collect();
    let parts = &p.divergence;
    let same =
        known(parts.n_compared > 0, text(&format!("{} of {}", parts.n_same, parts.n_compared)));
    let mut row = place(p);
    row.extend([
        count(p.n_pairs),
        known(!left_out.is_empty(), text(&left_out.join(", "))),
        percent(p.capped.0),
        percent(p.capped.1),
        known(p.n_pairs > 0, Value::Float(p.p_capped)),
        percent(p.eos.0),
        percent(p.eos.1),
        text(&format!("{} ({})", p.n_empty.0, p.n_empty.1)),
        count(p.n_without_d),
        count(p.n_dropped_by_paper),
        same,
        middle(Some(&parts.characters)),
        middle(parts.tokens.as_ref()),
    ]);
    row
}

fn times(points: &[LengthPoint]) -> Table {
    let names = [("e2e_ratio", ""), ("length_ratio", ""), ("time_per_token_ratio", "")];
    let title = "E2E latency against the baseline's = length x time a token (geometric means over prompts, exact)";
    let mut table = Table::new(title, columns(&[&PLACE[..], &names].concat()));
    table.rows.extend(points.iter().filter_map(|p| {
        let parts = p.e2e?;
        let mut row = place(p);
        row.extend([parts.e2e, parts.length, parts.per_token].map(|part| estimate(Some(part))));
        Some(row)
    }));
    table
}

/// One paragraph a method under test and place.
pub fn finding(points: &[LengthPoint]) -> Vec<String> {
    points.iter().filter(|p| p.is_subject() && p.n_pairs > 0).map(|p| said(p, points)).collect()
}

fn said(p: &LengthPoint, all: &[LengthPoint]) -> String {
    let Place { method, workload, load, target } = &p.point;
    let baseline = &p.baseline.method;
    let several = all.iter().any(|other| other.point.target != *target);
    let target = if several { format!(" on {target}") } else { String::new() };
    let mut out = format!("{method}{target} at {workload}, {load}: ");
    if p.n_prompts < PROMPTS_MIN {
        return out
            + &format!(
                "{} prompts are too few to say anything of the length of answers.",
                p.n_prompts
            );
    }
    out += &format!("answers are {} as long as {baseline}'s ({} prompts). ", ratio(p), p.n_prompts);
    out += &shift_words(p);
    out += &long_words(p, all);
    out += &beside(p, all);
    let capped = p.capped.0.max(p.capped.1);
    if capped >= CAPPED {
        out += &format!(
            " {:.0} % of its answers and {:.0} % of {baseline}'s ended at max_tokens: how long they would have become is not known, and neither is the true ratio.",
            100.0 * p.capped.0,
            100.0 * p.capped.1
        );
    }
    out += &left_out_words(p);
    out += &time_words(p);
    out
}

/// Time-outs and full contexts take out the longest answers, so a ratio without them is not that of all.
fn left_out_words(p: &LengthPoint) -> String {
    let n: usize = p.excluded.values().sum();
    if (n as f64) < LEFT_OUT * (n + p.n_pairs) as f64 {
        return String::new();
    }
    let why: Vec<String> =
        p.excluded.iter().map(|(why, n)| format!("{n} {}", why.words())).collect();
    format!(
        " {n} of {} answers are not in this ({}): if those were the long ones, all of it is different.",
        n + p.n_pairs,
        why.join(", ")
    )
}

fn ratio(p: &LengthPoint) -> String {
    let value = significant(p.ratio.value, 3);
    match p.ratio.interval {
        Some((low, high)) => {
            format!("{value}x [{}, {}]", significant(low, 3), significant(high, 3))
        }
        None => format!("{value}x"),
    }
}

fn shift_words(p: &LengthPoint) -> String {
    let Some(shift) = p.shift else { return String::new() };
    let others = others(p, &shift);
    let q = q_words(shift);
    match p.claim() {
        Claim::Longer | Claim::Shorter => {
            let percent = significant(100.0 * (shift.value.abs().exp() - 1.0), 2);
            let word = if shift.value > 0.0 { "longer" } else { "shorter" };
            let alone = p.ratio.interval.is_some_and(|(low, high)| low <= 1.0 && 1.0 <= high);
            let alone = if alone && shift.n_controls > 0 {
                format!(" ({baseline} alone does not show it)", baseline = p.baseline.method)
            } else {
                String::new()
            };
            format!(
                "On average they are {percent} % {word} than {others}: more than chance does ({q}){alone}. "
            )
        }
        _ => {
            let found = shift.found_at.map_or(String::new(), |at| {
                let percent = significant(100.0 * (at.exp() - 1.0), 2);
                format!("; a shift of {percent} % would be found in four of five such runs")
            });
            format!("That is no difference that the data can show beside {others} ({q}){found}. ")
        }
    }
}

/// What stands beside a method, and what that is worth.
fn others(p: &LengthPoint, shift: &Against) -> String {
    let baseline = &p.baseline.method;
    match (shift.n_controls, shift.n_copies) {
        (0, 0) => format!(
            "{baseline}'s (no control ran: whether rounding or another seed alone does as much is not known; add a method with another `seed` or a cache of 16 bits, or a repeat)"
        ),
        (0, _) => format!(
            "{baseline}'s (the controls repeat it exactly: whether rounding alone does as much is not known; add a method whose cache is another type of 16 bits)"
        ),
        (1, _) => format!("{baseline}'s and its control's"),
        (n, _) => format!("{baseline}'s and its {n} controls'"),
    }
}

pub(super) fn q_words(against: Against) -> String {
    match against.q {
        q if q < 0.001 => "q < 0.001".to_owned(),
        q => format!("q = {}", significant(q, 2)),
    }
}

/// Where one draws the line at half as long again: the share beside that of the controls.
fn long_words(p: &LengthPoint, all: &[LengthPoint]) -> String {
    let (Some(spread), true) = (p.spread, p.long.value.is_finite()) else { return String::new() };
    let share = format!("{:.0} % of them are at least 1.5 times as long", 100.0 * p.long.value);
    let widest = nulls(p, all).filter(|null| null.long.value.is_finite());
    let widest = widest.max_by(|a, b| a.long.value.total_cmp(&b.long.value));
    let control = widest.map_or(String::new(), |null| {
        format!("; of {}'s {:.0} %", null.name(), 100.0 * null.long.value)
    });
    let judged = if p.more_are_long() {
        format!("more than chance does ({})", q_words(spread))
    } else {
        "no more than chance does, as far as the data can show".to_owned()
    };
    let mirror = 100.0 * p.long_mirror.value;
    format!("{share}, {mirror:.0} % the other way round{control}: {judged}.")
}

/// Controls of the same workload, load and baseline.
fn nulls<'a>(p: &'a LengthPoint, all: &'a [LengthPoint]) -> impl Iterator<Item = &'a LengthPoint> {
    all.iter().filter(move |other| other.is_null() && other.baseline == p.baseline)
}

/// What the yardsticks do.
fn beside(p: &LengthPoint, all: &[LengthPoint]) -> String {
    let yardstick = |other: &LengthPoint| match other.control {
        Some(Control::Temperature(by)) if other.baseline == p.baseline => Some(format!(
            " A temperature {by:+.1} alone gives {} and {:.0} %.",
            ratio(other),
            100.0 * other.long.value
        )),
        _ => None,
    };
    all.iter().filter_map(yardstick).collect()
}

fn time_words(p: &LengthPoint) -> String {
    let Some(parts) = p.e2e else { return String::new() };
    let x = |value: f64| significant(value, 3);
    format!(
        " A request takes {}x as long: {}x the tokens at {}x the time a token.",
        x(parts.e2e.value),
        x(parts.length.value),
        x(parts.per_token.value)
    )
}

/// Ratios, D, and where texts part: one panel a workload and load.
pub(super) fn plots(points: &[LengthPoint], looks: &Looks) -> Vec<Plot> {
    let slot = |p: &LengthPoint| looks.slot(&p.point.method);
    figures(points, &slot)
}

/// The same without a plan.
pub fn figures_of(points: &[LengthPoint]) -> Vec<Plot> {
    let slot = looks(distinct(points.iter().map(|p| p.point.method.clone())));
    figures(points, &|p| slot(&p.point.method))
}

type Slot<'a> = &'a dyn Fn(&LengthPoint) -> usize;

fn figures(points: &[LengthPoint], slot: Slot<'_>) -> Vec<Plot> {
    let figures = [
        ("length-ratio", ratio_figure(points, slot)),
        ("length-shift-d", d_figure(points, slot)),
        ("length-dose", dose(points, slot)),
        ("first-difference", parting(points, slot)),
    ];
    let plot = |(name, figure): (&str, Figure)| {
        let drawn = figure.panels.iter().any(|p| !p.series.is_empty() || !p.references.is_empty());
        drawn.then(|| Plot { name: slug(&[name]), figure })
    };
    figures.into_iter().filter_map(plot).collect()
}

/// One panel a workload and load, with a curve a method (solid) or control (dashed).
fn panels(
    points: &[LengthPoint],
    slot: Slot<'_>,
    curve: &dyn Fn(&LengthPoint) -> Vec<(f64, f64)>,
) -> Vec<Panel> {
    let places = distinct(points.iter().map(|p| (p.point.workload.clone(), p.point.load.clone())));
    let panel = |(workload, load): (String, String)| {
        let mut panel = Panel { label: format!("{workload}, {load}"), ..Panel::default() };
        let here = points.iter().filter(|p| p.point.workload == workload && p.point.load == load);
        for p in here {
            let curve = curve(p);
            if curve.is_empty() {
            } else if p.is_subject() {
                let points = curve.into_iter().map(|(x, y)| Point::new(x, y)).collect();
                panel.series.push(Series {
                    name: p.name(),
                    slot: slot(p),
                    kind: Kind::Step,
                    points,
                });
            } else {
                let name = format!("{} (compresses nothing)", p.name());
                panel.references.push(Reference::curve(&name, slot(p), curve));
            }
        }
        panel
    };
    let drawn = |panel: &Panel| !panel.series.is_empty() || !panel.references.is_empty();
    places.into_iter().map(panel).filter(drawn).collect()
}

fn ratio_figure(points: &[LengthPoint], slot: Slot<'_>) -> Figure {
    let log2 = |p: &LengthPoint| p.ratios.iter().map(|ratio| ratio.log2()).collect::<Vec<_>>();
    let curve = |p: &LengthPoint| {
        let at: Vec<f64> = (0..CURVE).map(|i| -3.0 + 6.0 * i as f64 / (CURVE - 1) as f64).collect();
        let density = stats::density(&log2(p), &at);
        at.iter().zip(density).map(|(x, y)| (x.exp2(), 100.0 * y)).collect()
    };
    Figure {
        title: "How much longer answers get".to_owned(),
        caption: "Pairs of answers to one prompt: Gaussian kernel density over log2 of the ratio (Silverman's bandwidth). Dashed: runs that compress nothing, the null. Equal answers all have no density."
            .to_owned(),
        x: Axis::new("tokens of the answer over the baseline's", "", Scale::Log10),
        y: Axis::from_zero("answers a doubling", "%"),
        panels: panels(points, slot, &curve),
    }
}

fn d_figure(points: &[LengthPoint], slot: Slot<'_>) -> Figure {
    let curve = |p: &LengthPoint| {
        let d: Vec<f64> = p.ratios.iter().map(|ratio| 100.0 * (1.0 - ratio)).collect();
        let at: Vec<f64> =
            (0..CURVE).map(|i| D_DROPPED + 300.0 * i as f64 / (CURVE - 1) as f64).collect();
        let density = stats::density(&d, &at);
        let seen = at.iter().zip(density).map(|(x, y)| (*x, 100.0 * y));
        seen.filter(|(_, y)| *y >= 1e-3).collect()
    };
    Figure {
        title: "Difference of length D as in the paper's figure 4".to_owned(),
        caption: "D = (baseline - method) / baseline; left of 0 the answer is longer. Density on a logarithmic axis, pairs below -200 % outside. Dashed: runs that compress nothing."
            .to_owned(),
        x: Axis::new("D", "%", Scale::Linear),
        y: Axis::new("pairs per percent", "%", Scale::Log10),
        panels: panels(points, slot, &curve),
    }
}

/// Bits below the baseline's, and what that does; a panel a workload and load.
fn dose(points: &[LengthPoint], slot: Slot<'_>) -> Figure {
    let places = distinct(points.iter().map(|p| (p.point.workload.clone(), p.point.load.clone())));
    let series = |p: &LengthPoint| {
        let (bits, _) = p.bits?;
        let (low, high) = p.ratio.interval.unzip();
        let name =
            if p.is_subject() { p.name() } else { format!("{} (compresses nothing)", p.name()) };
        let points = vec![Point { x: bits, y: p.ratio.value, low, high }];
        Some(Series { name, slot: slot(p), kind: Kind::Points, points })
    };
    let panel = |(workload, load): (String, String)| {
        let here = points.iter().filter(|p| p.point.workload == workload && p.point.load == load);
        Panel {
            label: format!("{workload}, {load}"),
            series: here.filter(|p| p.ratio.value.is_finite()).filter_map(series).collect(),
            references: vec![Reference::horizontal("as long as the baseline's", 1.0)],
            ..Panel::default()
        }
    };
    let panels = places.into_iter().map(panel).filter(|panel| !panel.series.is_empty());
    Figure {
        title: "Bits of the KV cache and length of answers".to_owned(),
        caption: "Geometric mean over prompts of the ratio of lengths; bars: 95 % bootstrap over prompts.".to_owned(),
        x: Axis::new("bits of a stored number", "", Scale::Log2),
        y: Axis::new("tokens of the answer over the baseline's", "", Scale::Linear),
        panels: panels.collect(),
    }
}

fn parting(points: &[LengthPoint], slot: Slot<'_>) -> Figure {
    let curve = |p: &LengthPoint| {
        let (all, parts) = (p.divergence.n_compared as f64, &p.divergence.characters);
        let Some(last) = parts.last() else { return Vec::new() };
        let share = |x: f64| {
            let parted = parts.partition_point(|at| *at <= x) as f64;
            (x, 100.0 * (1.0 - parted / all))
        };
        let at = |i: usize| last * i as f64 / (CURVE - 1) as f64;
        (0..CURVE).map(|i| share(at(i))).collect()
    };
    Figure {
        title: "How long answers stay the same as the baseline's".to_owned(),
        caption:
            "Share of pairs whose texts are equal up to there. Dashed: runs that compress nothing."
                .to_owned(),
        x: Axis::from_zero("characters of the answer", ""),
        y: Axis::from_zero("still the same", "%"),
        panels: panels(points, slot, &curve),
    }
}

#[cfg(test)]
#[path = "lengths_tests.rs"]
mod tests;
