//! Whether choosing a method by its predicted time pays: a small error does not yet make a good choice.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Phase, Subject,
    eval::{CLUSTERS_MIN, Held, Predictor},
    split::{Split, shape},
};
use crate::stats::{self, Interval};

/// Choices in one phase, over all shapes at which all methods of a subject were held out and predicted.
#[derive(Debug, Clone, PartialEq)]
pub struct Decisions {
    /// Prefill or decode.
    pub phase: Phase,
    /// Shapes.
    pub n: usize,
    /// Shapes left out because a method was not measured or not predicted there, or alone.
    pub n_left_out: usize,
    /// Mean and 95th percentile of how much longer the predicted-best method takes than the truly best, percent.
    pub regret_pct: (f64, f64),
    /// The same of the method that is best on average over a subject's shapes, chosen with hindsight: mean, percent, and its name
    /// a subject.
    pub best_static: (f64, Vec<Named>),
    /// By how many points of percent choosing costs less than that method, mean over shapes with 95 % bootstrap interval;
    /// `None` with fewer than [`CLUSTERS_MIN`] of them.
    pub gain: Option<Interval>,
    /// Mean regret of always taking the baseline; `None` where a subject has none.
    pub baseline_pct: Option<f64>,
    /// Pairs of methods whose times truly differ by more than 5 %, and of these those whose order was predicted.
    pub signs_5: (usize, usize),
    /// The same above 10 %.
    pub signs_10: (usize, usize),
}

/// A subject and a method on it.
pub type Named = (Subject, String);

/// What can be chosen: a method with the bits of what it keeps, since one method with two budgets is two choices.
type Choice<'a> = (&'a str, Option<u64>);

/// One shape: (choice, whether baseline, measured, predicted).
type Shape<'a> = Vec<(Choice<'a>, bool, f64, f64)>;

/// Choices on the random split, by phase; a phase without two methods to choose from has none.
pub fn decisions(held: &[Held], predictor: Predictor) -> Vec<Decisions> {
    [Phase::Decode, Phase::Prefill]
        .into_iter()
        .filter_map(|phase| of_phase(held, phase, predictor))
        .collect()
}

fn of_phase(held: &[Held], phase: Phase, predictor: Predictor) -> Option<Decisions> {
    let asked = held.iter().filter(|h| h.split == Split::Random && h.work.phase == phase);
    let mut by_subject: BTreeMap<&Subject, BTreeMap<[i64; 3], Shape<'_>>> = BTreeMap::new();
    let mut choices: BTreeMap<&Subject, BTreeSet<Choice<'_>>> = BTreeMap::new();
    for one in asked {
        let choice = (one.method.as_str(), one.budget.map(f64::to_bits));
        choices.entry(&one.subject).or_default().insert(choice);
        let shapes = by_subject.entry(&one.subject).or_default();
        let here = shapes.entry(shape(&one.work)).or_default();
        if let Some(predicted) = one.time_s(predictor) {
            here.push((choice, one.is_baseline, one.measured_s, predicted));
        }
    }
    let n_all: usize = by_subject.values().map(BTreeMap::len).sum();
    let whole: BTreeMap<&Subject, Vec<Shape<'_>>> = by_subject
        .into_iter()
        .map(|(subject, shapes)| {
            let n = choices[subject].len();
            let each_once = shapes.values().map(merged);
            (subject, each_once.filter(|here| n > 1 && here.len() == n).collect())
        })
        .collect();
    let all: Vec<&Shape<'_>> = whole.values().flatten().collect();
    let mut regrets: Vec<f64> = all.iter().map(|here| regret(here, by_predicted(here))).collect();
    let (static_regrets, names) = best_static(&whole)?;
    let gains: Vec<f64> = static_regrets.iter().zip(&regrets).map(|(s, own)| s - own).collect();
    regrets.sort_by(f64::total_cmp);
    Some(Decisions {
        phase,
        n: all.len(),
        n_left_out: n_all - all.len(),
        regret_pct: (stats::mean(&regrets)?, stats::quantile_sorted(&regrets, 0.95)?),
        best_static: (stats::mean(&static_regrets)?, names),
        gain: if gains.len() < CLUSTERS_MIN {
            None
        } else {
            stats::mean_interval(&gains, &mut stats::seeded(0))
        },
        baseline_pct: always_baseline(&all),
        signs_5: signs(&all, 1.05),
        signs_10: signs(&all, 1.10),
    })
}

/// Each choice once, with its means: a method that met a shape under two loads is no second method.
fn merged<'a>(here: &Shape<'a>) -> Shape<'a> {
    let mut by_choice: BTreeMap<Choice<'a>, (bool, f64, f64, f64)> = BTreeMap::new();
    for &(choice, is_baseline, measured, predicted) in here {
        let sum = by_choice.entry(choice).or_insert((is_baseline, 0.0, 0.0, 0.0));
        *sum = (is_baseline, sum.1 + 1.0, sum.2 + measured, sum.3 + predicted);
    }
    let mean = |(choice, (is_baseline, n, measured, predicted)): (_, (bool, f64, f64, f64))| {
        (choice, is_baseline, measured / n, predicted / n)
    };
    by_choice.into_iter().map(mean).collect()
}

fn by_predicted(here: &Shape<'_>) -> f64 {
    let best = here.iter().min_by(|a, b| a.3.total_cmp(&b.3));
    best.map_or(f64::NAN, |best| best.2)
}

/// Percent that a time is above the shortest.
fn regret(here: &Shape<'_>, time_s: f64) -> f64 {
    let best = here.iter().map(|one| one.2).fold(f64::INFINITY, f64::min);
    100.0 * (time_s / best - 1.0)
}

