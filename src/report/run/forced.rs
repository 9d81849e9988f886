//! Willingness to stop at the same text: what is said of it, tables, and a figure.

use super::{
    Looks, Plot, distinct,
    lengths::{q_words, role_of},
    slug,
    tables::{columns, count, estimate, text},
};
use crate::{
    analyse::{
        Estimate, Point as Place,
        lengths::{
            Against, PROMPTS_MIN,
            forced::{ForcedPoint, Gap, Willing},
        },
    },
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Reference, Scale, Series},
        table::{Table, Value},
    },
    units::significant,
};

/// What nobody may forget who reads such a number.
const LIMIT: &str = "A given text is prefilled: an engine whose prefill attends to keys that it has not compressed yet (vLLM within a chunk, LMDeploy) shows only part of what compression does to stopping; llama.cpp, whose prefill reads the compressed cache, shows all of it.";

/// Effect and probabilities by place, each only if there is something to say.
pub fn tables(points: &[ForcedPoint]) -> Vec<Table> {
    let tables = named_tables(points).map(|(_, table)| table);
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

/// The same by a short name, empty ones among them.
pub fn named_tables(points: &[ForcedPoint]) -> [(&'static str, Table); 2] {
    [("stopping", effects(points)), ("stopping_by_place", by_place(points))]
}

const PLACE: [(&str, &str); 4] = [("target", ""), ("workload", ""), ("load", ""), ("method", "")];

fn place(p: &ForcedPoint) -> Vec<Value> {
    let Place { target, workload, load, method } = &p.point;
    vec![text(target), text(workload), text(load), text(method)]
}

fn effects(points: &[ForcedPoint]) -> Table {
    let names = [
        ("role", ""),
        ("prompts", ""),
        ("exact", "places"),
        ("bounded", "places"),
        ("unknown", "places"),
        ("failed", "places"),
        ("stop_at_end", "x"),
        ("q_at_end", ""),
        ("found_at_end", "x"),
        ("stop_before", "x"),
        ("q_before", ""),
        ("found_before", "x"),
        ("stops_ratio", ""),
        ("implied_length", "x"),
        ("willing_at_end", ""),
        ("willing_before", ""),
    ];
    let title =
        "Willingness to stop at the same text: probability of the stop token over the baseline's";
    let mut table = Table::new(title, columns(&[&PLACE[..], &names].concat()));
    table.rows = points.iter().filter(|p| !p.is_baseline()).map(effect).collect();
    table
}

fn effect(p: &ForcedPoint) -> Vec<Value> {
    let q = |gap: &Gap| Value::maybe(gap.shift.map(|shift| shift.q));
    let found =
        |gap: &Gap| Value::maybe(gap.shift.and_then(|shift| shift.found_at).map(|at| (-at).exp()));
    let factor = |gap: &Gap| estimate(gap.to_baseline.map(factor_of));
    let mut row = place(p);
    row.extend([
        text(&role_of(p.control)),
        count(p.n_prompts),
        count(p.pairs.n_exact),
        count(p.pairs.n_bounded),
        count(p.pairs.n_unknown),
        count(p.pairs.n_failed),
        factor(&p.at_end),
        q(&p.at_end),
        found(&p.at_end),
        factor(&p.before),
        q(&p.before),
        found(&p.before),
        estimate(p.stops_ratio),
        Value::maybe(p.stops_ratio.map(|ratio| 1.0 / ratio.value)),
        willing(&p.at_end),
        willing(&p.before),
    ]);
    row
}

fn willing(gap: &Gap) -> Value {
    text(match gap.willing() {
        Willing::TooFew => "too few prompts",
        Willing::NotShown => "not shown",
        Willing::Less => "less",
        Willing::More => "more",
    })
}

/// A difference of logarithms as a factor.
fn factor_of(difference: Estimate) -> Estimate {
    Estimate {
        value: difference.value.exp(),
        interval: difference.interval.map(|(low, high)| (low.exp(), high.exp())),
        ..difference
    }
}

fn by_place(points: &[ForcedPoint]) -> Table {
    let names =
        [("given", "%"), ("probability", "%"), ("answers", ""), ("only_bounded", "answers")];
    let title = "Probability of the stop token by the share of the answer that was given (mean; where it is not listed its bound counts)";
    let mut table = Table::new(title, columns(&[&PLACE[..], &names].concat()));
    for p in points {
        table.rows.extend(p.curve.iter().map(|here| {
            let mut row = place(p);
            row.extend([
                Value::Float(100.0 * here.at),
                estimate(Some(here.probability.scaled(100.0))),
                count(here.probability.n),
                count(here.n_bounded),
            ]);
            row
        }));
    }
    table
}

/// One paragraph a method under test, and what limits all of them.
pub fn finding(points: &[ForcedPoint]) -> Vec<String> {
    let subjects = points.iter().filter(|p| p.is_subject());
    let mut said: Vec<String> = subjects.map(|p| said(p, points)).collect();
    if !said.is_empty() {
        said.push(LIMIT.to_owned());
    }
    said
}

fn said(p: &ForcedPoint, all: &[ForcedPoint]) -> String {
    let Place { method, workload, load, target } = &p.point;
    let several = all.iter().any(|other| other.point.target != *target);
    let target = if several { format!(" on {target}") } else { String::new() };
    let out = format!("{method}{target} at {workload}, {load}: ");
    let Some(end) = p.at_end.to_baseline.filter(|_| p.at_end.shift.is_some()) else {
        return out
            + &format!(
                "fewer than {PROMPTS_MIN} prompts can be compared at the end of their answers, too few to say anything of stopping.{}",
                left_out(p)
            );
    };
    let baseline = &p.baseline.method;
    let mut out = out
        + &format!(
            "at the end of the same answers, where a model did stop, it stops with {} the probability of {baseline} ({} prompts): {}.",
            times(factor_of(end)),
            end.n,
            judged(&p.at_end, baseline)
        );
    if let Some(before) = p.before.to_baseline {
        out += &format!(
            " Before the end it is {}: {}.",
            times(factor_of(before)),
            judged(&p.before, baseline)
        );
    }
    if let Some(ratio) = p.stops_ratio {
        out += &format!(
            " Along those answers, at ends of words, it stops with {} the probabilities of {baseline}: were that one factor at every token, answers with the same texts would be {}x as long.",
            times(ratio),
            significant(1.0 / ratio.value, 3)
        );
    }
    out + &left_out(p)
}

fn times(estimate: Estimate) -> String {
    let value = significant(estimate.value, 3);
    match estimate.interval {
        Some((low, high)) => {
            format!("{value}x [{}, {}]", significant(low, 3), significant(high, 3))
        }
        None => format!("{value}x"),
    }
}

fn judged(gap: &Gap, baseline: &str) -> String {
    let Some(shift) = gap.shift else { return "too few prompts to test it".to_owned() };
    let (others, q) = (others(&shift, baseline), q_words(shift));
    match gap.willing() {
        Willing::Less => format!("less than {others}, and more so than chance does ({q})"),
        Willing::More => format!("more than {others}, and more so than chance does ({q})"),
        Willing::TooFew | Willing::NotShown => {
            let found = shift.found_at.map_or(String::new(), |at| {
                format!(
                    "; {}x would be found in four of five such runs",
                    significant((-at).exp(), 3)
                )
            });
            format!("no difference to {others} that the data can show ({q}){found}")
        }
    }
}

fn others(shift: &Against, baseline: &str) -> String {
    match (shift.n_controls, shift.n_copies) {
        (0, 0) => format!("{baseline} (no control ran: what rounding alone does is not known)"),
        (0, _) => format!(
            "{baseline} (its controls repeat it exactly: what other rounding alone does is not known; add a method whose cache is another type of 16 bits)"
        ),
        (n, _) => format!("{baseline} and {n} that compress nothing either"),
    }
}

fn left_out(p: &ForcedPoint) -> String {
    let pairs = &p.pairs;
    let kinds = [
        (pairs.n_bounded, "count with a bound, because one side did not list the stop token"),
        (pairs.n_unknown, "say nothing, because the stop token was not listed"),
        (pairs.n_failed, "failed"),
    ];
    let n = pairs.n_exact + pairs.n_bounded + pairs.n_unknown + pairs.n_failed;
    let said: Vec<String> = kinds
        .iter()
        .filter(|(kind, _)| *kind > 0)
        .map(|(kind, why)| format!("{kind} {why}"))
        .collect();
    if said.is_empty() { String::new() } else { format!(" Of {n} places {}.", said.join(", ")) }
}

/// Probability by place: one panel a workload and load.
pub(super) fn plots(points: &[ForcedPoint], looks: &Looks) -> Vec<Plot> {
    figures(points, &|p| looks.slot(&p.point.method))
}

/// The same for methods in the order of `points`.
pub fn figures_of(points: &[ForcedPoint]) -> Vec<Plot> {
    let names = distinct(points.iter().map(|p| p.point.method.clone()));
    figures(points, &|p| names.iter().position(|name| *name == p.point.method).unwrap_or(0))
}

fn figures(points: &[ForcedPoint], slot: &dyn Fn(&ForcedPoint) -> usize) -> Vec<Plot> {
    let places = distinct(points.iter().map(|p| (p.point.workload.clone(), p.point.load.clone())));
    let panel = |(workload, load): (String, String)| {
        let mut panel = Panel { label: format!("{workload}, {load}"), ..Panel::default() };
        let here = points.iter().filter(|p| p.point.workload == workload && p.point.load == load);
        for p in here {
            let curve = p.curve.iter().filter(|place| place.probability.value > 0.0);
            if p.control.is_some() {
                let name = format!("{} (compresses nothing)", p.point.method);
                let curve = curve.map(|place| (100.0 * place.at, 100.0 * place.probability.value));
                panel.references.push(Reference::curve(&name, slot(p), curve.collect()));
            } else {
                let points = curve.map(|place| {
                    let probability = place.probability.scaled(100.0);
                    // A logarithmic axis has no place for an end at 0.
                    let interval = probability.interval.filter(|(low, _)| *low > 0.0);
                    let (low, high) = interval.unzip();
                    Point { x: 100.0 * place.at, y: probability.value, low, high }
                });
                let (name, points) = (p.point.method.clone(), points.collect());
                panel.series.push(Series { name, slot: slot(p), kind: Kind::Line, points });
            }
        }
        panel
    };
    let panels: Vec<Panel> =
        places.into_iter().map(panel).filter(|panel| !panel.series.is_empty()).collect();
    if panels.is_empty() {
        return Vec::new();
    }
    let figure = Figure {
        title: "Probability of stopping at the same text".to_owned(),
        caption: "Mean over prompts of the probability of the stop token after a given part of the answer; bars: 95 % bootstrap over prompts. At 100 % a model did stop. Dashed: runs that compress nothing."
            .to_owned(),
        x: Axis::from_zero("part of the answer that was given", "%"),
        y: Axis::new("probability of the stop token", "%", Scale::Log10),
        panels,
    };
    vec![Plot { name: slug(&["stop-probability"]), figure }]
}

#[cfg(test)]
#[path = "forced_tests.rs"]
mod tests;
