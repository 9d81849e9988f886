//! Fitted models and their errors as tables, figures, sentences and JSON. Computes no error itself.

mod figures;
mod json;
pub mod length;
pub mod profile;
pub mod replay;
mod tables;

pub use figures::figures;
pub use json::as_json;
pub use tables::{models, one_row, tables};

use crate::{
    predict::{
        ModelFile, Phase,
        eval::{Gain, Held, Predictor, Score},
        regret::Decisions,
        split::Split,
    },
    units::significant,
};

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What is compared with the null and makes the choices.
    pub predictor: Predictor,
    /// Every prediction.
    pub held: Vec<Held>,
    /// Errors by split and phase.
    pub scores: Vec<Score>,
    /// Choices by phase.
    pub decisions: Vec<Decisions>,
}

/// Share that the interval promises, percent.
pub const COVERAGE_PCT: f64 = 80.0;
/// Share of the interval's points below which it is called too narrow, above too wide, percent.
const COVERAGE_OF: (f64, f64) = (75.0, 85.0);

/// Runs and files that models were made from.
pub fn origins(file: &ModelFile) -> String {
    let one = |origin: &crate::predict::file::Origin| {
        origin.run_id.clone().unwrap_or_else(|| origin.path.clone())
    };
    file.created_from.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What the numbers come to, a sentence each: against the null, the interval, the choices.
pub fn said(judged: &Judged) -> Vec<String> {
    let mut out: Vec<String> =
        judged.scores.iter().filter_map(|score| against_null(judged.predictor, score)).collect();
    out.extend(judged.scores.iter().filter(|s| s.split == Split::Random).filter_map(interval));
    out.extend(judged.decisions.iter().map(|decided| choices(judged.predictor, decided)));
    out
}

fn percent(value: f64) -> String {
    format!("{} %", significant(value, 3))
}

fn against_null(predictor: Predictor, score: &Score) -> Option<String> {
    if predictor == Predictor::Null || score.split == Split::NewMethod0 {
        return None;
    }
    let (own, null) = score.against_null?;
    let (name, phase, split) = (predictor.name(), score.phase.name(), score.split.name());
    let verdict = match Gain::of(score.gain) {
        Gain::Better => "beats the null",
        Gain::Worse => "does not beat the null, it is worse",
        Gain::Open => "does not beat the null by more than chance",
    };
    Some(format!(
        "{phase}, {split}: {name} {verdict} ({} against {} on {} points of methods).",
        percent(own.mape_pct),
        percent(null.mape_pct),
        own.n
    ))
}

fn interval(score: &Score) -> Option<String> {
    let share = 100.0 * score.coverage()?;
    let word = match share {
        share if share < COVERAGE_OF.0 => "which is too few: the interval is too narrow",
        share if share > COVERAGE_OF.1 => {
            "which is more than it promises: the interval is too wide"
        }
        _ => "as it should",
    };
    Some(format!(
        "{}: the 80 % interval holds {} of {} points ({}), {word}.",
        score.phase.name(),
        score.covered.0,
        score.covered.1,
        percent(share)
    ))
}

fn choices(predictor: Predictor, decided: &Decisions) -> String {
    let (phase, regret, best) = (decided.phase, decided.regret_pct.0, decided.best_static.0);
    let pays = match Gain::of(decided.gain) {
        Gain::Better => "which pays",
        Gain::Worse => "which does not pay",
        Gain::Open => "whether that pays the data cannot tell",
    };
    let baseline = decided
        .baseline_pct
        .map_or(String::new(), |pct| format!(", of the baseline alone {}", percent(pct)));
    let order = match decided.signs_10 {
        (0, _) => " No two methods differ by more than 10 % anywhere.".to_owned(),
        (n, right) => format!(
            " Of {n} pairs that differ by more than 10 %, {right} are put in the right order."
        ),
    };
    format!(
        "{}: choosing the method by {} costs {} over the truly fastest ({} shapes); the best single method costs {}{baseline}: {pays}.{order}",
        Phase::name(phase),
        predictor.name(),
        percent(regret),
        decided.n,
        percent(best)
    )
}
