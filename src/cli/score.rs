//! `kvbench score`: scores answers by the rules of their data sets.

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// Score answers by the rules of their data sets (LongBench v1, E and v2, GSM8K, MATH, RULER), of a run or of a file; print the mean of
/// each.
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
    /// What compares lines of code (lcc, repobench-p): LongBench's requirements give difflib
    #[arg(long, value_enum, default_value_t)]
    pub fuzz: score::Fuzz,
    /// Score 0 where upstream's ROUGE-L ends in Python's RecursionError: sentences of some 990 words and more. Without it
    /// they have their true score
    #[arg(long)]
    pub rouge_recursion_error: bool,
}

/// Scores every line; nothing is written unless all of them can be scored.
///
/// # Errors
/// A line that is no row or cannot be scored, reading, writing.
pub fn run(args: &ScoreArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let options =
        score::Options { fuzz: args.fuzz, rouge_recursion_error: args.rouge_recursion_error };
    if let Some(dir) = &args.run_dir {
        return score_run::run(dir, args, options, ui);
    }
    let (Some(predictions), Some(out)) = (&args.predictions, &args.out) else {
        anyhow::bail!("expected RUN_DIR, or --predictions and --out, got neither");
    };
    if args.truncate_to_baseline || !args.data.is_empty() {
        anyhow::bail!(
            "expected RUN_DIR beside --data and --truncate-to-baseline, got --predictions"
        );
    }
    let same = |a: &Path, b: &Path| {
        a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a))
    };
    if same(predictions, out) {
        anyhow::bail!("--out: expected another file than --predictions, got {}", out.display());
    }
    let rows = scored(predictions, options)?;
    write(out, &rows)?;
    ui.out(&render(&means(&rows), ui.format, ui.color))?;
    let n_placed = rows.iter().filter(|row| row.length.is_some()).count();
    if (1..rows.len()).contains(&n_placed) {
        let n = rows.len();
        ui.note(&format!("{} of {n} rows have no `length` and are in no bucket", n - n_placed));
    }
    Ok(ExitCode::SUCCESS)
}

/// A line with its score.
struct Scored {
    dataset: String,
    score: f64,
    scorer: String,
    /// Length of the row's texts, as LongBench counts it: words, or characters of Chinese.
    length: Option<u64>,
    row: Map<String, Json>,
}

/// LongBench-E's buckets: name and the first length beyond it.
const BUCKETS: [(&str, u64); 3] = [("0-4k", 4000), ("4-8k", 8000), ("8k+", u64::MAX)];

fn bucket(length: u64) -> usize {
    BUCKETS.iter().position(|(_, end)| length < *end).unwrap_or(BUCKETS.len() - 1)
}

/// Mean of each data set, and of its buckets of length where rows tell theirs.
fn means(rows: &[Scored]) -> Table {
    let mut sets: BTreeMap<&str, Vec<&Scored>> = BTreeMap::new();
    rows.iter().for_each(|row| sets.entry(&row.dataset).or_default().push(row));
    let scorers: BTreeSet<&str> = rows.iter().map(|row| row.scorer.as_str()).collect();
    let mut columns =
        vec![Column::new("dataset", ""), Column::new("rows", ""), Column::new("mean", "%")];
    let buckets = if rows.iter().any(|row| row.length.is_some()) { &BUCKETS[..] } else { &[] };
    columns.extend(buckets.iter().map(|(name, _)| Column::new(name, "%")));
    let names: Vec<&str> = scorers.into_iter().collect();
    let mut table = Table::new(&format!("Scores, {}", names.join("; ")), columns);
    for (dataset, rows) in sets {
        let mut line = vec![
            Value::Text(dataset.to_owned()),
            Value::Int(rows.len() as i64),
            mean(rows.iter().map(|row| row.score)),
        ];
        line.extend((0..buckets.len()).map(|at| {
            let inside = |row: &&&Scored| row.length.map(bucket) == Some(at);
            mean(rows.iter().filter(inside).map(|row| row.score))
        }));
        table.rows.push(line);
    }
    table
}

