//! `kvbench score`: scores answers as LongBench does.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use serde::Deserialize as _;
use serde_json::{Map, Value as Json};

use super::{score_run, ui::Ui};
use crate::{
    analyse::score,
    report::{Column, Table, Value, render},
};

/// Score answers as LongBench v1 does, of a run or of a file; print the mean of each data set.
#[derive(Debug, clap::Args)]
pub struct ScoreArgs {
    /// Folder that `kvbench run` made: its answers become scores.parquet there.
    #[arg(value_name = "RUN_DIR", conflicts_with_all = ["predictions", "out"])]
    pub run_dir: Option<PathBuf>,
    /// JSON lines of `dataset`, `prediction`, `answers` and, for classes, `all_classes`.
    #[arg(long, value_name = "FILE", required_unless_present = "run_dir")]
    pub predictions: Option<PathBuf>,
    /// The same lines with `score` (0 to 1) and `scorer`; other keys stay.
    #[arg(long, value_name = "FILE", required_unless_present = "run_dir")]
    pub out: Option<PathBuf>,
    /// With RUN_DIR: where its data set lies now; known by its hash.
    #[arg(long, value_name = "FILE", requires = "run_dir")]
    pub data: Vec<PathBuf>,
    /// With RUN_DIR: score again at equal length, each answer and the baseline's to the same prompt cut to the shorter of the two
    /// (in words), so that a difference in quality is not one in length; scores_matched.parquet.
    #[arg(long, requires = "run_dir")]
    pub truncate_to_baseline: bool,
}

/// Scores every line; nothing is written unless all of them can be scored.
///
/// # Errors
/// A line that is no row or cannot be scored, reading, writing.
pub fn run(args: &ScoreArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.run_dir {
        return score_run::run(dir, args, ui);
    }
    let (Some(predictions), Some(out)) = (&args.predictions, &args.out) else {
        anyhow::bail!("expected RUN_DIR, or --predictions and --out, got neither");
    };
    let rows = scored(predictions)?;
    write(out, &rows)?;
    let mut means: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for (dataset, score, _) in &rows {
        let entry = means.entry(dataset).or_default();
        *entry = (entry.0 + 1, entry.1 + score);
    }
    let columns = [("dataset", ""), ("rows", ""), ("mean", "%")];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let mut table = Table::new(&format!("Scores, {}", score::SCORER), columns);
    table.rows.extend(means.into_iter().map(|(dataset, (n, sum))| {
        vec![
            Value::Text(dataset.to_owned()),
            Value::Int(n as i64),
            Value::Float(100.0 * sum / n as f64),
        ]
    }));
    ui.out(&render(&table, ui.format, ui.color))?;
    Ok(ExitCode::SUCCESS)
}

/// Data set, score and the whole line.
type Scored = (String, f64, Map<String, Json>);

fn scored(path: &Path) -> anyhow::Result<Vec<Scored>> {
    let place = path.display();
    let file = File::open(path).with_context(|| format!("{place}: cannot be read"))?;
    let mut rows = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let at = || format!("{place}:{}", i + 1);
        let line = line.with_context(at)?;
        if !line.trim().is_empty() {
            rows.push(row(&line).with_context(at)?);
        }
    }
    anyhow::ensure!(!rows.is_empty(), "{place}: expected rows of predictions, got none");
    Ok(rows)
}

fn row(line: &str) -> anyhow::Result<Scored> {
    const HINT: &str = "\n  hint: a row is {\"dataset\": \"qasper\", \"prediction\": \"...\", \"answers\": [\"...\"]}";
    let mut row: Map<String, Json> = serde_json::from_str(line)
        .map_err(|error| anyhow::anyhow!("expected a row of predictions, got {error}{HINT}"))?;
    let text = |key: &str| {
        let text = row.get(key).and_then(Json::as_str).map(str::to_owned);
        text.with_context(|| format!("expected `{key}`, a text, got a row without it{HINT}"))
    };
    let texts = |key: &str| Vec::<String>::deserialize(row.get(key)?).ok();
    let (dataset, prediction) = (text("dataset")?, text("prediction")?);
    let answers = texts("answers").with_context(|| {
        format!("expected `answers`, a list of texts, got a row without it{HINT}")
    })?;
    let score = score::score(&dataset, &prediction, &answers, texts("all_classes").as_deref())?;
    row.insert("score".to_owned(), Json::from(score));
    row.insert("scorer".to_owned(), Json::from(score::SCORER));
    Ok((dataset, score, row))
}

fn write(path: &Path, rows: &[Scored]) -> anyhow::Result<()> {
    let place = || format!("{}: cannot be written", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(place)?);
    for (_, _, row) in rows {
        serde_json::to_writer(&mut file, row).with_context(place)?;
        file.write_all(b"\n").with_context(place)?;
    }
    file.flush().with_context(place)
}
