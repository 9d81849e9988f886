//! What no fit can have written: a file of models may hold anything, and a wrong number in one would be printed as a prediction.

use std::collections::BTreeSet;

use super::{
    Model, ModelFile, Phase, Work,
    domain::{Domain, Range},
    interval::Errors,
    local::Local,
    model::Kind,
};

/// Logs of ratios beyond which nothing was measured: a factor of 5e8.
const LOG_MAX: f64 = 20.0;
/// Seconds beyond which no pass was measured, 30 years.
const SECONDS_MAX: f64 = 1e9;

/// Where and why a file cannot be used, if it cannot.
pub(super) fn of_file(file: &ModelFile) -> Option<String> {
    let mut seen = BTreeSet::new();
    for (at, model) in file.models.iter().enumerate() {
        let fault = of_model(model).or_else(|| origins(model, file)).or_else(|| {
            // One method may be the baseline of one run and not of another.
            let budget = model.budget.map(f64::to_bits);
            let key = (&model.subject, &model.method, model.is_baseline, model.phase, budget);
            let is_new = seen.insert(key);
            (!is_new).then(|| {
                "expected one model of a subject, method, phase and budget, got another".to_owned()
            })
        });
        if let Some(fault) = fault {
            return Some(format!("models[{at}] ({}): {fault}", model.method));
        }
    }
    None
}

/// Why a model cannot be used, if it cannot.
fn of_model(model: &Model) -> Option<String> {
    costs(model)
        .or_else(|| kind(model))
        .or_else(|| model.residuals.as_ref().and_then(residuals))
        .or_else(|| judged(model))
        .or_else(|| counts(model))
        .or_else(|| domain(&model.domain))
        .or_else(|| times(model))
}

/// A run that the file as a whole does not name.
fn origins(model: &Model, file: &ModelFile) -> Option<String> {
    let is_known = |from: &str| file.created_from.iter().any(|origin| origin.name() == from);
    let unknown = model.created_from.iter().flatten().find(|rows| !is_known(&rows.from))?;
    Some(format!("expected rows of a run or file in created_from, got those of {}", unknown.from))
}

/// A fault, unless `holds`.
fn unless(holds: bool, expected: &str, got: impl std::fmt::Display) -> Option<String> {
    (!holds).then(|| format!("expected {expected}, got {got}"))
}

fn costs(model: &Model) -> Option<String> {
    let listed = |costs: &mut dyn Iterator<Item = (&str, &str)>| {
        costs.map(|(term, unit)| format!("{term} in {unit}")).collect::<Vec<_>>().join(", ")
    };
    let mut own = model.coefficients.iter().map(|cost| (cost.term.as_str(), cost.unit.as_str()));
    let found = listed(&mut own);
    let expected = listed(&mut model.terms.names(model.phase).iter().copied());
    if found != expected {
        return Some(format!("expected the coefficients {expected}, got {found}"));
    }
    let negative = model.coefficients.iter().find(|cost| cost.value < 0.0);
    if let Some(cost) = negative {
        return Some(format!(
            "expected no negative coefficient, got {} for {}",
            cost.value, cost.term
        ));
    }
    let any = model.coefficients.iter().any(|cost| cost.value > 0.0);
    unless(any, "a coefficient above 0", "none")
}

fn kind(model: &Model) -> Option<String> {
    let is_calibrated = model.kind == Kind::Calibrated;
    let factor = model.factor.map_or("none".to_owned(), |factor| factor.to_string());
    let budget = model.budget.map_or("none".to_owned(), |budget| budget.to_string());
    let fits = model.factor.is_some() == is_calibrated && model.factor.is_none_or(|it| it > 0.0);
    unless(fits, "a factor above 0 of a calibrated model and none of another", factor)
        .or_else(|| {
            unless(
                !(is_calibrated && model.is_baseline),
                "a baseline of its own",
                "a calibrated one",
            )
        })
        .or_else(|| unless(model.budget.is_none_or(|it| it > 0.0), "a budget above 0", &budget))
        .or_else(|| {
            let fits = model.phase == Phase::Decode || model.budget.is_none();
            unless(fits, "no budget of a prefill", &budget)
        })
}

fn residuals(local: &Local) -> Option<String> {
    let farthest = local.log_ratios().map(f64::abs).fold(0.0, f64::max);
    unless(local.log_ratios().next().is_some(), "residuals at some point", "none")
        .or_else(|| unless(local.is_sorted(), "residuals in ascending order of y", "another order"))
        .or_else(|| {
            let words = format!("residuals of a log ratio up to {LOG_MAX}");
            unless(farthest <= LOG_MAX, &words, farthest)
        })
}

/// Errors, interval and noise.
fn judged(model: &Model) -> Option<String> {
    let bad = |errors: &Errors| errors.n == 0 || errors.mape_pct < 0.0 || errors.p95_pct < 0.0;
    let told = [model.errors, model.null].into_iter().flatten().find(bad).map(|errors| {
        let Errors { n, mape_pct, p95_pct } = errors;
        format!(
            "expected errors from 0 % of one point or more, got {mape_pct} % and {p95_pct} % of {n}"
        )
    });
    let interval = model.interval.and_then(|logs| {
        let holds = logs.p10 <= logs.p90 && logs.p10 >= -LOG_MAX && logs.p90 <= LOG_MAX;
        let words = format!("an interval in ascending order and within {LOG_MAX} of 0");
        unless(holds, &words, format!("{} to {}", logs.p10, logs.p90))
    });
    let noise = model.noise.and_then(|noise| unless(noise >= 0.0, "a noise from 0", noise));
    told.or(interval).or(noise)
}

fn counts(model: &Model) -> Option<String> {
    let holds = model.n_points > 0 && model.n_repeats >= model.n_points;
    let got = format!("{} and {}", model.n_points, model.n_repeats);
    unless(holds, "n_points from 1 and as many n_repeats or more", got)
}

fn domain(domain: &Domain) -> Option<String> {
    let range = |name: &str, range: Range, holds: bool| {
        let got = format!("{} to {}", range.low, range.high);
        let words = format!("a domain of {name} in ascending order from 0");
        unless(holds && range.low <= range.high, &words, got)
    };
    range("size", domain.size, domain.size.low > 0.0)
        .or_else(|| range("kv_len", domain.kv_len, domain.kv_len.low >= 0.0))
        .or_else(|| range("attended", domain.attended, domain.attended.low >= 0.0))
}

/// Its longest pass, the largest of both axes.
fn times(model: &Model) -> Option<String> {
    let (size, kv_len) = (model.domain.size.high, model.domain.kv_len.high);
    let work = match model.phase {
        Phase::Decode => Work::decode_alike(size, kv_len, None),
        Phase::Prefill => Work::prefill_alike(1.0, (size, kv_len)),
    };
    let time_s = model.time_s(&work);
    let words = format!("a time above 0 and up to {SECONDS_MAX:e} s at the end of the domain");
    unless(time_s > 0.0 && time_s <= SECONDS_MAX, &words, format!("{time_s} s"))
}