/// Percent; missing where there is nothing.
fn mean(scores: impl Iterator<Item = f64>) -> Value {
    let (n, sum) = scores.fold((0_usize, 0.0), |(n, sum), score| (n + 1, sum + score));
    if n == 0 { Value::Missing } else { Value::Float(100.0 * sum / n as f64) }
}

fn scored(path: &Path, options: score::Options) -> anyhow::Result<Vec<Scored>> {
    let place = path.display();
    let file = File::open(path).with_context(|| format!("{place}: cannot be read"))?;
    let mut rows = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let at = || format!("{place}:{}", i + 1);
        let line = line.with_context(at)?;
        let line = if i == 0 { line.trim_start_matches('\u{feff}') } else { line.as_str() };
        if !line.trim().is_empty() {
            rows.push(row(line, options).with_context(at)?);
        }
    }
    anyhow::ensure!(!rows.is_empty(), "{place}: expected rows of predictions, got none");
    Ok(rows)
}

fn row(line: &str, options: score::Options) -> anyhow::Result<Scored> {
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
    let length = match row.get("length") {
        None | Some(Json::Null) => None,
        Some(length) => Some(length.as_u64().with_context(|| {
            format!("expected `length`, a whole number of words, got {length}{HINT}")
        })?),
    };
    let score = options.score(&dataset, &prediction, &answers, texts("all_classes").as_deref())?;
    let scorer = options.scorer(&dataset)?;
    row.insert("score".to_owned(), Json::from(score));
    row.insert("scorer".to_owned(), Json::from(scorer.as_str()));
    Ok(Scored { dataset, score, scorer, length, row })
}

/// Writes aside and renames, so that a full disk leaves what was there.
fn write(path: &Path, rows: &[Scored]) -> anyhow::Result<()> {
    let place = || format!("{}: cannot be written", path.display());
    let aside = path.with_extension(format!("{}.part", std::process::id()));
    let written = write_to(&aside, rows).and_then(|()| Ok(std::fs::rename(&aside, path)?));
    if written.is_err() {
        // What is left of it only takes up room; the first error is the one to tell.
        drop(std::fs::remove_file(&aside));
    }
    written.with_context(place)
}

fn write_to(path: &Path, rows: &[Scored]) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for scored in rows {
        serde_json::to_writer(&mut file, &scored.row)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &[&str]) -> Vec<Scored> {
        lines.iter().map(|line| row(line, score::Options::default()).unwrap()).collect()
    }

    #[test]
    fn rows_with_a_length_are_told_by_bucket() {
        let one = |length: &str, prediction: &str| {
            format!(
                "{{\"dataset\":\"qasper_e\",\"prediction\":\"{prediction}\",\"answers\":[\"yes\"]{length}}}"
            )
        };
        let lines = [
            one(",\"length\":3999", "yes"),
            one(",\"length\":8000", "yes"),
            one(",\"length\":9000", "no"),
            one("", "no"),
        ];
        let table = means(&rows(&lines.each_ref().map(String::as_str)));
        let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["dataset", "rows", "mean", "0-4k", "4-8k", "8k+"]);
        let [_, n, values @ ..] = &table.rows[0][..] else { panic!("six cells") };
        assert_eq!(n, &Value::Int(4));
        assert_eq!(
            values,
            [Value::Float(50.0), Value::Float(100.0), Value::Missing, Value::Float(50.0)]
        );
        assert_eq!([0, 3999, 4000, 7999, 8000].map(bucket), [0, 0, 1, 1, 2]);
        let plain = means(&rows(&[&one("", "yes")]));
        assert_eq!(plain.columns.len(), 3, "no buckets without a length");
        let wrong = row(&one(",\"length\":\"long\"", "yes"), score::Options::default());
        assert!(wrong.is_err_and(|error| error.to_string().contains("`length`")));
    }
}
