//! Tables of models, errors and choices.

use super::Judged;
use crate::{
    predict::{
        Model, Phase,
        curve::Coefficient,
        eval::{self, Held, Predictor, Score},
        interval::Errors,
        model::Kind,
        regret::Decisions,
        split::Split,
    },
    report::{
        Column, Table, Value,
        run::tables::{columns, text},
    },
    units::significant,
};

fn mape(errors: Option<Errors>) -> Value {
    Value::maybe(errors.map(|errors| errors.mape_pct))
}

/// A table of one row from (name, unit, value).
pub fn one_row<const N: usize>(title: &str, cells: [(&str, &str, Value); N]) -> Table {
    let mut table = Table::new(title, Vec::new());
    let mut row = Vec::new();
    for (name, unit, value) in cells {
        table.columns.push(Column::new(name, unit));
        row.push(value);
    }
    table.rows.push(row);
    table
}

/// A row a model: what it is of, its costs, and how far off it is on points that were held out.
pub fn models(models: &[Model]) -> Table {
    let names = [
        ("subject", ""),
        ("method", ""),
        ("phase", ""),
        ("budget", "tokens"),
        ("kind", ""),
        ("points", ""),
        ("repeats", ""),
        ("mape", "%"),
        ("p95", "%"),
        ("noise", "%"),
        ("null_mape", "%"),
        ("corrected", ""),
        ("step", "s"),
        ("fitted_to", ""),
    ];
    let title = "Fitted models; errors by cross-validation, the null is the baseline's curve at what a method keeps";
    let mut table = Table::new(title, columns(&names));
    table.rows = models.iter().map(model).collect();
    table
}

fn model(model: &Model) -> Vec<Value> {
    let kind = match (model.kind, model.factor) {
        (Kind::Calibrated, Some(factor)) => {
            format!("{}x the baseline's", significant(factor, 3))
        }
        _ => "own".to_owned(),
    };
    vec![
        Value::Text(model.subject.words()),
        text(&model.method),
        text(model.phase.name()),
        Value::maybe(model.budget),
        Value::Text(kind),
        Value::count(model.n_points),
        Value::count(model.n_repeats),
        mape(model.errors),
        Value::maybe(model.errors.map(|errors| errors.p95_pct)),
        Value::percent(model.noise),
        mape(model.null),
        text(if model.residuals.is_some() { "at points" } else { "no" }),
        Value::Text(costs(&model.coefficients)),
        model.origins().map_or(Value::Missing, Value::Text),
    ]
}

/// `0.0289 + 0.000213 batch + 1.32e-7 sum(kv_eff)`, without what costs nothing.
fn costs(coefficients: &[Coefficient]) -> String {
    let counted = coefficients.iter().filter(|cost| cost.value > 0.0);
    let one = |cost: &Coefficient| match cost.term.as_str() {
        "1" => significant(cost.value, 3),
        term => format!("{} {term}", significant(cost.value, 3)),
    };
    counted.map(one).collect::<Vec<_>>().join(" + ")
}

