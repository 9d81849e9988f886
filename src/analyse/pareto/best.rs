//! The best method under an objective, and how sure that is.

use std::{collections::BTreeMap, str::FromStr};

use super::{Candidate, Front, by_work};
use crate::{
    analyse::rank::{
        Metric, Spot,
        cells::{Cell, Turn},
        sampled::Sampled,
    },
    units::significant,
};

/// A limit on a metric: `ttft_due_ms_p99<=500`.
#[derive(Debug, Clone)]
pub struct Limit {
    /// What is limited.
    pub metric: Metric,
    /// Whether it must be at most `value`, or at least.
    pub at_most: bool,
    /// The limit, in the metric's unit.
    pub value: f64,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value, at_most) = match (text.split_once("<="), text.split_once(">=")) {
            (Some((name, value)), None) => (name, value, true),
            (None, Some((name, value))) => (name, value, false),
            _ => {
                return Err(
                    "expected METRIC<=NUMBER or METRIC>=NUMBER, such as ttft_due_ms_p99<=500"
                        .to_owned(),
                );
            }
        };
        let number = value.trim().parse::<f64>().ok().filter(|value| value.is_finite());
        let value = number
            .ok_or_else(|| format!("expected a number behind the sign, got `{}`", value.trim()))?;
        Ok(Self { metric: name.trim().parse()?, at_most, value })
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.at_most { "<=" } else { ">=" };
        write!(f, "{} {sign} {}", self.metric.name, self.value)
    }
}

/// A limit's metric at one spot, and which contender is whose.
struct Watched<'a> {
    limit: &'a Limit,
    /// `None` where nobody has a value.
    known: Option<(Sampled<'a>, BTreeMap<&'a str, usize>)>,
}

impl Watched<'_> {
    fn has(&self, name: &str) -> bool {
        self.known.as_ref().is_some_and(|(_, places)| places.contains_key(name))
    }
}

/// Limits at one spot, by candidate.
pub(super) struct Held<'a> {
    limits: Vec<Watched<'a>>,
    names: Vec<String>,
    foreign: Option<String>,
}

impl<'a> Held<'a> {
    pub(super) fn new(
        limited: &'a [(Limit, Vec<Cell>)],
        foreign: &[&Limit],
        spot: &Spot,
        names: Vec<String>,
    ) -> Self {
        let one = |(limit, cells): &'a (Limit, Vec<Cell>)| {
            let cell = cells.iter().find(|cell| cell.spot == *spot);
            let known = cell.map(|cell| {
                let places =
                    cell.contenders.iter().enumerate().map(|(at, who)| (who.name.as_str(), at));
                (Sampled::new(cell, limit.metric.statistic), places.collect())
            });
            Watched { limit, known }
        };
        let foreign = foreign
            .first()
            .map(|limit| format!("{} is not of this kind of target", limit.metric.name));
        Self { limits: limited.iter().map(one).collect(), names, foreign }
    }

    /// Whether every limit holds for a candidate over these repeats; `None` where one cannot be judged.
    pub(super) fn hold(&mut self, who: usize, turns: &[Turn]) -> Option<bool> {
        if self.foreign.is_some() {
            return None;
        }
        let name = &self.names[who];
        let mut all = true;
        for Watched { limit, known } in &mut self.limits {
            let (sampled, places) = known.as_mut()?;
            let value = sampled.value(*places.get(name.as_str())?, turns)?;
            all &= if limit.at_most { value <= limit.value } else { value >= limit.value };
        }
        Some(all)
    }

    /// Why a candidate cannot be judged; `None` where it can.
    pub(super) fn unjudged(&self, who: usize) -> Option<String> {
        let unknown = self.limits.iter().find(|watched| !watched.has(&self.names[who]));
        let metric = unknown.map(|watched| &watched.limit.metric);
        let why = metric.map(|metric| match metric.statistic.needed() {
            0 | 1 => format!("no {}", metric.name),
            needed => format!("no {}: it takes {needed} observations", metric.name),
        });
        self.foreign.clone().or(why)
    }
}

/// The answer for one workload on one machine, any load.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Workload, with target, machine and shape where these tell it apart.
    pub work: String,
    /// Who: method and load; `None` where nobody meets the objective.
    pub who: Option<(String, String)>,
    /// Tokens a second of it.
    pub throughput: Option<f64>,
    /// Share of the draws in which it meets every limit on speed and loses no more than allowed; `None` where repeats or scores do not tell.
    pub meets: Option<f64>,
    /// Share of the draws in which it is the best of those that do; `None` as well where somebody could not be judged, who might be better.
    pub certainty: Option<f64>,
    /// The sentence.
    pub said: String,
}

/// One candidate at one load.
type Entry<'a> = (&'a Front, &'a Candidate);

