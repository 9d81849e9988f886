//! Mean scores of a run, with the difference to the baseline.

use std::collections::BTreeMap;

use super::{
    super::{Estimate, Point, RunData, compare::baseline_of, summary::rng_for},
    ScoreRow,
};
use crate::stats;

/// The mean score of one method on one data set, all repeats together. Scores and differences are in points: 100 times
/// the score.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanScore {
    /// Which.
    pub point: Point,
    /// Data set.
    pub dataset: String,
    /// Mean with its bootstrap interval over samples, each the mean of its repeats.
    pub mean: Estimate,
    /// Own score less the baseline's to the same prompt, samples drawn as pairs; `None` on the baseline and where it has no
    /// score of the same samples.
    pub delta: Option<Estimate>,
}

/// Means of every method and data set, in the order of the plan.
pub fn means(data: &RunData, rows: &[ScoreRow]) -> Vec<MeanScore> {
    let points = points(data, rows);
    let mut found = Vec::new();
    for (point, own) in &points {
        let baseline = baseline_of(point, &points, &data.manifest.scenario.baseline);
        let mut datasets: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        own.iter().for_each(|row| datasets.entry(&rows[*row].dataset).or_default().push(*row));
        for (dataset, own) in datasets {
            let seed =
                |what| rng_for(data.manifest.scenario.seed, &format!("{point} {dataset} {what}"));
            let scores = own.iter().map(|row| (rows[*row].sample_id.as_str(), rows[*row].score));
            let scores = by_sample(scores);
            let delta = baseline.and_then(|(_, theirs)| {
                let pairs = pairs(rows, &own, theirs);
                let differences = pairs
                    .into_iter()
                    .map(|(a, b)| (rows[a].sample_id.as_str(), rows[a].score - rows[b].score));
                in_points(&by_sample(differences), &mut seed("delta"))
            });
            if let Some(mean) = in_points(&scores, &mut seed("mean")) {
                found.push(MeanScore {
                    point: point.clone(),
                    dataset: dataset.to_owned(),
                    mean,
                    delta,
                });
            }
        }
    }
    found
}

/// Indices of the rows of each point, points in plan order.
pub(in crate::analyse) fn points(data: &RunData, rows: &[ScoreRow]) -> Vec<(Point, Vec<usize>)> {
    let mut points: BTreeMap<Point, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        points.entry(row.point()).or_default().push(index);
    }
    let mut points: Vec<_> = points.into_iter().collect();
    points.sort_by_key(|(point, _)| data.rank(point));
    points
}

/// Own and the baseline's rows of the same repeat and sample.
pub(super) fn pairs(rows: &[ScoreRow], own: &[usize], theirs: &[usize]) -> Vec<(usize, usize)> {
    let key =
        |row: usize| (rows[row].repeat, rows[row].dataset.as_str(), rows[row].sample_id.as_str());
    let theirs: BTreeMap<_, usize> = theirs.iter().map(|row| (key(*row), *row)).collect();
    own.iter().filter_map(|row| Some((*row, *theirs.get(&key(*row))?))).collect()
}

/// Values of each sample: repeats of one prompt are not independent, so a sample is what is drawn.
pub(super) fn by_sample<'a>(values: impl Iterator<Item = (&'a str, f64)>) -> Vec<Vec<f64>> {
    let mut samples: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    values.for_each(|(sample, value)| samples.entry(sample).or_default().push(value));
    samples.into_values().collect()
}

/// The mean over samples in points, each the mean of its values; `n` counts values. `None` of nothing.
pub(super) fn in_points(
    samples: &[Vec<f64>],
    rng: &mut rand_chacha::ChaCha8Rng,
) -> Option<Estimate> {
    let n = samples.iter().map(Vec::len).sum();
    let means: Vec<f64> = samples.iter().filter_map(|values| stats::mean(values)).collect();
    let interval = stats::mean_interval(&means, rng);
    Some(Estimate::new(stats::mean(&means)?, interval, n).scaled(100.0))
}
