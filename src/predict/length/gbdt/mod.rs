//! Gradient-boosted trees for one quantile: pinball loss, histograms, nothing random but by a seed.
//!
//! Friedman's gradient boosting ("Greedy Function Approximation", 2001) with the pinball loss of Koenker and Bassett (1978). Its
//! gradient has two values only, so it places the splits and no more; how far a leaf steps is the quantile of what is left in
//! it. There is no early stopping: a number of trees chosen on held-out rows would be fitted to them.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

mod bins;
#[cfg(test)]
mod tests;
mod tree;

pub use bins::Columns;
pub use tree::{Node, Tree};

/// How trees are grown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Trees.
    pub trees: usize,
    /// Part of each step that is taken.
    pub rate: f64,
    /// Splits from the root to a leaf, at most 8.
    pub depth: usize,
    /// Least weight of a leaf; a prompt weighs 1.
    pub leaf_weight: f64,
    /// Weight of the wish to stay where one is.
    pub shrink: f64,
    /// Share of the rows that a tree sees.
    pub row_share: f64,
    /// Share of the features that a tree sees.
    pub feature_share: f64,
}

impl Options {
    /// Few shallow trees: what can be known of a length from its prompt is little, and hundreds of prompts are many.
    pub fn for_rows(n_rows: usize) -> Self {
        Self {
            trees: 120,
            rate: 0.08,
            depth: if n_rows < 2000 { 3 } else { 5 },
            leaf_weight: (n_rows as f64 / 100.0).clamp(10.0, 40.0),
            shrink: 5.0,
            row_share: 0.7,
            feature_share: 0.6,
        }
    }
}

/// One value that a row should be predicted as, and how much it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// The value; infinite for "above everything".
    pub value: f64,
    /// At least 0.
    pub weight: f64,
}

/// A fitted quantile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forest {
    /// What a prediction starts from.
    pub start: f32,
    /// What is added.
    pub trees: Vec<Tree>,
}

/// Fits quantile `q`; every row has one or several labels. Without rows everything is predicted as 0.
pub fn fit(
    columns: &Columns,
    labels: &[Vec<Label>],
    q: f64,
    options: &Options,
    seed: u64,
) -> Forest {
    let binned = bins::Binned::of(columns);
    let mut all: Vec<(f64, f64)> =
        labels.iter().flatten().map(|label| (label.value, label.weight)).collect();
    let largest = all.iter().map(|(value, _)| *value).filter(|value| value.is_finite());
    let largest = largest.fold(f64::NEG_INFINITY, f64::max);
    let start = quantile(&mut all, q).unwrap_or(0.0).min(largest);
    let start = if start.is_finite() { start as f32 } else { 0.0 };
    let mut fitted = vec![f64::from(start); labels.len()];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut trees = Vec::with_capacity(options.trees);
    let mut row = vec![0.0_f32; columns.columns.len()];
    for _ in 0..options.trees {
        let target = tree::Target { binned: &binned, labels, fitted: &fitted, q };
        let tree = tree::grow(&target, options, &mut rng);
        for (at, fitted) in fitted.iter_mut().enumerate() {
            row.iter_mut().zip(&columns.columns).for_each(|(slot, column)| *slot = column[at]);
            *fitted += tree.value(&row);
        }
        trees.push(tree);
    }
    Forest { start, trees }
}

impl Forest {
    /// The quantile of a row.
    pub fn predict(&self, features: &[f32]) -> f64 {
        let added: f64 = self.trees.iter().map(|tree| tree.value(features)).sum();
        f64::from(self.start) + added
    }

    /// What is wrong with a forest of a file, in words; `None` where it can be asked about rows of `n_features`.
    pub fn fault(&self, n_features: usize) -> Option<String> {
        if !self.start.is_finite() {
            return Some("a start that is not finite".to_owned());
        }
        if self.trees.is_empty() {
            return Some("no trees".to_owned());
        }
        let mut trees = self.trees.iter().enumerate();
        trees.find_map(|(at, tree)| Some(format!("trees[{at}]: {}", tree.fault(n_features)?)))
    }

    /// What a prediction starts from, and what each of `n_features` features moves it by; together the prediction.
    pub fn explain(&self, features: &[f32], n_features: usize) -> (f64, Vec<f64>) {
        let mut moved = vec![0.0; n_features];
        let start: f64 = self.trees.iter().map(|tree| tree.explain(features, &mut moved)).sum();
        (f64::from(self.start) + start, moved)
    }
}

/// The smallest value that at least `q` of the weight does not exceed; reorders. `None` without weight.
pub fn quantile(values: &mut [(f64, f64)], q: f64) -> Option<f64> {
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let all: f64 = values.iter().map(|(_, weight)| weight).sum();
    let mut seen = 0.0;
    for (value, weight) in values.iter() {
        seen += weight;
        // Weights are sums of fractions such as 1/3: a hair below is not below.
        if *weight > 0.0 && seen >= q * all - 1e-9 * all {
            return Some(*value);
        }
    }
    None
}
