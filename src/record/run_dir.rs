//! A run's folder: parts while it runs, one file a table when it is finished, and the journal that says which cells are.
//!
//! ```text
//! results/20261124T013000Z-quickstart-1a2b3c/
//!   manifest.json       what was run
//!   cells.jsonl         one line per block: the cells it finished and the part files that hold their rows
//!   lock                held by the process that writes
//!   parts/              while the run goes on: <table>-<number>.parquet
//!   requests.parquet    once finished, with kernels.parquet, telemetry.parquet and engine_metrics.parquet, instead of parts/
//! ```
//!
//! One rule decides what holds the rows: if `parts/` exists, the parts do; else the tables do. Finishing a run writes
//! the tables, then renames `parts/` to `parts.merged/` in one step, then deletes it, so every crash falls on one side.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use polars::prelude::{BooleanChunked, DataFrame};
use serde::{Deserialize, Serialize};

use super::{
    Recorder,
    disk::{Files, RealFiles, aside},
    parquet::{Table, check_columns, read_columns, read_frame},
};

/// Name of the journal inside a run folder.
const JOURNAL_FILE: &str = "cells.jsonl";
const LOCK_FILE: &str = "lock";
const PARTS: &str = "parts";
const PARTS_MERGED: &str = "parts.merged";

/// A run folder that is only read.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Cells that are finished.
    pub(crate) cells: Vec<String>,
    /// Parts that have become durable since the line before.
    pub(crate) parts: Vec<String>,
}

impl RunDir {
    /// Makes `parent/<stamp>-<name>-<id>/` and takes its lock. `stamp` is [`super::env::stamp`]'s.
    ///
    /// # Errors
    /// The folder exists, or I/O.
    pub fn create(parent: &Path, name: &str, stamp: &str, id: &str) -> anyhow::Result<Recorder> {
        Self::create_with(Box::new(RealFiles), parent, name, stamp, id)
    }

    pub(crate) fn create_with(
        files: Box<dyn Files>,
        parent: &Path,
        name: &str,
        stamp: &str,
        id: &str,
    ) -> anyhow::Result<Recorder> {
        let path = parent.join(format!("{stamp}-{name}-{id}"));
        fs::create_dir_all(parent)
            .with_context(|| format!("{}: could not be created", parent.display()))?;
        fs::create_dir(&path).with_context(|| {
            format!("{}: expected a folder that does not exist yet", path.display())
        })?;
        let lock = lock(&path)?;
        files
            .create_dir(&path.join(PARTS))
            .with_context(|| format!("{}: could not be created", path.display()))?;
        Ok(Recorder::new(files, Self { path }, lock, BTreeSet::new(), 0, 0))
    }

