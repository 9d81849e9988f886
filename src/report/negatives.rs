//! Negative samples as tables and figures.

use super::{
    Column, Figure, Table, Value,
    figure::{Axis, Kind, Panel, Point, Reference, Scale, Series},
    palette::slots,
};
use crate::{
    analyse::negatives::{Counts, Fair, Found, Mode, TaskGroup},
    stats,
};

/// Every table, for people.
pub fn tables(found: &Found) -> [Table; 4] {
    [counts_table(found), delta_table(found), means_table(found), task_table(found)]
}

fn means_table(found: &Found) -> Table {
    let mut columns = vec![Column::new("set", ""), Column::new("mean", "points")];
    let datasets = found.means.first().map(|means| &means.by_dataset);
    let datasets: Vec<&String> = datasets.into_iter().flat_map(|means| means.keys()).collect();
    columns.extend(datasets.iter().map(|dataset| Column::new(dataset, "points")));
    let title =
        "Mean scores of all rows; `mean` is that of the data sets' means, as LongBench averages";
    let mut table = Table::new(title, columns);
    table.rows.extend(found.means.iter().map(|means| {
        let by_dataset = datasets.iter().map(|dataset| means.by_dataset.get(*dataset).copied());
        let mut row = vec![Value::Text(means.name.clone()), Value::maybe(means.mean)];
        row.extend(by_dataset.map(Value::maybe));
        row
    }));
    table
}

/// Every set of methods with its kind. One method's ensemble is that method, and is left out.
fn sets(found: &Found) -> Vec<(&'static str, &Counts)> {
    let ensembles = if found.methods.len() > 1 { found.ensembles.as_slice() } else { &[] };
    let kinds = [
        ("method", found.methods.as_slice()),
        ("ensemble", ensembles),
        ("noise floor", &found.noise),
    ];
    kinds.into_iter().flat_map(|(kind, sets)| sets.iter().map(move |set| (kind, set))).collect()
}

fn counts_table(found: &Found) -> Table {
    let columns = [
        ("kind", ""),
        ("set", ""),
        ("theta", "%"),
        ("benign", ""),
        ("negatives", ""),
        ("mirror", ""),
        ("p_sign", ""),
        ("q_sign", ""),
        ("lost_by_one_bar", ""),
        ("gained_by_one_bar", ""),
        ("q_one_bar", ""),
        ("would_be_found", "excess"),
        ("more_than_chance", ""),
    ];
    let mut columns: Vec<Column> =
        columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    if !found.confirmed.is_empty() {
        columns.push(Column::new("confirmed", ""));
    }
    let mut table = Table::new("Negative samples, and as many the other way round", columns);
    for (kind, counts) in sets(found) {
        for (t, theta) in found.theta.iter().enumerate() {
            let (low, high) = counts.intervals[t];
            let mirror = counts.mirror.as_ref().map(|mirror| mirror[t]);
            let fair = counts.fair.as_ref();
            let p = counts.p_sign.as_ref().map(|p| p[t]);
            let mut row = vec![
                Value::Text(kind.to_owned()),
                Value::Text(counts.name.clone()),
                Value::Float(*theta),
                Value::count(counts.n_benign),
                Value::estimate(Some(counts.negatives[t] as f64), Some(low), Some(high)),
                mirror.map_or(Value::Missing, Value::count),
                Value::maybe(p),
                Value::maybe(counts.q_sign.as_ref().map(|q| q[t])),
                fair.map_or(Value::Missing, |fair| Value::count(fair.lost[t])),
                fair.map_or(Value::Missing, |fair| Value::count(fair.gained[t])),
                Value::maybe(fair.map(|fair| fair.q[t])),
                Value::maybe(fair.and_then(|fair| fair.found_at(t))),
                fair.map_or(Value::Missing, |fair| in_words(fair, t)),
            ];
            if !found.confirmed.is_empty() {
                let confirmed = found.confirmed.get(&counts.name).filter(|_| kind == "method");
                let confirmed = confirmed.filter(|c| c.counts.n_paired > 0);
                row.push(confirmed.map_or(Value::Missing, |c| {
                    let (n, all) = (c.counts.negatives[t], c.counts.n_benign);
                    Value::Text(format!("{n} of {all}"))
                }));
            }
            table.rows.push(row);
        }
    }
    table
}

