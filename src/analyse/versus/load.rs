//! Run folders for comparing: only the columns that are needed, a row group at a time, and of every repeat only what it is reduced to.
//! Ten million requests take 600 MB here; the lists of chunks, which would take ten times that, are not read.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use anyhow::{Context as _, ensure};
use polars::prelude::{BooleanChunked, DataFrame, Int64Chunked, StringChunked};
use rayon::prelude::*;

use super::{
    launches::{Block, Launches, medians},
    served::Requests,
    side::{Cell, Side, Ways, id},
};
use crate::{
    analyse::{
        Point,
        score_run::{self, ScoreRow},
    },
    record::{
        Manifest, PROBE_METHOD, RequestRow, RunDir, Table,
        manifest::{CellFacts, SloFacts},
        parquet::{TableRow as _, read_rows},
    },
};

const REQUESTS: [&str; 14] = [
    "cell_id",
    "warmup",
    "due_ns",
    "sent_ns",
    "first_token_ns",
    "last_token_ns",
    "done_ns",
    "prompt_tokens",
    "output_tokens",
    "max_tokens",
    "finish_reason",
    "err",
    "token_source",
    "attempt",
];

const KERNELS: [&str; 23] = [
    "cell_id",
    "target",
    "method",
    "workload",
    "load",
    "op",
    "timer",
    "device",
    "backend",
    "model_shape",
    "err",
    "repeat",
    "batch",
    "q_len",
    "kv_len",
    "kv_tokens",
    "heads_q",
    "heads_kv",
    "head_dim",
    "tensor_parallel",
    "sample",
    "duration_ns",
    "thread_cpu_ns",
];

impl Side {
    /// Reads a run folder, finished or not.
    ///
    /// # Errors
    /// No manifest, another schema version, or I/O.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let dir = RunDir::open(path)?;
        let manifest = Manifest::read(path)?;
        let place = || format!("{}: cannot be compared", path.display());
        let (mut cells, mut ways) = (BTreeMap::new(), Ways::default());
        served(&dir, &manifest, &mut cells, &mut ways).with_context(place)?;
        launched(&dir, &manifest, &mut cells, &mut ways).with_context(place)?;
        let scores = scores(path, &manifest).with_context(place)?;
        let side = Self { place: path.display().to_string(), manifest, cells, ways, scores };
        ensure!(
            !side.cells.is_empty(),
            "{}: expected measured requests or kernels, got none\n  hint: `kvbench report` says what failed",
            path.display()
        );
        Ok(side)
    }
}

/// Scores of this run, where it was scored.
fn scores(path: &Path, manifest: &Manifest) -> anyhow::Result<Vec<ScoreRow>> {
    if !path.join(format!("{}.parquet", ScoreRow::NAME)).is_file() {
        return Ok(Vec::new());
    }
    let rows = read_rows(path)?;
    score_run::check(manifest, &rows)?;
    Ok(rows)
}

fn point(cell: &CellFacts) -> Point {
    Point {
        target: cell.target.clone(),
        workload: cell.workload.clone(),
        load: cell.load.clone(),
        method: cell.method.clone(),
    }
}

/// The cell of a point, made where it is new.
fn cell_of<'c>(
    cells: &'c mut BTreeMap<String, Cell>,
    scenario: &str,
    point: Point,
) -> &'c mut Cell {
    cells.entry(id(scenario, &point)).or_insert_with(|| Cell { point, ..Cell::default() })
}

fn text<'f>(frame: &'f DataFrame, name: &str) -> anyhow::Result<&'f StringChunked> {
    Ok(frame.column(name)?.str()?)
}

fn whole<'f>(frame: &'f DataFrame, name: &str) -> anyhow::Result<&'f Int64Chunked> {
    Ok(frame.column(name)?.i64()?)
}

/// Columns of a piece of `requests.parquet`.
struct Piece<'f> {
    warmup: &'f BooleanChunked,
    whole: Vec<&'f Int64Chunked>,
    texts: Vec<&'f StringChunked>,
}

impl<'f> Piece<'f> {
    fn of(frame: &'f DataFrame) -> anyhow::Result<Self> {
        let wholes = [
            "due_ns",
            "sent_ns",
            "first_token_ns",
            "last_token_ns",
            "done_ns",
            "prompt_tokens",
            "output_tokens",
            "max_tokens",
            "attempt",
        ];
        let texts = ["cell_id", "finish_reason", "err", "token_source"];
        Ok(Self {
            warmup: frame.column("warmup")?.bool()?,
            whole: wholes.iter().map(|name| whole(frame, name)).collect::<anyhow::Result<_>>()?,
            texts: texts.iter().map(|name| text(frame, name)).collect::<anyhow::Result<_>>()?,
        })
    }

    fn text(&self, column: usize, row: usize) -> Option<&'f str> {
        self.texts[column].get(row)
    }

    /// The row without its texts, which nothing here needs.
    fn row(&self, row: usize) -> RequestRow {
        let whole = |column: usize| self.whole[column].get(row);
        let (first, last) = (whole(2), whole(3));
        RequestRow {
            due_ns: whole(0).unwrap_or_default(),
            sent_ns: whole(1),
            first_token_ns: first,
            last_token_ns: last,
            done_ns: whole(4),
            prompt_tokens: whole(5),
            output_tokens: whole(6),
            max_tokens: whole(7).unwrap_or_default(),
            attempt: whole(8).unwrap_or_default(),
            // Only "length" has a meaning for what follows.
            finish_reason: self.text(1, row).filter(|why| *why == "length").map(str::to_owned),
            err: self.text(2, row).map(|_| String::new()),
            // An answer that came at once is one chunk, and has no time between tokens.
            chunk_ns: if first.is_some() && first == last { vec![0] } else { Vec::new() },
            ..RequestRow::default()
        }
    }
}

