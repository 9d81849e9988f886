//! The length predictor: what is said of it, tables, and figures.

use super::super::{
    Column, Figure, Table, Value,
    figure::{Axis, Kind, Panel, Point, Reference, Scale, Series},
    run::Plot,
};
use crate::{
    predict::length::{
        Shift,
        evaluate::{Evaluation, MethodMarks, Predictor, Verdict, perfect_tau},
        score::{self, BUCKETS, COVERAGE, MAE, Marked, Measures, PINBALL, TAU},
        shift::Difference,
    },
    stats,
};

mod predicted;

use predicted::predicted;

/// Tau of the ceiling below which nothing can be predicted.
const LOW_CEILING: f64 = 0.2;

/// What is to be known first, in sentences.
pub fn finding(evaluation: &Evaluation) -> Vec<String> {
    let mut said = Vec::new();
    let t0 = (Predictor::T0, "T0 (task and max_tokens)");
    let length = (Predictor::PromptLength, "the prompt's length alone");
    said.extend(ranks(evaluation, Predictor::T1, &[t0, length]));
    let t1 = (Predictor::T1, "T1 (the prompt's text without the encoder)");
    said.extend(ranks(evaluation, Predictor::T2, &[t1, t0, length]));
    said.extend(unranked(evaluation));
    said.push(ceiling(evaluation));
    said.extend(
        [Predictor::T1, Predictor::T2].map(|it| coverage(evaluation, it)).into_iter().flatten(),
    );
    said.extend(evaluation.shifts.iter().map(shift_words));
    said.extend(evaluation.shifts.first().and_then(null_words));
    if evaluation.n_censored * 20 > evaluation.n_answers {
        said.push(format!(
            "{} of {} answers ended at max_tokens: they are learnt from as lower bounds, and judged as they are, against predictions cut there.",
            evaluation.n_censored, evaluation.n_answers
        ));
    }
    said
}

fn value_words((value, interval): (f64, Option<stats::Interval>)) -> String {
    match interval {
        Some(stats::Interval { low, high }) => format!("{value:.3} [{low:.3}, {high:.3}]"),
        None => format!("{value:.3} (no interval)"),
    }
}

fn verdict(evaluation: &Evaluation, predictor: Predictor, measure: usize) -> Verdict {
    let all = &evaluation.judged.predictors;
    all.iter().find(|(known, ..)| *known == predictor)?.1[measure]
}

/// Answers that cannot be ranked are in no tau; all predictors are judged by the same answers.
fn unranked(evaluation: &Evaluation) -> Option<String> {
    let marked: Vec<&Marked> = evaluation.columns.first()?.marked.iter().flatten().collect();
    let n = score::n_unranked(&marked);
    (n > 0).then(|| {
        format!(
            "{n} of {} answers are in no measure of rank: within their fold and their repeat no other answer is of another length.",
            evaluation.n_answers
        )
    })
}

/// Names of the tiers that read prompts, in sentences.
fn shown(predictor: Predictor) -> &'static str {
    if predictor == Predictor::T2 { "T2" } else { "T1" }
}

/// How well a tier ranks, by itself and beside others with their names; nothing where it was not judged.
fn ranks(evaluation: &Evaluation, own: Predictor, others: &[(Predictor, &str)]) -> Vec<String> {
    let Some(tau) = verdict(evaluation, own, TAU) else { return Vec::new() };
    let words = value_words(tau);
    let ranks = format!("{} ranks unseen prompts with Kendall's tau-b {words}.", shown(own));
    let against = others.iter().map(|(other, name)| against(evaluation, own, *other, name));
    std::iter::once(ranks).chain(against).collect()
}

