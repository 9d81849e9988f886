//! Served points against the baseline under the same workload and load.

use std::collections::BTreeMap;

use super::{
    Better, Comparison, Estimate, Point, RequestFacts, RunData,
    requests::{Served, by_repeat, good, good_tokens, rates},
    summary::{distance, rng_for},
};
use crate::stats;

/// Metrics compared prompt by prompt.
type Paired = (&'static str, Better, fn(&RequestFacts) -> Option<f64>);

const PAIRED: [Paired; 6] = [
    ("ttft", Better::Lower, |facts| facts.ttft_ms),
    ("ttft_due", Better::Lower, |facts| facts.ttft_due_ms),
    ("e2e", Better::Lower, |facts| facts.e2e_ms),
    ("e2e_due", Better::Lower, |facts| facts.e2e_due_ms),
    ("tpot", Better::Lower, |facts| facts.tpot_ms),
    ("output_tokens", Better::Neither, |facts| facts.answer_tokens.map(|tokens| tokens as f64)),
];

/// What a request adds to a rate.
type CountOf = fn(&Served, usize) -> Option<f64>;

/// Ratios of every point but the baseline's own. A point whose baseline is ambiguous or missing has none.
pub(super) fn comparisons(data: &RunData, served: &Served) -> Vec<Comparison> {
    let points = served.points(data);
    let mut comparisons = Vec::new();
    for (point, rows) in &points {
        if let Some((baseline, theirs)) =
            baseline_of(point, &points, &data.manifest.scenario.baseline)
        {
            comparisons.extend(paired(data, served, (point, rows), (baseline, theirs)));
            comparisons.extend(by_rate(data, served, (point, rows), (baseline, theirs)));
        }
    }
    judge_noise(&mut comparisons, &data.aa_method());
    comparisons
}

/// A point and its rows, as indices.
pub(super) type Rows<'a> = (&'a Point, &'a [usize]);

/// The baseline on the same target, or, since one server runs one method, on the only target that ran it.
pub(super) fn baseline_of<'a>(
    point: &Point,
    points: &'a [(Point, Vec<usize>)],
    method: &str,
) -> Option<Rows<'a>> {
    if point.method == method {
        return None;
    }
    let at = baseline_at(point, points.iter().map(|(point, _)| point), method)?;
    points.get(at).map(|(point, rows)| (point, rows.as_slice()))
}

/// Which of `points` is the baseline of `point`, by the same rule.
pub(super) fn baseline_at<'p>(
    point: &Point,
    points: impl Iterator<Item = &'p Point>,
    method: &str,
) -> Option<usize> {
    let same = |(_, other): &(usize, &Point)| {
        other.method == method && other.workload == point.workload && other.load == point.load
    };
    let candidates: Vec<(usize, &Point)> = points.enumerate().filter(same).collect();
    let here = candidates.iter().find(|(_, other)| other.target == point.target);
    let only = if candidates.len() == 1 { candidates.first() } else { None };
    here.or(only).map(|(at, _)| *at)
}

fn paired(data: &RunData, served: &Served, own: Rows<'_>, baseline: Rows<'_>) -> Vec<Comparison> {
    let one = |(metric, better, value): &Paired| {
        let pairs = pairs(served, own.1, baseline.1, *value);
        let n = pairs.iter().map(Vec::len).sum();
        let mut rng = rng_for(data.manifest.scenario.seed, &format!("{} ratio {metric}", own.0));
        let (ratio, interval) =
            stats::paired_ratio(&pairs, &mut rng, |values| stats::mean(values))?;
        Some(Comparison {
            point: own.0.clone(),
            baseline: baseline.0.clone(),
            metric: (*metric).to_owned(),
            statistic: "mean",
            ratio: Estimate::new(ratio, interval, n),
            better: *better,
            paired: true,
            within_noise: None,
        })
    };
    PAIRED.iter().filter_map(one).collect()
}

/// (method, baseline) of the same repeat and request, where both are known: the same prompt in both.
fn pairs(
    served: &Served,
    own: &[usize],
    baseline: &[usize],
    value: fn(&RequestFacts) -> Option<f64>,
) -> Vec<Vec<(f64, f64)>> {
    let known = |row: &usize| {
        let facts = &served.facts[*row];
        Some(((facts.repeat, facts.request_id), value(facts).filter(|_| !facts.failed)?))
    };
    let theirs: BTreeMap<(i64, i64), f64> = baseline.iter().filter_map(known).collect();
    let mut repeats: BTreeMap<i64, Vec<(f64, f64)>> = BTreeMap::new();
    for (request, value) in own.iter().filter_map(known) {
        if let Some(their) = theirs.get(&request) {
            repeats.entry(request.0).or_default().push((value, *their));
        }
    }
    repeats.into_values().collect()
}

fn by_rate(data: &RunData, served: &Served, own: Rows<'_>, baseline: Rows<'_>) -> Vec<Comparison> {
    let rates_of = |rows: &[usize], count: CountOf| {
        let repeats: Vec<Vec<usize>> = by_repeat(served, rows).into_values().collect();
        rates(served, &repeats, &|row| count(served, row))
    };
    let one = |(metric, count): (&str, CountOf)| {
        let (mine, theirs) = (rates_of(own.1, count)?, rates_of(baseline.1, count)?);
        let ratio = stats::mean(&mine)? / stats::mean(&theirs).filter(|rate| *rate > 0.0)?;
        let n = mine.len();
        let mut rng = rng_for(data.manifest.scenario.seed, &format!("{} ratio {metric}", own.0));
        let interval =
            stats::bootstrap_ratio(&[mine], &[theirs], &mut rng, |drawn| stats::mean(drawn));
        Some(Comparison {
            point: own.0.clone(),
            baseline: baseline.0.clone(),
            metric: metric.to_owned(),
            statistic: "per_repeat",
            ratio: Estimate::new(ratio, interval, n),
            better: Better::Higher,
            paired: false,
            within_noise: None,
        })
    };
    [("requests_per_s", good as CountOf), ("output_tokens_per_s", good_tokens)]
        .into_iter()
        .filter_map(one)
        .collect()
}

fn judge_noise(comparisons: &mut [Comparison], aa_method: &str) {
    let key = |comparison: &Comparison| {
        (
            comparison.point.workload.clone(),
            comparison.point.load.clone(),
            comparison.metric.clone(),
        )
    };
    let floors: BTreeMap<_, f64> = comparisons
        .iter()
        .filter(|comparison| comparison.point.method == aa_method)
        .map(|comparison| (key(comparison), comparison.ratio.distance_from_one()))
        .collect();
    for comparison in comparisons {
        let floor = floors.get(&key(comparison));
        comparison.within_noise = floor.map(|floor| distance(comparison.ratio.value) <= *floor);
    }
}
