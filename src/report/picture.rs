//! Figures as pages show them: panels that can be pointed at, a legend in words, and the values in a table.

use serde::Serialize;

use super::{
    Figure,
    figure::{Axis, Panel, Samples, Scale, Series},
    grid::Grid,
    run::Plot,
    shell::{Names, fair_share},
    svg::{Owners, Told, inline, legend},
    table::{Column, Table, Value},
};

/// Most points that all pictures of a page draw, and most values that they tell: a page stays under 3 MB (held by a test).
const DRAWN_MAX: usize = 9_000;
const TOLD_MAX: usize = 2_500;

/// A figure as the template wants it.
#[derive(Serialize)]
pub(super) struct Picture {
    name: String,
    title: String,
    caption: String,
    /// What was left out of the picture or the table, if anything.
    note: Option<String>,
    svg: String,
    legend: Vec<Entry>,
    values: Grid,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    owner: Option<usize>,
    svg: String,
}

/// A point that is told: its panel, its series and its place there.
type Place = (usize, usize, usize);

impl Picture {
    /// Every figure of a page. Errors: see [`Figure::check`].
    pub(super) fn all(plots: &[Plot], names: &Names) -> anyhow::Result<Vec<Self>> {
        let wants: Vec<usize> = plots.iter().map(|plot| n_points(&plot.figure)).collect();
        let (drawn, told) = (fair_share(&wants, DRAWN_MAX), fair_share(&wants, TOLD_MAX));
        plots.iter().map(|plot| Self::new(plot, names, drawn, told)).collect()
    }

    fn new(plot: &Plot, names: &Names, drawn: usize, told: usize) -> anyhow::Result<Self> {
        let thinned = thinned(&plot.figure, drawn);
        let figure = &thinned;
        let named = |text: &str| names.leading(text);
        let owners = Owners { figure, named: &named };
        let places = places(figure, told);
        let words: Vec<Told> = places.iter().map(|place| said(figure, *place)).collect();
        let entry = |sample: super::svg::Sample| Entry {
            name: sample.name,
            owner: sample.owner,
            svg: sample.svg,
        };
        let whose = places.iter().map(|(panel, series, _)| owners.series(*panel, *series));
        Ok(Self {
            name: plot.name.clone(),
            title: figure.title.clone(),
            caption: figure.caption.clone(),
            note: note(n_points(&plot.figure), n_points(figure), places.len()),
            svg: inline(&owners, &words)?,
            legend: legend(&owners).into_iter().map(entry).collect(),
            values: Grid::owned(&values(figure, &places), &whose.collect::<Vec<_>>()),
        })
    }
}

fn n_points(figure: &Figure) -> usize {
    figure.panels.iter().flat_map(|panel| &panel.series).map(|series| series.points.len()).sum()
}