/// Whether a tier ranks better than another predictor, by the interval of the paired difference.
fn against(evaluation: &Evaluation, tier: Predictor, other: Predictor, name: &str) -> String {
    let t = shown(tier);
    let found = evaluation.judged.differences.iter().find(|(a, b, _)| (*a, *b) == (tier, other));
    let Some((.., verdicts)) = found else { return format!("{t} was not compared with {name}.") };
    let own = self::verdict(evaluation, tier, TAU);
    let (words, verdict) = match (verdicts[TAU], own, self::verdict(evaluation, other, TAU)) {
        (Some(verdict), ..) => ("tau differs by".to_owned(), verdict),
        // Answers have an order, else the tier had no tau: so the other one ties all of them, and the tier's own tau is what it adds.
        (None, Some(own), None) => (
            format!(
                "it says one length for all prompts of every fold and ranks nothing, so that {t}'s own tau is what reading adds:"
            ),
            own,
        ),
        _ => return format!("{t} and {name} cannot be compared: {t} has no rank correlation."),
    };
    let claim = match verdict.1 {
        Some(interval) if interval.low > 0.0 => format!("{t} beats {name}"),
        Some(interval) if interval.high < 0.0 => format!("{t} is worse than {name}"),
        Some(_) => format!("{t} is not shown to beat {name}"),
        None => format!("{t} and {name}: no interval, so nothing is claimed"),
    };
    format!("{claim}: {words} {}.", value_words(verdict))
}

fn ceiling(evaluation: &Evaluation) -> String {
    let Some((tau, interval)) = verdict(evaluation, Predictor::Ceiling, TAU) else {
        return "No ceiling: no two answers to one prompt were sampled with different seeds, or all are equal, so nobody knows how much of a \
                length the prompt decides."
            .to_owned();
    };
    let shown = value_words((tau, interval));
    if tau > 1.0 - 1e-9 {
        return "Answers to one prompt are all of one length: the runs decode greedily or share their seeds, and the ceiling says nothing.".to_owned();
    }
    // A prompt with one answer has no others, and the ceiling says nothing of it.
    let others =
        (evaluation.n_answers - evaluation.n_prompts) as f64 / evaluation.n_repeated.max(1) as f64;
    let hard = if tau < LOW_CEILING {
        "These lengths can hardly be predicted from the prompt: even"
    } else {
        "For comparison,"
    };
    let perfect = perfect_tau(tau, others).map_or_else(String::new, |perfect| {
        format!("; being so few they are a noisy guess, and who knew each prompt's own middle would reach about {perfect:.2} (corrected for attenuation)")
    });
    format!(
        "{hard} the other answers to the same prompt, {others:.1} on average, give tau {shown}{perfect}."
    )
}

fn coverage(evaluation: &Evaluation, tier: Predictor) -> Option<String> {
    let (value, interval) = verdict(evaluation, tier, COVERAGE)?;
    let t = shown(tier);
    let Some(stats::Interval { low, high }) = interval else {
        return Some(format!("q90 of {t} holds for {:.1} % of the answers.", 100.0 * value));
    };
    let verdict = match (low > 0.9, high < 0.9) {
        (true, _) => "more often than the 90 % it says",
        (_, true) => "less often than the 90 % it says",
        _ => "as often as it says, as far as these prompts can tell",
    };
    let below = self::verdict(evaluation, tier, score::COVERAGE_BELOW_CAP).map_or_else(
        || " It is at max_tokens everywhere.".to_owned(),
        |(below, _)| format!(" Where it lies below max_tokens: {:.1} %.", 100.0 * below),
    );
    let below = if evaluation.n_censored > 0 { below } else { String::new() };
    Some(format!(
        "q90 of {t} holds for {:.1} [{:.1}, {:.1}] % of the answers: {verdict}.{below}",
        100.0 * value,
        100.0 * low,
        100.0 * high
    ))
}

