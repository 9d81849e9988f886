//! Quality, throughput and KV memory at once: who is on the front, who is best under an objective, and how sure that is.
//!
//! Candidates of one spot (workload and load) are drawn together 1000 times: the same repeats for all, the same prompts for all, a
//! prompt's score being the mean over its repeats and a quality the mean over data sets. A candidate is on the front of a draw if no
//! other is at least as good on every axis and better on one. KV memory is counted from the method, or told by the engine, and does
//! not vary. With one repeat the spread between runs is unknown, and so is every certainty.

use std::collections::BTreeMap;

use regex::Regex;

use super::{
    Estimate,
    rank::{
        Left, Metric, Run, Spot,
        cells::{Cell, Turn, gather},
        sampled::{Sampled, draw},
    },
    summary::rng_for,
};
use crate::stats::{Interval, RESAMPLES, quantile_sorted};

mod best;
mod memory;
mod quality;

pub use best::{Best, Limit, best};
pub use memory::Memory;

use quality::Scored;

/// One spot with its candidates.
#[derive(Debug, Clone)]
pub struct Front {
    /// Where.
    pub spot: Spot,
    /// What throughput is: of a server, or of one attention layer.
    pub throughput: Metric,
    /// Everybody who has a throughput, best first.
    pub candidates: Vec<Candidate>,
    /// Fewest repeats of a candidate.
    pub n_repeats: usize,
    /// Axes of the front: names, in the order quality, throughput, memory.
    pub axes: Vec<&'static str>,
    /// Where quality comes from, or why there is none, in words.
    pub quality_from: String,
}

/// One method at one spot.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The method, with its target where it ran on several.
    pub name: String,
    /// Whether it is the baseline.
    pub is_baseline: bool,
    /// Tokens a second.
    pub throughput: Estimate,
    /// Mean score in points, 100 times the score; `None` without scores.
    pub quality: Option<Estimate>,
    /// What it loses of the baseline's quality, in per cent of it; below 0 for who gains.
    pub loss_pct: Option<Estimate>,
    /// Bytes that a cached token takes, and who says so.
    pub memory: Option<Memory>,
    /// Memory of the baseline over its own.
    pub compression: Option<f64>,
    /// Whether the measured values lie on the front; `None` where an axis of it is unknown.
    pub on_front: Option<bool>,
    /// Share of the draws in which it lies there; `None` as above, and with one repeat.
    pub front_share: Option<f64>,
    /// Values drawn, for [`best()`].
    drawn: Drawn,
}

/// What is known of a candidate in each draw; the first is the measurement itself.
#[derive(Debug, Clone, Default)]
struct Drawn {
    throughput: Vec<Option<f64>>,
    loss_pct: Vec<Option<f64>>,
    /// Whether every limit holds; `None` where one cannot be judged.
    within: Vec<Option<bool>>,
    /// Why it cannot.
    unjudged: Option<String>,
}

/// Fronts of every spot, and what has no throughput. `limits` are what [`best()`] is asked under.
pub fn fronts(runs: &[Run], limits: &[Limit], filter: Option<&Regex>) -> (Vec<Front>, Vec<Left>) {
    let scored = Scored::of(runs);
    let (mut fronts, mut left) = (Vec::new(), Vec::new());
    for metric in [Metric::served_throughput(), Metric::layer_throughput()] {
        let (cells, missing) = gather(runs, &metric, filter);
        let applies = |cell: &&Cell| !cell.contenders.is_empty();
        let limited: Vec<(Limit, Vec<Cell>)> = limits
            .iter()
            .filter(|limit| limit.metric.is_served() == metric.is_served())
            .map(|limit| (limit.clone(), gather(runs, &limit.metric, filter).0))
            .collect();
        let foreign: Vec<&Limit> =
            limits.iter().filter(|limit| limit.metric.is_served() != metric.is_served()).collect();
        let any = !cells.is_empty();
        let of =
            Of { runs, metric: &metric, scored: &scored, limited: &limited, foreign: &foreign };
        fronts.extend(cells.iter().filter(applies).map(|cell| of.front(cell)));
        if any || metric.is_served() {
            left.extend(missing);
        }
    }
    left.sort();
    left.dedup();
    (fronts, left)
}

/// What fronts are made of.
struct Of<'a> {
    runs: &'a [Run],
    metric: &'a Metric,
    scored: &'a Scored,
    /// Limits with the cells of their metrics.
    limited: &'a [(Limit, Vec<Cell>)],
    /// Limits that are of another kind of target.
    foreign: &'a [&'a Limit],
}

