//! Generated data sets in published formats: text from a small grammar of our own, with answers that are true.
//!
//! A world of invented towns is drawn for each row. Questions are asked about its facts, so the answer is known without a
//! model; filler sentences make texts as long as a task needs.

use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{
    dataset::sha256_hex,
    draw::{Stream, below, stream},
};
use crate::scenario::DatasetFormat;

mod arithmetic;
mod dialogue;
mod fit;
mod ruler;
mod task;
mod world;

pub use fit::generate_task_in_tokens;

/// Most rows that can be generated at once.
pub const ROWS_MAX: usize = 1_000_000;

/// What is biased about these texts, for the manifest.
const BIAS: &str = "template English about invented towns; few sentence forms and a small vocabulary, so prompts compress and \
tokenise better than human text, and answer lengths follow the templates: good for tests and smoke runs, not for claims about real traffic";

/// The same of tasks on long contexts.
const BIAS_TASKS: &str = "texts and tasks of kvbench's own, in the manner of RULER and GSM8K but neither's data: filler from few sentence \
forms and a small vocabulary, so contexts compress and tokenise better than human text; scores say which method loses what stands in a long \
context, and must not be set beside published ones";

/// Context of a task on long contexts, words, unless told.
pub const WORDS_DEFAULT: usize = 1000;
/// Shortest context that every task has room in, words.
pub const WORDS_MIN: usize = 100;

/// A task with rows as long as one likes, in the layout of LongBench; its name is that of the data set in the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MakeTask {
    /// A number in one sentence of a long text, from its start to its end by turns.
    #[value(name = "ruler_niah_single")]
    NiahSingle,
    /// The same among seven sentences like it.
    #[value(name = "ruler_niah_multikey")]
    NiahMultikey,
    /// All names that stand for a number, through a chain of five; a second chain is there to mislead.
    #[value(name = "ruler_vt")]
    VariableTracking,
    /// The ten words of a list that stand in it most often.
    #[value(name = "ruler_cwe")]
    CommonWords,
    /// A word problem in two to five steps.
    #[value(name = "arithmetic")]
    Arithmetic,
}

/// Rows of a task, each with a context of at most `words` words ([`WORDS_DEFAULT`] where `None`; `arithmetic` then has its
/// problem alone). The same arguments give the same bytes, and the answers are true by construction.
pub fn generate_task(task: MakeTask, rows: usize, words: Option<usize>, seed: u64) -> String {
    let mut rng = stream(seed, Stream::Make);
    (0..rows).map(|i| json(&task_row(task, i, &mut rng, words)) + "\n").collect()
}

fn task_row(task: MakeTask, i: usize, rng: &mut ChaCha8Rng, words: Option<usize>) -> task::Row {
    let n = words.unwrap_or(WORDS_DEFAULT);
    match task {
        MakeTask::NiahSingle => ruler::needle(i, rng, n, false),
        MakeTask::NiahMultikey => ruler::needle(i, rng, n, true),
        MakeTask::VariableTracking => ruler::chain(i, rng, n),
        MakeTask::CommonWords => ruler::common_words(i, rng, n),
        MakeTask::Arithmetic => arithmetic::row(i, rng, words),
    }
}

/// A data set of `rows` rows; the same arguments give the same bytes.
pub fn generate(format: DatasetFormat, rows: usize, seed: u64) -> String {
    let mut rng = stream(seed, Stream::Make);
    match format {
        DatasetFormat::Sharegpt => {
            let rows: Vec<String> =
                (0..rows).map(|i| format!("  {}", json(&dialogue::row(i, &mut rng)))).collect();
            format!("[\n{}\n]\n", rows.join(",\n"))
        }
        // Of the other formats none is made; the command line says so.
        _ => (0..rows).map(|i| json(&task::row(i, &mut rng)) + "\n").collect(),
    }
}

fn json(row: &impl Serialize) -> String {
    serde_json::to_string(row).expect("texts and numbers are JSON")
}

/// The manifest that stands beside a generated file, TOML.
#[derive(Debug, Serialize)]
pub struct Manifest {
    file: String,
    format: DatasetFormat,
    generator: String,
    sha256: String,
    n_rows: usize,
    n_bytes: usize,
    licence: String,
    bias: String,
}

/// The manifest of `text`, which [`generate`] or, for a `task`, [`generate_task`] made for a file of this name; `command`
/// made it.
pub fn manifest(
    file: &str,
    format: DatasetFormat,
    task: Option<MakeTask>,
    rows: usize,
    text: &str,
    command: &str,
) -> String {
    let manifest = Manifest {
        file: file.to_owned(),
        format,
        generator: command.to_owned(),
        sha256: sha256_hex(text.as_bytes()),
        n_rows: rows,
        n_bytes: text.len(),
        licence: "CC0-1.0".to_owned(),
        bias: if task.is_some() { BIAS_TASKS } else { BIAS }.to_owned(),
    };
    toml::to_string(&manifest).expect("texts and numbers are TOML")
}

/// One of several.
fn pick<'a, T>(rng: &mut ChaCha8Rng, from: &'a [T]) -> &'a T {
    &from[below(rng, from.len())]
}

/// One of several words.
fn word(rng: &mut ChaCha8Rng, from: &[&'static str]) -> &'static str {
    from[below(rng, from.len())]
}

/// Uniform on `min..=max`.
fn between(rng: &mut ChaCha8Rng, min: usize, max: usize) -> usize {
    min + below(rng, max - min + 1)
}

#[cfg(test)]
mod tests;
