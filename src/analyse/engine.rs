//! What servers told of themselves while cells ran: levels, and differences of counters over a cell.
//!
//! - A level at one moment is the sum over the server's series (its engines, its ranks) for requests and tokens, the
//!   fullest one's for shares. Peak and mean are those of the readings: what came and went between two is not seen.
//! - A counter's increase is added up from reading to reading. One that fell was started anew, and counts from 0; a series
//!   that appears after the first reading began at 0.
//! - What a server does not tell is absent, never 0.

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::{DataFrame, IntoLazy as _, col, len, lit};

use super::{Point, RunData, SummaryRow, definitions};
use crate::{
    record::{EngineMetricRow, manifest::CellFacts},
    scenario::{MetricKind, MetricName},
    units::ns_to_s,
};

/// What servers told, by cell and by point; empty where nothing was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Engines {
    /// One entry a watched cell, in plan order.
    pub cells: Vec<EngineView>,
    /// One entry a point, all its repeats together, in plan order.
    pub points: Vec<EngineView>,
}

/// What a server told of one cell, or of all repeats of a point.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EngineView {
    /// The cell; of a point its id with `*` for the repeat.
    pub cell_id: String,
    /// Which.
    pub point: Point,
    /// Repeat; `None` = all of them.
    pub repeat: Option<i64>,
    /// Readings that held something.
    pub n_readings: usize,
    /// Readings that failed.
    pub n_failed: usize,
    /// Levels, of [`MetricKind::Gauge`].
    pub levels: BTreeMap<MetricName, Level>,
    /// Increases over the cell, of [`MetricKind::Counter`].
    pub counted: BTreeMap<MetricName, f64>,
    /// What the server does not tell.
    pub absent: BTreeSet<MetricName>,
    /// Whether no reading succeeded, so that nothing is known.
    pub unread: bool,
    /// KV usage (0 to 1), running and waiting requests over time; empty for points.
    pub lines: Vec<Line>,
}

/// A level over the readings of a cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Highest.
    pub peak: f64,
    /// Mean.
    pub mean: f64,
    /// Moments read.
    pub n: usize,
}

/// A level over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Which.
    pub name: MetricName,
    /// Seconds from the cell's first reading, and the level.
    pub points: Vec<(f64, f64)>,
}

/// Levels that are drawn.
const DRAWN: [MetricName; 3] = [MetricName::KvUsage, MetricName::Running, MetricName::Waiting];

impl EngineView {
    /// A level.
    pub fn level(&self, name: MetricName) -> Option<Level> {
        self.levels.get(&name).copied()
    }

    /// An increase.
    pub fn increase(&self, name: MetricName) -> Option<f64> {
        self.counted.get(&name).copied()
    }

    /// Prompt tokens found in the prefix cache over those looked up, 0 to 1; `None` where nothing was looked up.
    pub fn prefix_hit_rate(&self) -> Option<f64> {
        self.ratio(MetricName::PrefixHitsTotal, MetricName::PrefixQueriesTotal)
    }

    /// Accepted over proposed tokens of speculative decoding, 0 to 1: of the counters where there are such, else the mean of
    /// the rate the engine states. `None` where nothing was proposed.
    pub fn accept_rate(&self) -> Option<f64> {
        let (accepted, proposed) =
            (MetricName::SpecAcceptedTokensTotal, MetricName::SpecDraftTokensTotal);
        if self.increase(accepted).is_some() && self.increase(proposed).is_some() {
            return self.ratio(accepted, proposed);
        }
        self.level(MetricName::SpecAcceptRate).map(|level| level.mean)
    }

    fn ratio(&self, part: MetricName, whole: MetricName) -> Option<f64> {
        let whole = self.increase(whole).filter(|whole| *whole > 0.0)?;
        Some(self.increase(part)? / whole)
    }
}