fn always_baseline(all: &[&Shape<'_>]) -> Option<f64> {
    let of = |here: &&Shape<'_>| Some(regret(here, here.iter().find(|one| one.1)?.2));
    stats::mean(&all.iter().map(of).collect::<Option<Vec<f64>>>()?)
}

/// Regrets of the best method of each subject, shape by shape, and its name a subject.
fn best_static(whole: &BTreeMap<&Subject, Vec<Shape<'_>>>) -> Option<(Vec<f64>, Vec<Named>)> {
    let (mut regrets, mut names) = (Vec::new(), Vec::new());
    for (subject, shapes) in whole.iter().filter(|(_, shapes)| !shapes.is_empty()) {
        let mut by_choice: BTreeMap<Choice<'_>, Vec<f64>> = BTreeMap::new();
        for here in shapes {
            for one in here {
                by_choice.entry(one.0).or_default().push(regret(here, one.2));
            }
        }
        let sum = |regrets: &Vec<f64>| regrets.iter().sum::<f64>();
        let budgets = |method: &str| by_choice.keys().filter(|choice| choice.0 == method).count();
        let (&(method, budget), least) =
            by_choice.iter().min_by(|a, b| sum(a.1).total_cmp(&sum(b.1)))?;
        let name = match budget.filter(|_| budgets(method) > 1) {
            Some(budget) => format!("{method}, budget {}", f64::from_bits(budget)),
            None => method.to_owned(),
        };
        regrets.extend(least);
        names.push(((*subject).clone(), name));
    }
    Some((regrets, names))
}

/// Pairs whose longer time is more than `factor` times the shorter, and of these those in the predicted order.
fn signs(all: &[&Shape<'_>], factor: f64) -> (usize, usize) {
    let (mut n, mut right) = (0, 0);
    for here in all {
        for (at, one) in here.iter().enumerate() {
            for other in &here[at + 1..] {
                if one.2.max(other.2) > factor * one.2.min(other.2) {
                    n += 1;
                    // Equal predictions put nothing in order.
                    right += usize::from(one.2.total_cmp(&other.2) == one.3.total_cmp(&other.3));
                }
            }
        }
    }
    (n, right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::{Source, Work};

    fn held(method: &str, kv_len: f64, measured_s: f64, predicted_s: f64) -> Held {
        Held {
            split: Split::Random,
            subject: Subject {
                source: Source::Engine,
                target: None,
                engine: "e".into(),
                device: "d".into(),
                model: "m".into(),
                tensor_parallel: 1,
                started_with: None,
            },
            method: method.into(),
            is_baseline: method == "fp16",
            budget: None,
            work: Work::decode([kv_len], None),
            measured_s,
            noise: None,
            model: None,
            null_s: Some(predicted_s),
            table_s: None,
        }
    }

    fn decided(held: &[Held]) -> Option<Decisions> {
        decisions(held, Predictor::Null).into_iter().next()
    }

    /// Two loads of the baseline are not the baseline and a method.
    #[test]
    fn a_method_measured_twice_is_one_method() {
        let mut all = vec![
            held("fp16", 1000.0, 1.0, 1.0),
            held("fp16", 1010.0, 3.0, 1.0),
            held("kivi", 4000.0, 1.0, 1.0),
            held("fp16", 4000.0, 4.0, 2.0),
        ];
        let one = decided(&all).unwrap();
        assert_eq!((one.n, one.n_left_out), (1, 1), "kivi was not measured at 1000");
        // Where both were measured, the mean of the two counts.
        all.push(held("kivi", 1000.0, 2.5, 2.0));
        let both = decided(&all).unwrap();
        assert_eq!((both.n, both.n_left_out), (2, 0));
        assert!(both.regret_pct.0.abs() < 1e-9 && both.signs_5 == (2, 2), "{both:?}");
    }

    #[test]
    fn two_budgets_of_a_method_are_two_choices() {
        let mut all = vec![held("fp16", 4000.0, 4.0, 2.0)];
        for (budget, measured_s) in [(256.0, 1.0), (512.0, 2.0)] {
            let one = held("h2o", 4000.0, measured_s, 1.0);
            all.push(Held { budget: Some(budget), ..one });
        }
        let one = decided(&all).unwrap();
        assert_eq!((one.n, one.best_static.1[0].1.as_str()), (1, "h2o, budget 256"));
    }

    /// Five shapes at which choosing gains something agree by chance once in 16.
    #[test]
    fn a_few_shapes_do_not_show_that_choosing_pays() {
        let of = |n: u32| {
            let mut all = Vec::new();
            for nth in 0..n {
                let kv_len = 1000.0 * f64::from(1 << nth);
                // Either is far faster at every other shape.
                let (one, other) = if nth % 2 == 0 { (1.0, 5.0) } else { (5.0, 1.0) };
                all.push(held("fp16", kv_len, one, one));
                all.push(held("kivi", kv_len, other, other));
            }
            let one = decided(&all).unwrap();
            (one.n, one.gain.is_some())
        };
        assert_eq!(of(5), (5, false));
        assert_eq!(of(6), (6, true));
    }

    #[test]
    fn equal_predictions_order_nothing() {
        for (first, second) in [(1.0, 2.0), (2.0, 1.0)] {
            let all = [held("fp16", 1000.0, first, 1.0), held("kivi", 1000.0, second, 1.0)];
            assert_eq!(decided(&all).unwrap().signs_5, (1, 0));
        }
    }
}