/// Judged by the fair counts and by q: a table of many thetas and methods would find something in noise.
fn in_words(fair: &Fair, theta: usize) -> Value {
    let text = match fair.q[theta] <= 0.05 {
        true if fair.is_loss(theta) => "yes",
        true => "fewer",
        false => "not shown",
    };
    Value::Text(text.to_owned())
}

fn delta_table(found: &Found) -> Table {
    let columns = [
        ("kind", ""),
        ("set", ""),
        ("pairs", ""),
        ("delta", "points"),
        ("p_wilcoxon", ""),
        ("worse", ""),
        ("better", ""),
        ("p_mcnemar", ""),
    ];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let title = "Mean score less the baseline's, over all pairs; flips across a score of 0.5";
    let mut table = Table::new(title, columns);
    for (kind, counts) in sets(found) {
        let Some(delta) = &counts.delta else { continue };
        let (low, high) = delta.interval.unzip();
        table.rows.push(vec![
            Value::Text(kind.to_owned()),
            Value::Text(counts.name.clone()),
            Value::count(delta.n),
            Value::estimate(Some(delta.mean), low, high),
            Value::maybe(delta.p_wilcoxon),
            Value::count(delta.n_worse),
            Value::count(delta.n_better),
            Value::Float(delta.p_mcnemar),
        ]);
    }
    table
}

fn task_table(found: &Found) -> Table {
    let mut columns = vec![Column::new("set", ""), Column::new("task", "")];
    columns.push(Column::new("benign", ""));
    columns.extend(found.theta.iter().map(|theta| Column::new(&format!("at_{theta}"), "")));
    let mut table =
        Table::new("Negative samples by kind of task, at each theta in percent", columns);
    for (_, counts) in sets(found) {
        for (task, n) in &counts.by_task {
            let benign = counts.n_benign_by_task.get(task).copied();
            let mut row = vec![
                Value::Text(counts.name.clone()),
                Value::Text(task.name().to_owned()),
                benign.map_or(Value::Missing, Value::count),
            ];
            row.extend(n.iter().map(|n| Value::count(*n)));
            table.rows.push(row);
        }
    }
    table
}

/// Counts by theta, the roles swapped beside them: the paper's figure 6 with its null.
pub fn figure(found: &Found) -> Figure {
    let mut panel = Panel::default();
    let slots = slots_of(sets(found).into_iter().map(|(_, counts)| counts));
    for (slot, (_, counts)) in slots.into_iter().zip(sets(found)) {
        let point = |(t, theta): (usize, &f64)| Point {
            x: *theta,
            y: counts.negatives[t] as f64,
            low: Some(counts.intervals[t].0),
            high: Some(counts.intervals[t].1),
        };
        panel.series.push(Series {
            name: counts.name.clone(),
            slot,
            kind: Kind::Line,
            points: found.theta.iter().enumerate().map(point).collect(),
        });
        if let Some(mirror) = &counts.mirror {
            let corners = found.theta.iter().zip(mirror).map(|(x, y)| (*x, *y as f64));
            let name = "mirror: the baseline loses as much";
            // A line through one point cannot be seen.
            if found.theta.len() == 1 {
                let points = corners.map(|(x, y)| Point::new(x, y)).collect();
                panel.series.push(Series { name: name.to_owned(), slot, kind: Kind::Tick, points });
            } else {
                panel.references.push(Reference::curve(name, slot, corners.collect()));
            }
        }
    }
    let rule = match found.mode {
        Mode::Algorithm1 => "benign: the baseline reaches its data set's mean",
        Mode::AsShipped => "as the paper's script counts: median, ties lost, one data set twice",
    };
    let caption = format!(
        "Of {} benign samples ({rule}). Bars: 95 % bootstrap of samples within data sets. Dashed: roles swapped, the null.",
        found.benign.total
    );
    let x = Axis::from_zero("loss against the baseline that counts (theta)", "%");
    let y = Axis::from_zero("negative samples", "");
    Figure::single("Prompts that a method breaks", &caption, x, y, panel)
}

