//! Negative samples: prompts whose answer a method breaks while the average looks fine (arXiv 2503.24000, section 5.3,
//! Algorithm 1), beside the null that the paper did not run.
//!
//! - A sample is *benign* if the baseline scores at least its data set's mean there. Others are left out: what the baseline
//!   cannot do either is not broken by a method.
//! - It is *negative* for a set of methods if every one of them scores less than (1 - theta) of the baseline.
//! - Its *mirror* swaps the roles: samples benign under the method where the baseline loses as much. A method that only
//!   jitters has as many mirrors as negatives; a sign test says whether there are more.
//! - The interval is a percentile bootstrap of samples within data sets, with the benign samples held fixed; counting draws
//!   with replacement is drawing binomials, which is how it is computed.
//!
//! [`Mode::AsShipped`] counts as the paper's published script did: the median in place of the mean, `<=` in place of `<` (so
//! that a baseline of 0 counts as lost), and `passage_count` twice.

use std::collections::{BTreeMap, HashMap};

use anyhow::ensure;
use rand_distr::{Binomial, Distribution as _};

use crate::stats::{self, sign_test_two_sided};

mod delta;
pub mod export;
mod fair;
mod found;
mod scores;
mod tasks;

pub use delta::Delta;
pub(super) use delta::interval;
pub use fair::Fair;
pub use found::{Confirmed, Found, Means, found};
pub use scores::{Score, Scores, read};
pub use tasks::TaskGroup;

/// Resamples of an interval.
const RESAMPLES: usize = 2000;

/// Which samples count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// As the paper's Algorithm 1 says.
    Algorithm1,
    /// As its published script counts.
    AsShipped,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Which samples count.
    pub mode: Mode,
    /// Losses, as parts of the baseline's score.
    pub thetas: &'a [f64],
    /// Of the intervals.
    pub seed: u64,
}

/// Counts of one method or ensemble, one entry a theta.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// The method, or the ensemble's name.
    pub name: String,
    /// Samples that the baseline and every member have.
    pub n_paired: usize,
    /// Of them: benign.
    pub n_benign: usize,
    /// The same by task group.
    pub n_benign_by_task: BTreeMap<TaskGroup, usize>,
    /// Negative samples.
    pub negatives: Vec<usize>,
    /// Their 95 % bootstrap intervals.
    pub intervals: Vec<(f64, f64)>,
    /// Negative samples by task group.
    pub by_task: BTreeMap<TaskGroup, Vec<usize>>,
    /// Negative samples by data set.
    pub by_dataset: BTreeMap<String, Vec<usize>>,
    /// Samples on which the baseline loses as much; `None` for ensembles.
    pub mirror: Option<Vec<usize>>,
    /// The same by task group.
    pub mirror_by_task: Option<BTreeMap<TaskGroup, Vec<usize>>>,
    /// Two-sided exact sign test of negatives against mirrors.
    pub p_sign: Option<Vec<f64>>,
    /// The same with the false discovery rate held over all methods and thetas of a call ([`stats::benjamini_hochberg`]).
    pub q_sign: Option<Vec<f64>>,
    /// Losses and gains by one bar; `None` for ensembles.
    pub fair: Option<Fair>,
    /// Score differences to the baseline over all pairs, benign or not; `None` for ensembles.
    pub delta: Option<Delta>,
}

/// Samples that the baseline does well.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Benign {
    /// All.
    pub total: usize,
    /// By task group.
    pub by_task: BTreeMap<TaskGroup, usize>,
    /// By data set.
    pub by_dataset: BTreeMap<String, usize>,
}

/// Rows that could not be compared; never left out silently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    /// The method whose rows they are, or that lacks them.
    pub method: String,
    /// Why.
    pub why: &'static str,
    /// How many.
    pub n: usize,
    /// One of them, as `dataset/id`.
    pub example: String,
}

/// A baseline and methods, sample by sample.
#[derive(Debug)]
pub struct Paired<'a> {
    baseline: &'a Scores,
    /// Each method's score at each of the baseline's rows.
    methods: Vec<(&'a str, Vec<Option<f64>>)>,
    /// What could not be compared.
    pub excluded: Vec<Excluded>,
}

