//! Negative samples as tables, JSON and a picture.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value as Json, json};

use super::Found;
use crate::{
    analyse::negatives::{Benign, Counts, Delta, Mode},
    report::{
        Column, Figure, Table, Value,
        figure::{Axis, Kind, Panel, Point, Reference, Series},
        png, svg,
    },
};

/// Every table, for people.
pub(super) fn tables(found: &Found) -> [Table; 3] {
    [counts_table(found), delta_table(found), task_table(found)]
}

pub(super) fn as_json(found: &Found) -> Json {
    let named = |counts: &[Counts]| -> Map<String, Json> {
        counts.iter().map(|counts| (counts.name.clone(), counts_json(counts))).collect()
    };
    let mut methods = named(&found.methods);
    for (name, confirmed) in &found.confirmed {
        if let Some(method) = methods.get_mut(name) {
            method["confirmed"] = json!({
                "n_repeats": confirmed.n_repeats,
                "n_paired": confirmed.counts.n_paired,
                "negatives": confirmed.counts.negatives,
            });
        }
    }
    let Benign { total, by_task, by_dataset } = &found.benign;
    let by_task: Map<String, Json> =
        by_task.iter().map(|(task, n)| (task.name().to_owned(), json!(n))).collect();
    json!({
        "theta": found.theta,
        "methods": methods,
        "ensembles": named(&found.ensembles),
        "noise_floor": named(&found.noise),
        "benign": { "total": total, "by_task": by_task, "by_dataset": by_dataset },
    })
}

fn counts_json(counts: &Counts) -> Json {
    let by_task: Map<String, Json> =
        counts.by_task.iter().map(|(task, n)| (task.name().to_owned(), json!(n))).collect();
    let mut out = json!({
        "n_paired": counts.n_paired,
        "n_benign": counts.n_benign,
        "negatives": counts.negatives,
        "negatives_ci": counts.intervals,
        "by_task": by_task,
        "by_dataset": counts.by_dataset,
    });
    if let (Some(mirror), Some(p_sign)) = (&counts.mirror, &counts.p_sign) {
        out["mirror"] = json!(mirror);
        out["p_sign"] = json!(p_sign);
        out["q_sign"] = json!(counts.q_sign);
    }
    if let Some(delta) = &counts.delta {
        let Delta { n, mean, interval, p_wilcoxon, n_worse, n_better, p_mcnemar } = delta;
        out["delta"] = json!({ "n": n, "mean": mean, "ci": interval });
        out["p_wilcoxon"] = json!(p_wilcoxon);
        out["flips"] = json!({ "worse": n_worse, "better": n_better });
        out["p_mcnemar"] = json!(p_mcnemar);
    }
    out
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
        ("more_than_mirror", ""),
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
            let p = counts.p_sign.as_ref().map(|p| p[t]);
            let mut row = vec![
                Value::Text(kind.to_owned()),
                Value::Text(counts.name.clone()),
                Value::Float(*theta),
                int(counts.n_benign),
                Value::estimate(Some(counts.negatives[t] as f64), Some(low), Some(high)),
                mirror.map_or(Value::Missing, int),
                Value::maybe(p),
                Value::maybe(counts.q_sign.as_ref().map(|q| q[t])),
                in_words(counts.negatives[t], mirror, p),
            ];
            if !found.confirmed.is_empty() {
                let confirmed = found.confirmed.get(&counts.name).filter(|_| kind == "method");
                row.push(confirmed.map_or(Value::Missing, |c| int(c.counts.negatives[t])));
            }
            table.rows.push(row);
        }
    }
    table
}

fn in_words(negatives: usize, mirror: Option<usize>, p: Option<f64>) -> Value {
    let (Some(mirror), Some(p)) = (mirror, p) else { return Value::Missing };
    let text = match p < 0.05 {
        true if negatives > mirror => "yes",
        true => "fewer",
        false => "not shown",
    };
    Value::Text(text.to_owned())
}

fn int(n: usize) -> Value {
    i64::try_from(n).map_or(Value::Missing, Value::Int)
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
            int(delta.n),
            Value::estimate(Some(delta.mean), low, high),
            Value::maybe(delta.p_wilcoxon),
            int(delta.n_worse),
            int(delta.n_better),
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
            let benign = found.benign.by_task.get(task).copied();
            let mut row = vec![
                Value::Text(counts.name.clone()),
                Value::Text(task.name().to_owned()),
                benign.map_or(Value::Missing, int),
            ];
            row.extend(n.iter().map(|n| int(*n)));
            table.rows.push(row);
        }
    }
    table
}

pub(super) fn figure(found: &Found, mode: Mode) -> Figure {
    let mut panel = Panel::default();
    for (slot, (_, counts)) in sets(found).into_iter().enumerate() {
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
            let corners = found.theta.iter().zip(mirror).map(|(x, y)| (*x, *y as f64)).collect();
            panel.references.push(Reference::curve(
                "mirror: the baseline loses as much",
                slot,
                corners,
            ));
        }
    }
    let rule = match mode {
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

/// Refuses a name that does not say how to draw, before anything is counted.
pub(in crate::cli) fn can_draw(path: &Path) -> anyhow::Result<()> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg" | "png") => Ok(()),
        _ => bail!("--plot: expected a file that ends with .svg or .png, got {}", path.display()),
    }
}

/// Draws into a file; its name says how.
pub(in crate::cli) fn draw(path: &Path, figure: &Figure) -> anyhow::Result<()> {
    can_draw(path)?;
    let bytes = match path.extension().is_some_and(|extension| extension == "png") {
        true => png(figure)?,
        false => svg(figure)?.into_bytes(),
    };
    std::fs::write(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}
