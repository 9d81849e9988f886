//! Tables of profiles: their predictions against measurements, and what an audit finds in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::super::{Column, Table, Value};
use crate::predict::{
    Phase,
    audit::Finding,
    profile::evaluate::{Evaluation, Point},
};

fn stage(phase: Phase) -> &'static str {
    match phase {
        Phase::Decode => "decode",
        Phase::Prefill => "prefill",
    }
}

/// Accuracy by stage, then every point.
pub fn tables(found: &Evaluation) -> Vec<Table> {
    vec![accuracy(found), points(found)]
}

fn accuracy(found: &Evaluation) -> Table {
    let columns = vec![
        Column::new("stage", ""),
        Column::new("n_points", ""),
        Column::new("accuracy_pct", "%"),
        Column::new("mape_pct", "%"),
    ];
    let mut table = Table::new("Predicted step times against measured throughput", columns);
    for phase in [Some(Phase::Decode), Some(Phase::Prefill), None] {
        let is_of = |point: &&Point| phase.is_none_or(|phase| point.phase == phase);
        table.rows.push(vec![
            Value::Text(phase.map_or("all", stage).to_owned()),
            Value::count(found.points.iter().filter(is_of).count()),
            Value::maybe(found.accuracy_pct(phase)),
            Value::maybe(found.mape_pct(phase)),
        ]);
    }
    table
}

fn points(found: &Evaluation) -> Table {
    let columns = vec![
        Column::new("stage", ""),
        Column::new("bsz", ""),
        Column::new("prompt_len", "tokens"),
        Column::new("sequences", ""),
        Column::new("measured_ms", "ms"),
        Column::new("predicted_ms", "ms"),
        Column::new("error_pct", "%"),
    ];
    let mut table = Table::new("Points; `sequences` is what one pass holds", columns);
    for point in &found.points {
        table.rows.push(vec![
            Value::Text(stage(point.phase).to_owned()),
            Value::Int(i64::from(point.bsz)),
            Value::Int(i64::from(point.prompt_len)),
            Value::Int(i64::from(point.sequences)),
            Value::Float(1e3 * point.measured_s),
            Value::Float(1e3 * point.predicted_s),
            Value::Float(100.0 * point.relative_error()),
        ]);
    }
    table
}

/// One row a finding.
pub fn audit(found: &[Finding]) -> Table {
    let columns = vec![
        Column::new("flagged", ""),
        Column::new("kind", ""),
        Column::new("a", ""),
        Column::new("b", ""),
        Column::new("columns", ""),
        Column::new("phase", ""),
        Column::new("factor", ""),
        Column::new("offset", ""),
        Column::new("max_rel_deviation", ""),
        Column::new("n_rows", ""),
        Column::new("n_compared", ""),
    ];
    let mut table = Table::new("What speaks for and against these files", columns);
    let names = names(found);
    for finding in found {
        let file = |at: usize| finding.files.get(at).map(|file| names[file].clone());
        let text =
            |text: Option<&String>| text.map_or(Value::Missing, |text| Value::Text(text.clone()));
        let columns = match finding.columns.len() {
            0 | 1 => text(finding.columns.first()),
            n => Value::Text(format!("{} +{}", finding.columns[0], n - 1)),
        };
        table.rows.push(vec![
            Value::Text(if finding.flagged { "yes" } else { "no" }.to_owned()),
            Value::Text(finding.kind.name().to_owned()),
            text(file(0).as_ref()),
            text(file(1).as_ref()),
            columns,
            text(finding.phase.as_ref()),
            Value::maybe(finding.factor),
            Value::maybe(finding.offset),
            Value::maybe(finding.max_rel_deviation),
            Value::count(finding.n_rows),
            Value::count(finding.n_compared),
        ]);
    }
    table
}

/// Files by their last part, where that tells them apart.
fn names(found: &[Finding]) -> BTreeMap<String, String> {
    let files: BTreeSet<&String> = found.iter().flat_map(|finding| &finding.files).collect();
    let last = |file: &String| {
        let name = Path::new(file).file_name().map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| file.clone())
    };
    let lasts: BTreeSet<String> = files.iter().map(|file| last(file)).collect();
    let is_clear = lasts.len() == files.len();
    files
        .into_iter()
        .map(|file| (file.clone(), if is_clear { last(file) } else { file.clone() }))
        .collect()
}