    /// A folder to read from.
    ///
    /// # Errors
    /// It holds no manifest.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        ensure!(
            path.join(super::manifest::MANIFEST_FILE).is_file(),
            "{}: expected a run folder with a manifest.json\n  hint: pass a folder made by `kvbench run`, such as \
             results/20261124T013000Z-quickstart-1a2b3c",
            path.display()
        );
        Ok(Self { path: path.to_owned() })
    }

    /// Takes an unfinished run up again: locks it, drops what belongs to unfinished cells, and hands out a recorder
    /// that knows the finished ones ([`Recorder::done`]).
    ///
    /// # Errors
    /// Another process writes to it, the journal is damaged before its last line, or I/O.
    pub fn resume(path: &Path) -> anyhow::Result<Recorder> {
        Self::resume_with(Box::new(RealFiles), path)
    }

    pub(crate) fn resume_with(files: Box<dyn Files>, path: &Path) -> anyhow::Result<Recorder> {
        let dir = Self::open(path)?;
        let lock = lock(path)?;
        let (entries, journal_len) = dir.journal()?;
        dir.mend_journal(files.as_ref(), journal_len)?;
        let done: BTreeSet<String> =
            entries.iter().flat_map(|entry| entry.cells.iter().cloned()).collect();
        dir.remove_merged(files.as_ref())?;
        let mut next_part = 0;
        if dir.is_unfinished() {
            let listed: BTreeSet<&String> = entries.iter().flat_map(|entry| &entry.parts).collect();
            next_part = dir.clean(files.as_ref(), &listed, &done)?;
        }
        Ok(Recorder::new(files, dir, lock, done, next_part, journal_len))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the folder, which is the run's id.
    pub fn run_id(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Whether rows still lie in parts.
    pub fn is_unfinished(&self) -> bool {
        self.parts().is_dir()
    }

    /// Ids of the finished cells.
    ///
    /// # Errors
    /// The journal is damaged before its last line.
    pub fn finished_cells(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.journal()?.0.into_iter().flat_map(|entry| entry.cells).collect())
    }

    /// All rows of a table, of a finished run or of one under way; without rows an empty frame with all columns.
    /// A run under way yields the rows of unfinished cells too: [`Self::finished_cells`] tells them apart.
    ///
    /// # Errors
    /// I/O, or another schema.
    pub fn read_table(&self, table: Table) -> anyhow::Result<DataFrame> {
        let mut all = table.empty()?;
        for path in self.files_of(table)? {
            let frame = read_frame(&path)?;
            check_columns(&frame, table, &path)?;
            all.vstack_mut_owned(frame)?;
        }
        all.rechunk_mut();
        Ok(all)
    }

    /// Some columns of a table, in this order; the others are not read.
    ///
    /// # Errors
    /// I/O, or another schema.
    pub fn read_columns(&self, table: Table, columns: &[&str]) -> anyhow::Result<DataFrame> {
        let mut all = table.empty()?.select(columns.iter().copied())?;
        for path in self.files_of(table)? {
            let another = || format!("{}: another schema", path.display());
            let frame = read_columns(&path, columns).with_context(another)?;
            all.vstack_mut_owned(frame).with_context(another)?;
        }
        all.rechunk_mut();
        Ok(all)
    }

    pub(crate) fn parts(&self) -> PathBuf {
        self.path.join(PARTS)
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.path.join(JOURNAL_FILE)
    }

    pub(crate) fn table_path(&self, table: Table) -> PathBuf {
        self.path.join(format!("{}.parquet", table.name()))
    }

    pub(super) fn files_of(&self, table: Table) -> anyhow::Result<Vec<PathBuf>> {
        if self.is_unfinished() {
            let parts = self.part_names()?;
            return Ok(parts
                .iter()
                .filter(|part| table_of(part) == Some(table))
                .map(|part| self.parts().join(part))
                .collect());
        }
        let path = self.table_path(table);
        Ok(if path.is_file() { vec![path] } else { Vec::new() })
    }

    /// Names of everything in `parts/`, sorted.
    fn part_names(&self) -> anyhow::Result<Vec<String>> {
        let parts = self.parts();
        let context = || format!("{}: could not be listed", parts.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&parts).with_context(context)? {
            names.push(entry.with_context(context)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Complete lines of the journal and how many bytes they take. A last line that was torn by a crash is not an
    /// error: its cells are simply not finished.
    fn journal(&self) -> anyhow::Result<(Vec<Entry>, u64)> {
        let path = self.journal_path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
            Err(err) => {
                return Err(err).with_context(|| format!("{}: could not be read", path.display()));
            }
        };
        let (mut entries, mut good) = (Vec::new(), 0);
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let is_last = good + line.len() == bytes.len();
            // Only the last line can lack its end, and then it was cut off while it was written.
            let whole = line.ends_with(b"\n").then(|| serde_json::from_slice(line));
            match whole {
                Some(Ok(entry)) => entries.push(entry),
                None => break,
                Some(Err(_)) if is_last => break,
                Some(Err(err)) => bail!(
                    "{}:{}: expected a line written by kvbench: {err}\n  hint: the file was changed by something else; \
                     delete this line and all below it, and their cells run again",
                    path.display(),
                    number + 1
                ),
            }
            good += line.len();
        }
        Ok((entries, good as u64))
    }

    /// Cuts a torn last line off, so that the next one is not glued to it.
    fn mend_journal(&self, files: &dyn Files, good: u64) -> anyhow::Result<()> {
        let path = self.journal_path();
        match fs::metadata(&path) {
            Ok(meta) if meta.len() > good => files
                .truncate(&path, good)
                .with_context(|| format!("{}: could not be mended", path.display())),
            _ => Ok(()),
        }
    }

    /// Leaves in `parts/` nothing but rows of finished cells and telemetry; returns the next free part number.
    fn clean(
        &self,
        files: &dyn Files,
        listed: &BTreeSet<&String>,
        done: &BTreeSet<String>,
    ) -> anyhow::Result<u64> {
        let mut next = 0;
        for name in self.part_names()? {
            next = next.max(number_of(&name).map_or(0, |number| number + 1));
            let path = self.parts().join(&name);
            match table_of(&name) {
                // Telemetry belongs to the clock, not to a cell: every complete file of it stays true.
                Some(Table::Telemetry) => {}
                Some(_) if listed.contains(&name) => drop_unfinished(files, &path, done)?,
                _ => remove(files, &path)?,
            }
        }
        for table in Table::ALL {
            // A crash while finishing leaves tables beside the parts; the parts are the truth.
            for stale in [self.table_path(table), aside(&self.table_path(table))] {
                if stale.is_file() {
                    remove(files, &stale)?;
                }
            }
        }
        Ok(next)
    }

    /// The one step after which the tables, and no longer the parts, hold the rows.
    pub(crate) fn retire_parts(&self, files: &dyn Files) -> anyhow::Result<()> {
        files
            .rename(&self.parts(), &self.path.join(PARTS_MERGED))
            .with_context(|| format!("{}: could not be retired", self.parts().display()))?;
        self.remove_merged(files)
    }

    fn remove_merged(&self, files: &dyn Files) -> anyhow::Result<()> {
        let merged = self.path.join(PARTS_MERGED);
        if !merged.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(&merged)
            .with_context(|| format!("{}: could not be listed", merged.display()))?
        {
            remove(files, &entry?.path())?;
        }
        files
            .remove_dir(&merged)
            .with_context(|| format!("{}: could not be removed", merged.display()))
    }
}

/// Takes the lock of a run folder until the file is dropped; the kernel releases it when the process dies.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = path.join(LOCK_FILE);
    let lock =
        File::create(&file).with_context(|| format!("{}: could not be created", file.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "{}: another kvbench is writing to this run\n  hint: wait for it, or stop it, and resume then",
            path.display()
        ),
        Err(TryLockError::Error(err)) => {
            Err(err).with_context(|| format!("{}: could not be locked", file.display()))
        }
    }
}

