//! The sink that writes a run folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::Path,
};

use anyhow::{Context as _, ensure};
use polars::prelude::{DataFrame, IdxCa};

use super::{
    Manifest,
    disk::{Files, write_aside},
    manifest::CellFacts,
    parquet::{Table, TableRow, to_bytes},
    rows::{EngineMetricRow, KernelRow, RequestRow, Row, Sink, TelemetryRow},
    run_dir::{Entry, RunDir, part_name},
};

/// `method` of read-bandwidth probes, which belong to a block and not to a planned cell.
pub const PROBE_METHOD: &str = "probe";

/// Rows that make a buffer a part, or the bytes that do so sooner.
const FLUSH_ROWS: usize = 4096;
const FLUSH_BYTES: usize = 8 << 20;

/// Writes rows as parts, and finished cells to the journal once their parts are durable. Holds the run's lock.
///
/// Rows between two calls of [`Sink::finished`] belong to the cells of the second call, to no cell (probes), or to cells
/// that finish later. After an error it takes nothing more: half a journal line must not be followed by another.
pub struct Recorder {
    files: Box<dyn Files>,
    dir: RunDir,
    _lock: File,
    done: BTreeSet<String>,
    requests: Vec<RequestRow>,
    kernels: Vec<KernelRow>,
    telemetry: Vec<TelemetryRow>,
    engine_metrics: Vec<EngineMetricRow>,
    buffered_bytes: usize,
    /// Durable parts that no journal line lists yet.
    unlisted: Vec<String>,
    next_part: u64,
    journal_len: u64,
    failed: bool,
}

impl Recorder {
    pub(crate) fn new(
        files: Box<dyn Files>,
        dir: RunDir,
        lock: File,
        done: BTreeSet<String>,
        next_part: u64,
        journal_len: u64,
    ) -> Self {
        Self {
            files,
            dir,
            _lock: lock,
            done,
            requests: Vec::new(),
            kernels: Vec::new(),
            telemetry: Vec::new(),
            engine_metrics: Vec::new(),
            buffered_bytes: 0,
            unlisted: Vec::new(),
            next_part,
            journal_len,
            failed: false,
        }
    }

    /// The run's folder.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Path of the run's folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Cells that are finished.
    pub fn done(&self) -> &BTreeSet<String> {
        &self.done
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// I/O, with the path.
    pub fn write_manifest(&self, manifest: &Manifest) -> anyhow::Result<()> {
        manifest.write_with(self.files.as_ref(), self.dir.path())
    }

    /// Makes everything received so far durable, without declaring a cell finished: for an interrupted run, whose rows
    /// are kept and readable, but whose open cells run again on resume.
    ///
    /// # Errors
    /// I/O, with the path.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.guarded(Self::flush_parts)
    }

    /// Merges the parts into one file a table, in the order of the plan and then of requests or samples, so that a
    /// resumed run differs from an uninterrupted one in nothing but times. Does nothing on a run that is merged already.
    ///
    /// # Errors
    /// A planned cell is not finished (the run stays as it is, readable and resumable), or I/O.
    pub fn finalize(&mut self, plan: &[CellFacts]) -> anyhow::Result<()> {
        let open = plan.iter().filter(|cell| !self.done.contains(&cell.id)).count();
        ensure!(
            open == 0,
            "{}: {open} of {} cells are not finished, so the run stays in parts\n  hint: `kvbench run --resume {0}`",
            self.path().display(),
            plan.len()
        );
        if !self.dir.is_unfinished() {
            return Ok(());
        }
        self.guarded(Self::flush_parts)?;
        self.write_tables(plan)?;
        self.dir.retire_parts(self.files.as_ref())
    }

    /// Writes the tables of a run that ended with cells which nothing was sent for, as [`Self::finalize`] would. The parts
    /// stay beside them and remain what holds the rows, so that the run can be resumed, which removes these tables.
    ///
    /// # Errors
    /// I/O.
    pub fn snapshot(&mut self, plan: &[CellFacts]) -> anyhow::Result<()> {
        self.guarded(Self::flush_parts)?;
        self.write_tables(plan)
    }

