//! Scores of every candidate at every sample that all of them have, and choices among them.

use std::collections::{BTreeMap, HashMap};

use anyhow::ensure;

use super::menu::{Dish, Menu};
use super::{
    super::negatives::{Scores, interval},
    Points,
};
use crate::stats;

/// Samples that are compressed together or not at all.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ranked {
    /// Which.
    pub(super) samples: Vec<usize>,
    /// By which candidate.
    pub(super) by: usize,
    /// What that gains a sample, as far as whoever chose could know; less than 0 for a loss.
    pub(super) gain: f64,
}

/// Groups of samples that are decided together: by what was seen of `seen`, for `used` beside it.
pub(super) struct Groups {
    pub(super) seen: Vec<Vec<usize>>,
    pub(super) used: Vec<Vec<usize>>,
}

impl Groups {
    /// Groups that are decided by themselves.
    pub(super) fn own(groups: Vec<Vec<usize>>) -> Self {
        Self { seen: groups.clone(), used: groups }
    }

    fn pairs(&self) -> impl Iterator<Item = (&Vec<usize>, &Vec<usize>)> + Clone {
        self.seen.iter().zip(&self.used)
    }
}

/// See the module.
pub(super) struct Grid {
    pub(super) names: Vec<String>,
    pub(super) baseline: Vec<f64>,
    /// By candidate, then sample.
    pub(super) candidates: Vec<Vec<f64>>,
    /// Samples of each data set.
    pub(super) datasets: Vec<Vec<usize>>,
}

/// Best first; among equals the one with more samples, so that ties do not depend on the order of files.
fn sort(ranked: &mut [Ranked]) {
    ranked.sort_by(|a, b| {
        b.gain.total_cmp(&a.gain).then_with(|| b.samples.len().cmp(&a.samples.len()))
    });
}

