//! The upper bound of adaptive compression: what a server could win that knows which method to use for which prompt.
//!
//! A policy gives each sample to a method or to the baseline. [`Policy::PerSample`] is an oracle that looks at the scores themselves:
//! nobody can do better, and much of what it wins is luck, since the best of several noisy scores is higher than any of them.
//! [`Policy::Null`] is the same oracle with nothing but the baseline's own repeats to choose from: what it wins is luck alone.
//! [`Policy::PerDataset`] chooses once a data set and so can be followed in practice; chosen and judged on the same samples it
//! flatters itself a little, so [`Policy::CrossValidated`] chooses on one half of each data set and is judged on the other, both
//! ways.
//!
//! Each policy ranks what it can give away by what that gains: samples, or whole data sets. Everything in front of some place in
//! the ranking is compressed. The best quality is where gains end; a permitted loss allows to go on. Where speeds are known, a
//! third goal spends the permitted loss on time: then slower methods with better answers make room for faster ones.

use std::collections::BTreeMap;

use rand::seq::SliceRandom as _;

use super::{
    RunData,
    negatives::Scores,
    request_facts,
    score_run::{Place, Subjects},
};
use crate::stats;

mod grid;
mod menu;

use grid::{Grid, Groups};

/// Who decides which samples are compressed, and by which method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// The method with the best mean, for everything.
    OneMethod,
    /// One method or none for each data set, judged on the samples it was chosen on.
    PerDataset,
    /// The same, chosen on one half of the samples and judged on the other.
    CrossValidated,
    /// The best method for each sample: an oracle.
    PerSample,
    /// The oracle over repeats of the baseline: what noise alone gives it.
    Null,
}

impl Policy {
    /// In the order of tables.
    pub const ALL: [Policy; 5] = [
        Policy::OneMethod,
        Policy::PerDataset,
        Policy::CrossValidated,
        Policy::PerSample,
        Policy::Null,
    ];

    /// Key in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Policy::OneMethod => "one method",
            Policy::PerDataset => "per data set",
            Policy::CrossValidated => "per data set, cross-validated",
            Policy::PerSample => "per sample (oracle)",
            Policy::Null => "null: oracle over baseline repeats",
        }
    }
}

/// What a policy goes for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// The best mean score.
    Quality,
    /// As many samples compressed as a loss of the mean score permits; in points.
    Share(f64),
    /// The shortest time that a loss of the mean score permits; in points. Only where the speed of every method is known.
    Speed(f64),
}

impl Goal {
    /// Key in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Goal::Quality => "quality",
            Goal::Share(_) => "share",
            Goal::Speed(_) => "speed",
        }
    }

    /// The permitted loss, in points.
    pub fn allowed_loss(self) -> Option<f64> {
        match self {
            Goal::Quality => None,
            Goal::Share(loss) | Goal::Speed(loss) => Some(loss),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Permitted losses of the mean score, in points.
    pub losses: &'a [f64],
    /// Throughput of a method over the baseline's; empty where nobody knows.
    pub speeds: &'a BTreeMap<String, f64>,
    /// Of halves and intervals.
    pub seed: u64,
}

/// A mean in points with its 95 % bootstrap interval, samples drawn within data sets and choices held fixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Points {
    /// The mean.
    pub mean: f64,
    /// Its interval; `None` below two samples.
    pub interval: Option<(f64, f64)>,
}

/// One choice of one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whose.
    pub policy: Policy,
    /// Methods (or repeats) that it chose among.
    pub n_candidates: usize,
    /// What it went for.
    pub goal: Goal,
    /// Samples.
    pub n: usize,
    /// Of them: compressed.
    pub n_compressed: usize,
    /// Its mean score less the baseline's.
    pub delta: Points,
    /// Its mean score less that of the best single method; `None` of the null and along curves.
    pub over_best: Option<Points>,
    /// Speed-up over the baseline when requests follow one another: the samples over the sum of `1 / speed` of each. `None`
    /// where the speed of a chosen method is unknown.
    pub speedup: Option<f64>,
}

/// What adaptive compression could win.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// Samples that the baseline and every method have.
    pub n: usize,
    /// Samples of the baseline that some method lacks: in nothing here.
    pub n_left_out: usize,
    /// The baseline's mean score in points.
    pub baseline: f64,
    /// Each method's mean score less the baseline's, and its share of the work: all.
    pub methods: Vec<(String, Points)>,
    /// Name of the method with the best mean.
    pub best: String,
    /// Best quality and permitted losses of every policy.
    pub outcomes: Vec<Outcome>,
    /// Quality over the share that is compressed, of each policy.
    pub curves: Vec<(Policy, Vec<Outcome>)>,
}

/// Steps of a curve.
const STEPS: usize = 10;