/// What was told, and the summary rows of it.
pub(super) fn engines(data: &RunData) -> anyhow::Result<(Engines, Vec<SummaryRow>)> {
    let told = told(&data.engine_metrics)?;
    let view = |cell: &CellFacts| told.get(&cell.id).map(|told| told.view(cell));
    let cells: Vec<EngineView> = data.manifest.cells.iter().filter_map(view).collect();
    let mut points: Vec<(&Point, Vec<&EngineView>)> = Vec::new();
    for cell in &cells {
        match points.iter_mut().find(|(point, _)| **point == cell.point) {
            Some((_, repeats)) => repeats.push(cell),
            None => points.push((&cell.point, vec![cell])),
        }
    }
    let points: Vec<EngineView> = points
        .into_iter()
        .map(|(point, repeats)| pooled(data.pooled_id(point), point, &repeats))
        .collect();
    let summary = cells.iter().chain(&points).flat_map(summary_rows).collect();
    Ok((Engines { cells, points }, summary))
}

/// When a value held: its reading's time and, where the server numbers its iterations, the iteration.
type Moment = (i64, i64);

/// Everything read in one cell.
#[derive(Debug, Default)]
struct Told {
    /// By metric and series: values by moment.
    series: BTreeMap<MetricName, BTreeMap<String, BTreeMap<Moment, f64>>>,
    absent: BTreeSet<MetricName>,
    unread: bool,
    n_failed: usize,
}

fn told(frame: &DataFrame) -> anyhow::Result<BTreeMap<String, Told>> {
    let mut cells = BTreeMap::new();
    let source = |text: &'static str| col("source").eq(lit(text));
    let nothing = source(EngineMetricRow::ABSENT).or(source(EngineMetricRow::UNREAD));
    let failed = col("name").eq(lit(EngineMetricRow::SCRAPE));
    let lazy = || frame.clone().lazy();
    series(
        lazy()
            .filter(nothing.clone().or(failed.clone()).not())
            .group_by_stable([col("cell_id"), col("name"), col("labels")])
            .agg([col("t_ns"), col("value")])
            .collect()?,
        &mut cells,
    )?;
    missing(lazy().filter(nothing).collect()?, &mut cells)?;
    let counts = lazy().filter(failed).group_by_stable([col("cell_id")]).agg([len().alias("n")]);
    let counts = counts.collect()?;
    let n = counts.column("n")?.u32()?.iter();
    for (cell, n) in counts.column("cell_id")?.str()?.iter().zip(n) {
        entry(&mut cells, cell).n_failed = n.unwrap_or_default() as usize;
    }
    Ok(cells)
}

fn entry<'t>(cells: &'t mut BTreeMap<String, Told>, id: Option<&str>) -> &'t mut Told {
    cells.entry(id.unwrap_or_default().to_owned()).or_default()
}

/// Adds the series of a frame with lists of times and values.
fn series(frame: DataFrame, cells: &mut BTreeMap<String, Told>) -> anyhow::Result<()> {
    let text = |name: &str| -> anyhow::Result<_> { Ok(frame.column(name)?.str()?.clone()) };
    let (ids, names, labels) = (text("cell_id")?, text("name")?, text("labels")?);
    let times = frame.column("t_ns")?.list()?.clone();
    let values = frame.column("value")?.list()?.clone();
    for row in 0..frame.height() {
        let Some(name) = names.get(row).and_then(MetricName::named) else { continue };
        let (series, iteration) = split_labels(labels.get(row).unwrap_or_default());
        let all = entry(cells, ids.get(row)).series.entry(name).or_default();
        let all = all.entry(series).or_default();
        let (Some(times), Some(values)) = (times.get_as_series(row), values.get_as_series(row))
        else {
            continue;
        };
        for (t_ns, value) in times.i64()?.iter().zip(values.f64()?.iter()) {
            if let (Some(t_ns), Some(value)) = (t_ns, value) {
                all.insert((t_ns, iteration), value);
            }
        }
    }
    Ok(())
}