    fn write_tables(&self, plan: &[CellFacts]) -> anyhow::Result<()> {
        for table in Table::ALL {
            let frame = self.dir.read_table(table)?;
            let order = order(&frame, table, plan)?;
            let order = IdxCa::from_vec("order".into(), order);
            write_aside(
                self.files.as_ref(),
                &self.dir.table_path(table),
                &to_bytes(&mut frame.take(&order)?)?,
            )?;
        }
        Ok(())
    }

    fn guarded(
        &mut self,
        work: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        ensure!(
            !self.failed,
            "{}: recording has failed before, nothing more is taken",
            self.path().display()
        );
        ensure!(
            self.dir.is_unfinished(),
            "{}: the run is complete, nothing can be added\n  hint: start a new run",
            self.path().display()
        );
        let outcome = work(self);
        self.failed = outcome.is_err();
        outcome
    }

    fn flush_parts(&mut self) -> anyhow::Result<()> {
        let requests = std::mem::take(&mut self.requests);
        self.write_part(Table::Requests, &requests)?;
        let kernels = std::mem::take(&mut self.kernels);
        self.write_part(Table::Kernels, &kernels)?;
        let telemetry = std::mem::take(&mut self.telemetry);
        self.write_part(Table::Telemetry, &telemetry)?;
        let engine_metrics = std::mem::take(&mut self.engine_metrics);
        self.write_part(Table::EngineMetrics, &engine_metrics)?;
        self.buffered_bytes = 0;
        Ok(())
    }

    fn longest_buffer(&self) -> usize {
        let lengths = [
            self.requests.len(),
            self.kernels.len(),
            self.telemetry.len(),
            self.engine_metrics.len(),
        ];
        lengths.into_iter().max().unwrap_or(0)
    }

    fn write_part<R: TableRow>(&mut self, table: Table, rows: &[R]) -> anyhow::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let name = part_name(table, self.next_part);
        let bytes = to_bytes(&mut R::frame(rows)?)?;
        write_aside(self.files.as_ref(), &self.dir.parts().join(&name), &bytes)?;
        self.next_part += 1;
        self.unlisted.push(name);
        Ok(())
    }

    fn journal(&mut self, cell_ids: &[&str]) -> anyhow::Result<()> {
        let cells = cell_ids.iter().map(|id| (*id).to_owned()).collect();
        let mut line = serde_json::to_vec(&Entry { cells, parts: self.unlisted.clone() })?;
        line.push(b'\n');
        let path = self.dir.journal_path();
        if let Err(err) = self.files.append(&path, &line) {
            // Best effort: reading tolerates the torn line too, and the first error is the one to tell.
            let _ = self.files.truncate(&path, self.journal_len);
            return Err(err).with_context(|| {
                format!(
                    "{}: could not be extended, so the last block counts as not run\n  hint: check free space; what was \
                     finished before stays readable, and `kvbench run --resume` goes on from there",
                    path.display()
                )
            });
        }
        self.journal_len += line.len() as u64;
        self.unlisted.clear();
        self.done.extend(cell_ids.iter().map(|id| (*id).to_owned()));
        Ok(())
    }
}

impl Sink for Recorder {
    fn row(&mut self, row: Row) -> anyhow::Result<()> {
        self.guarded(|recorder| {
            match row {
                Row::Request(row) => {
                    recorder.buffered_bytes +=
                        row.output_text.len() + 8 * (row.chunk_ns.len() + row.chunk_tokens.len());
                    recorder.requests.push(row);
                }
                Row::Kernel(row) => recorder.kernels.push(row),
                Row::Telemetry(row) => recorder.telemetry.push(row),
                Row::EngineMetric(row) => recorder.engine_metrics.push(row),
            }
            let longest = recorder.longest_buffer();
            if longest >= FLUSH_ROWS || recorder.buffered_bytes >= FLUSH_BYTES {
                recorder.flush_parts()?;
            }
            Ok(())
        })
    }

    fn finished(&mut self, cell_ids: &[&str]) -> anyhow::Result<()> {
        self.guarded(|recorder| {
            recorder.flush_parts()?;
            recorder.journal(cell_ids)
        })
    }
}

