//! What is judged: a run folder, finished or not.

use std::{collections::BTreeSet, path::Path};

use polars::prelude::DataFrame;

use crate::record::{
    Manifest, RunDir, Table,
    manifest::CellFacts,
    parquet::{TableRow, read_rows},
};

use crate::scenario::Scenario;

use super::{
    Point,
    score_run::{self, MatchedRow, ScoreRow},
};

/// A run as it lies on disk.
#[derive(Debug, Clone)]
pub struct RunData {
    /// What was run.
    pub manifest: Manifest,
    /// `requests.parquet`, or the parts of it: the measured ones.
    pub requests: DataFrame,
    /// The rest of it: requests sent before measuring began.
    pub warm_up: DataFrame,
    /// `kernels.parquet`, or the parts of it.
    pub kernels: DataFrame,
    /// `telemetry.parquet`, or the parts of it.
    pub telemetry: DataFrame,
    /// `engine_metrics.parquet`, or the parts of it.
    pub engine_metrics: DataFrame,
    /// Cells the journal calls finished.
    pub finished: BTreeSet<String>,
    /// `scores.parquet`; empty for a run that was not scored.
    pub scores: Vec<ScoreRow>,
    /// `scores_matched.parquet`; empty for a run that was not scored at equal length.
    pub matched: Vec<MatchedRow>,
    /// Why scores that lie there are not used, in words.
    pub scores_unused: Vec<String>,
}

/// Scores where they were made. They are made from rows and can be made anew, so a file that is damaged or of another run is told
/// of, and keeps no measurement from being judged.
fn scores_of(run: &Path, manifest: &Manifest) -> (Vec<ScoreRow>, Vec<MatchedRow>, Vec<String>) {
    let mut unused = Vec::new();
    let scores = beside::<ScoreRow>(run)
        .and_then(|rows| score_run::check(manifest, &rows).map(|()| rows))
        .unwrap_or_else(|error| {
            unused.push(words(&error));
            Vec::new()
        });
    let matched = beside::<MatchedRow>(run).unwrap_or_else(|error| {
        unused.push(words(&error));
        Vec::new()
    });
    (scores, matched, unused)
}

fn words(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let first = text.lines().next().unwrap_or_default();
    format!("scores are not used: {first}; `kvbench score RUN_DIR` makes them anew.")
}

/// A table that is made from rows, where it was made.
fn beside<R: TableRow>(run: &Path) -> anyhow::Result<Vec<R>> {
    if run.join(format!("{}.parquet", R::NAME)).is_file() { read_rows(run) } else { Ok(Vec::new()) }
}

impl RunData {
    /// Reads a run folder; one that is still being written, or was interrupted, yields the rows so far.
    ///
    /// # Errors
    /// No manifest, another schema version, or I/O.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let dir = RunDir::open(path)?;
        let manifest = Manifest::read(path)?;
        let requests = dir.read_table(Table::Requests)?;
        let warmup = requests.column("warmup")?.bool()?.clone();
        let (scores, matched, scores_unused) = scores_of(path, &manifest);
        let data = Self {
            manifest,
            requests: requests.filter(&!&warmup)?,
            warm_up: requests.filter(&warmup)?,
            kernels: dir.read_table(Table::Kernels)?,
            telemetry: dir.read_table(Table::Telemetry)?,
            engine_metrics: dir.read_table(Table::EngineMetrics)?,
            finished: dir.finished_cells()?,
            scores,
            matched,
            scores_unused,
        };
        data.nothing_is_missing(path)?;
        Ok(data)
    }

    /// A cell that the journal calls finished has rows; where it has none, a table was lost, and judging the rest would
    /// call a damaged run good.
    fn nothing_is_missing(&self, path: &Path) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        for table in [&self.kernels, &self.requests] {
            seen.extend(table.column("cell_id")?.str()?.iter().flatten());
        }
        let Some(lost) = self.finished.iter().find(|id| !seen.contains(id.as_str())) else {
            return Ok(());
        };
        anyhow::bail!(
            "{}: expected rows of {} finished cells, got none of {lost}\n  hint: restore kernels.parquet, \
             requests.parquet or parts/, or start a new run",
            path.display(),
            self.finished.len()
        )
    }

    /// Whether answers there are as long as was asked for: then ending at `max_tokens` is no news.
    pub(super) fn has_fixed_lengths(&self, target: &str, workload: &str) -> bool {
        // An imported run has no scenario.
        Scenario::parse(&self.manifest.scenario.text, "the run's scenario")
            .is_ok_and(|scenario| scenario.has_fixed_lengths(target, workload))
    }

    /// Name of the A/A control's method.
    pub fn aa_method(&self) -> String {
        format!("{}-aa", self.manifest.scenario.baseline)
    }

    /// Position of a point's first cell in the plan.
    pub(super) fn rank(&self, point: &Point) -> usize {
        self.manifest.cells.iter().position(|cell| point.is_of(cell)).unwrap_or(usize::MAX)
    }

    /// Id under which all repeats of a point are summarised: the cell id with `*` for the repeat.
    pub(super) fn pooled_id(&self, point: &Point) -> String {
        let Point { target, workload, load, method } = point;
        format!("{}/{target}/{method}/{workload}/{load}/*", self.manifest.scenario.name)
    }
}

impl Point {
    pub(super) fn is_of(&self, cell: &CellFacts) -> bool {
        self.target == cell.target
            && self.workload == cell.workload
            && self.load == cell.load
            && self.method == cell.method
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.target, self.method, self.workload, self.load)
    }
}
