//! An evaluation as JSON, schema `kvbench-predict-eval/1`.

use serde_json::{Map, Value, json};

use super::{Judged, said, tables::by_method};
use crate::{
    predict::{
        eval::{self, Gain, Predictor, Score},
        file::Origin,
        interval::Errors,
        regret::Decisions,
        split::Split,
    },
    stats::Interval,
};

/// All of an evaluation: `schema`, `predictor`, `created_from`, `splits`, `methods` (of the random split), `decisions`, `said`,
/// `left_out`. Errors are percent; what is not known is null.
///
/// # Errors
/// A number that JSON cannot hold.
pub fn as_json(
    judged: &Judged,
    left_out: &[(String, usize)],
    origins: &[Origin],
) -> anyhow::Result<Value> {
    let left_out: Vec<Value> =
        left_out.iter().map(|(reason, rows)| json!({"reason": reason, "rows": rows})).collect();
    Ok(json!({
        "schema": "kvbench-predict-eval/1",
        "predictor": judged.predictor.name(),
        "created_from": serde_json::to_value(origins)?,
        "splits": judged.scores.iter().map(|score| split(score, judged.predictor)).collect::<Vec<_>>(),
        "methods": methods(judged),
        "decisions": judged.decisions.iter().map(decision).collect::<Vec<_>>(),
        "said": said(judged),
        "left_out": left_out,
    }))
}

fn errors(errors: Option<Errors>) -> Value {
    errors.map_or(
        Value::Null,
        |it| json!({"n": it.n, "mape_pct": it.mape_pct, "p95_pct": it.p95_pct}),
    )
}

fn interval(interval: Option<Interval>) -> Value {
    interval.map_or(Value::Null, |it| json!([it.low, it.high]))
}

fn percent(share: Option<f64>) -> Option<f64> {
    share.map(|share| 100.0 * share)
}

fn split(score: &Score, predictor: Predictor) -> Value {
    let said = score.errors(predictor);
    let all: Map<String, Value> = Predictor::ALL
        .into_iter()
        .map(|one| (one.name().to_owned(), errors(score.errors(one))))
        .collect();
    let (own, null) = score.against_null.unzip();
    json!({
        "split": score.split.name(),
        "rule": score.split.words(),
        "phase": score.phase.name(),
        "n": score.n,
        "n_said": said.map_or(0, |it| it.n),
        "mape_pct": said.map(|it| it.mape_pct),
        "p95_pct": said.map(|it| it.p95_pct),
        "null_mape_pct": score.null.map(|it| it.mape_pct),
        "noise_floor_pct": percent(score.noise),
        "coverage_pct": percent(score.coverage()),
        "n_coverage": score.covered.1,
        "n_outside_domain": score.n_outside,
        "predictors": all,
        "without_baseline": {"predictor": errors(own), "null": errors(null)},
        "gain_over_null_pct": interval(score.gain),
        "against_null": own.map(|_| Gain::of(score.gain).name()),
    })
}

fn methods(judged: &Judged) -> Vec<Value> {
    by_method(&judged.held, Split::Random)
        .into_iter()
        .map(|(phase, subject, method, held)| {
            let all: Map<String, Value> = Predictor::ALL
                .into_iter()
                .map(|one| (one.name().to_owned(), errors(eval::errors(&held, one))))
                .collect();
            json!({
                "phase": phase.name(),
                "subject": subject,
                "method": method,
                "n": held.len(),
                "mape_pct": eval::errors(&held, judged.predictor).map(|it| it.mape_pct),
                "predictors": all,
            })
        })
        .collect()
}

fn decision(decided: &Decisions) -> Value {
    let best: Vec<Value> = decided
        .best_static
        .1
        .iter()
        .map(|(subject, method)| json!({"subject": subject.words(), "method": method}))
        .collect();
    let signs = |(n, right): (usize, usize)| json!({"n": n, "right": right, "accuracy_pct": (n > 0).then(|| 100.0 * right as f64 / n as f64)});
    json!({
        "phase": decided.phase.name(),
        "n": decided.n,
        "n_left_out": decided.n_left_out,
        "regret_pct": decided.regret_pct.0,
        "regret_p95_pct": decided.regret_pct.1,
        "best_static_regret_pct": decided.best_static.0,
        "best_static": best,
        "always_baseline_regret_pct": decided.baseline_pct,
        "gain_over_best_static_pct": interval(decided.gain),
        "against_best_static": Gain::of(decided.gain).name(),
        "sign_above_5_pct": signs(decided.signs_5),
        "sign_above_10_pct": signs(decided.signs_10),
    })
}
