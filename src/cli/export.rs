//! `kvbench export`: every table of a run as CSV or Parquet.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use polars::prelude::{Column, DataFrame, DataType, IntoColumn as _, NamedFrom as _, Series};
use polars_io::{
    SerWriter as _,
    prelude::{CsvWriter, ParquetCompression, ParquetWriter},
};
use serde_json::Value as Json;

use super::ui::Ui;
use crate::{
    analyse::{
        RunData, SummaryRow, judge,
        score_run::{MatchedRow, ScoreRow},
    },
    record::{
        RunDir, Table as Rows,
        parquet::{TableRow, read_frame},
    },
    report::{self, Table, beside_headline, headline},
};

/// Every table of a run as CSV or Parquet: the rows, the scores, the summary, and the tables that the report shows.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("kind").required(true).multiple(true).args(["csv", "parquet"]))]
pub struct ExportArgs {
    /// Folder that `kvbench run` made.
    run_dir: PathBuf,
    /// Write `<table>.csv` files into this folder; lists are JSON texts.
    #[arg(long, value_name = "DIR")]
    csv: Option<PathBuf>,
    /// Write `<table>.parquet` files into this folder.
    #[arg(long, value_name = "DIR")]
    parquet: Option<PathBuf>,
}

/// Writes the files, each aside and renamed.
///
/// # Errors
/// No run folder, one that cannot be judged, the run folder as the target, or a file that cannot be written.
pub fn run(args: &ExportArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let folders: Vec<&PathBuf> = args.csv.iter().chain(&args.parquet).collect();
    for folder in &folders {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        let same = folder
            .canonicalize()
            .ok()
            .zip(args.run_dir.canonicalize().ok())
            .is_some_and(|(a, b)| a == b);
        ensure!(
            !same,
            "{}: expected another folder than the run's own, whose tables would be written over\n  hint: name a new folder",
            folder.display()
        );
    }
    let mut tables = rows(&args.run_dir)?;
    tables.extend(judged(&args.run_dir)?);
    for (name, frame) in &mut tables {
        if let Some(folder) = &args.csv {
            write(&folder.join(format!("{name}.csv")), |file| csv(file, frame))?;
        }
        if let Some(folder) = &args.parquet {
            write(&folder.join(format!("{name}.parquet")), |file| parquet(file, frame))?;
        }
    }
    for folder in folders {
        ui.note(&format!("export: {} tables in {}", tables.len(), folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Rows as they were recorded, and scores where there are any. A table without rows is written with its columns.
fn rows(run: &Path) -> anyhow::Result<Vec<(String, DataFrame)>> {
    let dir = RunDir::open(run)?;
    let mut tables = Vec::new();
    for table in Rows::ALL {
        tables.push((table.name().to_owned(), dir.read_table(table)?));
    }
    for name in [ScoreRow::NAME, MatchedRow::NAME] {
        let path = run.join(format!("{name}.parquet"));
        if path.is_file() {
            tables.push((name.to_owned(), read_frame(&path)?));
        }
    }
    Ok(tables)
}

/// The summary, made anew, and the tables of the report.
fn judged(run: &Path) -> anyhow::Result<Vec<(String, DataFrame)>> {
    let judgement = judge(&RunData::load(run)?)
        .with_context(|| format!("{}: cannot be judged", run.display()))?;
    let mut tables = vec![(SummaryRow::NAME.to_owned(), SummaryRow::frame(&judgement.summary)?)];
    for table in headline(&judgement).iter().chain(&beside_headline(&judgement)) {
        let mut name = name_of(table);
        let taken = tables
            .iter()
            .filter(|(known, _)| {
                known.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_') == name
            })
            .count();
        if taken > 0 {
            name = format!("{name}_{}", taken + 1);
        }
        tables.push((name, frame(table)?));
    }
    Ok(tables)
}

/// `judged_served_requests`: the title up to its first mark.
fn name_of(table: &Table) -> String {
    let title =
        table.title.split([',', ';', ':', '(']).next().unwrap_or_default().trim().to_lowercase();
    let safe = title.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    format!("judged_{}", safe.collect::<String>())
}

/// The table as programs get it: an interval in three columns, an unknown empty.
fn frame(table: &Table) -> anyhow::Result<DataFrame> {
    let (keys, rows) = report::table::flat(table);
    let column = |(at, key): (usize, &String)| -> Column {
        let values = || rows.iter().map(|row| row.get(at).unwrap_or(&Json::Null));
        let known = || values().filter(|value| !value.is_null());
        let key = key.as_str().into();
        if known().all(Json::is_i64) && known().next().is_some() {
            Series::new(key, values().map(Json::as_i64).collect::<Vec<_>>()).into_column()
        } else if known().all(Json::is_number) {
            Series::new(key, values().map(Json::as_f64).collect::<Vec<_>>()).into_column()
        } else {
            let text = |value: &Json| match value {
                Json::Null => None,
                Json::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            Series::new(key, values().map(text).collect::<Vec<_>>()).into_column()
        }
    };
    let columns = keys.iter().enumerate().map(column).collect();
    Ok(DataFrame::new(rows.len(), columns)?)
}

fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let aside = path.with_extension(format!("{}.part", std::process::id()));
    let made = || -> anyhow::Result<()> {
        let mut file = BufWriter::new(File::create(&aside)?);
        content(&mut file)?;
        file.flush()?;
        std::fs::rename(&aside, path)?;
        Ok(())
    };
    made().map_err(|error| {
        // Best effort: the error that matters is the one that is returned.
        drop(std::fs::remove_file(&aside));
        error.context(format!(
            "{}: cannot be written\n  hint: free some space, or choose another folder",
            path.display()
        ))
    })
}

fn parquet(file: &mut BufWriter<File>, frame: &mut DataFrame) -> anyhow::Result<()> {
    ParquetWriter::new(file).with_compression(ParquetCompression::Zstd(None)).finish(frame)?;
    Ok(())
}

fn csv(file: &mut BufWriter<File>, frame: &DataFrame) -> anyhow::Result<()> {
    let mut flat = frame.clone();
    for column in frame.columns() {
        if matches!(column.dtype(), DataType::List(_)) {
            flat.with_column(as_json(column)?)?;
        }
    }
    CsvWriter::new(file).finish(&mut flat)?;
    Ok(())
}

/// A column of lists of whole numbers as JSON texts: CSV has no lists.
fn as_json(column: &Column) -> anyhow::Result<Column> {
    let mut texts: Vec<Option<String>> = Vec::with_capacity(column.len());
    for list in column.list()?.series_iter() {
        let text = list.map(|list| -> anyhow::Result<String> {
            let values: Vec<Option<i64>> = list.i64()?.iter().collect();
            Ok(serde_json::to_string(&values)?)
        });
        texts.push(text.transpose()?);
    }
    Ok(Series::new(column.name().clone(), texts).into_column())
}
