//! Methods ranked over cells, as rebar ranks engines: the geometric mean of ratios (Fleming and Wallace 1986, CACM 29:218-221).
//!
//! Two ratios a cell: to the best method there, 1 for who is best everywhere, and to the baseline, above 1 for who is better. Both
//! are turned so that more is worse in the first and better in the second, whatever the metric. Intervals are percentile bootstraps
//! over cells and, within each drawn cell, over repeats, all methods getting the same repeats; they are widened as few cells ask
//! ([`stats::expanded`], on the logarithm). The A/A control is ranked, which shows what chance makes, but is never the best of a cell.

use std::collections::BTreeSet;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use regex::Regex;

use super::{Better, Estimate, summary::rng_for};
use crate::stats::{self, Interval, RESAMPLES, quantile_sorted};

pub(in crate::analyse) mod cells;
mod metric;
pub(in crate::analyse) mod sampled;

pub use cells::{Left, Run, Spot, one_baseline};
pub use metric::{Metric, Statistic};

use cells::{Cell, gather};
use sampled::{Sampled, draw};

/// Methods by one metric.
#[derive(Debug, Clone)]
pub struct Ranking {
    /// By what.
    pub metric: Metric,
    /// Best first.
    pub ranked: Vec<Ranked>,
    /// Cells in which anybody has a value.
    pub n_cells: usize,
    /// Fewest repeats of a cell.
    pub n_repeats: usize,
    /// What has no value, and why.
    pub left: Vec<Left>,
}

/// One method.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// The method, with its target where it ran on several at one spot.
    pub name: String,
    /// How many times worse than the best of each cell.
    pub to_best: Estimate,
    /// How many times better than the baseline; `None` on itself and where it has no cell with it.
    pub to_baseline: Option<Estimate>,
    /// As `to_best`, over the cells that every method has; `None` without one.
    pub in_common: Option<f64>,
    /// Cells with a value.
    pub n_cells: usize,
    /// Share of the draws in which it is first; `None` on the control, and where only one cell was measured, once.
    pub first: Option<f64>,
    /// Whether it is the baseline once more, as a control.
    pub is_control: bool,
}

/// Ranks by one metric; `None` where nobody has a value of it and nothing is missing.
pub fn rank(runs: &[Run], metric: Metric, filter: Option<&Regex>) -> Option<Ranking> {
    let (mut cells, mut left) = gather(runs, &metric, filter);
    cells.iter_mut().for_each(|cell| drop_zeros(cell, &metric, &mut left));
    let first = runs.first()?;
    let (seed, control) = (first.data.manifest.scenario.seed, first.data.aa_method());
    for cell in cells.iter_mut().filter(|cell| cell.contenders.len() == 1) {
        alone(cell, first.baseline(), &mut left);
    }
    cells.retain(|cell| !cell.contenders.is_empty());
    if cells.is_empty() && left.is_empty() {
        return None;
    }
    let field = Field::new(&cells, &metric, first.baseline(), &control);
    let ranked =
        if cells.is_empty() { Vec::new() } else { field.ranked(&mut rng_for(seed, &metric.name)) };
    let n_repeats =
        cells.iter().map(|cell| Sampled::new(cell, metric.statistic).turns().len()).min();
    Some(Ranking { ranked, n_cells: cells.len(), n_repeats: n_repeats.unwrap_or(0), left, metric })
}

/// A value of 0 has no ratio; who has one is out of the cell, and told.
fn drop_zeros(cell: &mut Cell, metric: &Metric, left: &mut Vec<Left>) {
    cell.contenders.retain(|contender| {
        let mut values: Vec<f64> = contender.turns.values().flatten().copied().collect();
        let value = metric.statistic.of(&mut values).filter(|value| *value > 0.0);
        if value.is_none() {
            let n = contender.turns.len();
            let why = format!("its {} is 0, which has no ratio", metric.name);
            left.push(Left::new(&cell.spot, contender, (n, n), why));
        }
        value.is_some()
    });
}

