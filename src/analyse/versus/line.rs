//! One metric of one cell in two runs: the ratio with its interval, and what the repeats allow to say about it.
//!
//! Everything is computed from logarithms of one number a repeat, so that a ratio and its inverse are as far from 1. *Worse* is
//! positive whatever the metric.

use super::{metric::Metric, side::Measured};
use crate::{
    analyse::{Better, Point},
    stats::{self, Difference, Interval},
};

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Certainly worse than the base, and by more than the noise floor.
    Worse,
    /// Certainly other than the base, of a metric that has no better direction.
    Differs,
    /// Certainly better, and by more than the noise floor.
    Better,
    /// Nothing is certain: neither a difference nor that there is none.
    Unclear,
    /// Certainly within the bound: shown by two one-sided tests, never concluded from a difference that was not found.
    Same,
}

impl Word {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Word::Worse => "worse",
            Word::Differs => "differs",
            Word::Better => "better",
            Word::Unclear => "unclear",
            Word::Same => "same",
        }
    }
}

/// More repeats that would decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// So many in each run.
    Repeats(usize),
    /// More than are worth counting.
    TooMany,
}

impl More {
    /// As it is printed: `needs 3 more repeats`.
    pub fn words(self) -> String {
        match self {
            More::Repeats(1) => "needs 1 more repeat".to_owned(),
            More::Repeats(n) => format!("needs {n} more repeats"),
            More::TooMany => "a thousand repeats would not decide".to_owned(),
        }
    }
}

/// One metric of one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Cell without its repeat.
    pub cell: String,
    /// The same in parts.
    pub point: Point,
    /// Which metric.
    pub metric: Metric,
    /// Geometric mean over repeats of the base.
    pub base: f64,
    /// And of the other run.
    pub new: f64,
    /// Repeats of the base and of the other run.
    pub n_repeats: (usize, usize),
    /// Fewest observations of a repeat.
    pub n_least: usize,
    /// Logarithm of new over base; `None` with fewer than two repeats a side.
    pub log_ratio: Option<Difference>,
    /// Standard deviation of the logarithm between repeats beyond what happens within them; `None` where it cannot be told apart.
    pub between: Option<f64>,
    /// Standard deviation of one repeat's logarithm by what happens within it.
    pub within: Option<f64>,
    /// Logarithm of the ratio that things show which are the same; 0 where nothing tells.
    pub floor: f64,
    /// Logarithm of the ratio within which numbers are the same.
    pub bound: f64,
    /// p-values, adjusted for how many are looked at: worse, better, same. `None` with `log_ratio`.
    pub q: Option<[f64; 3]>,
    /// What can be said.
    pub word: Word,
    /// Repeats that would decide; only where it is unclear.
    pub more: Option<More>,
    /// Whether a gate looks at it.
    pub gated: bool,
    /// Whether it is of pairs of prompts and not of repeats: more repeats would decide nothing.
    pub paired: bool,
}

/// How lines are judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Share of false calls that is accepted.
    pub alpha: f64,
    /// Logarithm of the smallest bound of sameness.
    pub bound: f64,
}

impl Line {
    /// Not judged yet: that needs all lines.
    pub(super) fn new(
        (cell, point): (&str, &Point),
        base: &Measured,
        new: &Measured,
        floor: f64,
        rules: Rules,
    ) -> Self {
        let (a, b) = (base.logs(), new.logs());
        let (between, within) = components(base, new);
        let observations = base.repeats.iter().chain(&new.repeats).map(|repeat| repeat.n);
        Self {
            cell: cell.to_owned(),
            point: point.clone(),
            metric: new.metric.clone(),
            base: base.value(),
            new: new.value(),
            n_repeats: (a.len(), b.len()),
            n_least: observations.min().unwrap_or(0),
            log_ratio: stats::difference(&b, &a),
            between,
            within,
            floor,
            bound: rules.bound.max(floor),
            q: None,
            word: Word::Unclear,
            more: None,
            gated: false,
            paired: false,
        }
    }

    /// The logarithm of the ratio, turned so that worse is positive.
    pub(super) fn bad(&self) -> Option<Difference> {
        self.log_ratio.map(|ratio| match self.metric.better {
            Better::Higher => ratio.turned(),
            Better::Lower | Better::Neither => ratio,
        })
    }

    /// New over base.
    pub fn ratio(&self) -> f64 {
        self.new / self.base
    }

