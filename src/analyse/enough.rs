//! How many repeats a wanted interval needs, from a pilot.
//!
//! The mean over R repeats of m observations each has the variance `between / R + within / (R m)`; the two components are those of a
//! one-way layout ([`stats::components`]). Its 95 % interval is `t(R - 1)` standard errors to each side. A pilot of few repeats knows
//! the variance badly, so the number is given twice: for the variance that was found, and for its one-sided 80 % upper bound.

use super::{
    Point,
    rank::{
        Metric, Run,
        cells::{Contender, gather},
    },
};
use crate::{
    record::{RequestRow, TelemetryRow, parquet::TableRow as _},
    stats,
    units::ns_to_s,
};

/// More repeats than anybody makes.
const REPEATS_MAX: usize = 10_000;

/// Metrics that are planned by: means, since their variance is known in closed form.
const METRICS: [&str; 7] = [
    "output_tokens_per_s",
    "ttft_due_ms_mean",
    "tpot_ms_mean",
    "e2e_due_ms_mean",
    "decode_ms_mean",
    "prefill_ms_mean",
    "compress_ms_mean",
];

/// What one metric of one point needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// Which.
    pub point: Point,
    /// Metric.
    pub metric: String,
    /// Its unit.
    pub unit: &'static str,
    /// Mean of the pilot's repeats.
    pub mean: f64,
    /// Repeats of the pilot.
    pub n_repeats: usize,
    /// Observations of one repeat, on average.
    pub per_repeat: f64,
    /// Standard deviation between repeats' true means, per cent of the mean; `None` with one repeat.
    pub between_pct: Option<f64>,
    /// Standard deviation of observations within a repeat, per cent; `None` with one repeat, and where a repeat is one observation.
    pub within_pct: Option<f64>,
    /// Half-width that the pilot itself has, per cent.
    pub half_pct: Option<f64>,
    /// Repeats that are needed; `None` where the pilot does not tell, or more than 10 000 would be.
    pub repeats: Option<usize>,
    /// The same if the variance is as high as its 80 % upper bound.
    pub repeats_high: Option<usize>,
}

/// What every metric of the points needs for a 95 % interval of `half_pct` per cent of the mean to each side, and which points the pilot
/// does not have.
pub fn needs(pilot: &Run, points: &[Point], half_pct: f64) -> (Vec<Need>, Vec<Point>) {
    let (mut needs, mut seen) = (Vec::new(), Vec::new());
    for metric in METRICS.iter().filter_map(|name| name.parse::<Metric>().ok()) {
        let (cells, _) = gather(std::slice::from_ref(pilot), &metric, None);
        for cell in &cells {
            for contender in &cell.contenders {
                let point = Point {
                    target: contender.target.clone(),
                    workload: cell.spot.workload.clone(),
                    load: cell.spot.load.clone(),
                    method: contender.method.clone(),
                };
                if points.contains(&point) {
                    needs.extend(need(&point, &metric, contender, half_pct));
                    seen.push(point);
                }
            }
        }
    }
    let absent = points.iter().filter(|point| !seen.contains(point)).cloned().collect();
    (needs, absent)
}

fn need(point: &Point, metric: &Metric, contender: &Contender, half_pct: f64) -> Option<Need> {
    let groups: Vec<Vec<f64>> = contender.turns.values().cloned().collect();
    let means: Vec<f64> = groups.iter().filter_map(|group| stats::mean(group)).collect();
    let mean = stats::mean(&means).filter(|mean| *mean > 0.0)?;
    let per_repeat = groups.iter().map(Vec::len).sum::<usize>() as f64 / groups.len() as f64;
    let parts = stats::components(&groups);
    // The variance of one repeat's mean: from the components, or of rates, which are one number a repeat, as it is.
    let variance =
        parts.map(|parts| parts.between + parts.within / per_repeat).or_else(|| variance(&means));
    let between = parts.map(|parts| parts.between).or(variance);
    let pct = |variance: f64| 100.0 * variance.sqrt() / mean;
    let wanted = half_pct / 100.0 * mean;
    Some(Need {
        point: point.clone(),
        metric: metric.name.clone(),
        unit: metric.unit,
        mean,
        n_repeats: groups.len(),
        per_repeat,
        between_pct: between.map(pct),
        within_pct: parts.map(|parts| pct(parts.within)),
        half_pct: variance
            .and_then(|variance| half(variance, means.len()))
            .map(|half| 100.0 * half / mean),
        repeats: variance.and_then(|variance| repeats(variance, wanted)),
        repeats_high: variance.and_then(|variance| {
            repeats(variance * inflation(means.len().saturating_sub(1)), wanted)
        }),
    })
}

/// Unbiased variance; `None` with fewer than two values.
fn variance(values: &[f64]) -> Option<f64> {
    let mean = stats::mean(values)?;
    let sum: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| sum / (values.len() - 1) as f64)
}

/// Half of the 95 % interval of a mean over `repeats` repeats.
fn half(variance: f64, repeats: usize) -> Option<f64> {
    let free = repeats.checked_sub(1).filter(|free| *free > 0)?;
    Some(stats::student_quantile(0.025, free as f64) * (variance / repeats as f64).sqrt())
}