/// Empties a cell that one method alone has a value in. Of the baseline alone nothing is said: who is missing there is told by itself.
fn alone(cell: &mut Cell, baseline: &str, left: &mut Vec<Left>) {
    for contender in cell.contenders.drain(..).filter(|contender| contender.method != baseline) {
        let n = contender.turns.len();
        let why = "nobody else has a value there to compare with".to_owned();
        left.push(Left::new(&cell.spot, &contender, (n, n), why));
    }
}

/// Everybody, everywhere.
struct Field<'a> {
    cells: &'a [Cell],
    metric: &'a Metric,
    names: Vec<String>,
    controls: Vec<bool>,
    baseline: &'a str,
}

/// Logarithms of a draw, by name: sum and number over cells.
#[derive(Clone, Copy, Default)]
struct Sum {
    best: f64,
    n_best: usize,
    baseline: f64,
    n_baseline: usize,
}

impl Sum {
    fn to_best(self) -> Option<f64> {
        (self.n_best > 0).then(|| self.best / self.n_best as f64)
    }

    fn to_baseline(self) -> Option<f64> {
        (self.n_baseline > 0).then(|| self.baseline / self.n_baseline as f64)
    }
}

impl<'a> Field<'a> {
    fn new(cells: &'a [Cell], metric: &'a Metric, baseline: &'a str, control: &str) -> Self {
        let contenders = || cells.iter().flat_map(|cell| &cell.contenders);
        let names: BTreeSet<&str> = contenders().map(|contender| contender.name.as_str()).collect();
        let controls: BTreeSet<&str> = contenders()
            .filter(|contender| contender.method == control)
            .map(|contender| contender.name.as_str())
            .collect();
        Self {
            controls: names.iter().map(|name| controls.contains(name)).collect(),
            names: names.into_iter().map(str::to_owned).collect(),
            cells,
            metric,
            baseline,
        }
    }

    fn ranked(&self, rng: &mut ChaCha8Rng) -> Vec<Ranked> {
        let mut sampled: Vec<Sampled<'_>> =
            self.cells.iter().map(|cell| Sampled::new(cell, self.metric.statistic)).collect();
        let all: Vec<(usize, Vec<cells::Turn>)> =
            sampled.iter().enumerate().map(|(at, cell)| (at, cell.turns())).collect();
        let value = self.sums(&mut sampled, &all);
        let common: Vec<_> = all.iter().filter(|(at, _)| self.is_common(*at)).cloned().collect();
        let in_common = self.sums(&mut sampled, &common);
        let repeats = all.iter().map(|(_, turns)| turns.len()).min().unwrap_or(0);
        let varies = self.cells.len() > 1 || repeats > 1;
        let draws: Vec<Vec<Sum>> = (0..if varies { RESAMPLES } else { 0 })
            .map(|_| {
                let mut one = || {
                    let (at, turns) = &all[rng.random_range(0..all.len())];
                    (*at, draw(turns, rng))
                };
                let drawn: Vec<_> = (0..all.len()).map(|_| one()).collect();
                self.sums(&mut sampled, &drawn)
            })
            .collect();
        let n = if self.cells.len() > 1 { self.cells.len() } else { repeats };
        let firsts = self.firsts(&draws);
        let one = |at: usize| self.one(at, (&value, &in_common, &draws), n, &firsts);
        let mut ranked: Vec<Ranked> = (0..self.names.len()).filter_map(one).collect();
        ranked.sort_by(|a, b| a.to_best.value.total_cmp(&b.to_best.value));
        ranked
    }

    fn one(
        &self,
        at: usize,
        (value, in_common, draws): (&[Sum], &[Sum], &[Vec<Sum>]),
        n: usize,
        firsts: &[Option<f64>],
    ) -> Option<Ranked> {
        let value_of = value[at];
        let interval = |of: fn(Sum) -> Option<f64>| {
            let value = of(value_of)?;
            let drawn: Vec<f64> = draws.iter().filter_map(|draw| of(draw[at])).collect();
            Some(estimate(value, drawn, n, value_of.n_best))
        };
        let is_baseline = self.names[at] == self.baseline;
        Some(Ranked {
            name: self.names[at].clone(),
            to_best: self.at_least_one(at, interval(Sum::to_best)?),
            to_baseline: if is_baseline { None } else { interval(Sum::to_baseline) },
            in_common: in_common[at].to_best().map(f64::exp),
            n_cells: value_of.n_best,
            first: firsts[at],
            is_control: self.controls[at],
        })
    }