impl<'a> Paired<'a> {
    /// Pairs rows by data set and id.
    ///
    /// # Errors
    /// Two methods have one name, or a method shares no row with the baseline.
    pub fn new(baseline: &'a Scores, methods: &'a [Scores]) -> anyhow::Result<Self> {
        let index: HashMap<(&str, &str), usize> = baseline
            .rows
            .iter()
            .enumerate()
            .map(|(i, row)| ((&*row.dataset, &*row.id), i))
            .collect();
        let mut paired = Self { baseline, methods: Vec::new(), excluded: Vec::new() };
        for method in methods {
            let name = method.name.as_str();
            ensure!(
                paired.methods.iter().all(|(known, _)| *known != name),
                "expected each method once, got `{name}` twice\n  hint: give it another NAME="
            );
            paired.add(method, &index);
            let shared =
                paired.methods.last().is_some_and(|(_, row)| row.iter().any(Option::is_some));
            ensure!(
                shared,
                "{name}: expected rows of the baseline's data sets and ids, got none\n  hint: score both on the same data"
            );
        }
        Ok(paired)
    }

    fn add(&mut self, method: &'a Scores, index: &HashMap<(&str, &str), usize>) {
        let rows = &self.baseline.rows;
        let mut scores = vec![None; rows.len()];
        let mut seen = vec![false; rows.len()];
        let (mut unknown, mut other) = (Tellable::default(), Tellable::default());
        for row in &method.rows {
            let Some(&at) = index.get(&(&*row.dataset, &*row.id)) else {
                unknown.tell(row);
                continue;
            };
            seen[at] = true;
            match (&row.prompt_sha256, &rows[at].prompt_sha256) {
                (Some(own), Some(theirs)) if own != theirs => other.tell(row),
                _ => scores[at] = Some(row.score),
            }
        }
        let mut missing = Tellable::default();
        rows.iter().zip(&seen).filter(|(_, seen)| !**seen).for_each(|(row, _)| missing.tell(row));
        let told = [
            (unknown, "not in the baseline"),
            (missing, "in the baseline only"),
            (other, "another prompt than the baseline's"),
        ];
        let named = |(tellable, why): (Tellable, &'static str)| {
            let example = tellable.example?;
            Some(Excluded { method: method.name.clone(), why, n: tellable.n, example })
        };
        self.excluded.extend(told.into_iter().filter_map(named));
        self.methods.push((&method.name, scores));
    }

    /// Counts and differences of each method, in order.
    pub fn methods(&self, rule: &Rule<'_>) -> Vec<Counts> {
        let mut counts = self.counted(rule);
        for (counts, (_, scores)) in counts.iter_mut().zip(&self.methods) {
            counts.delta = Delta::of(&self.differences(scores), rule.seed);
        }
        counts
    }

    /// Counts of each method with their sign tests.
    fn counted(&self, rule: &Rule<'_>) -> Vec<Counts> {
        let count = |(name, scores): &(&str, Vec<Option<f64>>)| {
            let mut counts = self.count(name, &[scores.as_slice()], rule);
            let by_task = self.mirror(scores, rule);
            let all = |t: usize| by_task.values().map(|mirror| mirror[t]).sum();
            let mirror: Vec<usize> = (0..rule.thetas.len()).map(all).collect();
            let p = |(n, m): (&usize, &usize)| sign_test_two_sided(*n, *m);
            counts.mirror_by_task = Some(by_task);
            counts.fair = Some(Fair::of(self, scores, rule));
            counts.p_sign = Some(counts.negatives.iter().zip(&mirror).map(p).collect());
            counts.mirror = Some(mirror);
            counts
        };
        let mut counts: Vec<Counts> = self.methods.iter().map(count).collect();
        delta::correct(&mut counts);
        counts
    }

    /// Pairs (method, baseline) of each data set.
    fn differences(&self, scores: &[Option<f64>]) -> Vec<Vec<(f64, f64)>> {
        let mut datasets: HashMap<&str, usize> = HashMap::new();
        let mut groups: Vec<Vec<(f64, f64)>> = Vec::new();
        for (row, score) in self.baseline.rows.iter().zip(scores) {
            let at = *datasets.entry(&row.dataset).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[at].extend(score.map(|score| (score, row.score)));
        }
        groups
    }

