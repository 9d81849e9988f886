//! Imported results as a run: rows and a manifest that every reader of runs takes, and one table of all numbers.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;

use super::{Imported, PeerCell, UNKNOWN};
use crate::{
    analyse::{RunData, SummaryRow, definitions, judge},
    record::{
        Manifest, RequestRow, SCHEMA_VERSION, Table,
        env::Machine,
        manifest::{CellFacts, ClientFacts, Input, ScenarioFacts, Status, Verdict},
        parquet::{TableRow as _, table_row},
    },
};

/// Method of rows and numbers that were computed again from single requests.
const RECOMPUTED: &str = "recomputed";
/// Method of numbers as the tool computed them.
const REPORTED: &str = "reported";

/// One number of an imported result: `summary.parquet` with the same columns as ours, where `n` and `mean` may be unknown.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerRow {
    /// `import/<tool>/<reported or recomputed>/<model>/<load>/<benchmark>`.
    pub cell_id: String,
    /// Name in the tool's file, or ours of what was computed again.
    pub metric: String,
    /// Id of what it is.
    pub definition: Option<String>,
    /// Unit.
    pub unit: String,
    /// Observations.
    pub n: Option<i64>,
    /// Mean, or the number itself where it is one for the whole benchmark.
    pub mean: Option<f64>,
    /// Lower end of the 95 % interval of the mean.
    pub ci_low: Option<f64>,
    /// Upper end.
    pub ci_high: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// What was computed again has the verdict of its cell.
    pub verdict: Option<String>,
}

table_row!(
    PeerRow, "summary", cell_id, metric, definition, unit, n, mean, ci_low, ci_high, p50, p90, p95,
    p99, verdict
);

impl PeerRow {
    /// Whether it was computed again from single requests.
    pub fn is_recomputed(&self) -> bool {
        self.cell_id.split('/').nth(2) == Some(RECOMPUTED)
    }
}

/// Facts of a cell under a method; names come from files, and a slash would end a part of the id.
fn facts(tool: &str, method: &str, cell: &PeerCell, index: u32) -> CellFacts {
    let [workload, load] = [&cell.workload, &cell.load].map(|name| name.replace('/', "-"));
    CellFacts {
        id: format!("import/{tool}/{method}/{workload}/{load}/{index}"),
        target: tool.to_owned(),
        method: method.to_owned(),
        workload,
        load,
        repeat: index,
        concurrency: cell.concurrency,
    }
}

fn cells(imported: &Imported) -> impl Iterator<Item = (&PeerCell, u32)> {
    imported.cells.iter().zip(0..)
}

/// The single requests of all files as a run that can be judged; its manifest is [`manifest`]'s.
///
/// # Errors
/// Polars refuses the columns.
pub fn run_data(files: &[Imported], manifest: Manifest) -> anyhow::Result<RunData> {
    let mut rows = Vec::new();
    for file in files {
        for (cell, index) in cells(file) {
            let facts = facts(file.tool, RECOMPUTED, cell, index);
            rows.extend(cell.rows.iter().map(|row| RequestRow {
                run_id: manifest.run_id.clone(),
                cell_id: facts.id.clone(),
                target: facts.target.clone(),
                method: facts.method.clone(),
                workload: facts.workload.clone(),
                load: facts.load.clone(),
                repeat: i64::from(index),
                ..row.clone()
            }));
        }
    }
    let empty = |table: Table| -> anyhow::Result<DataFrame> { table.empty() };
    Ok(RunData {
        finished: manifest.cells.iter().map(|cell| cell.id.clone()).collect(),
        requests: RequestRow::frame(&rows)?,
        warm_up: Table::Requests.empty()?,
        kernels: empty(Table::Kernels)?,
        telemetry: empty(Table::Telemetry)?,
        engine_metrics: empty(Table::EngineMetrics)?,
        manifest,
        scores: Vec::new(),
        matched: Vec::new(),
        scores_unused: Vec::new(),
    })
}

