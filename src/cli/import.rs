//! `kvbench import`: results of other load generators under our definitions.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};

use super::ui::Ui;
use crate::{
    analyse::{RunData, SummaryRow, judge},
    import::{self, Compared, PeerRow},
    record::{
        Manifest, Row, RunDir, Sink as _, env,
        manifest::Input,
        parquet::{TableRow as _, write_rows},
        rows::RequestRow,
    },
    report::{Column, Table, Value, render},
    workload,
};

/// Read results of `vllm bench serve` (Python or Rust), guidellm or aiperf; the format is told by the content
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Result files: vllm's JSON, guidellm's benchmarks.json, aiperf's profile_export_aiperf.json or profile_export.jsonl
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Parent of a run folder with the imported rows and summary.parquet, which `kvbench report` reads
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Compare with this run of ours, number by number, instead of listing what was imported
    #[arg(long, value_name = "RUN_DIR")]
    pub against: Option<PathBuf>,
    /// With --against: only our points whose id matches
    #[arg(long, value_name = "REGEX", requires = "against")]
    pub filter: Option<regex::Regex>,
}

/// Prints one table: every number of the files, or the comparison with a run. Notes on the files go to stderr.
///
/// # Errors
/// A file that is no result of a known tool, a run that cannot be judged, or a folder that cannot be written.
pub fn run(args: &ImportArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let mut files =
        args.files.iter().map(|path| import::read(path)).collect::<Result<Vec<_>, _>>()?;
    import::join(&mut files);
    for (path, file) in args.files.iter().zip(&files) {
        let version = file.version.as_deref().unwrap_or("version unknown");
        ui.note(&format!("{}: {} ({version})", path.display(), file.tool));
        file.notes.iter().for_each(|note| ui.note(&format!("  note: {note}")));
    }
    let origin = env::wall_clock()?;
    let place = (format!("{}-import", env::stamp(origin)), env::rfc3339(origin));
    let manifest = import::manifest(&files, inputs(&args.files)?, (&place.0, &place.1), command())?;
    let data = import::run_data(&files, manifest)?;
    let numbers = import::table(&files, &data)?;
    if let Some(parent) = &args.out {
        let dir = write(parent, data, &numbers)?;
        ui.note(&format!("{}: read it with `kvbench report`", dir.display()));
    }
    let table = match &args.against {
        Some(run) => comparison(&numbers, &ours(run, args.filter.as_ref())?)?,
        None => listing(&numbers),
    };
    ui.out(&render(&table, ui.format, ui.color))?;
    Ok(ExitCode::SUCCESS)
}

fn command() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn inputs(files: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let one = |path: &PathBuf| {
        let bytes = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
        Ok(Input { path: path.display().to_string(), sha256: workload::sha256_file(path)?, bytes })
    };
    files.iter().map(one).collect()
}

/// A run folder like any other, with the tools' own numbers in its summary.
fn write(parent: &Path, data: RunData, numbers: &[PeerRow]) -> anyhow::Result<PathBuf> {
    let mut manifest: Manifest = data.manifest;
    let stamp = manifest.run_id.trim_end_matches("-import").to_owned();
    let sha = manifest.inputs.first().map_or("", |input| &input.sha256);
    let mut recorder = RunDir::create(parent, "import", &stamp, sha.get(..6).unwrap_or("000000"))?;
    manifest.run_id = recorder.dir().run_id();
    recorder.write_manifest(&manifest)?;
    for row in RequestRow::rows(&data.requests)? {
        recorder.row(Row::Request(RequestRow { run_id: manifest.run_id.clone(), ..row }))?;
    }
    let ids: Vec<&str> = manifest.cells.iter().map(|cell| cell.id.as_str()).collect();
    recorder.finished(&ids)?;
    recorder.finalize(&manifest.cells)?;
    let dir = recorder.path().to_owned();
    write_rows(&dir, numbers)?;
    Ok(dir)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn listing(numbers: &[PeerRow]) -> Table {
    let names = ["cell", "metric", "definition", "unit", "n", "mean", "p50", "p90", "p95", "p99"];
    let columns = names.iter().map(|name| Column::new(name, "")).collect();
    let mut table = Table::new("Imported, as reported and as computed again", columns);
    table.rows = numbers.iter().map(listed).collect();
    table
}

fn listed(number: &PeerRow) -> Vec<Value> {
    let mut row = vec![
        text(&number.cell_id),
        text(&number.metric),
        number.definition.as_deref().map_or(Value::Missing, text),
        text(&number.unit),
        number.n.map_or(Value::Missing, Value::Int),
        Value::estimate(number.mean, number.ci_low, number.ci_high),
    ];
    row.extend([number.p50, number.p90, number.p95, number.p99].map(Value::maybe));
    row
}

/// Summary rows of each point of our run, all repeats together.
fn ours(run: &Path, filter: Option<&regex::Regex>) -> anyhow::Result<Vec<Vec<SummaryRow>>> {
    let data = RunData::load(run)?;
    let summary =
        judge(&data).with_context(|| format!("{}: cannot be judged", run.display()))?.summary;
    let mut points: Vec<Vec<SummaryRow>> = Vec::new();
    for row in summary.into_iter().filter(|row| row.cell_id.ends_with("/*")) {
        if filter.is_some_and(|filter| !filter.is_match(&row.cell_id)) {
            continue;
        }
        match points.iter_mut().find(|point| point[0].cell_id == row.cell_id) {
            Some(point) => point.push(row),
            None => points.push(vec![row]),
        }
    }
    ensure!(
        !points.is_empty(),
        "{}: expected a point to compare with, got none{}",
        run.display(),
        filter.map_or(String::new(), |filter| format!(" that matches {filter}"))
    );
    Ok(points)
}

fn comparison(numbers: &[PeerRow], ours: &[Vec<SummaryRow>]) -> anyhow::Result<Table> {
    let columns = [
        "theirs",
        "ours",
        "definition",
        "our_definition",
        "unit",
        "their_mean",
        "our_mean",
        "mean_ratio",
        "their_p50",
        "our_p50",
        "p50_ratio",
        "differs",
    ];
    let columns = columns.iter().map(|name| Column::new(name, "")).collect();
    let mut table = Table::new("Theirs against ours, theirs / ours", columns);
    let compared = ours.iter().flat_map(|point| import::against(numbers, point));
    table.rows = compared.map(|one| row(&one)).collect();
    ensure!(
        !table.rows.is_empty(),
        "expected numbers of served requests in the run, got none with a counterpart in the files"
    );
    Ok(table)
}

fn row(c: &Compared) -> Vec<Value> {
    let same = c.their_definition == c.our_definition;
    vec![
        text(&c.their_cell),
        text(&c.our_cell),
        text(&c.their_definition),
        text(if same { "same" } else { &c.our_definition }),
        text(&c.unit),
        Value::maybe(c.mean.0),
        Value::maybe(c.mean.1),
        Value::maybe(c.mean_ratio()),
        Value::maybe(c.p50.0),
        Value::maybe(c.p50.1),
        Value::maybe(c.p50_ratio()),
        c.differs.map_or(Value::Missing, text),
    ]
}