/// The labels that tell series apart, and the iteration, which does not: 0 where there is none.
fn split_labels(labels: &str) -> (String, i64) {
    if !labels.contains("\"iter\"") {
        return (labels.to_owned(), 0);
    }
    let mut known: BTreeMap<String, String> = serde_json::from_str(labels).unwrap_or_default();
    let iteration = known.remove("iter").and_then(|iter| iter.parse().ok());
    (serde_json::json!(known).to_string(), iteration.unwrap_or(0))
}

fn missing(frame: DataFrame, cells: &mut BTreeMap<String, Told>) -> anyhow::Result<()> {
    let ids = frame.column("cell_id")?.str()?;
    let (names, sources) = (frame.column("name")?.str()?, frame.column("source")?.str()?);
    for ((id, name), source) in ids.iter().zip(names.iter()).zip(sources.iter()) {
        let told = entry(cells, id);
        if source == Some(EngineMetricRow::UNREAD) {
            told.unread = true;
        } else {
            told.absent.extend(name.and_then(MetricName::named));
        }
    }
    Ok(())
}

impl Told {
    fn moments(&self) -> BTreeSet<Moment> {
        self.series.values().flat_map(BTreeMap::values).flat_map(BTreeMap::keys).copied().collect()
    }

    fn view(&self, cell: &CellFacts) -> EngineView {
        let moments = self.moments();
        let ends = moments.first().copied().zip(moments.last().copied());
        let readings: BTreeSet<i64> = moments.iter().map(|(t_ns, _)| *t_ns).collect();
        let mut view = EngineView {
            cell_id: cell.id.clone(),
            point: Point {
                target: cell.target.clone(),
                workload: cell.workload.clone(),
                load: cell.load.clone(),
                method: cell.method.clone(),
            },
            repeat: Some(i64::from(cell.repeat)),
            n_readings: readings.len(),
            n_failed: self.n_failed,
            absent: self.absent.clone(),
            unread: self.unread,
            ..EngineView::default()
        };
        let Some((first, last)) = ends else { return view };
        for (name, series) in &self.series {
            match name.kind() {
                MetricKind::Counter if last > first => {
                    view.counted.insert(*name, increase(series, first));
                }
                MetricKind::Gauge => {
                    let over_time = over_time(*name, series);
                    view.levels.extend(level(&over_time).map(|level| (*name, level)));
                    view.lines.extend(line(*name, &over_time, first.0));
                }
                // One reading has no difference; a setting has no value.
                MetricKind::Counter | MetricKind::Info => {}
            }
        }
        view
    }
}

/// What all series of a counter gained since the cell's first moment.
fn increase(series: &BTreeMap<String, BTreeMap<Moment, f64>>, first: Moment) -> f64 {
    let of_one = |values: &BTreeMap<Moment, f64>| {
        let began_later = values.keys().next().is_some_and(|moment| *moment > first);
        let start = if began_later { Some(0.0) } else { None };
        let all: Vec<f64> = start.into_iter().chain(values.values().copied()).collect();
        all.windows(2)
            .map(|pair| if pair[1] >= pair[0] { pair[1] - pair[0] } else { pair[1] })
            .sum::<f64>()
    };
    series.values().map(of_one).sum()
}

/// The level at each moment, all series together.
fn over_time(
    name: MetricName,
    series: &BTreeMap<String, BTreeMap<Moment, f64>>,
) -> BTreeMap<Moment, f64> {
    let is_share = matches!(name, MetricName::KvUsage | MetricName::SpecAcceptRate);
    let mut levels: BTreeMap<Moment, f64> = BTreeMap::new();
    for (moment, value) in series.values().flatten() {
        levels
            .entry(*moment)
            .and_modify(|level| *level = if is_share { level.max(*value) } else { *level + value })
            .or_insert(*value);
    }
    levels
}