fn note(all: usize, drawn: usize, told: usize) -> Option<String> {
    let picture = (drawn < all).then(|| {
        format!("Drawn through {drawn} of {all} points, spread evenly; the file beside this page has all.")
    });
    let table = (told < drawn).then(|| {
        format!("The table and the pointer have {told} of {drawn} drawn points, spread evenly.")
    });
    let parts: Vec<String> = picture.into_iter().chain(table).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// `keep` of `n` places, spread evenly with both ends.
fn spread(n: usize, keep: usize) -> Vec<usize> {
    match keep.min(n) {
        0 => Vec::new(),
        1 => vec![n - 1],
        kept => (0..kept).map(|i| i * (n - 1) / (kept - 1)).collect(),
    }
}

fn lengths(figure: &Figure) -> Vec<usize> {
    let series = figure.panels.iter().flat_map(|panel| &panel.series);
    series.map(|series| series.points.len()).collect()
}

/// The figure with about `most` points; series with few keep theirs, and none vanishes.
fn thinned(figure: &Figure, most: usize) -> Figure {
    let share = fair_share(&lengths(figure), most).max(1);
    let panel = |panel: &Panel| {
        let kept: Vec<Vec<usize>> =
            panel.series.iter().map(|series| spread(series.points.len(), share)).collect();
        let thin = |(series, kept): (&Series, &Vec<usize>)| Series {
            points: kept.iter().map(|at| series.points[*at]).collect(),
            ..series.clone()
        };
        let count = |samples: &Samples| {
            let own = kept.get(samples.series);
            let n = match own {
                Some(kept) if samples.n.len() > 1 => {
                    kept.iter().filter_map(|at| samples.n.get(*at).copied()).collect()
                }
                _ => samples.n.clone(),
            };
            Samples { series: samples.series, n }
        };
        Panel {
            series: panel.series.iter().zip(&kept).map(thin).collect(),
            samples: panel.samples.iter().map(count).collect(),
            ..panel.clone()
        }
    };
    Figure { panels: figure.panels.iter().map(panel).collect(), ..figure.clone() }
}

/// The points that are told.
fn places(figure: &Figure, most: usize) -> Vec<Place> {
    let share = fair_share(&lengths(figure), most);
    let mut out = Vec::new();
    for (p, panel) in figure.panels.iter().enumerate() {
        for (s, series) in panel.series.iter().enumerate() {
            out.extend(spread(series.points.len(), share).into_iter().map(|at| (p, s, at)));
        }
    }
    out
}

/// The place on the horizontal axis, by name where it has names.
fn at(axis: &Axis, x: f64) -> Value {
    match &axis.scale {
        Scale::Category(names) => {
            let name = names.get(x.round().max(0.0) as usize);
            name.map_or(Value::Missing, |name| Value::Text(name.clone()))
        }
        _ => Value::Float(x),
    }
}

fn measured(figure: &Figure, (p, s, at): Place) -> Value {
    let point = &figure.panels[p].series[s].points[at];
    Value::estimate(Some(point.y), point.low, point.high)
}

/// One point in words: what, how much of what, where, and from how many.
fn said(figure: &Figure, place: Place) -> Told {
    let (panel, series, point) = place;
    let (own, line) = (&figure.panels[panel], &figure.panels[panel].series[series]);
    let unit = |unit: &str| if unit.is_empty() { String::new() } else { format!(" {unit}") };
    let within = if own.label.is_empty() { String::new() } else { format!(" ({})", own.label) };
    let (x, y) = (at(&figure.x, line.points[point].x), measured(figure, place));
    let mut text = format!(
        "{}{within}: {} {}{}; {} {}{}",
        line.name,
        figure.y.label,
        y.human(),
        unit(&figure.y.unit),
        figure.x.label,
        x.human(),
        unit(&figure.x.unit)
    );
    if let Some(n) = own.n(series, point) {
        text += &format!("; n {n}");
    }
    Told { panel, series, point, text }
}

/// The same points as a table, for eyes and readers that no pointer helps.
fn values(figure: &Figure, places: &[Place]) -> Table {
    let labelled = figure.panels.iter().any(|panel| !panel.label.is_empty());
    let counted = figure.panels.iter().any(|panel| !panel.samples.is_empty());
    let mut columns = vec![Column::new("series", "")];
    columns.extend(labelled.then(|| Column::new("panel", "")));
    columns.push(Column::new(&figure.x.label, &figure.x.unit));
    columns.push(Column::new(&figure.y.label, &figure.y.unit));
    columns.extend(counted.then(|| Column::new("n", "")));
    let mut table = Table::new(&format!("Values: {}", figure.title), columns);
    for place in places {
        let (p, s, n) = *place;
        let (panel, series) = (&figure.panels[p], &figure.panels[p].series[s]);
        let mut row = vec![Value::Text(series.name.clone())];
        row.extend(labelled.then(|| Value::Text(panel.label.clone())));
        row.push(at(&figure.x, series.points[n].x));
        row.push(measured(figure, *place));
        row.extend(counted.then(|| panel.n(s, n).map_or(Value::Missing, Value::count)));
        table.rows.push(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figure::{Kind, Point};

    fn figure(n: usize) -> Figure {
        let points = |n: usize| (0..n).map(|x| Point::new(x as f64, 2.0 * x as f64)).collect();
        let series = |name: &str, n: usize| Series {
            name: name.to_owned(),
            slot: 0,
            kind: Kind::Line,
            points: points(n),
        };
        let mut panel = Panel { label: "w".into(), ..Panel::default() };
        panel.push_counted(series("long", n), (0..n).collect());
        panel.push_counted(series("short", 3), vec![7]);
        let axis = |name: &str| Axis::new(name, "ms", Scale::Linear);
        Figure::single("T", "", axis("due"), axis("took"), panel)
    }

    #[test]
    fn what_is_too_much_is_thinned_evenly_and_said() {
        let plot = Plot { name: "p".into(), figure: figure(1_000) };
        let names = Names::new("method", vec!["long".into(), "short".into()]);
        let picture = Picture::new(&plot, &names, 103, 13).unwrap();
        let thin = thinned(&plot.figure, 103);
        let panel = &thin.panels[0];
        assert_eq!((panel.series[0].points.len(), panel.series[1].points.len()), (100, 3));
        let ends = [0, 99].map(|at| (panel.series[0].points[at].x, panel.n(0, at)));
        assert_eq!(ends, [(0.0, Some(0)), (999.0, Some(999))], "each keeps its own n");
        let note = picture.note.unwrap();
        assert!(note.contains("103 of 1003") && note.contains("13 of 103"), "{note}");
        assert_eq!(picture.svg.matches("<title>").count(), 13);
        assert_eq!(Picture::new(&plot, &names, 2_000, 2_000).unwrap().note, None);
    }

    #[test]
    fn a_point_says_value_unit_place_and_n() {
        let figure = figure(4);
        assert_eq!(said(&figure, (0, 0, 3)).text, "long (w): took 6.00 ms; due 3.00 ms; n 3");
        assert_eq!(said(&figure, (0, 1, 2)).text, "short (w): took 4.00 ms; due 2.00 ms; n 7");
        let table = values(&figure, &places(&figure, 100));
        assert_eq!((table.rows.len(), table.columns.len()), (7, 5));
        assert_eq!(table.rows[6][4], Value::Int(7));
    }
}