/// The manifest of imported results: what was read, and what to mind.
///
/// # Errors
/// None of two files may yield the same cell.
pub fn manifest(
    files: &[Imported],
    inputs: Vec<Input>,
    (run_id, origin): (&str, &str),
    command_line: Vec<String>,
) -> anyhow::Result<Manifest> {
    let with_rows = |file: &Imported| {
        let cells = cells(file).filter(|(cell, _)| !cell.rows.is_empty());
        cells.map(|(cell, index)| facts(file.tool, RECOMPUTED, cell, index)).collect::<Vec<_>>()
    };
    let cells: Vec<CellFacts> = files.iter().flat_map(with_rows).collect();
    for (index, cell) in cells.iter().enumerate() {
        anyhow::ensure!(
            cells[..index].iter().all(|other| other.id != cell.id),
            "expected files of different runs, got two that make the cell {}\n  hint: import them one at a time",
            cell.id
        );
    }
    let client = |cell: &CellFacts| ClientFacts {
        cell_id: cell.id.clone(),
        verdict: Verdict::Suspect,
        reasons: vec![format!(
            "measured by {}, which does not say whether it kept up",
            cell.target
        )],
        measured: serde_json::Value::Null,
    };
    let mut notices: Vec<String> = files.iter().flat_map(relabelled).collect();
    for file in files {
        notices.extend(file.notes.iter().map(|note| format!("{}: {note}", file.tool)));
    }
    Ok(Manifest {
        schema_version: SCHEMA_VERSION,
        run_id: run_id.to_owned(),
        kvbench_version: env!("CARGO_PKG_VERSION").to_owned(),
        kvbench_git_revision: None,
        status: Status::Complete,
        verdict: None,
        reasons: Vec::new(),
        scenario: scenario(),
        client_health: cells.iter().map(client).collect(),
        n_cells: cells.len(),
        cells,
        origin: origin.to_owned(),
        ended: None,
        n_resumed: 0,
        command_line,
        // Where it was measured is in none of the files.
        machine: Machine::default(),
        inputs,
        engines: BTreeMap::new(),
        telemetry: None,
        proofs: Vec::new(),
        schedules: BTreeMap::new(),
        token_checks: Vec::new(),
        n_failed: 0,
        notices,
        gpu_driver: None,
        test_slowdown: None,
    })
}

/// A report of imported rows speaks of our metrics: what they really are here.
fn relabelled(file: &Imported) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for (ours, theirs) in file.cells.iter().flat_map(|cell| cell.relabel) {
        let what =
            theirs.map_or("cannot be computed and is not to be read".to_owned(), str::to_owned);
        let text = format!("{}: what a report calls {ours} is {what} here", file.tool);
        if !said.contains(&text) {
            said.push(text);
        }
    }
    said
}

fn scenario() -> ScenarioFacts {
    ScenarioFacts {
        name: "import".to_owned(),
        path: None,
        text: "# results of another load generator, imported".to_owned(),
        seed: 0,
        repeats: 1,
        baseline: RECOMPUTED.to_owned(),
        aa_control: false,
        slo: None,
        searches: BTreeMap::new(),
        links: BTreeMap::new(),
        device: None,
    }
}

/// Every number of the files: as reported, then as computed again from single requests where there are any.
///
/// # Errors
/// The rows cannot be judged.
pub fn table(files: &[Imported], data: &RunData) -> anyhow::Result<Vec<PeerRow>> {
    let judged = judge(data)?.summary;
    let mut rows = Vec::new();
    for file in files {
        for (cell, index) in cells(file) {
            let reported = facts(file.tool, REPORTED, cell, index).id;
            rows.extend(cell.reported.iter().map(|number| of_tool(&reported, number)));
            let recomputed = facts(file.tool, RECOMPUTED, cell, index).id;
            let own = judged.iter().filter(|row| row.cell_id == recomputed);
            rows.extend(own.filter_map(|row| of_rows(row, cell)));
        }
    }
    Ok(rows)
}

fn of_tool(cell_id: &str, number: &super::Reported) -> PeerRow {
    PeerRow {
        cell_id: cell_id.to_owned(),
        metric: number.metric.clone(),
        definition: Some(number.definition.to_owned()),
        unit: number.unit().to_owned(),
        n: number.n.and_then(|n| i64::try_from(n).ok()),
        mean: number.mean,
        ci_low: None,
        ci_high: None,
        p50: number.p50,
        p90: number.p90,
        p95: number.p95,
        p99: number.p99,
        verdict: None,
    }
}

/// Ids that count from when a request was due.
fn needs_due(id: &str) -> bool {
    id.ends_with(".from_due") || id == "delay.sent_after_due"
}

/// What we computed, under the id of what the tool's times make of it; `None` where they cannot yield it.
fn of_rows(row: &SummaryRow, cell: &PeerCell) -> Option<PeerRow> {
    let id = row.definition.as_deref()?;
    // Which part of a run is steady depends on its load.
    let needs_load = id.starts_with("steady.") || id.ends_with(definitions::STEADY);
    if needs_due(id) && !cell.due_known || needs_load && cell.load == UNKNOWN {
        return None;
    }
    let relabelled = cell.relabel.iter().find(|(ours, _)| *ours == id);
    let id = relabelled.map_or(Some(id), |(_, theirs)| *theirs)?;
    debug_assert!(definitions::by_id(id).is_some(), "{id}");
    Some(PeerRow {
        cell_id: row.cell_id.clone(),
        metric: row.metric.clone(),
        definition: Some(id.to_owned()),
        unit: row.unit.clone(),
        n: i64::try_from(row.n).ok(),
        mean: Some(row.mean),
        ci_low: row.ci_low,
        ci_high: row.ci_high,
        p50: row.p50,
        p90: row.p90,
        p95: row.p95,
        p99: row.p99,
        verdict: row.verdict.clone(),
    })
}