fn shift_words(shift: &Shift) -> String {
    let percent = |log: f32| 100.0 * f64::from(log).exp_m1();
    let difference = &shift.difference;
    let interval = difference.low.zip(difference.high).map_or_else(
        || "no interval".to_owned(),
        |(low, high)| format!("[{:+.1}, {:+.1}] %", percent(low), percent(high)),
    );
    let claim = match shift.exceeds_null() {
        Some(true) => "more than the baseline's own answers differ by, and predictions use it",
        Some(false) => "not shown to be more than chance, and predictions do not use it",
        None => "with no null beside it",
    };
    format!(
        "{}: length {:+.1} % {interval} on the same prompt, {claim}.{}",
        shift.method,
        percent(difference.mean),
        cut_words(difference)
    )
}

/// What `max_tokens` hides of a difference.
fn cut_words(difference: &Difference) -> String {
    let Difference { n_prompts, n_left_out, n_own_cut, n_other_cut, n_both_cut, .. } = difference;
    if n_left_out + n_own_cut + n_other_cut + n_both_cut == 0 {
        return String::new();
    }
    format!(
        " Of {n_prompts} prompts {n_own_cut} have answers that ended at max_tokens under it alone, {n_other_cut} under the baseline alone, \
         {n_both_cut} under both: they count with what was seen, so that a change is rather larger than this; {n_left_out} more, all of \
         whose answers were cut, say nothing."
    )
}

/// Where the null is not 0, answers of one run have something in common beside their prompts.
fn null_words(shift: &Shift) -> Option<String> {
    let null = shift.null.as_ref()?;
    let (low, high) = null.low.zip(null.high)?;
    (low > 0.0 || high < 0.0).then(|| {
        format!(
            "The baseline's first answers differ from its own others by {:+.1} %, more than prompts explain: answers of one repeat are not \
             independent (one sampling seed for all of its requests does this), so that intervals over prompts are too narrow.",
            100.0 * f64::from(null.mean).exp_m1()
        )
    })
}

/// Tables by their keys in JSON: predictors, differences, shifts, methods, coverage.
pub fn named_tables(evaluation: &Evaluation) -> [(&'static str, Table); 5] {
    [
        ("predictors", predictors(evaluation)),
        ("differences", differences(evaluation)),
        ("coverage", coverage_table(evaluation)),
        ("shifts", shifts(&evaluation.shifts)),
        ("methods", methods(&evaluation.methods)),
    ]
}

/// The same without empty ones.
pub fn tables(evaluation: &Evaluation) -> Vec<Table> {
    let tables = named_tables(evaluation).into_iter().map(|(_, table)| table);
    tables.filter(|table| !table.rows.is_empty()).collect()
}

fn unit_of(measure: &str) -> &'static str {
    if measure.starts_with("pinball") || measure == "mae_tokens" { "tokens" } else { "" }
}

fn columns(first: &[&str]) -> Vec<Column> {
    let measures = score::NAMES.iter().map(|name| Column::new(name, unit_of(name)));
    first.iter().map(|name| Column::new(name, "")).chain(measures).collect()
}

