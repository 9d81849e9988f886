//! Run folders as samples for the length predictor: which prompt got which answers, of how many tokens.
//!
//! Rows hold a hash of the prompt and not its text, so the prompts are built again from the scenario in the manifest, and a row
//! counts only where the hash of what was built is the row's (`prompts`).
//!
//! Answers to one prompt under one method are runs of one sample where they were sampled with different seeds: repeats, methods that
//! differ in their seed alone (`merge`), and requests that send the same prompt again, for a request's seed has its number in it
//! ([`draws`]). Two answers of one seed are one observation, and the second is left out. The A/A control
//! samples with the baseline's own seeds; it stays a method of its own, whose shift is the null of all shifts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use polars::prelude::DataFrame;

use crate::{
    analyse::lengths::Unusable,
    plan::draws,
    predict::length::{Length, Sample, family},
    record::{Manifest, RunDir, Table},
    scenario::Scenario,
};

mod merge;
mod notes;
mod prompts;
#[cfg(test)]
mod tests;

use merge::Runs;
use prompts::Prompts;

/// Columns that are read.
const COLUMNS: [&str; 13] = [
    "cell_id",
    "target",
    "method",
    "workload",
    "repeat",
    "request_id",
    "turn",
    "warmup",
    "output_tokens",
    "max_tokens",
    "finish_reason",
    "err",
    "prompt_sha256",
];

/// Answers that are in no sample, by reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Why.
    pub why: String,
    /// How many.
    pub n: usize,
    /// One of them: its cell and its number in the workload.
    pub example: String,
}

/// What runs hold for the predictor.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// One a prompt, `max_tokens` and method.
    pub samples: Vec<Sample>,
    /// The method that the others are compared with.
    pub baseline: String,
    /// The LLM, where the scenarios name one.
    pub llm: Option<String>,
    /// Everything else.
    pub left_out: Vec<LeftOut>,
    /// What has to be said beside them: cells that are INVALID, files that served nothing.
    pub notes: Vec<String>,
}

/// Exclusions under way.
#[derive(Default)]
struct Tally(BTreeMap<String, (usize, String)>);

impl Tally {
    fn tell(&mut self, why: &str, row: &Row<'_>) {
        let example = || format!("{}, request {}", row.cell_id, row.request_id);
        self.0.entry(why.to_owned()).or_insert_with(|| (0, example())).0 += 1;
    }
}

/// Samples of all runs together. `files` are places of data sets that have moved; each is known by its hash.
///
/// # Errors
/// A folder that is no run, or a run without a scenario of ours; a data set that is not there or is another one; runs of several
/// LLMs or baselines; no answer that can be used.
pub fn of_runs(runs: &[PathBuf], files: &[PathBuf]) -> anyhow::Result<Labels> {
    let mut samples = Samples::default();
    let mut left_out = Tally::default();
    let mut baselines: BTreeSet<String> = BTreeSet::new();
    let mut llms: BTreeSet<String> = BTreeSet::new();
    let (mut notes, mut inputs) = (Vec::new(), BTreeSet::new());
    for run in runs {
        let manifest = Manifest::read(run)?;
        let scenario = scenario_of(run, &manifest)?;
        let frame = RunDir::open(run)?.read_columns(Table::Requests, &COLUMNS)?;
        let rows = rows(&frame).with_context(|| format!("{}: requests", run.display()))?;
        let sent: BTreeSet<&str> = rows.iter().map(|row| row.workload).collect();
        let prompts = Prompts::of(&manifest, &scenario, &sent, files)
            .with_context(|| format!("{}: its prompts cannot be built again", run.display()))?;
        let merged = Runs::of(&scenario);
        for row in &rows {
            match samples.take(row, &scenario, &prompts, &merged) {
                Ok(()) => llms.extend(merged.llm(row.target)),
                Err(why) => left_out.tell(&why, row),
            }
        }
        baselines.insert(scenario.baseline);
        notes.extend(notes::doubts(&run.display().to_string(), &manifest));
        inputs.extend(manifest.inputs.into_iter().map(|input| input.sha256));
    }
    notes.extend(notes::unused(files, &inputs)?);
    let places = || runs.iter().map(|run| run.display().to_string()).collect::<Vec<_>>().join(", ");
    let left_out: Vec<LeftOut> =
        left_out.0.into_iter().map(|(why, (n, example))| LeftOut { why, n, example }).collect();
    ensure!(
        !samples.by_key.is_empty(),
        "{}: expected answers whose length and prompt are known, got none{}\n  hint: the predictor learns from answers that end by themselves, to first turns",
        places(),
        reasons(&left_out)
    );
    let baseline = only("baseline", baselines, &places())?.unwrap_or_default();
    let llm = only("LLM", llms, &places())?;
    Ok(Labels { samples: samples.with_families(), baseline, llm, left_out, notes })
}

fn scenario_of(run: &Path, manifest: &Manifest) -> anyhow::Result<Scenario> {
    let facts = &manifest.scenario;
    let origin = facts.path.as_deref().unwrap_or("manifest.json");
    Scenario::parse(&facts.text, origin).with_context(|| {
        format!(
            "{}: expected a run of ours with its scenario, got one that was imported or is of another version\n  hint: prompts are built again from the scenario; rows alone hold only their hashes",
            run.display()
        )
    })
}

/// The only one; `None` where there is none.
fn only(what: &str, found: BTreeSet<String>, places: &str) -> anyhow::Result<Option<String>> {
    ensure!(
        found.len() < 2,
        "{places}: expected runs of one {what}, got {}\n  hint: lengths of different ones are not predicted by one model; name the runs of one",
        found.into_iter().collect::<Vec<_>>().join(", ")
    );
    Ok(found.into_iter().next())
}

