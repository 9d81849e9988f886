//! `kvbench data`: looks into data sets and makes small ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::ValueEnum as _;

use super::ui::Ui;
use crate::{
    report::{self, Column, Table, Value},
    scenario::{DatasetFormat, TraceFormat},
    token::Tokenizer,
    units::NS_PER_S,
    workload::{
        self, DatasetReport, Sample, dataset, make,
        trace::{self, TraceRow},
    },
};

/// Look into data sets, or make small ones
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    /// What to do
    #[command(subcommand)]
    pub command: DataCommand,
}

/// What to do with data.
#[derive(Debug, clap::Subcommand)]
pub enum DataCommand {
    /// Count rows, list bad rows with their lines, show lengths, languages and sha256
    Inspect(InspectArgs),
    /// Generate a data set with its manifest; the same arguments give the same bytes
    Make(MakeArgs),
}

/// Arguments of `data inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The file
    pub file: PathBuf,
    /// Its format [default: by the name, `.json` = sharegpt, `.jsonl` = longbench]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub dataset_format: Option<DatasetFormat>,
    /// Its format if it is a trace [default: by its first line]
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "dataset_format")]
    pub trace_format: Option<TraceFormat>,
}

/// Arguments of `data make`.
#[derive(Debug, clap::Args)]
pub struct MakeArgs {
    /// Format of the file
    #[arg(value_enum, value_name = "FORMAT")]
    pub dataset_format: DatasetFormat,
    /// A task on contexts of any length instead of the small mixture: RULER-style, but our own texts (`longbench`)
    #[arg(long, value_enum, value_name = "NAME")]
    pub task: Option<make::MakeTask>,
    /// Longest context of a row, words [default: 1000; `arithmetic`: the problem alone]
    #[arg(long, value_name = "N", requires = "task", value_parser = clap::value_parser!(u64).range(make::WORDS_MIN as u64..=1_000_000))]
    pub words: Option<u64>,
    /// The same in tokens of `--tokenizer`
    #[arg(long, value_name = "N", requires_all = ["task", "tokenizer"], conflicts_with = "words", value_parser = clap::value_parser!(u64).range(make::WORDS_MIN as u64..=1_000_000))]
    pub tokens: Option<u64>,
    /// A `tokenizer.json` or the folder of one
    #[arg(long, value_name = "PATH", requires = "tokens")]
    pub tokenizer: Option<PathBuf>,
    /// How many rows
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=make::ROWS_MAX as u64))]
    pub rows: u64,
    /// Seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// File to write; its manifest goes beside it as `<stem>.toml`
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Overwrite existing files
    #[arg(long)]
    pub force: bool,
}

/// Runs one of the two. Exit code 1: the file has bad rows.
///
/// # Errors
/// A file cannot be read or written, or holds no usable row.
pub fn run(args: &DataArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.command {
        DataCommand::Inspect(args) => inspect(args, ui),
        DataCommand::Make(args) => make(args, ui),
    }
}

fn inspect(args: &InspectArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let guessed = || trace::format_of(&args.file).filter(|_| args.dataset_format.is_none());
    if let Some(format) = args.trace_format.or_else(guessed) {
        let (rows, report) = trace::read(&args.file, format)?;
        return tell(&trace_summary(&rows, &report), &report, ui);
    }
    let format = match args.dataset_format.or_else(|| workload::format_of(&args.file)) {
        Some(format) => format,
        None => bail!(
            "{}: expected a name that ends in `.json` or `.jsonl`\n  hint: say which format it is with `--dataset-format`",
            args.file.display()
        ),
    };
    let (samples, report) = dataset::read(&args.file, format)?;
    tell(&summary(&samples, &report), &report, ui)
}

