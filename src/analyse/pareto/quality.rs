//! Scores of the candidates on the prompts that all of them have.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    analyse::rank::{Run, Spot},
    stats,
};

/// Data set and sample.
type Prompt = (String, String);

/// Scores of all runs: by workload, load, target and method, and by prompt; one value a repeat.
pub(super) struct Scored {
    by: BTreeMap<[String; 4], BTreeMap<Prompt, Vec<f64>>>,
}

/// Scores of the candidates of one spot.
pub(super) struct Prompts {
    /// By data set, then by prompt, then by candidate: the mean over repeats; `None` of a candidate without scores.
    sets: Vec<Vec<Vec<Option<f64>>>>,
    n_candidates: usize,
    /// Where they come from, or why there are none.
    pub(super) from: String,
}

impl Scored {
    pub(super) fn of(runs: &[Run]) -> Self {
        let mut by: BTreeMap<[String; 4], BTreeMap<Prompt, Vec<f64>>> = BTreeMap::new();
        for row in runs.iter().flat_map(|run| &run.data.scores) {
            let key = [&row.workload, &row.load, &row.target, &row.method].map(Clone::clone);
            let prompt = (row.dataset.clone(), row.sample_id.clone());
            by.entry(key).or_default().entry(prompt).or_default().push(row.score);
        }
        Self { by }
    }

    /// Scores at a spot; where it has none, those of the same methods on every workload that has.
    pub(super) fn at(&self, spot: &Spot, candidates: &[(&str, &str)]) -> Prompts {
        let here = |workload: &str, load: &str| workload == spot.workload && load == spot.load;
        let own =
            self.of_each(candidates, |key, target| here(&key[0], &key[1]) && key[2] == target);
        let n_scored =
            |scores: &[BTreeMap<Prompt, Vec<f64>>]| scores.iter().filter(|s| !s.is_empty()).count();
        if n_scored(&own) > 0 {
            return Prompts::new(own, "scores of the same answers");
        }
        let elsewhere = self.of_each(candidates, |_, _| true);
        if n_scored(&elsewhere) > 0 {
            let workloads: BTreeSet<&str> = self.by.keys().map(|key| key[0].as_str()).collect();
            let names = workloads.into_iter().collect::<Vec<_>>().join(", ");
            return Prompts::new(
                elsewhere,
                &format!("scores of other answers, of {names}: the load there is another"),
            );
        }
        Prompts::new(own, "not known: no run has scores (`kvbench score RUN_DIR` makes them)")
    }

    fn of_each(
        &self,
        candidates: &[(&str, &str)],
        wanted: impl Fn(&[String; 4], &str) -> bool,
    ) -> Vec<BTreeMap<Prompt, Vec<f64>>> {
        let one = |(method, target): &(&str, &str)| {
            let mut all: BTreeMap<Prompt, Vec<f64>> = BTreeMap::new();
            for (_, scores) in
                self.by.iter().filter(|(key, _)| key[3] == *method && wanted(key, target))
            {
                for (prompt, values) in scores {
                    all.entry(prompt.clone()).or_default().extend(values);
                }
            }
            all
        };
        candidates.iter().map(one).collect()
    }
}

impl Prompts {
    /// Prompts that every scored candidate has.
    fn new(scores: Vec<BTreeMap<Prompt, Vec<f64>>>, from: &str) -> Self {
        let scored = || scores.iter().filter(|scores| !scores.is_empty());
        let everyone = |prompt: &Prompt| scored().all(|scores| scores.contains_key(prompt));
        let all: BTreeSet<&Prompt> = scored().flat_map(BTreeMap::keys).collect();
        let common: Vec<&Prompt> = all.iter().copied().filter(|prompt| everyone(prompt)).collect();
        let mut sets: BTreeMap<&str, Vec<Vec<Option<f64>>>> = BTreeMap::new();
        for prompt in &common {
            let row = scores.iter().map(|scores| stats::mean(scores.get(*prompt)?));
            sets.entry(&prompt.0).or_default().push(row.collect());
        }
        let mut from = from.to_owned();
        if common.len() < all.len() {
            from +=
                &format!(", on the {} of {} prompts that everybody has", common.len(), all.len());
        }
        Self { sets: sets.into_values().collect(), n_candidates: scores.len(), from }
    }

    /// Prompts.
    pub(super) fn n(&self) -> usize {
        self.sets.iter().map(Vec::len).sum()
    }

    /// Quality of each candidate, in points.
    pub(super) fn measured(&self) -> Vec<Option<f64>> {
        self.means(|prompts| (0..prompts).collect())
    }

    /// The same with prompts drawn anew within each data set, the same for all.
    pub(super) fn drawn(&self, rng: &mut ChaCha8Rng) -> Vec<Option<f64>> {
        self.means(|prompts| (0..prompts).map(|_| rng.random_range(0..prompts)).collect())
    }

    /// The mean over data sets of the means over prompts.
    fn means(&self, mut pick: impl FnMut(usize) -> Vec<usize>) -> Vec<Option<f64>> {
        let picks: Vec<Vec<usize>> = self.sets.iter().map(|set| pick(set.len())).collect();
        let of = |who: usize| {
            let one = |(set, picks): (&Vec<Vec<Option<f64>>>, &Vec<usize>)| {
                let scores: Option<Vec<f64>> = picks.iter().map(|at| set[*at][who]).collect();
                stats::mean(&scores?)
            };
            let means: Option<Vec<f64>> = self.sets.iter().zip(&picks).map(one).collect();
            Some(100.0 * stats::mean(&means?)?)
        };
        (0..self.n_candidates).map(of).collect()
    }
}
