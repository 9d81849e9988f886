//! All counts of one comparison: methods, ensembles, the noise floor, and what comes back in every repeat.

use std::collections::BTreeMap;

use anyhow::ensure;

use super::{Benign, Counts, Excluded, Mode, Paired, Rule, Scores};
use crate::{analyse::score_run::Subjects, stats};

/// What was counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Losses that count, percent.
    pub theta: Vec<f64>,
    /// Which samples count.
    pub mode: Mode,
    /// Mean scores of the baseline, first, and of each method.
    pub means: Vec<Means>,
    /// One entry a method.
    pub methods: Vec<Counts>,
    /// `all` first, then the groups asked for.
    pub ensembles: Vec<Counts>,
    /// The baseline measured again, in the place of a method.
    pub noise: Vec<Counts>,
    /// Samples that the baseline does well.
    pub benign: Benign,
    /// Of methods that were measured several times: what every repeat breaks.
    pub confirmed: BTreeMap<String, Confirmed>,
}

/// Mean scores of one set of answers, in points (100 times the score).
#[derive(Debug, Clone, PartialEq)]
pub struct Means {
    /// Whose.
    pub name: String,
    /// Mean over data sets of their means, as LongBench averages; `None` without a row.
    pub mean: Option<f64>,
    /// By data set.
    pub by_dataset: BTreeMap<String, f64>,
}

impl Means {
    /// Of all rows, paired or not.
    pub fn of(scores: &Scores) -> Self {
        let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for row in &scores.rows {
            let sum = sums.entry(&row.dataset).or_default();
            *sum = (sum.0 + row.score, sum.1 + 1.0);
        }
        let by_dataset: BTreeMap<String, f64> = sums
            .into_iter()
            .map(|(dataset, (sum, n))| (dataset.to_owned(), 100.0 * sum / n))
            .collect();
        let all: Vec<f64> = by_dataset.values().copied().collect();
        Self { name: scores.name.clone(), mean: stats::mean(&all), by_dataset }
    }
}

/// Negative samples that come back.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirmed {
    /// Repeats of the method.
    pub n_repeats: usize,
    /// What all of them break.
    pub counts: Counts,
}

/// Counts the samples that methods break, and groups of methods, by losses in percent; with what could not be compared.
///
/// # Errors
/// A name that occurs twice, or a member of a group that is no method.
pub fn found(
    subjects: &Subjects,
    groups: &[(String, Vec<String>)],
    percent: &[f64],
    mode: Mode,
    seed: u64,
) -> anyhow::Result<(Found, Vec<Excluded>)> {
    let thetas: Vec<f64> = percent.iter().map(|percent| percent / 100.0).collect();
    let rule = Rule { mode, thetas: &thetas, seed };
    let paired = Paired::new(&subjects.baseline, &subjects.methods)?;
    let again = Paired::new(&subjects.baseline, &subjects.again)?;
    let mut ensembles = vec![paired.ensemble("all", &paired.names(), &rule)?];
    for (name, members) in groups {
        ensure!(
            ensembles.iter().all(|known| known.name != *name),
            "--group {name}: expected each name once"
        );
        ensembles.push(paired.ensemble(name, members, &rule)?);
    }
    let found = Found {
        theta: percent.to_vec(),
        mode,
        means: std::iter::once(&subjects.baseline)
            .chain(&subjects.methods)
            .map(Means::of)
            .collect(),
        methods: paired.methods(&rule),
        ensembles,
        noise: again.methods(&rule),
        benign: paired.benign(mode),
        confirmed: confirmed(subjects, &rule)?,
    };
    Ok((found, [paired.excluded, again.excluded].concat()))
}

/// What every repeat of a method breaks, of the samples that all of them hold.
fn confirmed(subjects: &Subjects, rule: &Rule<'_>) -> anyhow::Result<BTreeMap<String, Confirmed>> {
    let one = |(name, repeats): (&String, &Vec<Scores>)| {
        let paired = Paired::new(&subjects.baseline, repeats)?;
        let counts = paired.ensemble(name, &paired.names(), rule)?;
        Ok((name.clone(), Confirmed { n_repeats: repeats.len(), counts }))
    };
    subjects.repeats.iter().map(one).collect()
}
