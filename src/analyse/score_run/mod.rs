//! Answers of a run folder as scores: `scores.parquet`, one row a scored answer.
//!
//! References come from the data set that the scenario names, read again and held to the hash in the manifest. A row of
//! `requests.parquet` finds its reference by `sample_id`; only first turns are scored. What cannot be scored is counted with
//! the reason, never a score of 0: a server that answered nothing did not answer wrongly.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::ensure;

use super::{Point, RunData, score};
use crate::{
    record::{Manifest, RequestRow, parquet::TableRow as _, parquet::table_row},
    workload::Reference,
};

mod matched;
mod means;
mod place;
mod references;

pub use matched::{MatchedMean, MatchedRow, matched_means};
pub(super) use means::points;
pub use means::{MeanScore, means};
pub use place::{Place, Subjects, choose, controls, elsewhere, places, subjects};
use references::References;
pub use references::data_file;

/// One scored answer: a row of `scores.parquet`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScoreRow {
    /// Run the row belongs to.
    pub run_id: String,
    /// Cell the row belongs to.
    pub cell_id: String,
    /// Name of the target.
    pub target: String,
    /// Name of the method; `<baseline>-aa` is the A/A control.
    pub method: String,
    /// Name of the workload.
    pub workload: String,
    /// Load with its parameter.
    pub load: String,
    /// Repeat, from 0.
    pub repeat: i64,
    /// Position in the workload.
    pub request_id: i64,
    /// Id of the data set's row.
    pub sample_id: String,
    /// Data set as the row names it, which decides the scorer.
    pub dataset: String,
    /// Rules that scored it, with their version.
    pub scorer: String,
    /// 0 to 1.
    pub score: f64,
    /// sha256 of the prompt as sent, hex.
    pub prompt_sha256: String,
}

table_row!(
    ScoreRow,
    "scores",
    run_id,
    cell_id,
    target,
    method,
    workload,
    load,
    repeat,
    request_id,
    sample_id,
    dataset,
    scorer,
    score,
    prompt_sha256,
);

impl ScoreRow {
    pub(super) fn point(&self) -> Point {
        Point {
            target: self.target.clone(),
            workload: self.workload.clone(),
            load: self.load.clone(),
            method: self.method.clone(),
        }
    }
}

/// Which rules scored these rows, each once.
pub fn scorers(rows: &[ScoreRow]) -> Vec<&str> {
    let all: BTreeSet<&str> = rows.iter().map(|row| row.scorer.as_str()).collect();
    all.into_iter().collect()
}

/// Whether a file of scores is this run's.
///
/// # Errors
/// Rows of another run, a score that is none, or an answer that was scored twice.
pub fn check(manifest: &Manifest, rows: &[ScoreRow]) -> anyhow::Result<()> {
    const HINT: &str = "\n  hint: `kvbench score RUN_DIR` makes them anew";
    let mut seen = BTreeSet::new();
    for row in rows {
        let ScoreRow { run_id, cell_id, request_id, score, .. } = row;
        ensure!(
            *run_id == manifest.run_id,
            "expected scores of {}, got some of {run_id}{HINT}",
            manifest.run_id
        );
        ensure!(
            (0.0..=1.0).contains(score),
            "{cell_id}, request {request_id}: expected a score from 0 to 1, got {score}{HINT}"
        );
        ensure!(
            seen.insert((cell_id, request_id)),
            "{cell_id}, request {request_id}: expected one score, got two{HINT}"
        );
    }
    Ok(())
}

/// Requests that have no score, by reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Their target.
    pub target: String,
    /// Their method.
    pub method: String,
    /// Why.
    pub why: String,
    /// How many.
    pub n: usize,
    /// One of them: its cell and its number in the workload.
    pub example: String,
}

/// What scoring a run yields.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// One a scored answer, in the order of the requests.
    pub rows: Vec<ScoreRow>,
    /// The same answers against the baseline's at equal length; `None` where nobody asked.
    pub matched: Option<Vec<MatchedRow>>,
    /// Everything else.
    pub left_out: Vec<LeftOut>,
}

