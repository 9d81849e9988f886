//! One tree: grown level by level on sums of gradients, leaves set to a quantile of what is left.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Label, Options, bins::Binned, quantile};

/// A node: its value, and where it is no leaf `(feature, threshold, child at or below, child above)`. Children are positions in the
/// tree. The value of an inner node is the mean of the leaves below it by the rows that reached them, which is what a
/// prediction starts from and is moved away from on its path.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Node(pub f32, pub Option<(u16, f32, u16, u16)>);

/// Nodes, the root first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tree(pub Vec<Node>);

impl Tree {
    /// The leaf's value.
    pub fn value(&self, features: &[f32]) -> f64 {
        self.path(features).last().map_or(0.0, |node| f64::from(node.0))
    }

    /// Nodes from the root to the leaf.
    fn path<'a>(&'a self, features: &'a [f32]) -> impl Iterator<Item = &'a Node> {
        std::iter::successors(self.0.first(), |node| {
            let (feature, at, low, high) = node.1?;
            let value = features.get(usize::from(feature)).copied().unwrap_or_default();
            self.0.get(usize::from(if value <= at { low } else { high }))
        })
    }

    /// What is wrong with a tree of a file, in words. Children stand behind their parents, so that every path ends.
    pub(super) fn fault(&self, n_features: usize) -> Option<String> {
        if self.0.is_empty() {
            return Some("no nodes".to_owned());
        }
        let n_nodes = self.0.len();
        self.0.iter().enumerate().find_map(|(at, Node(value, to))| {
            let is_finite = value.is_finite() && to.is_none_or(|(_, cut, ..)| cut.is_finite());
            if !is_finite {
                return Some(format!("node {at} has a number that is not finite"));
            }
            let (feature, _, low, high) = (*to)?;
            if usize::from(feature) >= n_features {
                return Some(format!("node {at} asks for feature {feature} of {n_features}"));
            }
            let is_behind = |child: u16| at < usize::from(child) && usize::from(child) < n_nodes;
            let all = is_behind(low) && is_behind(high);
            (!all).then(|| format!("node {at} has a child that does not stand behind it"))
        })
    }

    /// Adds to `moved` what each feature's splits moved the prediction by, and returns what it starts from. Saabas (2014).
    pub fn explain(&self, features: &[f32], moved: &mut [f64]) -> f64 {
        let path: Vec<&Node> = self.path(features).collect();
        for step in path.windows(2) {
            if let Some((feature, ..)) = step[0].1
                && let Some(moved) = moved.get_mut(usize::from(feature))
            {
                *moved += f64::from(step[1].0) - f64::from(step[0].0);
            }
        }
        path.first().map_or(0.0, |root| f64::from(root.0))
    }
}

/// What a tree is fitted to.
pub(super) struct Target<'a> {
    pub(super) binned: &'a Binned,
    /// Labels by row; see [`super::fit`].
    pub(super) labels: &'a [Vec<Label>],
    /// Prediction so far, by row.
    pub(super) fitted: &'a [f64],
    pub(super) q: f64,
}

impl Target<'_> {
    /// Downhill direction of the pinball loss at one row, and the row's weight.
    fn gradient(&self, row: usize) -> (f64, f64) {
        self.labels[row].iter().fold((0.0, 0.0), |(gradient, weight), label| {
            let up = if label.value > self.fitted[row] { self.q } else { self.q - 1.0 };
            (gradient + label.weight * up, weight + label.weight)
        })
    }

    /// Step of a leaf: the quantile of what is left, drawn towards 0 where few rows say so. A quantile at a label without
    /// end goes no further than to the largest label that has one.
    fn step(&self, rows: &[u32], shrink: f64) -> f64 {
        let rows = || rows.iter().map(|row| *row as usize);
        let mut left: Vec<(f64, f64)> = rows()
            .flat_map(|row| {
                let fitted = self.fitted[row];
                self.labels[row].iter().map(move |label| (label.value - fitted, label.weight))
            })
            .collect();
        let largest = left.iter().map(|(value, _)| *value).filter(|value| value.is_finite());
        let largest = largest.fold(0.0, f64::max);
        let weight: f64 = left.iter().map(|(_, weight)| weight).sum();
        let step = quantile(&mut left, self.q).unwrap_or(0.0).min(largest);
        step * weight / (weight + shrink)
    }
}

struct Split {
    gain: f64,
    feature: usize,
    bin: usize,
}

/// Rows of a node under way.
struct Open {
    node: usize,
    depth: usize,
    rows: Vec<u32>,
}

