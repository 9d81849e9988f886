//! The folder of a router's run.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{RouteEngineRow, RouteRequestRow, RouteWorldRow};
use crate::record::{
    disk::{RealFiles, write_aside},
    env::Machine,
    manifest::{Input, Status},
    parquet::{TableRow, read_frame, to_bytes},
};

/// Name of the manifest inside a router's folder.
pub const ROUTE_FILE: &str = "route.json";
const LOCK_FILE: &str = "lock";
/// Version of the router's tables and manifest. A reader refuses a folder with another one.
const SCHEMA_VERSION: u32 = 2;
/// Rows that make a buffer a part.
const FLUSH_ROWS: usize = 32_768;

/// What wrote the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// The simulator, over a scenario.
    Simulated,
    /// The live proxy.
    Live,
    /// The simulator, over rows of the live proxy.
    Replayed,
}

/// What a router's run was. Never a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteManifest {
    /// Version of the tables and of this file.
    pub schema_version: u32,
    /// What wrote the rows.
    pub kind: RouteKind,
    /// Name of the folder.
    pub run_id: String,
    /// Version of the kvbench that ran.
    pub kvbench_version: String,
    /// Git revision kvbench was built from; `None` when the build did not know.
    pub kvbench_git_revision: Option<String>,
    /// How far the run is.
    pub status: Status,
    /// Name of the scenario or of the proxy's configuration.
    pub name: String,
    /// File it was read from.
    pub path: Option<String>,
    /// The text it was parsed from.
    pub text: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Wall-clock time (RFC 3339, UTC) at which the run began; of a live run also that of ns 0 in every `*_ns` column.
    pub origin: String,
    /// When the run ended (RFC 3339, UTC); `None` while it goes on.
    pub ended: Option<String>,
    /// The command as typed.
    pub command_line: Vec<String>,
    /// The machine kvbench ran on.
    pub machine: Machine,
    /// Files that went in.
    pub inputs: Vec<Input>,
    /// What judging the rows needs beside them, as `route::experiment::Design` writes it; `null` for a live run.
    pub design: serde_json::Value,
    /// What the user was told while it ran.
    pub notices: Vec<String>,
}

impl RouteManifest {
    /// A manifest of a run that begins, without inputs, design and notices.
    pub fn begun(kind: RouteKind, name: &str, text: &str, seed: u64, origin: String) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            kind,
            run_id: String::new(),
            kvbench_version: env!("CARGO_PKG_VERSION").to_owned(),
            kvbench_git_revision: None,
            status: Status::Running,
            name: name.to_owned(),
            path: None,
            text: text.to_owned(),
            seed,
            origin,
            ended: None,
            command_line: Vec::new(),
            machine: Machine::default(),
            inputs: Vec::new(),
            design: serde_json::Value::Null,
            notices: Vec::new(),
        }
    }

    fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)
            .with_context(|| format!("{ROUTE_FILE}: could not be serialised"))?;
        text.push(b'\n');
        write_aside(&RealFiles, &dir.join(ROUTE_FILE), &text)
    }
}

/// Writes a router's folder. Holds its lock.
#[derive(Debug)]
pub struct RouteLog {
    path: PathBuf,
    _lock: File,
    requests: Part<RouteRequestRow>,
    engines: Part<RouteEngineRow>,
    worlds: Part<RouteWorldRow>,
}

#[derive(Debug)]
struct Part<R> {
    rows: Vec<R>,
    next: u64,
}

impl<R: TableRow> Part<R> {
    const NONE: Self = Self { rows: Vec::new(), next: 0 };

    fn extend(&mut self, dir: &Path, rows: impl IntoIterator<Item = R>) -> anyhow::Result<()> {
        self.rows.extend(rows);
        if self.rows.len() >= FLUSH_ROWS { self.flush(dir) } else { Ok(()) }
    }

    /// Rows stay in the buffer until they are on disk: what could not be written may be tried again.
    fn flush(&mut self, dir: &Path) -> anyhow::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let path = dir.join(format!("{}-{:06}.parquet", R::NAME, self.next));
        write_aside(&RealFiles, &path, &to_bytes(&mut R::frame(&self.rows)?)?)?;
        self.rows.clear();
        self.next += 1;
        Ok(())
    }
}

