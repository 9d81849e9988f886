//! Losses and gains by one bar, so that a test of the two is exact.
//!
//! Algorithm 1 counts what the baseline does well by the baseline's own mean, and its mirror what the method does well by the
//! method's. The two bars pull the counts together: a method that breaks prompts lowers its own mean, more of its answers count as
//! good, and so more mirrors are found; in noise alone the sign test of the two claims an effect in some 2 of 100 comparisons where it
//! promises 5. With the mean of both sides as the bar, swapping the two scores of a prompt moves no bar: without an effect a loss is
//! as likely as a gain, prompt by prompt, and the sign test is exact.

use std::collections::HashMap;

use super::{Mode, Paired, Rule, lost, weight};
use crate::stats;

/// Samples that are good by the mean of both sides and lost on one of them, one entry a theta.
#[derive(Debug, Clone, PartialEq)]
pub struct Fair {
    /// Good under the baseline, lost under the method.
    pub lost: Vec<usize>,
    /// Good under the method, lost under the baseline.
    pub gained: Vec<usize>,
    /// Two-sided exact sign test of the two.
    pub p: Vec<f64>,
    /// The same with the false discovery rate held over all methods and thetas of a call.
    pub q: Vec<f64>,
}

impl Fair {
    /// Counts by the mean of both sides in each data set.
    pub(super) fn of(paired: &Paired<'_>, scores: &[Option<f64>], rule: &Rule<'_>) -> Self {
        let rows = &paired.baseline.rows;
        let both = || rows.iter().zip(scores).filter_map(|(row, own)| Some((row, (*own)?)));
        let mut sums: HashMap<&str, (f64, f64)> = HashMap::new();
        for (row, own) in both() {
            let sum = sums.entry(&row.dataset).or_default();
            *sum = (sum.0 + row.score + own, sum.1 + 2.0);
        }
        let n = rule.thetas.len();
        let mut fair = Self { lost: vec![0; n], gained: vec![0; n], p: Vec::new(), q: Vec::new() };
        for (row, own) in both() {
            let bar = sums.get(&*row.dataset).map_or(f64::NAN, |(sum, n)| sum / n);
            let sides = [(row.score, own, &mut fair.lost), (own, row.score, &mut fair.gained)];
            for (good, other, counts) in sides {
                for (n, theta) in counts.iter_mut().zip(rule.thetas) {
                    let is_lost = good >= bar && lost(good, other, *theta, Mode::Algorithm1);
                    *n += if is_lost { weight(&row.dataset, rule.mode) } else { 0 };
                }
            }
        }
        let p = |(lost, gained): (&usize, &usize)| stats::sign_test_two_sided(*lost, *gained);
        fair.p = fair.lost.iter().zip(&fair.gained).map(p).collect();
        fair.q = fair.p.clone();
        fair
    }

    /// Excess of losses over gains that would be found in 80 % of such comparisons, at the theta of this index; `None` where
    /// nothing is lost on either side.
    pub fn found_at(&self, theta: usize) -> Option<f64> {
        let all = self.lost.get(theta)? + self.gained.get(theta)?;
        (all > 0).then(|| stats::POWER_80 * (all as f64).sqrt())
    }

    /// Whether a method loses more than it gains by more than chance.
    pub fn is_loss(&self, theta: usize) -> bool {
        self.q[theta] <= 0.05 && self.lost[theta] > self.gained[theta]
    }
}
