//! `kvbench score RUN_DIR`: the answers of a run folder as scores beside its rows.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use serde_json::Value as Json;

use super::{score::ScoreArgs, ui::Ui};
use crate::{
    analyse::{
        Estimate, Point, RunData, score as scorer,
        score_run::{self, LeftOut, MatchedMean, MatchedRow, MeanScore, ScoreRow, Scored},
    },
    record::{
        manifest::Status,
        parquet::{TableRow as _, read_rows, write_rows},
    },
    report::{Column, Format, Table, Value, narrow, render},
    scenario::{AnswerMode, NamedWorkload, Scenario, Workload},
};

/// Scores every answer that has a reference, writes `scores.parquet` and prints means and what was left out.
///
/// # Errors
/// No run folder, a data set that is another than the run's, nothing to score, or writing.
pub(super) fn run(
    dir: &Path,
    args: &ScoreArgs,
    options: scorer::Options,
    ui: &Ui,
) -> anyhow::Result<ExitCode> {
    let data = RunData::load(dir)?;
    let scored = score_and_write(
        dir,
        &data,
        (args.data.as_slice(), args.truncate_to_baseline || equal_length(&data), options),
        ui,
    )?;
    let mut tables = vec![means_table(&score_run::means(&data, &scored.rows))];
    if let Some(matched) = &scored.matched {
        tables.push(matched_table(&score_run::matched_means(&data, matched, &scored.rows)));
    }
    if !scored.left_out.is_empty() {
        tables.push(left_out_table(&scored.left_out));
    }
    if ui.format == Format::Csv {
        // One table fits into a CSV; what was left out is told in any case.
        tell_left_out(&scored.left_out, ui);
    }
    ui.out(&printed(&tables, ui)?)?;
    ui.note(&format!("scored by {}", score_run::scorers(&scored.rows).join(", ")));
    ui.note(&format!("scores: {}", dir.join("scores.parquet").display()));
    Ok(ExitCode::SUCCESS)
}

/// Scores a run that has just been measured, where its data have references, so that its report can tell of quality. A run that
/// cannot be scored is told of and stays as it is.
///
/// # Errors
/// Scores cannot be written.
pub(super) fn at_end(
    dir: &Path,
    data: &mut RunData,
    scenario: &Scenario,
    ui: &Ui,
) -> anyhow::Result<()> {
    let scorable = |workload: &&NamedWorkload| matches!(workload.kind, Workload::Dataset { format, .. } if format.has_references());
    let mut workloads = scenario.workloads.iter().filter(scorable).peekable();
    if workloads.peek().is_none() {
        return Ok(());
    }
    let matched = workloads.any(|workload| workload.kind.mode() == AnswerMode::Matched);
    match score_run::score(data, &[], matched, scorer::Options::default()) {
        Ok(scored) => {
            write(dir, &scored)?;
            tell_left_out(&scored.left_out, ui);
            data.scores = scored.rows;
            data.matched = scored.matched.unwrap_or_default();
        }
        Err(error) => ui.note(&format!("not scored: {error:#}")),
    }
    Ok(())
}

/// Whether the run asks for scores at equal length.
fn equal_length(data: &RunData) -> bool {
    let scenario = Scenario::parse(&data.manifest.scenario.text, "the run's scenario");
    let matched = |workload: &NamedWorkload| workload.kind.mode() == AnswerMode::Matched;
    scenario.is_ok_and(|scenario| scenario.workloads.iter().any(matched))
}