/// Scores every answer of a run that has a reference. `files` are places of data sets that have moved; each is known by its
/// hash. With `equal_length` answers are scored a second time, cut to the length of the baseline's (see [`MatchedRow`]).
///
/// # Errors
/// A data set that is not there or is another than the run's, or nothing to score.
pub fn score(
    data: &RunData,
    files: &[PathBuf],
    equal_length: bool,
    options: score::Options,
) -> anyhow::Result<Scored> {
    let requests = RequestRow::rows(&data.requests)?;
    let references = References::read(&data.manifest, &requests, files)?;
    let mut left_out = Tally::default();
    for row in RequestRow::rows(&data.warm_up)? {
        left_out.tell(&row, "warm-up request");
    }
    let answers = answers(&requests, &references, options, &mut left_out);
    let mut rows = Vec::with_capacity(answers.len());
    for answer in &answers {
        match answer.score(&answer.row.output_text) {
            Ok((score, scorer)) => rows.push(answer.scored(score, scorer)),
            Err(error) => left_out.tell(answer.row, &format!("no score: {}", first_line(&error))),
        }
    }
    let matched = equal_length.then(|| matched::rows(data, &answers, &rows, &mut left_out));
    let left_out = left_out.counted();
    ensure!(
        !rows.is_empty(),
        "{}: expected answers that can be scored, got none of {} requests{}\n  hint: score runs of workloads with `format = \"longbench\"`, \
         whose rows hold `dataset` and `answers`",
        data.manifest.run_id,
        requests.len(),
        reasons(&left_out)
    );
    Ok(Scored { rows, matched, left_out })
}

/// An answer that has a reference.
struct Answer<'a> {
    row: &'a RequestRow,
    reference: &'a Reference,
    options: score::Options,
}

impl Answer<'_> {
    /// The score of a text in the place of the answer, and what scored it.
    fn score(&self, text: &str) -> anyhow::Result<(f64, String)> {
        let Reference { dataset, answers, all_classes } = self.reference;
        let score = self.options.score(dataset, text, answers, Some(all_classes.as_slice()))?;
        Ok((score, self.options.scorer(dataset)?))
    }

    fn scored(&self, score: f64, scorer: String) -> ScoreRow {
        let row = self.row;
        ScoreRow {
            run_id: row.run_id.clone(),
            cell_id: row.cell_id.clone(),
            target: row.target.clone(),
            method: row.method.clone(),
            workload: row.workload.clone(),
            load: row.load.clone(),
            repeat: row.repeat,
            request_id: row.request_id,
            sample_id: row.sample_id.clone(),
            dataset: self.reference.dataset.clone(),
            scorer,
            score,
            prompt_sha256: row.prompt_sha256.clone(),
        }
    }
}

/// Requests whose answer can be held against a reference. Within a cell each sample and each prompt counts once: two answers
/// to one prompt are not two observations.
fn answers<'a>(
    requests: &'a [RequestRow],
    references: &'a References,
    options: score::Options,
    left_out: &mut Tally,
) -> Vec<Answer<'a>> {
    let (mut samples, mut prompts) = (BTreeSet::new(), BTreeSet::new());
    let mut check = |row: &'a RequestRow| {
        let reference = references.of(&row.workload, &row.sample_id);
        match reference {
            _ if row.err.is_some() => Err("the request failed"),
            _ if row.turn > 0 => Err("a later turn of a conversation"),
            Err(why) => Err(why),
            Ok(_) if !samples.insert((&row.cell_id, &row.sample_id)) => {
                Err("its sample was asked before in its cell")
            }
            Ok(_)
                if !row.prompt_sha256.is_empty()
                    && !prompts.insert((&row.cell_id, &row.prompt_sha256)) =>
            {
                Err("its prompt is that of another sample of its cell")
            }
            Ok(reference) => Ok(Answer { row, reference, options }),
        }
    };
    let mut found = Vec::with_capacity(requests.len());
    for row in requests {
        match check(row) {
            Ok(answer) => found.push(answer),
            Err(why) => left_out.tell(row, why),
        }
    }
    found
}

/// Exclusions under way: by target, method and reason how many, and the first one.
#[derive(Default)]
struct Tally(BTreeMap<(String, String, String), (usize, String)>);

impl Tally {
    fn tell(&mut self, row: &RequestRow, why: &str) {
        let key = (row.target.clone(), row.method.clone(), why.to_owned());
        let example = || format!("{}, request {}", row.cell_id, row.request_id);
        self.0.entry(key).or_insert_with(|| (0, example())).0 += 1;
    }

    fn counted(self) -> Vec<LeftOut> {
        let one =
            |((target, method, why), (n, example))| LeftOut { target, method, why, n, example };
        self.0.into_iter().map(one).collect()
    }
}

/// The message without its hint, which is for whoever scores one row.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

fn reasons(left_out: &[LeftOut]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    left_out.iter().for_each(|left| *counts.entry(&left.why).or_default() += left.n);
    let words: Vec<String> = counts.iter().map(|(why, n)| format!("{why}: {n}")).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) }
}

#[cfg(test)]
mod tests;