fn tell(table: &Table, report: &DatasetReport, ui: &Ui) -> anyhow::Result<ExitCode> {
    ui.out(&report::render(table, ui.format, ui.color))?;
    let file = report.path.display();
    for error in &report.errors {
        ui.note(&format!("{file}:{}: row {}: {}", error.line, error.row, error.message));
    }
    let untold = report.n_bad - report.errors.len() as u64;
    if untold > 0 {
        ui.note(&format!("{file}: {untold} more bad rows"));
    }
    Ok(if report.n_bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// One fact a row: names and values, so that new facts do not break readers of the JSON.
fn summary(samples: &[Sample], report: &DatasetReport) -> Table {
    let mut table = file_facts(report);
    let mut fact = |name: &str, value: Value| push_fact(&mut table, name, value);
    let answers: Vec<_> = samples.iter().filter_map(|sample| sample.answer.as_deref()).collect();
    fact("rows_without_answer", count((samples.len() - answers.len()) as u64));
    let prompts: Vec<_> = samples.iter().map(|sample| sample.prompt.as_str()).collect();
    for (what, texts) in [("prompt", prompts), ("answer", answers)] {
        let lengths = texts.iter().map(|text| text.len()).collect();
        quantiles(lengths, |name, value| fact(&format!("{what}_bytes_{name}"), value));
    }
    for (language, n) in languages(samples) {
        fact(&format!("language_{language}"), count(n));
    }
    table
}

fn file_facts(report: &DatasetReport) -> Table {
    let mut table = Table::new(
        &format!("{}", report.path.display()),
        vec![Column::new("fact", ""), Column::new("value", "")],
    );
    push_fact(&mut table, "sha256", Value::Text(report.sha256.clone()));
    push_fact(&mut table, "bytes", count(report.n_bytes));
    push_fact(&mut table, "rows", count(report.n_rows));
    push_fact(&mut table, "bad_rows", count(report.n_bad));
    table
}

fn push_fact(table: &mut Table, name: &str, value: Value) {
    table.rows.push(vec![Value::Text(name.to_owned()), value]);
}

fn quantiles(mut lengths: Vec<usize>, mut fact: impl FnMut(&str, Value)) {
    lengths.sort_unstable();
    for (name, part) in [("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        let value = nearest_rank(&lengths, part).map_or(Value::Missing, |n| count(n as u64));
        fact(name, value);
    }
}

/// How long, how fast, how much of the prompts was seen before.
fn trace_summary(rows: &[TraceRow], report: &DatasetReport) -> Table {
    let mut table = file_facts(report);
    let mut fact = |name: &str, value: Value| push_fact(&mut table, name, value);
    let duration_s =
        rows.iter().filter_map(|row| row.at_ns).max().map(|last| last as f64 / NS_PER_S);
    fact("duration_s", duration_s.map_or(Value::Missing, Value::Float));
    let rate = duration_s.filter(|s| *s > 0.0).map(|s| rows.len() as f64 / s);
    fact("requests_per_s", rate.map_or(Value::Missing, Value::Float));
    let lengths = |of: fn(&TraceRow) -> u32| rows.iter().map(|row| of(row) as usize).collect();
    let (prompts, answers) = (lengths(|row| row.prompt_tokens), lengths(|row| row.answer_tokens));
    for (what, lengths) in [("prompt", prompts), ("answer", answers)] {
        quantiles(lengths, |name, value| fact(&format!("{what}_tokens_{name}"), value));
    }
    let blocks = rows.iter().map(|row| row.blocks.len() as u64).sum();
    if blocks > 0 {
        let distinct: BTreeSet<u64> = rows.iter().flat_map(|row| &row.blocks).copied().collect();
        fact("prompt_blocks", count(blocks));
        fact("distinct_prompt_blocks", count(distinct.len() as u64));
    }
    table
}

fn count(n: u64) -> Value {
    i64::try_from(n).map_or(Value::Missing, Value::Int)
}

/// The smallest value with at least this part of the values at or below it.
fn nearest_rank(sorted: &[usize], part: f64) -> Option<usize> {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn languages(samples: &[Sample]) -> BTreeMap<String, u64> {
    let mut languages = BTreeMap::new();
    for sample in samples {
        let language = sample.language.clone().unwrap_or_else(|| "unknown".to_owned());
        *languages.entry(language).or_insert(0) += 1;
    }
    languages
}

fn make(args: &MakeArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let manifest_path = args.out.with_extension("toml");
    let Some(file) = args.out.file_name().and_then(|name| name.to_str()) else {
        bail!("{}: expected a file name in UTF-8", args.out.display());
    };
    if manifest_path == args.out {
        bail!(
            "{}: expected another ending than `.toml`, which the manifest takes",
            args.out.display()
        );
    }
    let existing = [&args.out, &manifest_path].into_iter().find(|path| path.exists());
    if let Some(path) = existing.filter(|_| !args.force) {
        bail!(
            "{}: exists already\n  hint: choose another name, or overwrite both files with `--force`",
            path.display()
        );
    }
    let rows = usize::try_from(args.rows)?;
    let text = text(args, rows)?;
    let command = command(args, file);
    let manifest = make::manifest(file, args.dataset_format, args.task, rows, &text, &command);
    write(&args.out, &text)?;
    write(&manifest_path, &manifest)?;
    ui.note(&format!("wrote {} ({rows} rows) and {}", args.out.display(), manifest_path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Most words that are made at once: the file is held in memory.
const WORDS_MAX: u64 = 200_000_000;

fn text(args: &MakeArgs, rows: usize) -> anyhow::Result<String> {
    if !matches!(args.dataset_format, DatasetFormat::Sharegpt | DatasetFormat::Longbench) {
        bail!(
            "expected `sharegpt` or `longbench`, which can be made, got `{}`",
            args.dataset_format.key()
        );
    }
    let Some(task) = args.task else {
        return Ok(make::generate(args.dataset_format, rows, args.seed));
    };
    if args.dataset_format != DatasetFormat::Longbench {
        bail!("expected the format `longbench` beside `--task`, got `sharegpt`");
    }
    let words = args.words.map(usize::try_from).transpose()?;
    let in_all = args.rows * args.words.or(args.tokens).unwrap_or(make::WORDS_DEFAULT as u64);
    if in_all > WORDS_MAX {
        bail!(
            "expected at most {WORDS_MAX} words in all, got {in_all}\n  hint: lower `--rows` or `--words`, or make several files with other seeds"
        );
    }
    let (Some(tokens), Some(path)) = (args.tokens, &args.tokenizer) else {
        return Ok(make::generate_task(task, rows, words, args.seed));
    };
    let tokenizer = Tokenizer::load(path)?;
    make::generate_task_in_tokens(task, rows, usize::try_from(tokens)?, &tokenizer, args.seed)
}

/// The command that makes the file again, without the folder, which says nothing about its content.
fn command(args: &MakeArgs, file: &str) -> String {
    let format = args.dataset_format.key();
    let task = args.task.and_then(|task| task.to_possible_value());
    let task = task.map_or_else(String::new, |task| format!(" --task {}", task.get_name()));
    let length = match (args.words, args.tokens, &args.tokenizer) {
        (Some(words), ..) => format!(" --words {words}"),
        (None, Some(tokens), Some(path)) => {
            format!(" --tokens {tokens} --tokenizer {}", path.display())
        }
        _ => String::new(),
    };
    let (rows, seed) = (args.rows, args.seed);
    format!("kvbench data make {format}{task}{length} --rows {rows} --seed {seed} --out {file}")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("{}: cannot write", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Format;

    fn ui() -> Ui {
        Ui { format: Format::Json, color: false, progress: false, quiet: true }
    }

    fn args(out: &Path, force: bool) -> MakeArgs {
        MakeArgs {
            dataset_format: DatasetFormat::Longbench,
            task: None,
            words: None,
            tokens: None,
            tokenizer: None,
            rows: 4,
            seed: 2,
            out: out.to_owned(),
            force,
        }
    }

    #[test]
    fn nothing_is_overwritten_without_force() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let out = dir.path().join("x.jsonl");
        make(&args(&out, false), &ui()).expect("made");
        let first = std::fs::read_to_string(&out).expect("written");
        std::fs::write(&out, "mine").expect("written");
        let error = make(&args(&out, false), &ui()).expect_err("refused");
        assert!(format!("{error:#}").contains("`--force`"), "{error:#}");
        assert_eq!(std::fs::read_to_string(&out).expect("read"), "mine");
        make(&args(&out, true), &ui()).expect("made");
        assert_eq!(std::fs::read_to_string(&out).expect("read"), first);
        std::fs::remove_file(&out).expect("removed");
        assert!(make(&args(&out, false), &ui()).is_err(), "the manifest is there still");
    }

    #[test]
    fn facts_of_a_generated_file() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let out = dir.path().join("x.jsonl");
        make(&args(&out, false), &ui()).expect("made");
        let (samples, report) = dataset::read(&out, DatasetFormat::Longbench).expect("read");
        let table = summary(&samples, &report);
        let fact = |name: &str| {
            table
                .rows
                .iter()
                .find(|row| row[0] == Value::Text(name.to_owned()))
                .map(|row| row[1].clone())
        };
        assert_eq!(fact("rows"), Some(Value::Int(4)));
        assert_eq!(fact("bad_rows"), Some(Value::Int(0)));
        assert_eq!(fact("language_en"), Some(Value::Int(4)));
        assert_eq!(
            fact("prompt_bytes_max"),
            samples.iter().map(|s| s.prompt.len() as i64).max().map(Value::Int)
        );
    }

    #[test]
    fn ranks() {
        assert_eq!(nearest_rank(&[1, 2, 3, 4], 0.5), Some(2));
        assert_eq!(nearest_rank(&[1, 2, 3, 4], 0.99), Some(4));
        assert_eq!(nearest_rank(&[1, 2, 3, 4], 0.0), Some(1));
        assert_eq!(nearest_rank(&[], 0.5), None);
    }
}
