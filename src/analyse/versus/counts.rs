//! Quality of scored runs: mean scores, prompt by prompt, and prompts that a method breaks.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    line::{Line, Rules},
    metric::{Metric, SCORE},
    side::{Measured, Repeat, Side, id},
};
use crate::{
    analyse::{
        Better, Point,
        negatives::{Mode, Paired, Rule},
        score_run::{self, ScoreRow},
    },
    scenario::gates::Reference,
    stats::{self, Difference},
};

/// Prompts that a method breaks at one loss, in both runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// Cell without its repeat.
    pub cell: String,
    /// The same in parts.
    pub point: Point,
    /// Such as `negatives_10pct`.
    pub metric: String,
    /// Prompts that the method breaks now, and prompts where the baseline loses as much against it.
    pub null: (usize, usize),
    /// Prompts broken now and not before, and the other way round; `None` where the base was not scored there.
    pub base: Option<(usize, usize)>,
}

impl Counts {
    /// Prompts that went the wrong way, the right way, and both in words.
    pub(super) fn against(&self, reference: Reference) -> Option<(usize, usize, String)> {
        Some(match reference {
            Reference::Null => {
                let (broken, mirror) = self.null;
                (broken, mirror, format!("{broken} broken, {mirror} by chance"))
            }
            Reference::Base => {
                let (lost, mended) = self.base?;
                (lost, mended, format!("{lost} newly broken, {mended} broken no more"))
            }
        })
    }
}

/// Where a run's method stands among its scores.
type Broken = BTreeMap<Point, (BTreeSet<(String, String)>, usize)>;

/// Counts at every loss that gates ask for.
///
/// # Errors
/// Scores of a run that cannot be paired with its baseline's.
pub(super) fn counts(base: &Side, new: &Side, percents: &[f64]) -> anyhow::Result<Vec<Counts>> {
    let mut found = Vec::new();
    for percent in percents {
        let (before, now) = (broken(base, *percent)?, broken(new, *percent)?);
        for (point, (set, mirror)) in now {
            let base = before
                .get(&point)
                .map(|(old, _)| (set.difference(old).count(), old.difference(&set).count()));
            found.push(Counts {
                cell: id(&new.manifest.scenario.name, &point),
                metric: format!("negatives_{percent}pct"),
                null: (set.len(), mirror),
                base,
                point,
            });
        }
    }
    Ok(found)
}

/// Prompts that each method of a run breaks, and how many the baseline would by the same rule.
fn broken(side: &Side, percent: f64) -> anyhow::Result<Broken> {
    let (theta, mut found) = (percent / 100.0, Broken::new());
    for place in score_run::places(&side.manifest, &side.scores) {
        let mut subjects = score_run::subjects(&side.manifest, &side.scores, &place)?;
        subjects.drop_strangers();
        for method in subjects.methods.iter().chain(&subjects.again) {
            let Ok(paired) = Paired::new(&subjects.baseline, std::slice::from_ref(method)) else {
                continue;
            };
            let rule = Rule {
                mode: Mode::Algorithm1,
                thetas: &[theta],
                seed: side.manifest.scenario.seed,
            };
            let counted = paired.methods(&rule);
            let mirror =
                counted.first().and_then(|counts| counts.mirror.as_ref()?.first().copied());
            let names = std::slice::from_ref(&method.name);
            let set = paired.broken("", names, theta, Mode::Algorithm1)?;
            let set: BTreeSet<(String, String)> =
                set.iter().map(|row| (row.dataset.to_string(), row.id.to_string())).collect();
            for point in points(side, &method.name, &place) {
                found.insert(point, (set.clone(), mirror.unwrap_or(0)));
            }
        }
    }
    Ok(found)
}

/// The points of a method at a place.
fn points(side: &Side, method: &str, place: &score_run::Place) -> BTreeSet<Point> {
    let here = |row: &&ScoreRow| {
        // A method that several targets ran is named with its target.
        let is_it = row.method == method || format!("{}/{}", row.target, row.method) == method;
        is_it && row.workload == place.workload && row.load == place.load
    };
    side.scores.iter().filter(here).map(ScoreRow::point).collect()
}

/// Mean scores of each cell in both runs, paired by prompt: what makes a prompt hard cancels.
pub(super) fn score_lines(base: &Side, new: &Side, rules: Rules) -> Vec<Line> {
    let (before, now) = (by_prompt(base), by_prompt(new));
    let line = |(point, scores): (&Point, &BTreeMap<Prompt<'_>, f64>)| {
        let pairs: Vec<(f64, f64)> = scores
            .iter()
            .filter_map(|(prompt, score)| Some((*score, *before.get(point)?.get(prompt)?)))
            .collect();
        paired(point, &new.manifest.scenario.name, &pairs, rules)
    };
    now.iter().filter_map(line).collect()
}

/// Data set and id.
type Prompt<'s> = (&'s str, &'s str);

/// Mean score over repeats of every prompt.
fn by_prompt(side: &Side) -> BTreeMap<Point, BTreeMap<Prompt<'_>, f64>> {
    let mut sums: BTreeMap<Point, BTreeMap<Prompt<'_>, (f64, f64)>> = BTreeMap::new();
    for row in &side.scores {
        let prompt = (row.dataset.as_str(), row.sample_id.as_str());
        let sum = sums.entry(row.point()).or_default().entry(prompt).or_default();
        *sum = (sum.0 + row.score, sum.1 + 1.0);
    }
    sums.into_iter().map(|(point, prompts)| (point, means(prompts))).collect()
}

fn means<'s>(prompts: BTreeMap<Prompt<'s>, (f64, f64)>) -> BTreeMap<Prompt<'s>, f64> {
    prompts.into_iter().map(|(prompt, (sum, n))| (prompt, sum / n)).collect()
}

/// The logarithm of the ratio of two means over the same prompts, its error by the delta method.
fn paired(point: &Point, scenario: &str, pairs: &[(f64, f64)], rules: Rules) -> Option<Line> {
    let (new, base): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (mean_new, mean_base) = (stats::mean(&new)?, stats::mean(&base)?);
    let metric = Metric::new(SCORE, "1", Better::Higher, SCORE);
    let whole = |value: f64| Measured {
        metric: metric.clone(),
        repeats: vec![Repeat { repeat: 0, value, n: pairs.len(), within: None }],
    };
    if mean_new <= 0.0 || mean_base <= 0.0 {
        return None;
    }
    let parts: Vec<f64> =
        pairs.iter().map(|(new, base)| new / mean_new - base / mean_base).collect();
    let cell = id(scenario, point);
    let mut line = Line::new((&cell, point), &whole(mean_base), &whole(mean_new), 0.0, rules);
    line.paired = true;
    let n = pairs.len() as f64;
    line.log_ratio = stats::variance(&parts).map(|variance| Difference {
        value: (mean_new / mean_base).ln(),
        se: (variance / n).sqrt(),
        free: n - 1.0,
    });
    Some(line)
}
