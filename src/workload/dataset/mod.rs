//! Readers of data set files. Rows are read one at a time; a bad row is counted and reported, never dropped in silence.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::longbench::Task;
use crate::{
    scenario::{DatasetFormat, PromptLayout},
    units::hex,
};

pub(super) mod longbench;
mod questions;
pub(super) mod rows;
mod sharegpt;

#[cfg(test)]
mod tests;

/// How many row errors a report keeps; all are counted.
const ERRORS_KEPT: usize = 20;

/// One usable row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// The row's own id, or `row-<n>` where it has none.
    pub id: String,
    /// Line on which the row starts, from 1.
    pub line: u64,
    /// What is sent.
    pub prompt: String,
    /// The answer in the file (LongBench: the first of several).
    pub answer: Option<String>,
    /// Language as the row says.
    pub language: Option<String>,
    /// What the conversation goes on with, where the row holds one.
    pub later: Vec<Turn>,
    /// What an answer is scored against, where the row tells.
    pub reference: Option<Reference>,
    /// The task of LongBench that the row is of.
    pub task: Option<&'static Task>,
    /// Whether `prompt` is LongBench's own for that task.
    pub in_task_prompt: bool,
}

/// What an answer to a row is scored against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Data set that the row is from, which decides how it is scored.
    pub dataset: String,
    /// Right answers; the best score over them counts.
    pub answers: Vec<String>,
    /// All classes of a classification task; empty elsewhere.
    pub all_classes: Vec<String>,
}

/// A later turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What is said to the model.
    pub prompt: String,
    /// The answer in the file.
    pub answer: Option<String>,
}

/// A row that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// Row from 0.
    pub row: u64,
    /// Line on which it starts, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub message: String,
}

/// What was found in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetReport {
    /// The file.
    pub path: PathBuf,
    /// sha256 of the bytes as read, hex.
    pub sha256: String,
    /// Length of the file.
    pub n_bytes: u64,
    /// Rows, bad ones included; blank lines are no rows.
    pub n_rows: u64,
    /// Rows that could not be used.
    pub n_bad: u64,
    /// The first 20 of them.
    pub errors: Vec<RowError>,
}

/// Reads a whole file.
///
/// # Errors
/// The file cannot be read, is not of this format as a whole (no array, cut off), or holds no usable row.
pub fn read(path: &Path, format: DatasetFormat) -> anyhow::Result<(Vec<Sample>, DatasetReport)> {
    read_as(path, format, PromptLayout::default())
}

/// The same with prompts in this layout.
///
/// # Errors
/// As [`read`].
pub fn read_as(
    path: &Path,
    format: DatasetFormat,
    layout: PromptLayout,
) -> anyhow::Result<(Vec<Sample>, DatasetReport)> {
    read_with(path, |reader| read_rows(reader, format, layout))
}

/// Reads a file by `rows` and reports on it; the hash is that of the whole file.
pub(super) fn read_with<T>(
    path: &Path,
    rows: impl FnOnce(&mut dyn BufRead) -> anyhow::Result<Found<T>>,
) -> anyhow::Result<(Vec<T>, DatasetReport)> {
    let shown = path.display();
    let file = File::open(path).with_context(|| {
        format!("{shown}: cannot open the data set\n  hint: paths in a scenario are relative to the working directory")
    })?;
    let mut reader = BufReader::with_capacity(1 << 16, Hashed::new(file));
    let found = rows(&mut reader).with_context(|| shown.to_string())?;
    let (sha256, n_bytes) =
        finish(reader).with_context(|| format!("{shown}: cannot read the rest"))?;
    if found.samples.is_empty() {
        bail!("{shown}: {}", nothing_usable(&found));
    }
    let report = DatasetReport {
        path: path.to_owned(),
        sha256,
        n_bytes,
        n_rows: found.n_rows,
        n_bad: found.n_bad,
        errors: found.errors,
    };
    Ok((found.samples, report))
}

/// sha256 of a file, hex.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_file(path: &Path) -> anyhow::Result<String> {
    let file = File::open(path).with_context(|| format!("{}: cannot open", path.display()))?;
    let reader = BufReader::with_capacity(1 << 16, Hashed::new(file));
    let (sha256, _) = finish(reader).with_context(|| format!("{}: cannot read", path.display()))?;
    Ok(sha256)
}