fn level(over_time: &BTreeMap<Moment, f64>) -> Option<Level> {
    let peak = over_time.values().copied().reduce(f64::max)?;
    let mean = over_time.values().sum::<f64>() / over_time.len() as f64;
    Some(Level { peak, mean, n: over_time.len() })
}

fn line(name: MetricName, over_time: &BTreeMap<Moment, f64>, start_ns: i64) -> Option<Line> {
    let points: Vec<(f64, f64)> =
        over_time.iter().map(|((t_ns, _), value)| (ns_to_s(t_ns - start_ns), *value)).collect();
    (DRAWN.contains(&name) && !points.is_empty()).then_some(Line { name, points })
}

/// All repeats together. What one of them does not know is not known of all.
fn pooled(cell_id: String, point: &Point, repeats: &[&EngineView]) -> EngineView {
    let in_all = |held: &dyn Fn(&EngineView, MetricName) -> bool| {
        let held_by_all = |name: &&MetricName| repeats.iter().all(|view| held(view, **name));
        MetricName::ALL.iter().filter(held_by_all).copied().collect::<Vec<_>>()
    };
    let counted = |name: MetricName| repeats.iter().filter_map(|view| view.increase(name)).sum();
    let level = |name: MetricName| {
        let levels: Vec<Level> = repeats.iter().filter_map(|view| view.level(name)).collect();
        let n: usize = levels.iter().map(|level| level.n).sum();
        let total: f64 = levels.iter().map(|level| level.mean * level.n as f64).sum();
        let peak = levels.iter().map(|level| level.peak).fold(f64::NEG_INFINITY, f64::max);
        Level { peak, mean: total / n as f64, n }
    };
    let levels = in_all(&|view, name| view.levels.contains_key(&name));
    let counters = in_all(&|view, name| view.counted.contains_key(&name));
    EngineView {
        cell_id,
        point: point.clone(),
        repeat: None,
        n_readings: repeats.iter().map(|view| view.n_readings).sum(),
        n_failed: repeats.iter().map(|view| view.n_failed).sum(),
        levels: levels.into_iter().map(|name| (name, level(name))).collect(),
        counted: counters.into_iter().map(|name| (name, counted(name))).collect(),
        absent: repeats.iter().flat_map(|view| &view.absent).copied().collect(),
        unread: repeats.iter().any(|view| view.unread),
        lines: Vec::new(),
    }
}

/// One value a metric; readings of one cell hang together, so they have no interval.
fn summary_rows(view: &EngineView) -> Vec<SummaryRow> {
    let peak = |name| view.level(name).map(|level| level.peak);
    let values = [
        ("kv_usage_peak", "1", peak(MetricName::KvUsage)),
        ("kv_usage_mean", "1", view.level(MetricName::KvUsage).map(|level| level.mean)),
        ("running_peak", "requests", peak(MetricName::Running)),
        ("waiting_peak", "requests", peak(MetricName::Waiting)),
        ("preemptions", "requests", view.increase(MetricName::PreemptionsTotal)),
        ("prefix_hit_tokens", "tokens", view.increase(MetricName::PrefixHitsTotal)),
        ("prefix_hit_rate", "1", view.prefix_hit_rate()),
        ("spec_accept_rate", "1", view.accept_rate()),
        ("offload_read_bytes", "bytes", view.increase(MetricName::OffloadReadBytesTotal)),
        ("offload_write_bytes", "bytes", view.increase(MetricName::OffloadWriteBytesTotal)),
    ];
    let row = |(metric, unit, value): (&str, &str, Option<f64>)| {
        Some(SummaryRow {
            cell_id: view.cell_id.clone(),
            metric: metric.to_owned(),
            definition: definitions::of_metric(metric).map(str::to_owned),
            verdict: None,
            unit: unit.to_owned(),
            n: view.n_readings as u64,
            mean: value?,
            ci_low: None,
            ci_high: None,
            p50: None,
            p90: None,
            p95: None,
            p99: None,
        })
    };
    values.into_iter().filter_map(row).collect()
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