impl RouteLog {
    /// Makes `parent/<stamp>-<name>-<id>/`, takes its lock and writes the manifest, whose `run_id` becomes the folder's name. `stamp`
    /// is [`crate::record::env::stamp`]'s.
    ///
    /// # Errors
    /// The folder exists, or I/O.
    pub fn create(
        parent: &Path,
        stamp: &str,
        id: &str,
        manifest: &mut RouteManifest,
    ) -> anyhow::Result<Self> {
        manifest.run_id = format!("{stamp}-{}-{id}", manifest.name);
        let path = parent.join(&manifest.run_id);
        fs::create_dir_all(parent)
            .with_context(|| format!("{}: could not be created", parent.display()))?;
        fs::create_dir(&path).with_context(|| {
            format!("{}: expected a folder that does not exist yet", path.display())
        })?;
        let lock = lock(&path)?;
        manifest.write(&path)?;
        let (requests, engines, worlds) = (Part::NONE, Part::NONE, Part::NONE);
        Ok(Self { path, _lock: lock, requests, engines, worlds })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes rows of requests; writes a part when enough have come together.
    ///
    /// # Errors
    /// I/O, with the path.
    pub fn requests(
        &mut self,
        rows: impl IntoIterator<Item = RouteRequestRow>,
    ) -> anyhow::Result<()> {
        self.requests.extend(&self.path, rows)
    }

    /// Takes rows of engines.
    ///
    /// # Errors
    /// I/O, with the path.
    pub fn engines(
        &mut self,
        rows: impl IntoIterator<Item = RouteEngineRow>,
    ) -> anyhow::Result<()> {
        self.engines.extend(&self.path, rows)
    }

    /// Takes rows of worlds.
    ///
    /// # Errors
    /// I/O, with the path.
    pub fn worlds(&mut self, rows: impl IntoIterator<Item = RouteWorldRow>) -> anyhow::Result<()> {
        self.worlds.extend(&self.path, rows)
    }

    /// Writes what is not written yet, so that it outlives the process.
    ///
    /// # Errors
    /// I/O, with the path; the rows stay and can be written again.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.requests.flush(&self.path)?;
        self.engines.flush(&self.path)?;
        self.worlds.flush(&self.path)
    }

    /// Writes the rest and the manifest as it is in the end.
    ///
    /// # Errors
    /// I/O, with the path.
    pub fn finish(mut self, manifest: &RouteManifest) -> anyhow::Result<PathBuf> {
        self.flush()?;
        manifest.write(&self.path)?;
        Ok(self.path)
    }
}

/// A router's folder that is only read, whether its run has ended or not.
#[derive(Debug, Clone)]
pub struct RouteDir {
    path: PathBuf,
    /// What was run.
    pub manifest: RouteManifest,
}

impl RouteDir {
    /// A folder to read from.
    ///
    /// # Errors
    /// It holds no `route.json`, or one of another version.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let file = path.join(ROUTE_FILE);
        let text = fs::read_to_string(&file).with_context(|| {
            format!(
                "{}: expected the folder of a router's run\n  hint: pass one made by `kvbench route simulate` or `kvbench route serve`",
                file.display()
            )
        })?;
        let not_ours = || format!("{}: not a manifest of the router", file.display());
        let version: Version = serde_json::from_str(&text).with_context(not_ours)?;
        ensure!(
            version.schema_version == SCHEMA_VERSION,
            "{}: expected schema version {SCHEMA_VERSION}, got {}\n  hint: read this run with the kvbench that wrote it",
            file.display(),
            version.schema_version
        );
        let manifest = serde_json::from_str(&text).with_context(not_ours)?;
        Ok(Self { path: path.to_owned(), manifest })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Files of a table in the order in which they were written. One at a time holds few rows: millions need not be in memory.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn parts<R: TableRow>(&self) -> anyhow::Result<Vec<PathBuf>> {
        let context = || format!("{}: could not be listed", self.path.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_part::<R>) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Rows of one file of [`Self::parts`].
    ///
    /// # Errors
    /// I/O, or another schema.
    pub fn part<R: TableRow>(path: &Path) -> anyhow::Result<Vec<R>> {
        R::rows(&read_frame(path)?).with_context(|| format!("{}: another schema", path.display()))
    }

    /// All rows of a table.
    ///
    /// # Errors
    /// I/O, or another schema.
    pub fn rows<R: TableRow>(&self) -> anyhow::Result<Vec<R>> {
        let mut rows = Vec::new();
        for path in self.parts::<R>()? {
            rows.extend(Self::part::<R>(&path)?);
        }
        Ok(rows)
    }
}

/// Whether a file is a whole part of this table: `<table>-<six digits or more>.parquet`.
fn is_part<R: TableRow>(name: &str) -> bool {
    name.strip_prefix(R::NAME)
        .and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".parquet"))
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Taken until the file is dropped; the kernel releases it when the process dies.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = path.join(LOCK_FILE);
    let lock =
        File::create(&file).with_context(|| format!("{}: could not be created", file.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "{}: another kvbench is writing to this run\n  hint: wait for it, or stop it",
            path.display()
        ),
        Err(TryLockError::Error(err)) => {
            Err(err).with_context(|| format!("{}: could not be locked", file.display()))
        }
    }
}
