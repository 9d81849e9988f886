//! Results of other load generators under our definitions. What a file holds of single requests becomes rows like ours, which
//! [`crate::analyse`] judges like ours; what the tool computed itself stays beside it, each number with the id of what it
//! really is (see [`definitions`]). Nothing is invented: what a file does not say is `None`.

mod against;
mod aiperf;
#[cfg(test)]
mod fuzz;
mod guidellm;
mod json;
mod run;
#[cfg(test)]
mod tests;
mod vllm;

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

pub use against::{Compared, against};
pub use run::{PeerRow, manifest, run_data, table};

use crate::{analyse::definitions, record::RequestRow};

/// One result file of another tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// `vllm-bench-serve`, `vllm-bench-rs`, `guidellm` or `aiperf`.
    pub tool: &'static str,
    /// Its version; `None` where the file does not say.
    pub version: Option<String>,
    /// One a benchmark of the file.
    pub cells: Vec<PeerCell>,
    /// What to mind when these numbers are read: traps of the tool that this file shows.
    pub notes: Vec<String>,
}

/// One benchmark.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PeerCell {
    /// Model, or what stands for it.
    pub workload: String,
    /// Load with its parameter, such as `closed-16`.
    pub load: String,
    /// Requests kept in flight; `None` where the load is no closed loop.
    pub concurrency: Option<u32>,
    /// Single requests; empty where the file has none. Names of cell, target and method are filled in by [`run_data`].
    pub rows: Vec<RequestRow>,
    /// Whether the rows know when requests were due; else `due_ns` repeats `sent_ns` and nothing counts from it.
    pub due_known: bool,
    /// Numbers that the tool computed.
    pub reported: Vec<Reported>,
    /// Ids of metrics that rows of this tool yield under another definition than ours, as `(ours, what it is here)`; `None`
    /// where rows of this tool cannot yield it.
    pub relabel: &'static [(&'static str, Option<&'static str>)],
}

/// One number of a tool.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reported {
    /// Name in the tool's file.
    pub metric: String,
    /// Id of what it is.
    pub definition: &'static str,
    /// Observations, where the tool says.
    pub n: Option<u64>,
    /// Mean, or the number itself where it is one for the whole benchmark.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

impl Reported {
    /// One number for the whole benchmark; `None` where the tool has none.
    fn whole(metric: &str, definition: &'static str, value: Option<f64>) -> Option<Self> {
        let metric = metric.to_owned();
        value.map(|value| Self { metric, definition, mean: Some(value), ..Self::default() })
    }

    /// Unit of its definition.
    pub fn unit(&self) -> &'static str {
        definitions::by_id(self.definition).map_or("", |definition| definition.unit)
    }
}

/// What a cell is called whose model or load its file does not tell.
const UNKNOWN: &str = "unknown";

/// aiperf writes single requests and what they were in two files of one folder: where each is there once, the requests learn
/// their model and load from the other.
pub fn join(files: &mut [Imported]) {
    let of_aiperf = |file: &&Imported| file.tool == "aiperf";
    let told: Vec<PeerCell> = files
        .iter()
        .filter(of_aiperf)
        .flat_map(|file| &file.cells)
        .filter(|cell| cell.rows.is_empty())
        .cloned()
        .collect();
    let untold = files.iter_mut().filter(|file| file.tool == "aiperf").flat_map(|f| &mut f.cells);
    let mut untold: Vec<&mut PeerCell> = untold.filter(|cell| !cell.rows.is_empty()).collect();
    if let ([told], [untold]) = (told.as_slice(), untold.as_mut_slice()) {
        untold.workload.clone_from(&told.workload);
        untold.load.clone_from(&told.load);
        untold.concurrency = told.concurrency;
    }
}

/// Reads a result file; its format is told by what is in it.
///
/// # Errors
/// I/O, not JSON, or not a result of a tool that is known.
pub fn read(path: &Path) -> anyhow::Result<Imported> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: could not be read", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// What to do about a text that looks like JSON and is none; nothing is known about any other.
fn remedy(text: &str) -> &'static str {
    if text.trim_start().starts_with(['{', '[']) {
        "\n  hint: Python writes `NaN` and `Infinity`, which are no JSON, as are numbers beyond 1e308: mend the entry"
    } else {
        ""
    }
}

/// As [`read`], from the text of a file.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str) -> anyhow::Result<Imported> {
    let document: Value = match serde_json::from_str(text) {
        Ok(document) => document,
        // One object a line is what aiperf's records are.
        Err(_) if aiperf::is_records(text) => return aiperf::records(text),
        Err(error) => bail!("expected a JSON document: {error}{}", remedy(text)),
    };
    let has = |key: &str| document.get(key).is_some();
    match () {
        () if has("benchmarks") && document.pointer("/metadata/guidellm_version").is_some() => {
            guidellm::read(&document)
        }
        () if has("aiperf_version") => aiperf::summary(&document),
        // A file of one record is a JSON document as well.
        () if aiperf::is_records(text) => aiperf::records(text),
        () if has("mean_ttft_ms") && has("request_throughput") => vllm::read(&document),
        () => bail!(
            "expected a result of `vllm bench serve`, guidellm (benchmarks.json) or aiperf \
             (profile_export_aiperf.json, profile_export.jsonl), got {}\n  hint: save it with `--save-result \
             --save-detailed` (vllm) or `--output kind=json` (guidellm)",
            json::shape(&document)
        ),
    }
}
