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

mod dialogue;
mod task;
mod world;

/// Most rows that can be generated at once.
pub const ROWS_MAX: usize = 1_000_000;

/// What is biased about these texts, for the manifest.
const BIAS: &str = "template English about invented towns; few sentence forms and a small vocabulary, so prompts compress and \
tokenise better than human text, and answer lengths follow the templates: good for tests and smoke runs, not for claims about real traffic";

/// A data set of `rows` rows; the same arguments give the same bytes.
pub fn generate(format: DatasetFormat, rows: usize, seed: u64) -> String {
    let mut rng = stream(seed, Stream::Make);
    match format {
        DatasetFormat::Sharegpt => {
            let rows: Vec<String> =
                (0..rows).map(|i| format!("  {}", json(&dialogue::row(i, &mut rng)))).collect();
            format!("[\n{}\n]\n", rows.join(",\n"))
        }
        DatasetFormat::Longbench => {
            (0..rows).map(|i| json(&task::row(i, &mut rng)) + "\n").collect()
        }
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

/// The manifest of `text`, which [`generate`] made for a file of this name; `command` made it.
pub fn manifest(
    file: &str,
    format: DatasetFormat,
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
        bias: BIAS.to_owned(),
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
