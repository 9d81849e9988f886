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

/// `1 point`, `2 points`.
fn counted(n: usize, of: &str) -> String {
    format!("{n} {of}{}", if n == 1 { "" } else { "s" })
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
        "{phase}, {split}: {name} {verdict} ({} against {} on {} of methods).",
        percent(own.mape_pct),
        percent(null.mape_pct),
        counted(own.n, "point")
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
        "{}: the 80 % interval holds {} of {} ({}), {word}.",
        score.phase.name(),
        score.covered.0,
        counted(score.covered.1, "point"),
        percent(share)
    ))
}

fn choices(predictor: Predictor, decided: &Decisions) -> String {
    let (phase, regret, best) = (decided.phase, decided.regret_pct.0, decided.best_static.0);
    let pays = match Gain::of(decided.gain) {
        Gain::Better => "choosing pays",
        Gain::Worse => "choosing does not pay",
        Gain::Open => "whether choosing pays the data cannot tell",
    };
    let baseline = decided
        .baseline_pct
        .map_or(String::new(), |pct| format!(", the baseline alone {}", percent(pct)));
    let order = match decided.signs_10 {
        (0, _) => " No two methods differ by more than 10 % anywhere.".to_owned(),
        (n, right) => format!(
            " Of {} that {} by more than 10 %, {right} {} put in the right order.",
            counted(n, "pair"),
            if n == 1 { "differs" } else { "differ" },
            if right == 1 { "is" } else { "are" }
        ),
    };
    format!(
        "{}: choosing the method by {} costs {} over the truly fastest ({}); the best single method costs {}{baseline}: {pays}.{order}",
        Phase::name(phase),
        predictor.name(),
        percent(regret),
        counted(decided.n, "shape"),
        percent(best)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shape_is_one_and_all_costs_are_said_alike() {
        let mut decided = Decisions {
            phase: Phase::Decode,
            n: 1,
            n_left_out: 0,
            regret_pct: (1.0, 1.0),
            best_static: (2.15, Vec::new()),
            gain: None,
            baseline_pct: Some(415.0),
            signs_5: (1, 1),
            signs_10: (1, 1),
        };
        assert_eq!(
            choices(Predictor::Roofline, &decided),
            "decode: choosing the method by roofline costs 1.00 % over the truly fastest (1 shape); the best single method costs 2.15 %, the baseline alone 415 %: whether choosing pays the data cannot tell. Of 1 pair that differs by more than 10 %, 1 is put in the right order."
        );
        (decided.n, decided.signs_10) = (2, (4, 3));
        let many = choices(Predictor::Roofline, &decided);
        assert!(
            many.contains("(2 shapes)")
                && many.ends_with(
                    "Of 4 pairs that differ by more than 10 %, 3 are put in the right order."
                ),
            "{many}"
        );
    }
}