impl Of<'_> {
    fn front(&self, cell: &Cell) -> Front {
        let control = self.runs.first().map_or(String::new(), |run| run.data.aa_method());
        let baseline = self.runs.first().map_or("", Run::baseline);
        let who: Vec<usize> = (0..cell.contenders.len())
            .filter(|at| cell.contenders[*at].method != control)
            .collect();
        let methods: Vec<(&str, &str)> = who
            .iter()
            .map(|at| (cell.contenders[*at].method.as_str(), cell.contenders[*at].target.as_str()))
            .collect();
        let prompts = self.scored.at(&cell.spot, &methods);
        let memory: Vec<Option<Memory>> = methods
            .iter()
            .map(|(method, target)| memory::of(self.runs, &cell.spot, method, target))
            .collect();
        let drawn = self.draws(cell, &who, baseline, &prompts);
        let n_repeats = who.iter().map(|at| cell.contenders[*at].turns.len()).min().unwrap_or(0);
        let axes = axes(&drawn.quality, &memory);
        let known = Known {
            members: members(&axes, &drawn, &memory),
            base: methods.iter().position(|(method, _)| *method == baseline),
            n_repeats,
            n_prompts: prompts.n(),
            memory,
            drawn,
        };
        let one = |(at, who): (usize, &usize)| known.candidate(at, &cell.contenders[*who].name);
        let mut candidates: Vec<Candidate> = who.iter().enumerate().filter_map(one).collect();
        candidates.sort_by(|a, b| b.throughput.value.total_cmp(&a.throughput.value));
        Front {
            spot: cell.spot.clone(),
            throughput: self.metric.clone(),
            candidates,
            n_repeats,
            axes,
            quality_from: prompts.from.clone(),
        }
    }

    /// The measurement, then [`RESAMPLES`] draws of repeats and prompts.
    fn draws(
        &self,
        cell: &Cell,
        who: &[usize],
        baseline: &str,
        prompts: &quality::Prompts,
    ) -> Draws {
        let seed = self.runs.first().map_or(0, |run| run.data.manifest.scenario.seed);
        let Spot { workload, load, .. } = &cell.spot;
        let mut rng = rng_for(seed, &format!("pareto {workload} {load}"));
        let mut throughput = Sampled::new(cell, self.metric.statistic);
        let turns = throughput.turns();
        let mut limits = self.limits(cell, who);
        let base = who.iter().position(|at| cell.contenders[*at].method == baseline);
        let mut draws = Draws::new(who.len());
        for number in 0..=RESAMPLES {
            let drawn: Vec<Turn> = if number == 0 { turns.clone() } else { draw(&turns, &mut rng) };
            let quality = if number == 0 { prompts.measured() } else { prompts.drawn(&mut rng) };
            for (place, at) in who.iter().enumerate() {
                draws.throughput[place].push(throughput.value(*at, &drawn));
                draws.quality[place].push(quality[place]);
                let loss = base.and_then(|base| quality[base]).zip(quality[place]);
                draws.loss[place].push(
                    loss.filter(|(base, _)| *base > 0.0)
                        .map(|(base, own)| 100.0 * (1.0 - own / base)),
                );
                draws.within[place].push(limits.hold(place, &drawn));
            }
        }
        for place in 0..who.len() {
            draws.unjudged[place] = limits.unjudged(place);
        }
        draws
    }

    fn limits<'a>(&'a self, cell: &Cell, who: &[usize]) -> best::Held<'a> {
        let names: Vec<String> = who.iter().map(|at| cell.contenders[*at].name.clone()).collect();
        best::Held::new(self.limited, self.foreign, &cell.spot, names)
    }
}

/// What is known of all candidates of a spot.
struct Known {
    drawn: Draws,
    members: Vec<Vec<Option<bool>>>,
    memory: Vec<Option<Memory>>,
    base: Option<usize>,
    n_repeats: usize,
    n_prompts: usize,
}

impl Known {
    /// One of them; `None` without a throughput.
    fn candidate(&self, at: usize, name: &str) -> Option<Candidate> {
        let (drawn, varies) = (&self.drawn, self.n_repeats > 1);
        let bytes = |at: usize| self.memory[at].as_ref().map(|memory| memory.bytes_per_token);
        let (now, later) = self.members[at].split_first()?;
        let later: Vec<bool> = later.iter().flatten().copied().collect();
        Some(Candidate {
            name: name.to_owned(),
            is_baseline: Some(at) == self.base,
            throughput: drawn.estimate(&drawn.throughput[at], self.n_repeats, varies)?,
            quality: drawn.estimate(&drawn.quality[at], self.n_prompts, true),
            loss_pct: drawn.estimate(&drawn.loss[at], self.n_prompts, true),
            memory: self.memory[at].clone(),
            compression: self.base.and_then(bytes).zip(bytes(at)).map(|(base, own)| base / own),
            on_front: *now,
            front_share: share(&later).filter(|_| varies),
            drawn: Drawn {
                throughput: drawn.throughput[at].clone(),
                loss_pct: drawn.loss[at].clone(),
                within: drawn.within[at].clone(),
                unjudged: drawn.unjudged[at].clone(),
            },
        })
    }
}

