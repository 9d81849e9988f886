//! How often each word is said of runs whose truth is known: the calibration of [`super::versus`], through the same code.
//!
//! A simulated request takes `exp(run + z)`: `run` is the repeat's own, normal with the standard deviation between repeats; `z` is
//! normal with memory, so that a request resembles the one before it.

use rand::Rng;
use rand_distr::{Distribution as _, StandardNormal};
use rayon::prelude::*;

use super::{
    line::{Line, Rules, Word, judge},
    metric::Metric,
    side::{Measured, Repeat},
};
use crate::{
    analyse::{Better, Point},
    stats::{TimeOrdered, mean, mixed, seeded},
};

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experiment {
    /// Repeats of each run.
    pub repeats: usize,
    /// Requests of each repeat.
    pub requests: usize,
    /// Correlation of neighbouring requests.
    pub memory: f64,
    /// Standard deviation of a request's logarithm.
    pub within: f64,
    /// Standard deviation of a repeat's logarithm.
    pub between: f64,
    /// The same of the new run, as a multiple.
    pub wider: f64,
    /// True ratio of the new run to the base.
    pub slowdown: f64,
    /// Ratio within which runs are the same.
    pub bound: f64,
    /// Percentile that is compared; `None` for the mean.
    pub percent: Option<u32>,
    /// Cells of a run, all alike, judged together.
    pub cells: usize,
}

impl Default for Experiment {
    /// Three repeats of 1000 requests with a memory of 0.8, 2 % between repeats, nothing changed, one cell.
    fn default() -> Self {
        Self {
            repeats: 3,
            requests: 1000,
            memory: 0.8,
            within: 0.1,
            between: 0.02,
            wider: 1.0,
            slowdown: 1.0,
            bound: 1.02,
            percent: None,
            cells: 1,
        }
    }
}

/// Shares of pairs of runs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shares {
    /// Any cell was called worse.
    pub worse: f64,
    /// Any was called better.
    pub better: f64,
    /// Every cell was called the same.
    pub same: f64,
    /// No cell was called anything but unclear.
    pub unclear: f64,
}

/// Judges so many pairs of runs.
pub fn shares(experiment: &Experiment, n_pairs: u64, seed: u64) -> Shares {
    let said: Vec<Vec<Word>> =
        (0..n_pairs).into_par_iter().map(|pair| words(experiment, mixed(seed, pair))).collect();
    let share = |test: &dyn Fn(&[Word]) -> bool| {
        said.iter().filter(|words| test(words)).count() as f64 / n_pairs as f64
    };
    Shares {
        worse: share(&|words| words.contains(&Word::Worse)),
        better: share(&|words| words.contains(&Word::Better)),
        same: share(&|words| words.iter().all(|word| *word == Word::Same)),
        unclear: share(&|words| words.iter().all(|word| *word == Word::Unclear)),
    }
}

fn words(experiment: &Experiment, seed: u64) -> Vec<Word> {
    let mut rng = seeded(seed);
    let rules = Rules { alpha: 0.05, bound: experiment.bound.ln() };
    let mut lines: Vec<Line> = (0..experiment.cells)
        .map(|_| {
            let base = run(experiment, 1.0, &mut rng);
            let wider =
                Experiment { between: experiment.between * experiment.wider, ..*experiment };
            let new = run(&wider, experiment.slowdown, &mut rng);
            Line::new(("simulated", &Point::default()), &base, &new, 0.0, rules)
        })
        .collect();
    judge(&mut lines, rules);
    lines.iter().map(|line| line.word).collect()
}

fn run(experiment: &Experiment, ratio: f64, rng: &mut impl Rng) -> Measured {
    let repeat = |repeat: usize| {
        let latencies = latencies(experiment, ratio, rng);
        let value = match experiment.percent {
            Some(percent) => TimeOrdered::new(&latencies)?.quantile(f64::from(percent) / 100.0),
            None => mean(&latencies)?,
        };
        Some(Repeat { repeat: repeat as i64, value, n: latencies.len(), within: None })
    };
    Measured {
        metric: Metric::new("latency_ms", "ms", Better::Lower, ""),
        repeats: (0..experiment.repeats).filter_map(repeat).collect(),
    }
}

fn latencies(experiment: &Experiment, ratio: f64, rng: &mut impl Rng) -> Vec<f64> {
    let Experiment { memory, within, between, requests, .. } = *experiment;
    let mut normal = || -> f64 { StandardNormal.sample(rng) };
    let centre = ratio.ln() + between * normal();
    let fresh = (1.0 - memory * memory).sqrt();
    let mut state = normal();
    (0..requests)
        .map(|_| {
            state = memory * state + fresh * normal();
            (centre + within * state).exp()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: u64 = 300;

    /// Fewer requests that spread less: their mean is as good as the default's, and is had sooner.
    fn small() -> Experiment {
        Experiment { requests: 250, within: 0.05, ..Experiment::default() }
    }

    /// With 300 pairs the share of false alarms, 5 % in truth, lies within 1.5 to 9 % in all but one of a thousand trials. The full
    /// count is `cargo bench --bench judge`.
    #[test]
    fn nothing_changed_is_called_worse_as_often_as_agreed() {
        let found = shares(&small(), PAIRS, 1);
        assert!((0.015..=0.09).contains(&found.worse), "{found:?}");
        assert!(found.same < 0.05, "two percent cannot be shown by three repeats: {found:?}");
    }

    #[test]
    fn a_slowdown_is_found_and_a_small_one_is_not_called_none() {
        let five = Experiment { repeats: 5, slowdown: 1.05, ..small() };
        assert!(shares(&five, PAIRS, 2).worse > 0.85);
        let little = Experiment { slowdown: 1.01, ..five };
        let found = shares(&little, PAIRS, 3);
        assert!(found.same < 0.05 && found.unclear > 0.6, "{found:?}");
    }

    #[test]
    fn many_cells_do_not_make_more_false_alarms() {
        let many = Experiment { cells: 30, requests: 60, ..small() };
        let found = shares(&many, PAIRS, 4);
        assert!(found.worse < 0.10, "{found:?}");
    }

    /// Quiet machines can show sameness, and a real difference is never called so.
    #[test]
    fn sameness_is_shown_where_it_can_be() {
        let quiet = Experiment { repeats: 5, between: 0.002, within: 0.02, ..small() };
        assert!(shares(&quiet, PAIRS, 5).same > 0.95);
        let apart = Experiment { slowdown: 1.02, ..quiet };
        assert!(shares(&apart, PAIRS, 6).same < 0.09);
    }
}