/// Computes every policy.
///
/// # Errors
/// No sample that the baseline and every method have.
pub fn bound(subjects: &Subjects, question: &Question<'_>) -> anyhow::Result<Bound> {
    let methods: Vec<&Scores> = subjects.methods.iter().collect();
    let grid = Grid::new(&subjects.baseline, &methods)?;
    let best = grid.best();
    let mut found = Bound {
        n: grid.len(),
        n_left_out: subjects.baseline.rows.len() - grid.len(),
        baseline: 100.0 * stats::mean(&grid.baseline).unwrap_or(f64::NAN),
        methods: Vec::new(),
        best: grid.names[best].clone(),
        outcomes: Vec::new(),
        curves: Vec::new(),
    };
    for (method, name) in grid.names.iter().enumerate() {
        let all = vec![Some(method); grid.len()];
        found.methods.push((name.clone(), grid.delta(&all, question.seed)));
    }
    let all = (0..grid.len()).collect();
    let policies = [
        (Policy::OneMethod, Groups::own(vec![all])),
        (Policy::PerDataset, Groups::own(grid.datasets.clone())),
        (Policy::CrossValidated, halves(&grid, question.seed)),
        (Policy::PerSample, grid.singles()),
    ];
    for (policy, groups) in &policies {
        found.add(*policy, &grid, groups, question);
    }
    if !subjects.again.is_empty() {
        let again: Vec<&Scores> = subjects.again.iter().collect();
        // Repeats that draw prompts of their own may share none with each other: then there is no null to show.
        if let Ok(noise) = Grid::new(&subjects.baseline, &again) {
            found.add(Policy::Null, &noise, &noise.singles(), question);
        }
    }
    Ok(found)
}

impl Bound {
    fn add(&mut self, policy: Policy, grid: &Grid, groups: &Groups, question: &Question<'_>) {
        let ranked = grid.ranked(groups);
        let step = |chosen: &[Option<usize>]| Outcome {
            policy,
            n_candidates: grid.names.len(),
            goal: Goal::Quality,
            n: grid.len(),
            n_compressed: chosen.iter().flatten().count(),
            delta: grid.delta(chosen, question.seed),
            over_best: None,
            speedup: grid.speedup(chosen, question.speeds),
        };
        let outcome = |goal, chosen: &[Option<usize>]| Outcome {
            goal,
            over_best: (policy != Policy::Null)
                .then(|| grid.against(chosen, grid.best(), question.seed)),
            ..step(chosen)
        };
        self.outcomes.push(outcome(Goal::Quality, &grid.gaining(&ranked)));
        for loss in question.losses {
            self.outcomes.push(outcome(Goal::Share(*loss), &grid.choose(&ranked, loss / 100.0)));
            let fastest = grid.fastest(groups, loss / 100.0, question.speeds);
            self.outcomes.extend(fastest.map(|chosen| outcome(Goal::Speed(*loss), &chosen)));
        }
        let curve = grid.steps(&ranked, STEPS).iter().map(|chosen| step(chosen)).collect();
        self.curves.push((policy, curve));
    }
}

/// Each data set decided on one half of its samples for the other, both ways.
fn halves(grid: &Grid, seed: u64) -> Groups {
    let mut rng = stats::seeded(seed);
    let mut groups = Groups { seen: Vec::new(), used: Vec::new() };
    for samples in &grid.datasets {
        let mut samples = samples.clone();
        samples.shuffle(&mut rng);
        let (a, b) = samples.split_at(samples.len() / 2);
        groups.seen.extend([a.to_vec(), b.to_vec()]);
        groups.used.extend([b.to_vec(), a.to_vec()]);
    }
    groups
}

/// How fast each method was at a place of a run: the baseline's mean E2E latency over the method's, over requests that both
/// finished in the same repeat. By the names that [`super::score_run::subjects`] gives.
///
/// # Errors
/// The rows cannot be read.
pub fn speeds(
    data: &RunData,
    place: &Place,
    subjects: &Subjects,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let facts = request_facts(data)?;
    let here = |point: &super::Point| {
        point.workload == place.workload
            && point.load == place.load
            && (place.is_only || point.target == place.target)
    };
    let mut times: BTreeMap<(String, String), BTreeMap<(i64, i64), f64>> = BTreeMap::new();
    for facts in facts.iter().filter(|facts| here(&facts.point)) {
        let Some(e2e_ms) = facts.e2e_ms else { continue };
        let key = (facts.point.target.clone(), facts.point.method.clone());
        times.entry(key).or_default().insert((facts.repeat, facts.request_id), e2e_ms);
    }
    let base = times.get(&(place.target.clone(), data.manifest.scenario.baseline.clone()));
    let mut found = BTreeMap::new();
    for ((target, method), own) in &times {
        let both = own.iter().filter_map(|(key, own)| Some((*own, *base?.get(key)?)));
        let (mine, theirs) =
            both.fold((0.0, 0.0), |(mine, theirs), (own, base)| (mine + own, theirs + base));
        let names = [method.clone(), format!("{target}/{method}")];
        let known = names.into_iter().find(|name| subjects.methods.iter().any(|m| m.name == *name));
        if let Some(name) = known.filter(|_| mine > 0.0) {
            found.insert(name, theirs / mine);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