/// Errors by split, errors by method, choices.
pub fn tables(judged: &Judged) -> Vec<Table> {
    let all = [splits(judged), methods(judged), decisions(judged)];
    all.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

fn splits(judged: &Judged) -> Table {
    let names = [
        ("split", ""),
        ("phase", ""),
        ("n", ""),
        ("not_predicted", ""),
        ("mape", "%"),
        ("p95", "%"),
        ("null", "%"),
        ("table", "%"),
        ("n_table", ""),
        ("noise", "%"),
        ("interval_holds", "%"),
        ("outside", ""),
        ("mape_methods", "%"),
        ("null_methods", "%"),
    ];
    let title = format!(
        "Errors of {} on what was held out, without the not_predicted of n; *_methods: on the same points, without the baseline",
        judged.predictor.name()
    );
    let mut table = Table::new(&title, columns(&names));
    table.rows = judged.scores.iter().map(|score| split(score, judged.predictor)).collect();
    table
}

fn split(score: &Score, predictor: Predictor) -> Vec<Value> {
    let said = score.errors(predictor);
    let (own, null) = score.against_null.unzip();
    vec![
        text(score.split.name()),
        text(score.phase.name()),
        Value::count(score.n),
        Value::count(score.n_not_predicted),
        mape(said),
        Value::maybe(said.map(|errors| errors.p95_pct)),
        mape(score.null),
        mape(score.interpolate),
        Value::count(score.interpolate.map_or(0, |errors| errors.n)),
        Value::percent(score.noise),
        Value::percent(score.coverage()),
        score.n_outside.map_or(Value::Missing, Value::count),
        mape(own),
        mape(null),
    ]
}

/// Held-out points of one split, phase, model and method.
pub(super) type PerMethod<'a> = (Phase, String, String, Vec<&'a Held>);

/// Points of a split by phase, subject and method.
pub(super) fn by_method(held: &[Held], split: Split) -> Vec<PerMethod<'_>> {
    let mut out: std::collections::BTreeMap<_, Vec<&Held>> = std::collections::BTreeMap::new();
    for one in held.iter().filter(|one| one.split == split) {
        let phase = match one.work.phase {
            Phase::Decode => 0,
            Phase::Prefill => 1,
        };
        let key = (phase, one.subject.clone(), !one.is_baseline, one.method.clone());
        out.entry(key).or_default().push(one);
    }
    out.into_values()
        .map(|held| {
            let first = held[0];
            (first.work.phase, first.subject.words(), first.method.clone(), held)
        })
        .collect()
}

fn methods(judged: &Judged) -> Table {
    let names = [
        ("phase", ""),
        ("subject", ""),
        ("method", ""),
        ("n", ""),
        ("n_said", ""),
        ("mape", "%"),
        ("p95", "%"),
        ("null", "%"),
        ("table", "%"),
    ];
    let title =
        format!("Errors of {} by method, shapes held out at random", judged.predictor.name());
    let mut table = Table::new(&title, columns(&names));
    table.rows = by_method(&judged.held, Split::Random)
        .into_iter()
        .map(|(phase, subject, method, held)| {
            let said = eval::errors(&held, judged.predictor);
            vec![
                text(phase.name()),
                Value::Text(subject),
                Value::Text(method),
                Value::count(held.len()),
                Value::count(said.map_or(0, |errors| errors.n)),
                mape(said),
                Value::maybe(said.map(|errors| errors.p95_pct)),
                mape(eval::errors(&held, Predictor::Null)),
                mape(eval::errors(&held, Predictor::Interpolate)),
            ]
        })
        .collect();
    table
}

fn decisions(judged: &Judged) -> Table {
    let names = [
        ("phase", ""),
        ("shapes", ""),
        ("left_out", ""),
        ("regret", "%"),
        ("regret_p95", "%"),
        ("best_static", "%"),
        ("always_baseline", "%"),
        ("right_above_5", ""),
        ("right_above_10", ""),
    ];
    let title = format!(
        "Choosing the fastest method by {}: time over the truly fastest, and pairs in the right order",
        judged.predictor.name()
    );
    let mut table = Table::new(&title, columns(&names));
    table.rows = judged.decisions.iter().map(decision).collect();
    table
}

fn decision(decided: &Decisions) -> Vec<Value> {
    let of = |(n, right): (usize, usize)| Value::Text(format!("{right} of {n}"));
    vec![
        text(decided.phase.name()),
        Value::count(decided.n),
        Value::count(decided.n_left_out),
        Value::Float(decided.regret_pct.0),
        Value::Float(decided.regret_pct.1),
        Value::Float(decided.best_static.0),
        Value::maybe(decided.baseline_pct),
        of(decided.signs_5),
        of(decided.signs_10),
    ]
}