/// Who has the highest throughput among those that meet the limits that `fronts` were made with and lose at most `loss_pct` per cent of the
/// baseline's quality, of every workload; loads compete with each other.
pub fn best(fronts: &[Front], limits: &[Limit], loss_pct: Option<f64>) -> Vec<Best> {
    let works = by_work(fronts);
    let one = |((machine, target, workload, shape), fronts): (
        &(String, String, String, String),
        &Vec<&Front>,
    )| {
        let several = works.keys().filter(|other| other.2 == *workload).count() > 1;
        let parts = [workload, target, shape, machine];
        let parts = parts.iter().take(if several { 4 } else { 1 }).filter(|part| !part.is_empty());
        let work = parts.map(|part| part.as_str()).collect::<Vec<_>>().join(", ");
        of_work(work, fronts, &objective(limits, loss_pct), loss_pct)
    };
    works.iter().map(one).collect()
}

/// `ttft_due_ms_p99 <= 500 and at most 2 % quality loss`.
fn objective(limits: &[Limit], loss_pct: Option<f64>) -> String {
    let mut parts: Vec<String> = limits.iter().map(ToString::to_string).collect();
    parts.extend(loss_pct.map(|loss| format!("at most {loss} % quality loss")));
    if parts.is_empty() { "no limit".to_owned() } else { parts.join(" and ") }
}

fn of_work(work: String, fronts: &[&Front], objective: &str, loss_pct: Option<f64>) -> Best {
    let entries: Vec<Entry<'_>> =
        fronts.iter().flat_map(|front| front.candidates.iter().map(move |c| (*front, c))).collect();
    let winner = winner(&entries, 0, loss_pct);
    let unjudged = unjudged(&entries, loss_pct);
    let Some(at) = winner else {
        let said = format!("{work}: no method is known to meet {objective}.{unjudged}");
        return Best { work, who: None, throughput: None, meets: None, certainty: None, said };
    };
    let (front, candidate) = entries[at];
    let draws = candidate.drawn.throughput.len();
    let known = fronts.iter().all(|front| front.n_repeats > 1) && draws > 1;
    let share = |of: &dyn Fn(usize) -> bool| {
        let n = (1..draws).filter(|draw| of(*draw)).count();
        known.then(|| n as f64 / (draws - 1) as f64)
    };
    let meets = share(&|draw| meets(candidate, draw, loss_pct) == Some(true));
    // Who could not be judged might be better, so nobody is surely the best.
    let certainty = share(&|draw| self::winner(&entries, draw, loss_pct) == Some(at));
    let certainty = certainty.filter(|_| unjudged.is_empty());
    let throughput = candidate.drawn.throughput[0];
    let (name, load) = (candidate.name.clone(), front.spot.load.clone());
    let said = format!(
        "{work}: the best method{} at {objective} is {name} at {load}, with {} {}; {}.{unjudged}",
        if unjudged.is_empty() { "" } else { " of those that can be judged" },
        significant(throughput.unwrap_or(f64::NAN), 3),
        front.throughput.unit,
        how_surely(meets, certainty)
    );
    Best { work, who: Some((name, load)), throughput, meets, certainty, said }
}

fn how_surely(meets: Option<f64>, certainty: Option<f64>) -> String {
    let Some(meets) = meets.map(|share| 100.0 * share) else {
        return "how certain that is nobody can say: something was measured once, and the spread between runs is unknown".to_owned();
    };
    let Some(certainty) = certainty.map(|share| 100.0 * share) else {
        return format!(
            "it meets the objective in {meets:.0} % of the draws, but whether it is the best of all is not known"
        );
    };
    format!(
        "certainty {certainty:.0} %: it meets the objective in {meets:.0} % of the draws, and is the best that does in {certainty:.0} %"
    )
}

/// Whether a candidate meets the objective in a draw; `None` where that is unknown.
fn meets(candidate: &Candidate, draw: usize, loss_pct: Option<f64>) -> Option<bool> {
    let within = candidate.drawn.within[draw]?;
    let kept = match loss_pct {
        None => true,
        Some(_) if candidate.is_baseline => true,
        Some(most) => candidate.drawn.loss_pct[draw]? <= most,
    };
    Some(within && kept)
}

/// The fastest that meets the objective in a draw.
fn winner(entries: &[Entry<'_>], draw: usize, loss_pct: Option<f64>) -> Option<usize> {
    let good =
        entries.iter().enumerate().filter(|(_, (_, c))| meets(c, draw, loss_pct) == Some(true));
    let rated = good.filter_map(|(at, (_, c))| Some((at, c.drawn.throughput[draw]?)));
    rated.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

/// Who could not be judged, and why: he might be better.
fn unjudged(entries: &[Entry<'_>], loss_pct: Option<f64>) -> String {
    let mut whys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (front, candidate) in entries.iter().filter(|(_, c)| meets(c, 0, loss_pct).is_none()) {
        let why = candidate.drawn.unjudged.clone();
        let why = why.unwrap_or_else(|| format!("quality {}", front.quality_from));
        whys.entry(why).or_default().push(format!("{} at {}", candidate.name, front.spot.load));
    }
    let one =
        |(why, who): (String, Vec<String>)| format!(" Not judged: {} ({why}).", who.join(", "));
    whys.into_iter().map(one).collect()
}