fn reasons(left_out: &[LeftOut]) -> String {
    let words: Vec<String> =
        left_out.iter().map(|left| format!("{}: {}", left.why, left.n)).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) }
}

/// One answer as it stands in the table.
struct Row<'a> {
    cell_id: &'a str,
    target: &'a str,
    method: &'a str,
    workload: &'a str,
    repeat: i64,
    request_id: i64,
    turn: i64,
    warmup: bool,
    output_tokens: Option<i64>,
    max_tokens: i64,
    finish_reason: Option<&'a str>,
    failed: bool,
    sha256: &'a str,
}

fn rows(frame: &DataFrame) -> anyhow::Result<Vec<Row<'_>>> {
    let text = |name: &str| anyhow::Ok(frame.column(name)?.str()?);
    let whole = |name: &str| anyhow::Ok(frame.column(name)?.i64()?);
    let [cell, target, method, workload] =
        [text("cell_id")?, text("target")?, text("method")?, text("workload")?];
    let [repeat, request, turn, cap] =
        [whole("repeat")?, whole("request_id")?, whole("turn")?, whole("max_tokens")?];
    let (tokens, warmup) = (whole("output_tokens")?, frame.column("warmup")?.bool()?);
    let (finish, err, sha256) = (text("finish_reason")?, text("err")?, text("prompt_sha256")?);
    let one = |at: usize| {
        Some(Row {
            cell_id: cell.get(at)?,
            target: target.get(at)?,
            method: method.get(at)?,
            workload: workload.get(at)?,
            repeat: repeat.get(at)?,
            request_id: request.get(at)?,
            turn: turn.get(at)?,
            warmup: warmup.get(at)?,
            output_tokens: tokens.get(at),
            max_tokens: cap.get(at)?,
            finish_reason: finish.get(at),
            failed: err.get(at).is_some(),
            sha256: sha256.get(at)?,
        })
    };
    (0..frame.height())
        .map(|at| one(at).with_context(|| format!("row {at}: expected no nulls where none may be")))
        .collect()
}

impl Row<'_> {
    /// Its length, or why it has none.
    fn length(&self) -> Result<Length, &'static str> {
        if self.failed {
            return Err(Unusable::Failed.words());
        }
        let tokens = self.output_tokens.ok_or(Unusable::Uncounted.words())?;
        let censored = match self.finish_reason {
            Some("stop") => false,
            Some("length") if tokens < self.max_tokens => return Err(Unusable::ContextFull.words()),
            Some("length") => true,
            _ => {
                return Err(
                    "the server did not say that the model ended it, or that max_tokens did",
                );
            }
        };
        let tokens = u32::try_from(tokens).map_err(|_| "a count of tokens that is none")?;
        Ok(Length { tokens, censored })
    }

    /// The seed that it was sampled with: the run's, the repeat's, the method's own and the request's in one.
    fn seed(&self, run: u64, method: u64) -> Result<u64, &'static str> {
        let repeat = u32::try_from(self.repeat).map_err(|_| "a number of a repeat that is none")?;
        let id =
            u64::try_from(self.request_id).map_err(|_| "a number of a request that is none")?;
        Ok(draws::sent(draws::of_request(draws::of_repeat(run, repeat, method), id)))
    }
}

/// A prompt, its `max_tokens`, and a method.
type Key = (String, u32, String);

#[derive(Default)]
struct Samples {
    by_key: HashMap<Key, usize>,
    samples: Vec<Sample>,
    /// Seeds of the answers that a sample has, as the server was sent them.
    seeds: Vec<BTreeSet<u64>>,
}

impl Samples {
    fn take(
        &mut self,
        row: &Row<'_>,
        scenario: &Scenario,
        prompts: &Prompts,
        merged: &Runs,
    ) -> Result<(), String> {
        if row.warmup {
            return Err("warm-up request".to_owned());
        }
        if row.turn > 0 {
            return Err("a later turn of a conversation".to_owned());
        }
        if scenario.has_fixed_lengths(row.target, row.workload) {
            return Err("its length was asked for (`mode = { fixed }` or `ignore_eos`)".to_owned());
        }
        let length = row.length()?;
        let prompt = prompts.find(row.workload, row.sha256).ok_or(
            "its prompt is not among those that the scenario makes (sha256 of the text differs)",
        )?;
        let max_tokens = u32::try_from(row.max_tokens).map_err(|_| "a max_tokens that is none")?;
        let (method, seed) = merged.of_method(row.target, row.method);
        let seed = row.seed(scenario.seed, seed)?;
        let key = (prompt.text.clone(), max_tokens, method.to_owned());
        let next = self.samples.len();
        let at = *self.by_key.entry(key).or_insert(next);
        if at == next {
            self.samples.push(Sample {
                prompt: prompt.text.clone(),
                family: 0,
                task: Some(prompt.task.clone()),
                max_tokens,
                method: method.to_owned(),
                lengths: Vec::new(),
            });
            self.seeds.push(BTreeSet::new());
        }
        if !self.seeds[at].insert(seed) {
            return Err("the prompt was answered with the same seed before".to_owned());
        }
        self.samples[at].lengths.push(length);
        Ok(())
    }

    fn with_families(self) -> Vec<Sample> {
        let mut samples = self.samples;
        let prompts: Vec<&str> = samples.iter().map(|sample| sample.prompt.as_str()).collect();
        let families = family::families(&prompts);
        samples.iter_mut().zip(families).for_each(|(sample, family)| sample.family = family);
        samples
    }
}