    /// Interval of the ratio, each of whose ends is wrong with chance `alpha`.
    pub fn interval(&self, alpha: f64) -> Option<Interval> {
        let Interval { low, high } = self.log_ratio?.interval(alpha);
        Some(Interval { low: low.exp(), high: high.exp() })
    }

    /// The smallest change, as a ratio, that one test of these repeats finds in four of five cases.
    pub fn detectable(&self, alpha: f64) -> Option<f64> {
        Some(self.log_ratio?.detectable(alpha).exp())
    }

    /// p-values before they are adjusted: worse, better, same. Of a metric without a better direction the first two are of any
    /// difference.
    fn p(&self) -> Option<[f64; 3]> {
        let bad = self.bad()?;
        let (above, below) = (bad.p_above(0.0), bad.p_below(0.0));
        let same = bad.p_outside(self.bound);
        Some(match self.metric.better {
            Better::Neither => {
                let any = (2.0 * above.min(below)).min(1.0);
                [any, any, same]
            }
            _ => [above, below, same],
        })
    }

    fn settle(&mut self, rules: Rules) {
        let (Some([worse, better, same]), Some(bad)) = (self.q, self.bad()) else {
            let most = self.n_repeats.0.min(self.n_repeats.1);
            let lacks = More::Repeats(2_usize.saturating_sub(most).max(1));
            self.more = (!self.paired).then_some(lacks);
            return;
        };
        let beyond_noise = bad.value.abs() > self.floor;
        self.word = if same <= rules.alpha {
            Word::Same
        } else if worse <= rules.alpha && beyond_noise {
            if self.metric.better == Better::Neither { Word::Differs } else { Word::Worse }
        } else if better <= rules.alpha && beyond_noise {
            Word::Better
        } else {
            Word::Unclear
        };
        // Either would decide: that it is as far away as it seems, or that it is not as far away as the bound.
        let apart = bad.value.abs();
        let distance =
            if apart > self.floor { apart.max(self.bound - apart) } else { self.bound - apart };
        self.more = match self.word {
            Word::Unclear => self.more_for(bad, distance, rules.alpha),
            _ => None,
        };
    }

    /// Repeats beyond those that there are which show a `distance`; `None` where repeats are not what is missing.
    pub(super) fn more_for(
        &self,
        difference: Difference,
        distance: f64,
        alpha: f64,
    ) -> Option<More> {
        if self.paired {
            return None;
        }
        let (a, b) = (self.n_repeats.0 as f64, self.n_repeats.1 as f64);
        let spread = difference.se / (1.0 / a + 1.0 / b).sqrt();
        let there = self.n_repeats.0.min(self.n_repeats.1);
        Some(match stats::repeats_needed(spread, distance, alpha) {
            Some(n) => More::Repeats(n.saturating_sub(there).max(1)),
            None => More::TooMany,
        })
    }
}

/// Standard deviations between and within repeats, of logarithms. What repeats spread is both together.
fn components(base: &Measured, new: &Measured) -> (Option<f64>, Option<f64>) {
    let within = base.within().zip(new.within()).map(|(a, b)| f64::midpoint(a, b));
    let spread = stats::variance(&base.logs())
        .zip(stats::variance(&new.logs()))
        .map(|(a, b)| f64::midpoint(a, b));
    let between = spread.zip(within).map(|(spread, within)| (spread - within).max(0.0).sqrt());
    (between, within.map(f64::sqrt))
}

/// Judges all lines. Those that a gate looks at are one family of tests, the others another: whoever adds a metric to look at does not
/// make the gates blunt.
pub(super) fn judge(lines: &mut [Line], rules: Rules) {
    for gated in [true, false] {
        let family: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].gated == gated && lines[*at].log_ratio.is_some())
            .collect();
        let p: Vec<[f64; 3]> = family.iter().filter_map(|at| lines[*at].p()).collect();
        let adjusted: Vec<Vec<f64>> = (0..3)
            .map(|of| stats::benjamini_hochberg(&p.iter().map(|p| p[of]).collect::<Vec<_>>()))
            .collect();
        for (n, at) in family.into_iter().enumerate() {
            lines[at].q = Some([adjusted[0][n], adjusted[1][n], adjusted[2][n]]);
        }
    }
    lines.iter_mut().for_each(|line| line.settle(rules));
}