/// Position of a row in a finished table: rank of its cell, probes before cells, then the numbers that order rows
/// within a cell.
type Key = (usize, bool, String, i64, i64);

fn order(frame: &DataFrame, table: Table, plan: &[CellFacts]) -> anyhow::Result<Vec<u32>> {
    let numbers = |name: &str| -> anyhow::Result<Vec<i64>> {
        Ok(frame.column(name)?.i64()?.iter().map(|value| value.unwrap_or(-1)).collect())
    };
    let keys: Vec<Key> = match table {
        Table::Telemetry => {
            numbers("t_ns")?.into_iter().map(|t_ns| (0, false, String::new(), t_ns, 0)).collect()
        }
        Table::EngineMetrics => metric_keys(frame, plan, &numbers("t_ns")?)?,
        Table::Requests => {
            keys(frame, plan, &in_order(frame, numbers("request_id")?)?, &numbers("attempt")?)?
        }
        Table::Kernels => keys(frame, plan, &numbers("sample")?, &numbers("t_ns")?)?,
    };
    let mut order: Vec<u32> =
        (0..u32::try_from(frame.height()).context("more than 2^32 rows")?).collect();
    order.sort_by_key(|row| &keys[*row as usize]);
    Ok(order)
}

/// Warm-ups were sent first; each kind has its numbers from 0.
fn in_order(frame: &DataFrame, request_ids: Vec<i64>) -> anyhow::Result<Vec<i64>> {
    let warmups = frame.column("warmup")?.bool()?;
    let place =
        |(id, warmup): (i64, Option<bool>)| if warmup == Some(true) { id - (1 << 40) } else { id };
    Ok(request_ids.into_iter().zip(warmups.iter()).map(place).collect())
}

/// By cell and time; rows of one reading keep the order in which they came (the sort is stable).
fn metric_keys(frame: &DataFrame, plan: &[CellFacts], t_ns: &[i64]) -> anyhow::Result<Vec<Key>> {
    let ranks: BTreeMap<&str, usize> =
        plan.iter().enumerate().map(|(rank, cell)| (cell.id.as_str(), rank)).collect();
    let key = |(cell, t_ns): (Option<&str>, &i64)| {
        let cell = cell.unwrap_or_default();
        (ranks.get(cell).copied().unwrap_or(usize::MAX), true, cell.to_owned(), *t_ns, 0)
    };
    Ok(frame.column("cell_id")?.str()?.iter().zip(t_ns).map(key).collect())
}

fn keys(
    frame: &DataFrame,
    plan: &[CellFacts],
    first: &[i64],
    second: &[i64],
) -> anyhow::Result<Vec<Key>> {
    let mut ranks = BTreeMap::new();
    for (rank, cell) in plan.iter().enumerate() {
        ranks.entry(cell.id.clone()).or_insert(rank);
        let block =
            (cell.target.clone(), cell.workload.clone(), cell.load.clone(), i64::from(cell.repeat));
        ranks.entry(format!("{block:?}")).or_insert(rank);
    }
    let text = |name: &str| -> anyhow::Result<Vec<String>> {
        Ok(frame
            .column(name)?
            .str()?
            .iter()
            .map(|value| value.unwrap_or_default().to_owned())
            .collect())
    };
    let (cells, methods) = (text("cell_id")?, text("method")?);
    let (targets, workloads, loads) = (text("target")?, text("workload")?, text("load")?);
    let repeats: Vec<i64> =
        frame.column("repeat")?.i64()?.iter().map(Option::unwrap_or_default).collect();
    let key = |row: usize| {
        let is_cell = methods[row] != PROBE_METHOD;
        let block =
            (targets[row].clone(), workloads[row].clone(), loads[row].clone(), repeats[row]);
        let name = if is_cell { cells[row].clone() } else { format!("{block:?}") };
        let rank = ranks.get(&name).copied().unwrap_or(usize::MAX);
        (rank, is_cell, cells[row].clone(), first[row], second[row])
    };
    Ok((0..frame.height()).map(key).collect())
}