/// Values by candidate and draw; the first draw is the measurement.
struct Draws {
    throughput: Vec<Vec<Option<f64>>>,
    quality: Vec<Vec<Option<f64>>>,
    loss: Vec<Vec<Option<f64>>>,
    within: Vec<Vec<Option<bool>>>,
    unjudged: Vec<Option<String>>,
}

impl Draws {
    fn new(n: usize) -> Self {
        Self {
            throughput: vec![Vec::new(); n],
            quality: vec![Vec::new(); n],
            loss: vec![Vec::new(); n],
            within: vec![Vec::new(); n],
            unjudged: vec![None; n],
        }
    }

    fn estimate(&self, values: &[Option<f64>], n: usize, varies: bool) -> Option<Estimate> {
        let (value, rest) = values.split_first()?;
        let mut drawn: Vec<f64> = rest.iter().flatten().copied().collect();
        drawn.sort_unstable_by(f64::total_cmp);
        let enough = varies && drawn.len() * 20 >= RESAMPLES * 19;
        let ends = quantile_sorted(&drawn, 0.025).zip(quantile_sorted(&drawn, 0.975));
        let interval = ends.filter(|_| enough).map(|(low, high)| Interval { low, high });
        Some(Estimate::new((*value)?, interval, n))
    }
}

/// Axes that at least two candidates have; throughput is always one.
fn axes(quality: &[Vec<Option<f64>>], memory: &[Option<Memory>]) -> Vec<&'static str> {
    let two = |n: usize| n > 1;
    let mut axes = Vec::new();
    if two(quality.iter().filter(|values| values.first().is_some_and(Option::is_some)).count()) {
        axes.push("quality");
    }
    axes.push("throughput");
    if two(memory.iter().flatten().count()) {
        axes.push("KV memory");
    }
    axes
}

/// By candidate and draw: whether nobody is as good on every axis and better on one; `None` where an axis is unknown.
fn members(
    axes: &[&'static str],
    draws: &Draws,
    memory: &[Option<Memory>],
) -> Vec<Vec<Option<bool>>> {
    let n = draws.throughput.len();
    let at = |who: usize, draw: usize| -> Option<Vec<f64>> {
        axes.iter()
            .map(|axis| match *axis {
                "quality" => draws.quality[who][draw],
                "throughput" => draws.throughput[who][draw],
                _ => memory[who].as_ref().map(|memory| -memory.bytes_per_token),
            })
            .collect()
    };
    let mut members = vec![Vec::new(); n];
    for draw in 0..draws.throughput.first().map_or(0, Vec::len) {
        let points: Vec<Option<Vec<f64>>> = (0..n).map(|who| at(who, draw)).collect();
        for (who, member) in members.iter_mut().enumerate() {
            let on = |own: &Vec<f64>| !points.iter().flatten().any(|other| dominates(other, own));
            member.push(points[who].as_ref().map(on));
        }
    }
    members
}

/// As good everywhere, better somewhere; more is better.
fn dominates(other: &[f64], own: &[f64]) -> bool {
    let pairs = || other.iter().zip(own);
    pairs().all(|(other, own)| other >= own) && pairs().any(|(other, own)| other > own)
}

/// Share of the draws that are true; `None` of none.
fn share(draws: &[bool]) -> Option<f64> {
    let n = draws.iter().filter(|draw| **draw).count();
    (!draws.is_empty()).then(|| n as f64 / draws.len() as f64)
}

/// Fronts by the work and the machine they are of, whatever the load: who is asked for the best is asked at any of them.
pub(super) fn by_work(fronts: &[Front]) -> BTreeMap<(String, String, String, String), Vec<&Front>> {
    let mut works: BTreeMap<_, Vec<&Front>> = BTreeMap::new();
    for front in fronts {
        let Spot { machine, target, workload, shape, .. } = front.spot.clone();
        works.entry((machine, target, workload, shape)).or_default().push(front);
    }
    works
}

#[cfg(test)]
mod tests;