    /// Nobody but the control is better than the best, and no interval need say so.
    fn at_least_one(&self, at: usize, to_best: Estimate) -> Estimate {
        let clip = |(low, high): (f64, f64)| (f64::max(low, 1.0), high);
        let interval =
            to_best.interval.map(|ends| if self.controls[at] { ends } else { clip(ends) });
        Estimate { interval, ..to_best }
    }

    /// Whether everybody has a value in a cell.
    fn is_common(&self, cell: usize) -> bool {
        self.cells[cell].contenders.len() == self.names.len()
    }

    /// Logarithms over drawn cells and their drawn repeats.
    fn sums(&self, sampled: &mut [Sampled<'_>], drawn: &[(usize, Vec<cells::Turn>)]) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.names.len()];
        for (at, turns) in drawn {
            let contenders = &self.cells[*at].contenders;
            let cost = |who: usize| {
                let value = sampled[*at].value(who, turns).filter(|value| *value > 0.0)?;
                Some(if self.metric.better == Better::Higher { -value.ln() } else { value.ln() })
            };
            let costs: Vec<Option<f64>> = (0..contenders.len()).map(cost).collect();
            let named =
                |name: &str| self.names.binary_search_by(|known| known.as_str().cmp(name)).ok();
            let who: Vec<Option<usize>> = contenders.iter().map(|c| named(&c.name)).collect();
            let real = who
                .iter()
                .zip(&costs)
                .filter(|(who, _)| who.is_some_and(|who| !self.controls[who]));
            let best = real.filter_map(|(_, cost)| *cost).reduce(f64::min);
            let base = contenders
                .iter()
                .position(|c| c.method == self.baseline)
                .and_then(|base| costs[base]);
            for (who, cost) in who.iter().zip(&costs) {
                let (Some(who), Some(cost)) = (who, cost) else { continue };
                if let Some(best) = best {
                    sums[*who].best += cost - best;
                    sums[*who].n_best += 1;
                }
                if let Some(base) = base {
                    sums[*who].baseline += base - cost;
                    sums[*who].n_baseline += 1;
                }
            }
        }
        sums
    }

    /// Share of the draws in which each is first.
    fn firsts(&self, draws: &[Vec<Sum>]) -> Vec<Option<f64>> {
        let mut wins = vec![0_usize; self.names.len()];
        for draw in draws {
            let real = draw.iter().enumerate().filter(|(at, _)| !self.controls[*at]);
            let first = real
                .filter_map(|(at, sum)| Some((at, sum.to_best()?)))
                .min_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((at, _)) = first {
                wins[at] += 1;
            }
        }
        let share = |(at, wins): (usize, &usize)| {
            (!draws.is_empty() && !self.controls[at]).then(|| *wins as f64 / draws.len() as f64)
        };
        wins.iter().enumerate().map(share).collect()
    }
}

/// A geometric mean from its logarithm, with the interval that draws make, widened as few observations ask.
fn estimate(log: f64, mut drawn: Vec<f64>, n: usize, n_cells: usize) -> Estimate {
    drawn.sort_unstable_by(f64::total_cmp);
    let ends = quantile_sorted(&drawn, 0.025).zip(quantile_sorted(&drawn, 0.975));
    let interval = ends.filter(|_| drawn.len() * 20 >= RESAMPLES * 19).map(|(low, high)| {
        let wide = stats::expanded(Interval { low, high }, log, n);
        Interval { low: wide.low.exp(), high: wide.high.exp() }
    });
    Estimate::new(log.exp(), interval, n_cells)
}

#[cfg(test)]
mod tests;