/// sha256 of bytes, hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn nothing_usable<T>(found: &Found<T>) -> String {
    let Some(first) = found.errors.first() else {
        return "expected at least one row, got none".to_owned();
    };
    format!(
        "expected at least one usable row, got {} bad ones; the first, line {}: {}\n  hint: is this the right format? `kvbench data inspect` lists the rows",
        found.n_bad, first.line, first.message
    )
}

/// Rows of a file before its path and hash are known.
#[derive(Debug)]
pub(super) struct Found<T = Sample> {
    pub(super) samples: Vec<T>,
    pub(super) n_rows: u64,
    pub(super) n_bad: u64,
    pub(super) errors: Vec<RowError>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { samples: Vec::new(), n_rows: 0, n_bad: 0, errors: Vec::new() }
    }
}

impl<T> Found<T> {
    /// Takes the next row of the file, or what is wrong with it.
    pub(super) fn push(&mut self, line: u64, parsed: Result<T, String>) {
        let row = self.n_rows;
        self.n_rows += 1;
        match parsed {
            Ok(sample) => self.samples.push(sample),
            Err(message) => {
                self.n_bad += 1;
                if self.errors.len() < ERRORS_KEPT {
                    self.errors.push(RowError { row, line, message });
                }
            }
        }
    }
}

impl Sample {
    /// Whether the prompt is one that LongBench puts no chat template around.
    pub fn is_sent_raw(&self) -> bool {
        self.in_task_prompt && self.task.is_some_and(|task| !task.chat_template)
    }

    fn placed(mut self, row: u64, line: u64) -> Self {
        self.line = line;
        if self.id.is_empty() {
            self.id = format!("row-{row}");
        }
        self
    }
}

fn read_rows<R: BufRead + ?Sized>(
    reader: &mut R,
    format: DatasetFormat,
    layout: PromptLayout,
) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut push = |row: rows::Raw, sample: &dyn Fn(&Value) -> Result<Sample, String>| {
        let parsed = row.json().and_then(|value| sample(&value));
        let n = found.n_rows;
        found.push(row.line, parsed.map(|sample| sample.placed(n, row.line)));
    };
    match format {
        DatasetFormat::Sharegpt => {
            let mut rows = rows::ArrayRows::new(reader);
            while let Some(row) = rows.next()? {
                push(row, &sharegpt::sample);
            }
        }
        DatasetFormat::Longbench => {
            let mut rows = rows::LineRows::new(reader);
            while let Some(row) = rows.next()? {
                push(row, &|row| longbench::sample(row, layout));
            }
        }
        DatasetFormat::LongbenchV2 => {
            let mut rows = rows::ArrayRows::new(reader);
            while let Some(row) = rows.next()? {
                push(row, &|row| questions::checked(row, questions::longbench_v2));
            }
        }
        DatasetFormat::Gsm8k | DatasetFormat::Math => {
            let read =
                if format == DatasetFormat::Gsm8k { questions::gsm8k } else { questions::math };
            let mut rows = rows::LineRows::new(reader);
            while let Some(row) = rows.next()? {
                push(row, &|row| questions::checked(row, read));
            }
        }
    }
    Ok(found)
}

/// Hashes what passes through.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
    n_bytes: u64,
}

impl<R> Hashed<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), n_bytes: 0 }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }
}

/// Reads to the end, so that the hash is that of the whole file.
fn finish<R: Read>(mut reader: BufReader<Hashed<R>>) -> std::io::Result<(String, u64)> {
    std::io::copy(&mut reader, &mut std::io::sink())?;
    let hashed = reader.into_inner();
    Ok((hex(&hashed.hasher.finalize()), hashed.n_bytes))
}

/// What a JSON value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The object's text under `key`.
fn text<'a>(row: &'a Value, key: &str) -> Result<&'a str, String> {
    match row.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("expected `{key}` to be a text, got {}", kind(other))),
        None => Err(format!("expected the key `{key}`, got none")),
    }
}

/// An id may be a text or a number; empty means none.
fn id(row: &Value, key: &str) -> String {
    match row.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}
