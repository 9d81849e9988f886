//! One metric of one cell, or of one point over its repeats, as a row of `summary.parquet`.

use rand_chacha::ChaCha8Rng;

use super::{Estimate, SummaryRow, definitions};
use crate::{
    record::parquet::table_row,
    stats::{self, Interval, Sample},
};

table_row!(
    SummaryRow, "summary", cell_id, metric, definition, unit, n, mean, ci_low, ci_high, p50, p90,
    p95, p99, verdict
);

/// Observations by repeat and, within it, by request or launch. Gaps between the tokens of one answer hang together, so
/// an answer is drawn as a whole; every other metric has one value a request.
pub(super) type Series = Vec<Vec<Vec<f64>>>;

/// A generator that depends on the run's seed and on what is estimated, not on what else is in the run.
pub(super) fn rng_for(seed: u64, label: &str) -> ChaCha8Rng {
    // FNV-1a: spreads labels over seeds, and is the same in every version of kvbench.
    let hash = label.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    stats::seeded(seed ^ hash)
}

/// Summarises a metric; `None` without observations.
pub(super) fn summarise(
    seed: u64,
    cell_id: &str,
    metric: &str,
    unit: &str,
    series: &Series,
) -> Option<SummaryRow> {
    let values: Vec<f64> = series.iter().flatten().flatten().copied().collect();
    let sample = Sample::new(values).ok()?;
    let cluster = |values: &Vec<f64>| (values.iter().sum::<f64>(), values.len() as f64);
    let groups: Vec<Vec<(f64, f64)>> = series
        .iter()
        .map(|repeat| {
            repeat.iter().filter(|values| !values.is_empty()).map(cluster).collect::<Vec<_>>()
        })
        .filter(|repeat| !repeat.is_empty())
        .collect();
    let mut rng = rng_for(seed, &format!("{cell_id} {metric}"));
    let interval = stats::bootstrap(&groups, &mut rng, |clusters| {
        let (sum, n) =
            clusters.iter().fold((0.0, 0.0), |(sum, n), cluster| (sum + cluster.0, n + cluster.1));
        Some(sum / n)
    });
    Some(SummaryRow {
        cell_id: cell_id.to_owned(),
        metric: metric.to_owned(),
        definition: definitions::of_metric(metric).map(str::to_owned),
        unit: unit.to_owned(),
        n: sample.len() as u64,
        mean: sample.mean(),
        ci_low: interval.map(|interval| interval.low),
        ci_high: interval.map(|interval| interval.high),
        p50: sample.percentile(50),
        p90: sample.percentile(90),
        p95: sample.percentile(95),
        p99: sample.percentile(99),
        verdict: None,
    })
}

/// A number that is one for the whole of a cell or point, such as a rate: it has no percentiles.
pub(super) fn single(cell_id: &str, metric: &str, unit: &str, estimate: Estimate) -> SummaryRow {
    SummaryRow {
        cell_id: cell_id.to_owned(),
        metric: metric.to_owned(),
        definition: definitions::of_metric(metric).map(str::to_owned),
        unit: unit.to_owned(),
        n: estimate.n as u64,
        mean: estimate.value,
        ci_low: estimate.interval.map(|interval| interval.0),
        ci_high: estimate.interval.map(|interval| interval.1),
        p50: None,
        p90: None,
        p95: None,
        p99: None,
        verdict: None,
    }
}

impl Estimate {
    pub(super) fn new(value: f64, interval: Option<Interval>, n: usize) -> Self {
        Self { value, interval: interval.map(|interval| (interval.low, interval.high)), n }
    }

    /// The estimate of `scale * x`, `scale` positive.
    pub(crate) fn scaled(self, scale: f64) -> Self {
        let interval = self.interval.map(|(low, high)| (low * scale, high * scale));
        Self { value: self.value * scale, interval, n: self.n }
    }

    /// The estimate of `scale / x` from that of `x`.
    pub(super) fn inverse(self, scale: f64) -> Self {
        Self {
            value: scale / self.value,
            interval: self.interval.map(|(low, high)| (scale / high, scale / low)),
            n: self.n,
        }
    }

    /// Largest distance of the interval from 1, see [`distance`]; of the value where there is no interval.
    pub(super) fn distance_from_one(&self) -> f64 {
        let (low, high) = self.interval.unwrap_or((self.value, self.value));
        distance(low).max(distance(high))
    }

    /// Whether the interval lies on one side of 1; unknown without an interval.
    pub(super) fn excludes_one(&self) -> bool {
        self.interval.is_some_and(|(low, high)| low > 1.0 || high < 1.0)
    }
}

/// How far a ratio is from 1, as a factor: twice as fast and half as fast are equally far. A difference from 1 would call
/// every slow-down noise where the control scatters by a factor of two.
pub(super) fn distance(ratio: f64) -> f64 {
    ratio.ln().abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_as_fast_is_as_far_from_one_as_twice_as_fast() {
        assert!((distance(2.0) - distance(0.5)).abs() < 1e-12);
        assert!(
            distance(0.01) > distance(2.1),
            "a slow-down by 100 is no noise where the control scatters by 2"
        );
    }

    #[test]
    fn an_answer_is_drawn_as_a_whole() {
        // Two answers whose gaps are constant within each: four hundred gaps, but two independent observations.
        let series = vec![vec![vec![1.0; 200], vec![3.0; 200]]];
        let row = summarise(1, "c", "itl", "ms", &series).unwrap();
        assert_eq!((row.n, row.ci_low, row.ci_high), (400, Some(1.0), Some(3.0)));
        assert_eq!(summarise(1, "c", "itl", "ms", &vec![vec![vec![]]]), None);
    }

    #[test]
    fn the_summary_survives_parquet() {
        let dir = tempfile::tempdir().unwrap();
        let row = summarise(1, "c", "ttft", "ms", &vec![vec![vec![1.0], vec![2.0]]]).unwrap();
        assert_eq!(row.p99, None);
        crate::record::parquet::write_rows(dir.path(), std::slice::from_ref(&row)).unwrap();
        assert_eq!(crate::record::parquet::read_rows::<SummaryRow>(dir.path()).unwrap(), [row]);
    }
}