impl Grid {
    /// Samples of another prompt than the baseline's are left out, as those that a candidate lacks.
    pub(super) fn new(baseline: &Scores, candidates: &[&Scores]) -> anyhow::Result<Self> {
        let mut columns: Vec<Vec<Option<f64>>> =
            vec![vec![None; baseline.rows.len()]; candidates.len()];
        let index: HashMap<(&str, &str), usize> = baseline
            .rows
            .iter()
            .enumerate()
            .map(|(i, row)| ((&*row.dataset, &*row.id), i))
            .collect();
        for (column, scores) in columns.iter_mut().zip(candidates) {
            for row in &scores.rows {
                let Some(&at) = index.get(&(&*row.dataset, &*row.id)) else { continue };
                let hashes = (&row.prompt_sha256, &baseline.rows[at].prompt_sha256);
                let same = !matches!(hashes, (Some(own), Some(theirs)) if own != theirs);
                column[at] = same.then_some(row.score);
            }
        }
        let mut grid = Self {
            names: candidates.iter().map(|scores| scores.name.clone()).collect(),
            baseline: Vec::new(),
            candidates: vec![Vec::new(); candidates.len()],
            datasets: Vec::new(),
        };
        let mut datasets: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, row) in baseline.rows.iter().enumerate() {
            let scores: Option<Vec<f64>> = columns.iter().map(|column| column[at]).collect();
            let Some(scores) = scores else { continue };
            datasets.entry(&row.dataset).or_default().push(grid.baseline.len());
            grid.baseline.push(row.score);
            grid.candidates.iter_mut().zip(scores).for_each(|(column, score)| column.push(score));
        }
        grid.datasets = datasets.into_values().collect();
        ensure!(
            !grid.baseline.is_empty() && !grid.names.is_empty(),
            "expected samples that the baseline and every one of {} have, got none\n  hint: score all of them on the same data",
            grid.names.join(", ")
        );
        Ok(grid)
    }

    pub(super) fn len(&self) -> usize {
        self.baseline.len()
    }

    fn sum(&self, samples: &[usize], by: usize) -> f64 {
        samples.iter().map(|at| self.candidates[by][*at] - self.baseline[*at]).sum()
    }

    fn best_of(&self, samples: &[usize]) -> (usize, f64) {
        let sums = (0..self.names.len()).map(|by| (by, self.sum(samples, by)));
        // The first of equals, whatever the order of comparison.
        sums.fold((0, f64::NEG_INFINITY), |best, one| if one.1 > best.1 { one } else { best })
    }

    /// The candidate with the best mean.
    pub(super) fn best(&self) -> usize {
        self.best_of(&(0..self.len()).collect::<Vec<_>>()).0
    }

    /// The best candidate of each group, best gain first. A group of which nothing was seen stays with the baseline.
    pub(super) fn ranked(&self, groups: &Groups) -> Vec<Ranked> {
        let one = |(seen, used): (&Vec<usize>, &Vec<usize>)| {
            let (by, sum) = self.best_of(seen);
            let usable = !seen.is_empty() && !used.is_empty();
            usable.then(|| Ranked { samples: used.clone(), by, gain: sum / seen.len() as f64 })
        };
        let mut ranked: Vec<Ranked> = groups.pairs().filter_map(one).collect();
        sort(&mut ranked);
        ranked
    }

    /// The fastest choice whose mean score (0 to 1), as far as was seen, loses no more than permitted; see [`Menu`]. `None` where
    /// the speed of a candidate is unknown.
    pub(super) fn fastest(
        &self,
        groups: &Groups,
        loss: f64,
        speeds: &BTreeMap<String, f64>,
    ) -> Option<Vec<Option<usize>>> {
        let saved = |name: &String| speeds.get(name).map(|speed| 1.0 - 1.0 / speed);
        let saved: Vec<f64> = self.names.iter().map(saved).collect::<Option<_>>()?;
        let usable = groups.pairs().filter(|(seen, used)| !seen.is_empty() && !used.is_empty());
        let dish = |(seen, used): (&Vec<usize>, &Vec<usize>)| {
            let mean = |by| self.sum(seen, by) / seen.len() as f64;
            Dish { n: used.len() as f64, gains: (0..saved.len()).map(mean).collect() }
        };
        let dishes = usable.clone().map(dish).collect();
        let picks = Menu { dishes, saved }.fastest(loss * self.len() as f64 + 1e-9);
        let mut chosen = vec![None; self.len()];
        for ((_, used), pick) in usable.zip(picks) {
            used.iter().for_each(|at| chosen[*at] = pick);
        }
        Some(chosen)
    }

    /// Each sample by itself.
    pub(super) fn singles(&self) -> Groups {
        Groups::own((0..self.len()).map(|at| vec![at]).collect())
    }

    /// Compresses whatever gains.
    pub(super) fn gaining(&self, ranked: &[Ranked]) -> Vec<Option<usize>> {
        self.chosen(ranked.iter().take_while(|ranked| ranked.gain > 0.0))
    }

    /// Compresses as much as the permitted loss of the mean score (0 to 1) allows, gains taken into account: best first, and what
    /// is too big is passed over.
    pub(super) fn choose(&self, ranked: &[Ranked], loss: f64) -> Vec<Option<usize>> {
        // Rounding must not refuse a loss that is exactly the permitted one.
        let mut left = loss * self.len() as f64 + 1e-9;
        let fits = |one: &&Ranked| {
            let after = left + one.gain * one.samples.len() as f64;
            if after >= 0.0 {
                left = after;
            }
            after >= 0.0
        };
        self.chosen(ranked.iter().filter(fits))
    }

    /// Choices along a ranking: from nothing to everything in about equal shares of samples.
    pub(super) fn steps(&self, ranked: &[Ranked], n: usize) -> Vec<Vec<Option<usize>>> {
        let mut found = vec![self.chosen(std::iter::empty())];
        let (mut taken, mut next) = (0, 1);
        for (at, one) in ranked.iter().enumerate() {
            taken += one.samples.len();
            if taken * n >= next * self.len() {
                found.push(self.chosen(ranked[..=at].iter()));
                next = taken * n / self.len() + 1;
            }
        }
        found
    }

    fn chosen<'a>(&self, ranked: impl Iterator<Item = &'a Ranked>) -> Vec<Option<usize>> {
        let mut chosen = vec![None; self.len()];
        for one in ranked {
            one.samples.iter().for_each(|at| chosen[*at] = Some(one.by));
        }
        chosen
    }

    fn score(&self, at: usize, by: Option<usize>) -> f64 {
        by.map_or(self.baseline[at], |by| self.candidates[by][at])
    }

    /// A choice against the baseline.
    pub(super) fn delta(&self, chosen: &[Option<usize>], seed: u64) -> Points {
        self.points(|at| self.score(at, chosen[at]) - self.baseline[at], seed)
    }

    /// A choice against one candidate for everything.
    pub(super) fn against(&self, chosen: &[Option<usize>], by: usize, seed: u64) -> Points {
        self.points(|at| self.score(at, chosen[at]) - self.candidates[by][at], seed)
    }

    fn points(&self, difference: impl Fn(usize) -> f64, seed: u64) -> Points {
        let of = |samples: &Vec<usize>| samples.iter().map(|at| difference(*at)).collect();
        let groups: Vec<Vec<f64>> = self.datasets.iter().map(of).collect();
        let sum: f64 = groups.iter().flatten().sum();
        Points {
            mean: 100.0 * sum / self.len() as f64,
            interval: interval(&groups, &mut stats::seeded(seed)),
        }
    }

    /// See [`super::Outcome::speedup`].
    pub(super) fn speedup(
        &self,
        chosen: &[Option<usize>],
        speeds: &BTreeMap<String, f64>,
    ) -> Option<f64> {
        let time = |by: &Option<usize>| match by {
            None => Some(1.0),
            Some(by) => speeds.get(&self.names[*by]).map(|speed| 1.0 / speed),
        };
        let total: f64 = chosen.iter().map(time).sum::<Option<f64>>()?;
        (!speeds.is_empty()).then(|| chosen.len() as f64 / total)
    }
}