fn write(dir: &Path, scored: &Scored) -> anyhow::Result<()> {
    write_rows(dir, &scored.rows)?;
    match &scored.matched {
        Some(matched) => write_rows(dir, matched),
        // Those of an earlier sitting, perhaps by other rules, must not stand beside these.
        None => remove(&dir.join(format!("{}.parquet", MatchedRow::NAME))),
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Scores of a run as they were written, or made and written now where there are none.
///
/// # Errors
/// As [`run`].
pub(super) fn rows(
    dir: &Path,
    data: &RunData,
    files: &[PathBuf],
    ui: &Ui,
) -> anyhow::Result<Vec<ScoreRow>> {
    let path = dir.join(format!("{}.parquet", ScoreRow::NAME));
    if !path.is_file() {
        let scored = score_and_write(
            dir,
            data,
            (files, equal_length(data), scorer::Options::default()),
            ui,
        )?;
        tell_left_out(&scored.left_out, ui);
        ui.note(&format!("scores: {}", path.display()));
        return Ok(scored.rows);
    }
    if !files.is_empty() {
        // An export reads them all the same; the scores do not come from them.
        ui.note(&format!(
            "note: {} is there and was not made anew with --data; `kvbench score {} --data FILE` does so",
            path.display(),
            dir.display()
        ));
    }
    let rows: Vec<ScoreRow> = read_rows(dir)?;
    rows.first().with_context(|| {
        format!(
            "{}: expected scores, got none\n  hint: kvbench score {}",
            path.display(),
            dir.display()
        )
    })?;
    score_run::check(&data.manifest, &rows).with_context(|| path.display().to_string())?;
    let now = scorer::Options::default();
    let other = rows.iter().find(|row| now.scorer(&row.dataset).ok().as_ref() != Some(&row.scorer));
    if let Some(other) = other {
        ui.note(&format!(
            "note: {} was scored by {}, this kvbench scores by other rules unless told otherwise: `kvbench score {}` scores again",
            path.display(),
            other.scorer,
            dir.display()
        ));
    }
    tell_missing(dir, data, &rows, ui);
    Ok(rows)
}

fn score_and_write(
    dir: &Path,
    data: &RunData,
    (files, equal_length, options): (&[PathBuf], bool, scorer::Options),
    ui: &Ui,
) -> anyhow::Result<Scored> {
    if data.manifest.status != Status::Complete {
        ui.note(&format!(
            "note: {} of {} cells are finished; score again when the run has gone on",
            data.finished.len(),
            data.manifest.n_cells
        ));
    }
    let scored = score_run::score(data, files, equal_length, options)
        .with_context(|| dir.display().to_string())?;
    write(dir, &scored)?;
    Ok(scored)
}

/// A run that went on after it was scored has cells without scores.
fn tell_missing(dir: &Path, data: &RunData, rows: &[ScoreRow], ui: &Ui) {
    let scored = |id: &&String| rows.iter().any(|row| row.cell_id == **id);
    let workload_scored = |name: &str| rows.iter().any(|row| row.workload == name);
    let cells = data.manifest.cells.iter().filter(|cell| workload_scored(&cell.workload));
    let finished = cells.map(|cell| &cell.id).filter(|id| data.finished.contains(*id));
    let missing: Vec<&String> = finished.filter(|id| !scored(id)).collect();
    if let Some(example) = missing.first() {
        ui.note(&format!(
            "note: {} finished cells have no scores, such as {example}: if the run has gone on since, `kvbench score {}` again",
            missing.len(),
            dir.display()
        ));
    }
}

fn tell_left_out(left_out: &[LeftOut], ui: &Ui) {
    for left in left_out {
        let LeftOut { target, method, why, n, example } = left;
        ui.note(&format!("{target}/{method}: {n} requests left out: {why} (such as {example})"));
    }
}

/// All tables for people, one object of them for programs; CSV holds one table, the first.
fn printed(tables: &[Table], ui: &Ui) -> anyhow::Result<String> {
    let one = |table: &Table| render(table, ui.format, ui.color);
    Ok(match ui.format {
        Format::Text => {
            tables.iter().map(|table| one(&narrow(table))).collect::<Vec<_>>().join("\n")
        }
        Format::Md => tables.iter().map(one).collect::<Vec<_>>().join("\n"),
        Format::Csv => tables.first().map(one).unwrap_or_default(),
        Format::Json => {
            let named = |table: &Table| -> anyhow::Result<(String, Json)> {
                Ok((key(&table.title).to_owned(), serde_json::from_str(&one(table))?))
            };
            let all = tables.iter().map(named).collect::<Result<serde_json::Map<_, _>, _>>()?;
            serde_json::to_string_pretty(&all)? + "\n"
        }
    })
}

const MEANS: &str = "Mean scores";
const MATCHED: &str = "Scores at equal length: each answer and the baseline's cut to the shorter of the two, in words";
const LEFT_OUT: &str = "Requests left out";

fn key(title: &str) -> &'static str {
    match title {
        MATCHED => "matched",
        LEFT_OUT => "left_out",
        _ => "means",
    }
}

const PLACE: [&str; 5] = ["target", "method", "workload", "load", "dataset"];

fn place(point: &Point, dataset: &str) -> Vec<Value> {
    [&point.target, &point.method, &point.workload, &point.load]
        .into_iter()
        .map(|text| Value::Text(text.clone()))
        .chain([Value::Text(dataset.to_owned())])
        .collect()
}

fn columns(rest: &[(&str, &str)]) -> Vec<Column> {
    let place = PLACE.iter().map(|name| Column::new(name, ""));
    place.chain(rest.iter().map(|(name, unit)| Column::new(name, unit))).collect()
}

fn estimate(estimate: Option<&Estimate>) -> Value {
    let interval = estimate.and_then(|estimate| estimate.interval);
    let (low, high) = (interval.map(|ends| ends.0), interval.map(|ends| ends.1));
    Value::estimate(estimate.map(|estimate| estimate.value), low, high)
}

fn means_table(means: &[MeanScore]) -> Table {
    let rest = [("answers", ""), ("mean", "%"), ("delta", "points")];
    let mut table = Table::new(MEANS, columns(&rest));
    table.rows.extend(means.iter().map(|mean| {
        let mut row = place(&mean.point, &mean.dataset);
        row.extend([
            Value::count(mean.mean.n),
            estimate(Some(&mean.mean)),
            estimate(mean.delta.as_ref()),
        ]);
        row
    }));
    table
}

fn matched_table(means: &[MatchedMean]) -> Table {
    let rest = [
        ("pairs", ""),
        ("longer", ""),
        ("shorter", ""),
        ("mean", "%"),
        ("delta", "points"),
        ("delta_free", "points"),
    ];
    let mut table = Table::new(MATCHED, columns(&rest));
    table.rows.extend(means.iter().map(|mean| {
        let mut row = place(&mean.point, &mean.dataset);
        row.extend([
            Value::count(mean.mean.n),
            Value::count(mean.n_longer),
            Value::count(mean.n_shorter),
            estimate(Some(&mean.mean)),
            estimate(Some(&mean.delta)),
            estimate(mean.delta_free.as_ref()),
        ]);
        row
    }));
    table
}

fn left_out_table(left_out: &[LeftOut]) -> Table {
    let columns = ["target", "method", "why", "requests", "example"];
    let columns = columns.iter().map(|name| Column::new(name, "")).collect();
    let mut table = Table::new(LEFT_OUT, columns);
    table.rows.extend(left_out.iter().map(|left| {
        vec![
            Value::Text(left.target.clone()),
            Value::Text(left.method.clone()),
            Value::Text(left.why.clone()),
            Value::count(left.n),
            Value::Text(left.example.clone()),
        ]
    }));
    table
}