    /// The samples that every one of `members` breaks, once each, in the baseline's order: what [`Counts::negatives`] counts.
    ///
    /// # Errors
    /// A member is no method.
    pub fn broken(
        &self,
        name: &str,
        members: &[String],
        theta: f64,
        mode: Mode,
    ) -> anyhow::Result<Vec<&'a Score>> {
        let members = self.members(name, members)?;
        let benign = benign(&self.datasets(), &self.own(), mode);
        let rows = self.baseline.rows.iter().enumerate().filter(|(i, _)| benign[*i]);
        let is_broken = |(i, row): &(usize, &Score)| {
            members
                .iter()
                .all(|scores| scores[*i].is_some_and(|score| lost(row.score, score, theta, mode)))
        };
        Ok(rows.filter(is_broken).map(|(_, row)| row).collect())
    }

    /// Samples that the baseline does well and the method has, in the baseline's order, with whether the method breaks them.
    ///
    /// # Errors
    /// No such method.
    pub fn judged(
        &self,
        method: &str,
        theta: f64,
        mode: Mode,
    ) -> anyhow::Result<Vec<(&'a Score, bool)>> {
        let members = self.members(method, &[method.to_owned()])?;
        let benign = benign(&self.datasets(), &self.own(), mode);
        let rows = self.baseline.rows.iter().enumerate().filter(|(i, _)| benign[*i]);
        let judge = |(i, row): (usize, &'a Score)| {
            let score = members.first().and_then(|scores| scores[i])?;
            Some((row, lost(row.score, score, theta, mode)))
        };
        Ok(rows.filter_map(judge).collect())
    }

    /// Counts of samples that every one of `members` breaks.
    ///
    /// # Errors
    /// A member is no method.
    pub fn ensemble(
        &self,
        name: &str,
        members: &[String],
        rule: &Rule<'_>,
    ) -> anyhow::Result<Counts> {
        Ok(self.count(name, &self.members(name, members)?, rule))
    }

    fn members(&self, name: &str, members: &[String]) -> anyhow::Result<Vec<&[Option<f64>]>> {
        let scores = |member: &String| {
            let known = self.methods.iter().find(|(name, _)| name == member);
            known.map(|(_, scores)| scores.as_slice()).ok_or_else(|| {
                let names: Vec<&str> = self.methods.iter().map(|(name, _)| *name).collect();
                anyhow::anyhow!(
                    "group {name}: expected one of {}, got `{member}`",
                    names.join(", ")
                )
            })
        };
        members.iter().map(scores).collect()
    }

    /// Names of the methods.
    pub fn names(&self) -> Vec<String> {
        self.methods.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    /// The baseline's benign samples, paired or not.
    pub fn benign(&self, mode: Mode) -> Benign {
        let own = self.own();
        let benign = benign(&self.datasets(), &own, mode);
        let mut out = Benign::default();
        for (row, _) in self.baseline.rows.iter().zip(&benign).filter(|(_, benign)| **benign) {
            let n = weight(&row.dataset, mode);
            out.total += n;
            *out.by_task.entry(TaskGroup::of(&row.dataset)).or_default() += n;
            *out.by_dataset.entry(row.dataset.to_string()).or_default() += n;
        }
        out
    }

    fn own(&self) -> Vec<Option<f64>> {
        self.baseline.rows.iter().map(|row| Some(row.score)).collect()
    }

    fn datasets(&self) -> Vec<&str> {
        self.baseline.rows.iter().map(|row| &*row.dataset).collect()
    }

    fn count(&self, name: &str, members: &[&[Option<f64>]], rule: &Rule<'_>) -> Counts {
        let n_thetas = rule.thetas.len();
        let benign = benign(&self.datasets(), &self.own(), rule.mode);
        let mut counts = Counts {
            name: name.to_owned(),
            n_paired: 0,
            n_benign: 0,
            n_benign_by_task: BTreeMap::new(),
            negatives: vec![0; n_thetas],
            intervals: Vec::new(),
            by_task: BTreeMap::new(),
            by_dataset: BTreeMap::new(),
            mirror: None,
            mirror_by_task: None,
            p_sign: None,
            q_sign: None,
            fair: None,
            delta: None,
        };
        let mut n_paired: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, row) in self.baseline.rows.iter().enumerate() {
            let scores: Option<Vec<f64>> = members.iter().map(|member| member[i]).collect();
            let Some(scores) = scores else { continue };
            let n = weight(&row.dataset, rule.mode);
            counts.n_paired += n;
            *n_paired.entry(&row.dataset).or_default() += 1;
            if !benign[i] {
                continue;
            }
            counts.n_benign += n;
            *counts.n_benign_by_task.entry(TaskGroup::of(&row.dataset)).or_default() += n;
            let by_task = counts.by_task.entry(TaskGroup::of(&row.dataset));
            let by_task = by_task.or_insert_with(|| vec![0; n_thetas]);
            let by_dataset = counts.by_dataset.entry(row.dataset.to_string());
            let by_dataset = by_dataset.or_insert_with(|| vec![0; n_thetas]);
            for (t, theta) in rule.thetas.iter().enumerate() {
                if scores.iter().all(|score| lost(row.score, *score, *theta, rule.mode)) {
                    counts.negatives[t] += n;
                    by_task[t] += n;
                    by_dataset[t] += n;
                }
            }
        }
        counts.intervals = intervals(&counts.by_dataset, &n_paired, rule);
        counts
    }

    fn mirror(&self, scores: &[Option<f64>], rule: &Rule<'_>) -> BTreeMap<TaskGroup, Vec<usize>> {
        let benign = benign(&self.datasets(), scores, rule.mode);
        let mut by_task: BTreeMap<TaskGroup, Vec<usize>> = BTreeMap::new();
        for (i, row) in self.baseline.rows.iter().enumerate().filter(|(i, _)| benign[*i]) {
            let Some(score) = scores[i] else { continue };
            let mirror = by_task.entry(TaskGroup::of(&row.dataset));
            let mirror = mirror.or_insert_with(|| vec![0; rule.thetas.len()]);
            for (n, theta) in mirror.iter_mut().zip(rule.thetas) {
                let is_lost = lost(score, row.score, *theta, rule.mode);
                *n += if is_lost { weight(&row.dataset, rule.mode) } else { 0 };
            }
        }
        by_task
    }
}