pub(super) fn grow(target: &Target<'_>, options: &Options, rng: &mut ChaCha8Rng) -> Tree {
    let n_rows = target.binned.n_rows;
    let gradients: Vec<(f64, f64)> = (0..n_rows).map(|row| target.gradient(row)).collect();
    let drawn = |_: &u32| rng.random_bool(options.row_share);
    let rows: Vec<u32> = (0..u32::try_from(n_rows).unwrap_or(u32::MAX)).filter(drawn).collect();
    let n_features = target.binned.cuts.len();
    let mut features: Vec<usize> =
        (0..n_features).filter(|feature| !target.binned.cuts[*feature].is_empty()).collect();
    let many = features.len() > 4;
    features.retain(|_| !many || rng.random_bool(options.feature_share));
    let mut nodes = vec![Node(0.0, None)];
    let mut open = vec![Open { node: 0, depth: 0, rows }];
    while let Some(Open { node, depth, rows }) = open.pop() {
        let split = (depth < options.depth)
            .then(|| best(target.binned, &gradients, &rows, &features, options.leaf_weight))
            .flatten();
        let Some(Split { feature, bin, .. }) = split else {
            nodes[node].0 = (options.rate * target.step(&rows, options.shrink)) as f32;
            continue;
        };
        let code = &target.binned.codes[feature];
        let (low, high) = rows.into_iter().partition(|row| usize::from(code[*row as usize]) <= bin);
        let first = nodes.len();
        let at = target.binned.cuts[feature][bin];
        let id = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        nodes[node].1 = Some((id(feature), at, id(first), id(first + 1)));
        nodes.extend([Node(0.0, None), Node(0.0, None)]);
        open.push(Open { node: first + 1, depth: depth + 1, rows: high });
        open.push(Open { node: first, depth: depth + 1, rows: low });
    }
    mean_values(&mut nodes, target.binned);
    Tree(nodes)
}

/// The split that explains most of the gradients; `None` where none leaves enough on both sides and explains anything.
fn best(
    binned: &Binned,
    gradients: &[(f64, f64)],
    rows: &[u32],
    features: &[usize],
    leaf_weight: f64,
) -> Option<Split> {
    let mut best: Option<Split> = None;
    for &feature in features {
        let n_bins = binned.cuts[feature].len() + 1;
        let mut sums = vec![(0.0, 0.0); n_bins];
        let code = &binned.codes[feature];
        for row in rows {
            let (gradient, weight) = gradients[*row as usize];
            let sum = &mut sums[usize::from(code[*row as usize])];
            *sum = (sum.0 + gradient, sum.1 + weight);
        }
        let all = sums.iter().fold((0.0, 0.0), |all, sum| (all.0 + sum.0, all.1 + sum.1));
        let score = |(gradient, weight): (f64, f64)| gradient * gradient / weight;
        let mut low = (0.0, 0.0);
        for (bin, sum) in sums[..n_bins - 1].iter().enumerate() {
            low = (low.0 + sum.0, low.1 + sum.1);
            let high = (all.0 - low.0, all.1 - low.1);
            if low.1 < leaf_weight || high.1 < leaf_weight {
                continue;
            }
            let gain = score(low) + score(high) - score(all);
            if gain > best.as_ref().map_or(1e-9, |best| best.gain) {
                best = Some(Split { gain, feature, bin });
            }
        }
    }
    best
}

/// Sets the value of inner nodes to the mean of the leaves by all rows. Children stand behind their parents.
fn mean_values(nodes: &mut [Node], binned: &Binned) {
    let mut reached = vec![0_u32; nodes.len()];
    for row in 0..binned.n_rows {
        let mut node = 0;
        reached[node] += 1;
        while let Some((feature, at, low, high)) = nodes[node].1 {
            let feature = usize::from(feature);
            let bin = binned.cuts[feature].partition_point(|cut| *cut < at);
            let is_low = usize::from(binned.codes[feature][row]) <= bin;
            node = usize::from(if is_low { low } else { high });
            reached[node] += 1;
        }
    }
    for node in (0..nodes.len()).rev() {
        if let Some((_, _, low, high)) = nodes[node].1 {
            let (low, high) = (usize::from(low), usize::from(high));
            let (a, b) = (f64::from(reached[low]), f64::from(reached[high]));
            let mean = (a * f64::from(nodes[low].0) + b * f64::from(nodes[high].0)) / (a + b);
            nodes[node].0 = mean as f32;
        }
    }
}