/// Name of a part file.
pub(crate) fn part_name(table: Table, number: u64) -> String {
    format!("{}-{number:06}.parquet", table.name())
}

/// Table of a complete part file; `None` for anything else, such as a half-written one.
fn table_of(name: &str) -> Option<Table> {
    let (stem, _) = name.strip_suffix(".parquet")?.rsplit_once('-')?;
    Table::ALL.into_iter().find(|table| table.name() == stem)
}

fn number_of(name: &str) -> Option<u64> {
    name.split('.').next()?.rsplit_once('-')?.1.parse().ok()
}

fn remove(files: &dyn Files, path: &Path) -> anyhow::Result<()> {
    files.remove_file(path).with_context(|| format!("{}: could not be removed", path.display()))
}

/// Rewrites a listed part without the rows of cells that did not finish. Probe rows have no cell and stay.
fn drop_unfinished(files: &dyn Files, path: &Path, done: &BTreeSet<String>) -> anyhow::Result<()> {
    let frame = read_frame(path)?;
    let cells = frame.column("cell_id")?.str()?;
    // Metrics of engines know no method, and so no probes.
    let is_probe: Vec<bool> = match frame.column("method") {
        Ok(methods) => {
            methods.str()?.iter().map(|method| method == Some(super::PROBE_METHOD)).collect()
        }
        Err(_) => vec![false; frame.height()],
    };
    let keep: BooleanChunked = cells
        .iter()
        .zip(is_probe)
        .map(|(cell, probe)| Some(probe || cell.is_some_and(|cell| done.contains(cell))))
        .collect();
    if keep.all() {
        return Ok(());
    }
    let bytes = super::parquet::to_bytes(&mut frame.filter(&keep)?)?;
    super::disk::write_aside(files, path, &bytes)
}