/// Rows of which one is shown.
#[derive(Default)]
struct Tellable {
    n: usize,
    example: Option<String>,
}

impl Tellable {
    fn tell(&mut self, row: &Score) {
        self.n += 1;
        self.example.get_or_insert_with(|| format!("{}/{}", row.dataset, row.id));
    }
}

/// How often a sample counts.
fn weight(dataset: &str, mode: Mode) -> usize {
    if mode == Mode::AsShipped && dataset == "passage_count" { 2 } else { 1 }
}

fn lost(good: f64, other: f64, theta: f64, mode: Mode) -> bool {
    let bar = (1.0 - theta) * good;
    match mode {
        Mode::Algorithm1 => other < bar,
        Mode::AsShipped => other <= bar,
    }
}

/// Whether each score is at least its data set's mean (or median).
fn benign(datasets: &[&str], scores: &[Option<f64>], mode: Mode) -> Vec<bool> {
    let mut values: HashMap<&str, Vec<f64>> = HashMap::new();
    for (dataset, score) in datasets.iter().zip(scores) {
        values.entry(dataset).or_default().extend(*score);
    }
    let middle = |mut values: Vec<f64>| match mode {
        Mode::Algorithm1 => stats::mean(&values),
        Mode::AsShipped => stats::median(&mut values),
    };
    let bars: HashMap<&str, Option<f64>> =
        values.into_iter().map(|(dataset, values)| (dataset, middle(values))).collect();
    let at_least = |(dataset, score): (&&str, &Option<f64>)| match (score, bars.get(*dataset)) {
        (Some(score), Some(Some(bar))) => score >= bar,
        _ => false,
    };
    datasets.iter().zip(scores).map(at_least).collect()
}

/// Bootstrap of each count: in each data set the negatives among as many draws as it has samples.
fn intervals(
    by_dataset: &BTreeMap<String, Vec<usize>>,
    n_paired: &BTreeMap<&str, usize>,
    rule: &Rule<'_>,
) -> Vec<(f64, f64)> {
    let mut rng = stats::seeded(rule.seed);
    let mut interval = |t: usize| {
        let draws: Vec<(Binomial, f64)> = by_dataset
            .iter()
            .filter_map(|(dataset, counts)| {
                let (n, each) = (*n_paired.get(dataset.as_str())?, weight(dataset, rule.mode));
                let share = counts[t] as f64 / each as f64 / n as f64;
                Some((Binomial::new(n as u64, share).ok()?, each as f64))
            })
            .collect();
        let mut totals: Vec<f64> = (0..RESAMPLES)
            .map(|_| draws.iter().map(|(draw, each)| draw.sample(&mut rng) as f64 * each).sum())
            .collect();
        totals.sort_by(f64::total_cmp);
        let at = |q| stats::quantile_sorted(&totals, q).unwrap_or(0.0);
        (at(0.025), at(0.975))
    };
    (0..rule.thetas.len()).map(&mut interval).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
