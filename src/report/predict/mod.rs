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
        file::Origin,
        regret::Decisions,
        split::Split,
    },
    stats,
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
    /// What has no baseline, a sentence each.
    pub without_baseline: Vec<String>,
}

/// Share that the interval promises, percent.
pub const COVERAGE_PCT: f64 = 80.0;

/// Runs and files that models were made from.
pub fn origins(file: &ModelFile) -> String {
    file.created_from.iter().map(Origin::name).collect::<Vec<_>>().join(", ")
}

/// What the numbers come to, a sentence each: what has no null, against the null, the interval, the choices.
pub fn said(judged: &Judged) -> Vec<String> {
    let mut out = judged.without_baseline.clone();
    out.extend(judged.scores.iter().filter_map(|score| against_null(judged.predictor, score)));
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
    let verdict = match (score.gain, Gain::of(score.gain)) {
        (None, _) => "cannot be told from the null: too few points that are independent",
        (_, Gain::Better) => "beats the null",
        (_, Gain::Worse) => "does not beat the null, it is worse",
        (_, Gain::Open) => "does not beat the null by more than chance",
    };
    Some(format!(
        "{phase}, {split}: {name} {verdict} ({} against {} on {} of methods).",
        percent(own.mape_pct),
        percent(null.mape_pct),
        counted(own.n, "point")
    ))
}

fn interval(score: &Score) -> Option<String> {
    let (share, (inside, n)) = (100.0 * score.coverage()?, score.covered?);
    // Few points stray far from the promised share by chance alone.
    let ends = stats::wilson(inside, n)?;
    let word = if 100.0 * ends.high < COVERAGE_PCT {
        "which is too few: the interval is too narrow"
    } else if 100.0 * ends.low > COVERAGE_PCT {
        "which is more than it promises: the interval is too wide"
    } else {
        "as it should, as far as these points can tell"
    };
    Some(format!(
        "{}: the 80 % interval holds {inside} of {} ({}), {word}.",
        score.phase.name(),
        counted(n, "point"),
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
    use crate::predict::interval::Errors;

    fn score(covered: (usize, usize)) -> Score {
        Score {
            split: Split::Random,
            phase: Phase::Decode,
            n: covered.1,
            n_not_predicted: 0,
            noise: None,
            roofline: None,
            null: None,
            interpolate: None,
            covered: Some(covered),
            n_outside: Some(0),
            against_null: None,
            gain: None,
        }
    }

    /// 7 of 10 are 70 %, which 80 % give every third time; 140 of 200 are 70 % as well.
    #[test]
    fn an_interval_is_called_wrong_only_by_points_enough() {
        let said = |covered| interval(&score(covered)).unwrap();
        assert!(said((7, 10)).ends_with("as it should, as far as these points can tell."));
        assert!(said((10, 10)).ends_with("as far as these points can tell."));
        assert!(said((140, 200)).contains("too narrow"));
        assert!(said((180, 200)).contains("too wide"));
        assert!(said((836, 1000)).contains("too wide"), "84 % of many points is not 80 %");
        assert_eq!(interval(&score((0, 0))), None);
    }

    #[test]
    fn without_independent_points_nothing_is_claimed() {
        let errors = Errors { n: 40, mape_pct: 1.0, p95_pct: 2.0 };
        let mut score = Score { against_null: Some((errors, errors)), ..score((1, 1)) };
        let said = |score: &Score| against_null(Predictor::Roofline, score).unwrap();
        assert!(said(&score).contains("cannot be told from the null"), "{}", said(&score));
        score.gain = Some(stats::Interval { low: 1.0, high: 2.0 });
        assert!(said(&score).contains("beats the null"));
    }

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