/// Requests by cell. Searches for a sustained rate probe different rates in each run, so their requests are no repeats.
fn served(
    dir: &RunDir,
    manifest: &Manifest,
    cells: &mut BTreeMap<String, Cell>,
    ways: &mut Ways,
) -> anyhow::Result<()> {
    let slo: Option<SloFacts> = manifest.scenario.slo;
    let searched = |cell: &CellFacts| manifest.scenario.searches.contains_key(&cell.load);
    let known: HashMap<&str, usize> = manifest
        .cells
        .iter()
        .enumerate()
        .filter(|(_, cell)| !searched(cell))
        .map(|(at, cell)| (cell.id.as_str(), at))
        .collect();
    let mut repeats: BTreeMap<usize, Requests> = BTreeMap::new();
    dir.each_group(Table::Requests, &REQUESTS, &mut |frame| {
        let piece = Piece::of(frame)?;
        let mut last: Option<(&str, Option<usize>)> = None;
        let mut source = None;
        for row in 0..frame.height() {
            let Some(cell_id) = piece.text(0, row) else { continue };
            // Rows of a cell mostly stand together.
            let at = match last {
                Some((id, at)) if id == cell_id => at,
                _ => known.get(cell_id).copied(),
            };
            last = Some((cell_id, at));
            let Some(at) = at.filter(|_| piece.warmup.get(row) == Some(false)) else { continue };
            let told = piece.text(3, row);
            if told.is_some() && told != source {
                ways.token_sources.extend(told.map(str::to_owned));
                source = told;
            }
            repeats.entry(at).or_insert_with(|| Requests::new(slo)).add(&piece.row(row), slo);
        }
        Ok(())
    })?;
    let repeats: Vec<(usize, Requests)> = repeats.into_iter().collect();
    let reduced: Vec<_> = repeats
        .into_par_iter()
        .map(|(at, requests)| (at, requests.reduce(i64::from(manifest.cells[at].repeat))))
        .collect();
    for (at, reduced) in reduced {
        let point = point(&manifest.cells[at]);
        reduced.into_cell(cell_of(cells, &manifest.scenario.name, point));
    }
    Ok(())
}

/// Cell, operation and repeat of launches.
type Group = (Point, String, i64);

/// What a piece of `kernels.parquet` is gathered into.
#[derive(Default)]
struct Kernels {
    groups: BTreeMap<Group, Launches>,
    probes: BTreeMap<Block, Vec<f64>>,
    /// Rows, and failed ones, of each point.
    rows: BTreeMap<Point, (u64, u64)>,
}

impl Kernels {
    fn take(&mut self, frame: &DataFrame, ways: &mut Ways) -> anyhow::Result<()> {
        let texts: Vec<&StringChunked> =
            KERNELS[..11].iter().map(|name| text(frame, name)).collect::<anyhow::Result<_>>()?;
        let wholes: Vec<&Int64Chunked> =
            KERNELS[11..].iter().map(|name| whole(frame, name)).collect::<anyhow::Result<_>>()?;
        for row in 0..frame.height() {
            let text = |at: usize| texts[at].get(row).unwrap_or_default();
            let whole = |at: usize| wholes[at].get(row);
            let repeat = whole(0).unwrap_or_default();
            if text(2) == PROBE_METHOD {
                let block = (text(1).to_owned(), text(3).to_owned(), text(4).to_owned(), repeat);
                if text(5) == "read" {
                    let ns = whole(10).map(|ns| ns as f64);
                    self.probes.entry(block).or_default().extend(ns);
                }
                continue;
            }
            let point = Point {
                target: text(1).to_owned(),
                method: text(2).to_owned(),
                workload: text(3).to_owned(),
                load: text(4).to_owned(),
            };
            let tally = self.rows.entry(point.clone()).or_default();
            tally.0 += 1;
            tally.1 += u64::from(texts[10].get(row).is_some());
            ways.devices.insert(format!("{}: {} ({})", text(1), text(7), text(8)));
            if let Some(ns) = whole(10) {
                ways.timers.insert(text(6).to_owned());
                let dims: Vec<String> =
                    (1..9).map(|at| whole(at).unwrap_or_default().to_string()).collect();
                let shape = format!("{} {} {}", text(5), text(9), dims.join("/"));
                let group = (point, text(5).to_owned(), repeat);
                self.groups.entry(group).or_default().add(shape, ns, whole(11));
            }
        }
        Ok(())
    }
}

fn launched(
    dir: &RunDir,
    manifest: &Manifest,
    cells: &mut BTreeMap<String, Cell>,
    ways: &mut Ways,
) -> anyhow::Result<()> {
    let mut kernels = Kernels::default();
    dir.each_group(Table::Kernels, &KERNELS, &mut |frame| kernels.take(frame, ways))?;
    let scenario = &manifest.scenario.name;
    for (point, (rows, failed)) in kernels.rows {
        let cell = cell_of(cells, scenario, point);
        cell.n_rows += rows;
        cell.n_failed += failed;
    }
    let probes = medians(kernels.probes);
    for ((point, op, repeat), launches) in kernels.groups {
        let block = (point.target.clone(), point.workload.clone(), point.load.clone(), repeat);
        let probe = probes.get(&block).copied();
        launches.reduce(&op, repeat, probe, cell_of(cells, scenario, point));
    }
    Ok(())
}