/// Colours by the names of methods; an ensemble and a repeat of the baseline have one by theirs.
fn slots_of<'c>(counts: impl Iterator<Item = &'c Counts>) -> Vec<usize> {
    slots(&counts.map(|counts| counts.name.clone()).collect::<Vec<_>>())
}

/// Loss at which kinds of task are compared, percent: the paper's figure 7.
const TASK_THETA: f64 = 10.0;

/// A share with its interval, percent.
type Share = (f64, Option<f64>, Option<f64>);

/// Counts by kind of task at a loss of 10 %, each beside what the baseline loses there by the same rule; `None` where that loss was
/// not counted. Bars in place of the paper's pie: a share of all broken prompts says nothing without how many were asked.
pub fn by_task(found: &Found) -> Option<Figure> {
    let at = found.theta.iter().position(|theta| (theta - TASK_THETA).abs() < 1e-9)?;
    let tasks: Vec<TaskGroup> = found.benign.by_task.keys().copied().collect();
    // Of what was measured on both sides: a sample without an answer is not one that held.
    let share = |counts: &Counts, n: Option<&Vec<usize>>, task: &TaskGroup| {
        let benign = *counts.n_benign_by_task.get(task)?;
        let n = n.map_or(0, |n| n[at]);
        // The null may count samples that are benign on the other side alone.
        let interval = stats::wilson(n, benign);
        let percent = |part: f64| 100.0 * part;
        (benign > 0).then(|| {
            let (low, high) = interval.map(|ends| (percent(ends.low), percent(ends.high))).unzip();
            (percent(n as f64 / benign as f64), low, high)
        })
    };
    let sets: Vec<&Counts> = found.methods.iter().collect();
    let mut panel = Panel::default();
    let slots = slots_of(sets.iter().copied());
    for (nth, (slot, counts)) in slots.into_iter().zip(&sets).enumerate() {
        let place = |category: usize, shift: f64| {
            category as f64 + ((nth as f64 + shift) / sets.len() as f64 - 0.5) * 0.86
        };
        let points = |shift: f64, of: &dyn Fn(&TaskGroup) -> Option<Share>| -> Vec<Point> {
            let point = |(at, task)| {
                let (y, low, high) = of(task)?;
                Some(Point { x: place(at, shift), y, low, high })
            };
            tasks.iter().enumerate().filter_map(point).collect()
        };
        panel.series.push(Series {
            name: counts.name.clone(),
            slot,
            kind: Kind::Points,
            points: points(0.35, &|task| share(counts, counts.by_task.get(task), task)),
        });
        if let Some(mirror) = &counts.mirror_by_task {
            panel.series.push(Series {
                name: format!("{}, mirror", counts.name),
                slot,
                kind: Kind::Tick,
                points: points(0.65, &|task| share(counts, mirror.get(task), task)),
            });
        }
    }
    let names = tasks.iter().map(|task| task.name().to_owned()).collect();
    let caption = "Share of the benign samples of a kind that lose more than 10 % of the baseline's score. Bars: 95 % Wilson intervals. Ticks: roles swapped, the null.";
    let x = Axis::new("kind of task", "", Scale::Category(names));
    let y = Axis::from_zero("negative samples", "% of benign");
    Some(Figure::single("Which tasks a method breaks", caption, x, y, panel))
}