/// Fewest repeats, two at least, whose interval is no wider than wanted.
fn repeats(variance: f64, wanted: f64) -> Option<usize> {
    (2..=REPEATS_MAX).find(|repeats| half(variance, *repeats).is_some_and(|half| half <= wanted))
}

/// One-sided 80 % upper bound of a variance over its estimate: `free / chi^2(0.2; free)`, the quantile by Wilson and Hilferty (1931,
/// PNAS 17:684-688), which is 14 % low at one degree of freedom and within 2 % from two on.
fn inflation(free: usize) -> f64 {
    let part = 2.0 / (9.0 * free as f64);
    let cube = 1.0 - part - 0.841_621_233_572_914 * part.sqrt();
    cube.powi(3).recip()
}

/// Seconds that one repeat of the pilot took, starts of servers and waits included; `None` where the run was resumed, since the time in
/// between is not known.
///
/// # Errors
/// A table that does not hold what its name says.
pub fn seconds_per_repeat(pilot: &Run) -> anyhow::Result<Option<f64>> {
    let manifest = &pilot.data.manifest;
    let n_repeats = manifest
        .cells
        .iter()
        .map(|cell| cell.repeat)
        .collect::<std::collections::BTreeSet<_>>()
        .len();
    if manifest.n_resumed > 0 || n_repeats == 0 {
        return Ok(None);
    }
    let ends = |row: &RequestRow| [row.sent_ns, row.done_ns.or(row.last_token_ns)];
    let mut at: Vec<i64> = pilot.served.rows.iter().flat_map(ends).flatten().collect();
    at.extend(RequestRow::rows(&pilot.data.warm_up)?.iter().flat_map(ends).flatten());
    at.extend(pilot.launches.iter().filter_map(|row| Some(row.t_ns? + row.duration_ns?)));
    at.extend(pilot.launches.iter().filter_map(|row| row.t_ns));
    at.extend(TelemetryRow::rows(&pilot.data.telemetry)?.iter().map(|row| row.t_ns));
    let span = at.iter().max().zip(at.iter().min()).map(|(last, first)| ns_to_s(last - first));
    Ok(span.filter(|span| *span > 0.0).map(|span| span / n_repeats as f64))
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution as _, Normal};

    use super::*;

    /// Chi-square quantiles at 0.2 from the tables: 0.0642, 0.446, 1.005, 2.343 (1, 2, 3, 5 degrees of freedom).
    #[test]
    fn the_bound_of_a_variance_is_as_tabled() {
        for (free, tabled, off) in
            [(1, 0.0642, 0.17), (2, 0.446, 0.03), (3, 1.005, 0.02), (5, 2.343, 0.01)]
        {
            let found = inflation(free) / (free as f64 / tabled);
            assert!((found - 1.0).abs() < off, "{free}: {found}");
        }
    }

    /// What it asks for is enough: with that many repeats the interval is as narrow as wanted, with one fewer it is not.
    #[test]
    fn as_many_as_needed_and_no_more() {
        for (variance, wanted) in [(1.0, 0.5), (4.0, 0.1), (0.01, 0.3)] {
            let n = repeats(variance, wanted).unwrap();
            assert!(half(variance, n).unwrap() <= wanted, "{n}");
            assert!(n == 2 || half(variance, n - 1).unwrap() > wanted, "{n}");
        }
        assert_eq!(repeats(1e9, 1e-3), None);
    }

    /// Repeats that scatter by 3 % and requests by 20 %, 100 a repeat: 20 % / 10 adds up with 3 % to 3.6 %.
    #[test]
    fn both_spreads_are_found() {
        let mut rng = stats::seeded(5);
        let turns = (0..200).map(|repeat| {
            let centre = Normal::new(100.0, 3.0).unwrap().sample(&mut rng);
            let within = Normal::new(centre, 20.0).unwrap();
            ((0, repeat), (0..100).map(|_| within.sample(&mut rng)).collect())
        });
        let contender = Contender {
            name: "a".into(),
            method: "a".into(),
            target: "t".into(),
            turns: turns.collect(),
        };
        let metric: Metric = "tpot_ms_mean".parse().unwrap();
        let found = need(&Point::default(), &metric, &contender, 2.0).unwrap();
        assert!((found.between_pct.unwrap() - 3.0).abs() < 0.6, "{found:?}");
        assert!((found.within_pct.unwrap() - 20.0).abs() < 0.6, "{found:?}");
        // (1.96 * 3.6 / 2)^2 = 12.4, and Student's t asks for two more.
        assert!((12..=18).contains(&found.repeats.unwrap()), "{found:?}");
        assert!(found.repeats_high >= found.repeats);
    }

    #[test]
    fn one_repeat_tells_nothing() {
        let turns = [((0, 0), vec![1.0, 2.0, 3.0])].into_iter().collect();
        let contender =
            Contender { name: "a".into(), method: "a".into(), target: "t".into(), turns };
        let found =
            need(&Point::default(), &"tpot_ms_mean".parse().unwrap(), &contender, 2.0).unwrap();
        assert_eq!((found.repeats, found.between_pct, found.half_pct), (None, None, None));
    }
}