fn value(verdict: &Verdict) -> Value {
    let (estimate, interval) = (verdict.map(|it| it.0), verdict.and_then(|it| it.1));
    Value::estimate(estimate, interval.map(|it| it.low), interval.map(|it| it.high))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn predictors(evaluation: &Evaluation) -> Table {
    let title = "Predictors on families that they have not seen; `ceiling` is the median of the other answers to the same prompt, a noisy guess where they are few";
    let mut table = Table::new(title, columns(&["predictor", "prompts"]));
    for (predictor, verdicts, n) in &evaluation.judged.predictors {
        let mut row = vec![text(predictor.name()), Value::count(*n)];
        row.extend(verdicts.iter().map(value));
        table.rows.push(row);
    }
    table
}

fn differences(evaluation: &Evaluation) -> Table {
    let title = "Differences on the same prompts, first less second";
    let mut table = Table::new(title, columns(&["first", "second"]));
    for (first, second, verdicts) in &evaluation.judged.differences {
        let mut row = vec![text(first.name()), text(second.name())];
        row.extend(verdicts.iter().map(value));
        table.rows.push(row);
    }
    table
}

fn float(value: Option<f32>) -> Option<f64> {
    value.map(f64::from)
}

/// What methods do to lengths, beside the null.
pub fn shifts(shifts: &[Shift]) -> Table {
    let title = "Shifts of ln(1 + tokens) on the same prompt, beside what the baseline's first answer and its others differ by";
    let names = [
        "method",
        "prompts",
        "shift",
        "null",
        "null_prompts",
        "cut_own",
        "cut_baseline",
        "cut_both",
        "left_out_at_max_tokens",
        "slope_ln_bytes",
        "more_than_null",
    ];
    let mut table = Table::new(title, names.iter().map(|name| Column::new(name, "")).collect());
    for shift in shifts {
        let Shift { method, difference, null, slope } = shift;
        let estimate = |difference: &Difference| {
            Value::estimate(
                Some(f64::from(difference.mean)),
                float(difference.low),
                float(difference.high),
            )
        };
        let more = match shift.exceeds_null() {
            Some(true) => text("yes"),
            Some(false) => text("not shown"),
            None => Value::Missing,
        };
        table.rows.push(vec![
            text(method),
            Value::count(difference.n_prompts),
            estimate(difference),
            null.as_ref().map_or(Value::Missing, estimate),
            null.as_ref().map_or(Value::Missing, |null| Value::count(null.n_prompts)),
            Value::count(difference.n_own_cut),
            Value::count(difference.n_other_cut),
            Value::count(difference.n_both_cut),
            Value::count(difference.n_left_out),
            Value::maybe(slope.as_ref().map(|slope| f64::from(slope.slope))),
            more,
        ]);
    }
    table
}

fn methods(methods: &[MethodMarks]) -> Table {
    let title = "Other methods, predicted by the baseline's model and by it with the shift of the training folds";
    let names = [
        ("method", ""),
        ("prompts", ""),
        ("tau_b", ""),
        ("mae_as_baseline", "tokens"),
        ("mae_with_shift", "tokens"),
        ("pinball_q50_as_baseline", "tokens"),
        ("pinball_q50_with_shift", "tokens"),
        ("coverage_q90_as_baseline", ""),
        ("coverage_q90_with_shift", ""),
    ];
    let columns = names.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let mut table = Table::new(title, columns);
    for MethodMarks { method, n_prompts, as_baseline, with_shift } in methods {
        let both = |at: usize| [as_baseline, with_shift].map(|of: &Measures| Value::maybe(of[at]));
        let mut row = vec![text(method), Value::count(*n_prompts), Value::maybe(with_shift[TAU])];
        row.extend([MAE, PINBALL, COVERAGE].into_iter().flat_map(both));
        table.rows.push(row);
    }
    table
}

/// Prompts of the highest tier in fifths of what it says, rising.
fn fifths(evaluation: &Evaluation) -> Vec<Vec<&Marked>> {
    let Some(column) = evaluation.column(evaluation.reader()) else { return Vec::new() };
    let mut marked: Vec<(f64, &Marked)> = column
        .marked
        .iter()
        .flatten()
        .filter_map(|marked| Some((marked.guess()?.middle, marked)))
        .collect();
    marked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = marked.len();
    let part = |at: usize| &marked[at * n / BUCKETS..(at + 1) * n / BUCKETS];
    let parts = (0..BUCKETS).map(part).filter(|part| !part.is_empty());
    parts.map(|part| part.iter().map(|(_, marked)| *marked).collect()).collect()
}

/// Range of what is said, share of answers that q90 holds for with its interval, and prompts.
fn covered(part: &[&Marked]) -> Option<(String, f64, Option<stats::Interval>)> {
    let said = |marked: Option<&&Marked>| Some(marked?.guess()?.middle);
    let (first, last) = (said(part.first())?, said(part.last())?);
    let (n, below) = part.iter().fold((0.0, 0.0), |sum, marked| {
        let (n, below) = marked.covered();
        (sum.0 + n, sum.1 + below)
    });
    let share = below / n;
    // Answers to one prompt are no independent observations; prompts are.
    Some((format!("{first:.0}-{last:.0}"), share, stats::wilson_share(share, part.len())))
}

fn coverage_table(evaluation: &Evaluation) -> Table {
    let t = shown(evaluation.reader());
    let title = format!("How often q90 of {t} holds, by what {t} says");
    let columns = vec![
        Column::new("said_q50", "tokens"),
        Column::new("prompts", ""),
        Column::new("coverage_q90", ""),
    ];
    let mut table = Table::new(&title, columns);
    for part in fifths(evaluation) {
        if let Some((range, share, interval)) = covered(&part) {
            table.rows.push(vec![
                Value::Text(range),
                Value::count(part.len()),
                value(&Some((share, interval))),
            ]);
        }
    }
    table
}

/// Figures with the names of their files; those that nothing can be drawn in are left out.
pub fn figures(evaluation: &Evaluation) -> Vec<Plot> {
    [
        ("length-predicted", predicted(evaluation)),
        ("length-coverage", coverage_figure(evaluation)),
        ("length-tau", taus(evaluation)),
    ]
    .into_iter()
    .filter_map(|(name, figure)| Some(Plot { name: name.to_owned(), figure: figure? }))
    .collect()
}

fn coverage_figure(evaluation: &Evaluation) -> Option<Figure> {
    let parts: Vec<_> = fifths(evaluation).iter().filter_map(|part| covered(part)).collect();
    if parts.is_empty() {
        return None;
    }
    let names = parts.iter().map(|(range, ..)| range.clone()).collect();
    let point =
        |(at, (_, share, interval)): (usize, &(String, f64, Option<stats::Interval>))| Point {
            x: at as f64,
            y: 100.0 * share,
            low: interval.map(|interval| 100.0 * interval.low),
            high: interval.map(|interval| 100.0 * interval.high),
        };
    let points = parts.iter().enumerate().map(point).collect();
    let t = shown(evaluation.reader());
    let series = Series { name: t.to_owned(), slot: 0, kind: Kind::Points, points };
    let panel = Panel {
        series: vec![series],
        references: vec![Reference::horizontal("as it says", 90.0)],
        ..Panel::default()
    };
    Some(Figure::single(
        "How often q90 holds",
        &format!(
            "Share of answers not longer than q90, by fifths of what {t} says (q50), with 95 % Wilson intervals over prompts."
        ),
        Axis::new("said (q50)", "tokens", Scale::Category(names)),
        Axis::new("answers below q90", "%", Scale::Linear),
        panel,
    ))
}

fn taus(evaluation: &Evaluation) -> Option<Figure> {
    let known: Vec<(&str, f64, Option<stats::Interval>)> = evaluation
        .judged
        .predictors
        .iter()
        .filter_map(|(predictor, verdicts, _)| {
            let (tau, interval) = verdicts[TAU]?;
            Some((predictor.name(), tau, interval))
        })
        .collect();
    if known.is_empty() {
        return None;
    }
    let names = known.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let points = known.iter().enumerate().map(|(at, (_, tau, interval))| Point {
        x: at as f64,
        y: *tau,
        low: interval.map(|interval| interval.low),
        high: interval.map(|interval| interval.high),
    });
    let series =
        Series { name: "tau-b".to_owned(), slot: 0, kind: Kind::Points, points: points.collect() };
    let panel = Panel {
        series: vec![series],
        references: vec![Reference::horizontal("no order", 0.0)],
        ..Panel::default()
    };
    Some(Figure::single(
        "Who ranks prompts by the length of their answers",
        "Kendall's tau-b with single answers, on families that were not learnt from; 95 % bootstrap intervals over families. Predictors \
         without an order of their own are left out.",
        Axis::new("predictor", "", Scale::Category(names)),
        Axis::from_zero("Kendall's tau-b", ""),
        panel,
    ))
}

#[cfg(test)]
#[path = "length_tests.rs"]
mod tests;
