//! What servers told of themselves: a table, and figures over time.

use super::{Looks, Plot, distinct, slug};
use crate::{
    analyse::{EngineView, Engines},
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Series},
        table::{Column, Table, Value},
    },
    scenario::MetricName,
};

/// Most readings drawn of one line: more cannot be seen.
const POINTS_MAX: usize = 400;
const MIB: f64 = 1_048_576.0;

/// Columns of numbers: name, unit, the metrics one of which it needs, and the number.
type Number = (&'static str, &'static str, &'static [MetricName], fn(&EngineView) -> Option<f64>);

const NUMBERS: [Number; 10] = [
    ("kv_usage_peak", "%", &[MetricName::KvUsage], |view| {
        view.level(MetricName::KvUsage).map(|level| 100.0 * level.peak)
    }),
    ("kv_usage_mean", "%", &[MetricName::KvUsage], |view| {
        view.level(MetricName::KvUsage).map(|level| 100.0 * level.mean)
    }),
    ("running_peak", "", &[MetricName::Running], |view| {
        view.level(MetricName::Running).map(|level| level.peak)
    }),
    ("waiting_peak", "", &[MetricName::Waiting], |view| {
        view.level(MetricName::Waiting).map(|level| level.peak)
    }),
    ("preemptions", "", &[MetricName::PreemptionsTotal], |view| {
        view.increase(MetricName::PreemptionsTotal)
    }),
    ("hits", "tokens", &[MetricName::PrefixHitsTotal], |view| {
        view.increase(MetricName::PrefixHitsTotal)
    }),
    ("hit_rate", "%", &[MetricName::PrefixQueriesTotal], |view| {
        view.prefix_hit_rate().map(|rate| 100.0 * rate)
    }),
    ("accepted", "%", &[MetricName::SpecAcceptedTokensTotal, MetricName::SpecAcceptRate], |view| {
        view.accept_rate().map(|rate| 100.0 * rate)
    }),
    ("offload_read", "MiB", &[MetricName::OffloadReadBytesTotal], |view| {
        view.increase(MetricName::OffloadReadBytesTotal).map(|bytes| bytes / MIB)
    }),
    ("offload_write", "MiB", &[MetricName::OffloadWriteBytesTotal], |view| {
        view.increase(MetricName::OffloadWriteBytesTotal).map(|bytes| bytes / MIB)
    }),
];

/// A row a watched cell, and under the cells of a point with several repeats one for all of them.
pub(super) fn table(engines: &Engines) -> Table {
    let places = ["target", "workload", "load", "method", "repeat"].map(|name| (name, ""));
    let counts = [("readings", ""), ("failed", "")];
    let numbers = NUMBERS.map(|(name, unit, ..)| (name, unit));
    let columns = places.into_iter().chain(counts).chain(numbers);
    let mut table = Table::new(
        "What the servers told of themselves (- is not told)",
        columns.map(|(name, unit)| Column::new(name, unit)).collect(),
    );
    for point in &engines.points {
        let cells: Vec<_> = engines.cells.iter().filter(|cell| cell.point == point.point).collect();
        table.rows.extend(cells.iter().map(|cell| row(cell)));
        table.rows.extend((cells.len() > 1).then(|| row(point)));
    }
    table
}

fn row(view: &EngineView) -> Vec<Value> {
    let count = |n: usize| i64::try_from(n).map_or(Value::Missing, Value::Int);
    let place = &view.point;
    let mut row: Vec<Value> = [&place.target, &place.workload, &place.load, &place.method]
        .map(|name| Value::Text(name.clone()))
        .into();
    row.push(Value::Text(view.repeat.map_or("all".to_owned(), |repeat| format!("r{repeat}"))));
    row.extend([count(view.n_readings), count(view.n_failed)]);
    row.extend(NUMBERS.iter().map(|(_, _, needs, of)| match of(view) {
        Some(number) => Value::Float(number),
        None if needs.iter().all(|name| view.absent.contains(name)) => Value::Absent,
        None => Value::Missing,
    }));
    row
}

/// Per target group, workload and load: the KV cache, and requests inside, over time; a panel a method.
pub(super) fn plots(engines: &Engines, looks: &Looks) -> Vec<Plot> {
    let places =
        distinct(engines.cells.iter().map(|cell| (&cell.point.workload, &cell.point.load)));
    let mut out = Vec::new();
    for (workload, load) in places {
        let here: Vec<&EngineView> = engines
            .cells
            .iter()
            .filter(|cell| (&cell.point.workload, &cell.point.load) == (workload, load))
            .collect();
        let place = format!("{workload}, {load}");
        let name = |what: &str| slug(&[what, workload, load]);
        out.extend(
            usage(&here, looks, &place).map(|figure| Plot { name: name("kv-usage"), figure }),
        );
        out.extend(
            requests(&here, looks, &place)
                .map(|figure| Plot { name: name("engine-requests"), figure }),
        );
    }
    out
}

fn time() -> Axis {
    Axis::from_zero("time since the cell began", "s")
}

fn usage(cells: &[&EngineView], looks: &Looks, place: &str) -> Option<Figure> {
    let panels = panels(cells, looks, &|cell, slot| {
        let name = cell.point.method.clone();
        line(cell, MetricName::KvUsage, 100.0, name, slot).into_iter().collect()
    });
    let caption = "As the servers told, one line a repeat; what came and went between two readings is not seen.";
    figure(
        &format!("KV cache in use: {place}"),
        caption,
        Axis::from_zero("KV cache in use", "%"),
        panels,
    )
}

fn requests(cells: &[&EngineView], looks: &Looks, place: &str) -> Option<Figure> {
    let panels = panels(cells, looks, &|cell, _| {
        let named = [(MetricName::Running, "running"), (MetricName::Waiting, "waiting")];
        named
            .iter()
            .enumerate()
            .filter_map(|(slot, (name, text))| line(cell, *name, 1.0, (*text).to_owned(), slot))
            .collect()
    });
    let caption = "Requests in the servers as they told, one line a repeat; waiting ones have no place in the batch yet.";
    figure(
        &format!("Requests in the server: {place}"),
        caption,
        Axis::from_zero("requests", ""),
        panels,
    )
}

/// A panel a method, and target where one method runs on several; panels without a line are left out.
fn panels(
    cells: &[&EngineView],
    looks: &Looks,
    draw: &dyn Fn(&EngineView, usize) -> Vec<Series>,
) -> Vec<Panel> {
    let mut groups = distinct(cells.iter().map(|cell| (&cell.point.method, &cell.point.target)));
    groups.sort_by_key(|(method, _)| looks.rank(method).unwrap_or(usize::MAX));
    let several = |method: &str| groups.iter().filter(|(known, _)| *known == method).count() > 1;
    let panel = |(method, target): &(&String, &String)| {
        let mine = cells
            .iter()
            .filter(|cell| (&cell.point.method, &cell.point.target) == (*method, *target));
        let label = if several(method) { format!("{method}, {target}") } else { (*method).clone() };
        let series: Vec<Series> = mine.flat_map(|cell| draw(cell, looks.slot(method))).collect();
        Panel { label, series, ..Panel::default() }
    };
    groups.iter().map(panel).filter(|panel| !panel.series.is_empty()).collect()
}

fn figure(title: &str, caption: &str, y: Axis, panels: Vec<Panel>) -> Option<Figure> {
    (!panels.is_empty()).then(|| Figure {
        title: title.to_owned(),
        caption: caption.to_owned(),
        x: time(),
        y,
        panels,
    })
}

/// One level over time; long ones are thinned to the highest reading of each stretch, so that no peak is lost.
fn line(
    cell: &EngineView,
    name: MetricName,
    scale: f64,
    label: String,
    slot: usize,
) -> Option<Series> {
    let line = cell.lines.iter().find(|line| line.name == name)?;
    let stride = line.points.len().div_ceil(POINTS_MAX).max(1);
    let highest =
        |stretch: &[(f64, f64)]| stretch.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    let points = line.points.chunks(stride).filter_map(highest);
    Some(Series {
        name: label,
        slot,
        kind: Kind::Line,
        points: points.map(|(x, y)| Point::new(x, scale * y)).collect(),
    })
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
