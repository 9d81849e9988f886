//! Answers of a finished run, given to the model up to some places.
//!
//! A run keeps answers and the hash of each prompt, and no prompts. So the prompts are made again, by the run's own scenario and
//! seeds, and one whose hash is another than that of what was sent is left out: the continued text is what the model saw, or it is
//! not asked about.
//!
//! Each answer is given at evenly spaced places, the last its very end, where the run's model did stop. A place is moved back to the
//! end of the word before it: in the vocabularies of today a token begins there, so that the cut text has the tokens that the model
//! made. A text without blanks near by is cut between two characters, and may then be split otherwise than it was made; every method
//! is given the same text, so what is compared stays a pair.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use polars::prelude::DataFrame;

use super::{Due, Request, dataset::sha256_hex, tokens_est};
use crate::{
    plan::{self, Arrival, Cell, Task},
    record::{Manifest, RunDir, Table, manifest::Status},
    scenario::{AnswerMode, Endpoint, Forced, Scenario, StopToken},
};

/// Characters that a place is moved back at most to the end of a word.
const WORD_MAX: usize = 32;

/// Columns that are read of the run's requests.
const COLUMNS: [&str; 8] = [
    "cell_id",
    "request_id",
    "turn",
    "warmup",
    "finish_reason",
    "err",
    "output_text",
    "prompt_sha256",
];

/// Where a prompt ends within an answer, and what is asked there.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Share of the answer's characters before the place, 0 to 1, as it was asked for: the end of a word may be a little before it.
    pub at: f64,
    /// The token whose log-probability is wanted.
    pub stop: StopToken,
    /// How many of the likeliest tokens to list.
    pub top: u32,
}

/// An answer that can be continued.
struct Begun {
    sample_id: String,
    prompt: String,
    answer: String,
}

/// Why answers are not continued, with their number.
#[derive(Default)]
struct LeftOut(BTreeMap<&'static str, usize>);

impl LeftOut {
    fn add(&mut self, why: &'static str) {
        *self.0.entry(why).or_default() += 1;
    }

    fn words(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let one = |(why, n): (&&str, &usize)| format!("{n} {why}");
        format!("; left out: {}", self.0.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

/// One request a place of each answer, and a sentence on what was left out.
///
/// # Errors
/// No finished run, none with answers of the method to one workload at a completions endpoint, or none that ended by itself.
pub(super) fn requests(forced: &Forced) -> anyhow::Result<(Vec<Request>, String)> {
    let shown = forced.run.display();
    let run = Run::open(&forced.run)?;
    let method = forced.method.as_deref().unwrap_or(&run.manifest.scenario.baseline);
    let cells = run.cells(method, forced.workload.as_deref(), &forced.run)?;
    let mut left_out = LeftOut::default();
    let mut begun = run.begun(&cells, &forced.run, &mut left_out)?;
    ensure!(
        !begun.is_empty(),
        "{shown}: expected answers of `{method}` that ended by themselves, got none{}\n  hint: raise `max_tokens` of that run, or name another `method`",
        left_out.words()
    );
    if let Some(n) = forced.n_prompts {
        ensure!(
            n <= begun.len(),
            "{shown}: expected at least `n_prompts` = {n} answers of `{method}` that ended by themselves, got {}\n  hint: lower `n_prompts`, or leave it out to continue all",
            begun.len()
        );
        begun.truncate(n);
    }
    let requests: Vec<Request> =
        begun.iter().enumerate().flat_map(|(index, one)| places(forced, index, one)).collect();
    let n_same = begun.len() * forced.positions - requests.len();
    let same = match n_same {
        0 => String::new(),
        n => format!(", {n} of them left out because a short answer has the same text there"),
    };
    let note = format!(
        "{shown}: {} answers of {method} are continued at {} places each{same}{}",
        begun.len(),
        forced.positions,
        left_out.words()
    );
    Ok((requests, note))
}

/// What is read of a run.
struct Run {
    manifest: Manifest,
    scenario: Scenario,
    rows: DataFrame,
}

impl Run {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let dir = RunDir::open(path)?;
        ensure!(
            !dir.is_unfinished(),
            "{shown}: expected a finished run, got one that is not\n  hint: `kvbench run --resume {shown}` finishes it"
        );
        let manifest = Manifest::read(path)?;
        ensure!(
            manifest.status == Status::Complete,
            "{shown}: expected a finished run, got one whose manifest calls it {}\n  hint: `kvbench run --resume {shown}` finishes it",
            manifest.status.name()
        );
        let scenario = Scenario::parse(&manifest.scenario.text, &format!("{shown}: its scenario"))
            .with_context(|| {
                format!("{shown}: expected a run of `kvbench run`, whose prompts can be made again")
            })?;
        let rows = dir.read_columns(Table::Requests, &COLUMNS)?;
        Ok(Self { manifest, scenario, rows })
    }

    /// The cells whose answers are continued: of one target and load, all repeats.
    fn cells(
        &self,
        method: &str,
        workload: Option<&str>,
        path: &Path,
    ) -> anyhow::Result<Vec<Cell>> {
        let shown = path.display();
        let workload = self.workload(workload, path)?;
        let planned: BTreeSet<&str> =
            self.manifest.cells.iter().map(|cell| cell.id.as_str()).collect();
        let mut cells = plan::expand(&self.scenario);
        cells.retain(|cell| {
            planned.contains(cell.id.as_str())
                && cell.method.name == method
                && cell.workload == workload
        });
        let Some(first) = cells.first().cloned() else {
            bail!(
                "{shown}: expected cells of the method `{method}` and the workload `{workload}`, got none\n  hint: `kvbench report {shown}` lists them"
            )
        };
        match &first.task {
            Task::Serve { target, .. } if target.endpoint == Endpoint::Completions => {}
            Task::Serve { .. } => bail!(
                "{shown}: expected a run at the `completions` endpoint, got `chat` at `{}`\n  hint: the text around a chat message is the server's own; run it with `endpoint = \"completions\"` and a `chat_template`",
                first.target
            ),
            _ => bail!("{shown}: expected a run of an engine, got kernels"),
        }
        cells.retain(|cell| cell.target == first.target && cell.load == first.load);
        Ok(cells)
    }

    fn workload(&self, named: Option<&str>, path: &Path) -> anyhow::Result<String> {
        let shown = path.display();
        let is_free = |mode| matches!(mode, AnswerMode::Free | AnswerMode::Matched);
        let free: Vec<&str> = self
            .scenario
            .workloads
            .iter()
            .filter(|workload| is_free(workload.kind.mode()))
            .map(|workload| workload.name.as_str())
            .collect();
        match (named, &free[..]) {
            (Some(named), free) if free.contains(&named) => Ok(named.to_owned()),
            (None, [only]) => Ok((*only).to_owned()),
            (Some(named), free) => bail!(
                "{shown}: expected `workload` to be one whose answers end by themselves ({}), got `{named}`\n  hint: name one of them",
                free.join(", ")
            ),
            (None, free) => bail!(
                "{shown}: expected one workload whose answers end by themselves, got {} ({})\n  hint: name one as `workload`",
                free.len(),
                free.join(", ")
            ),
        }
    }

    /// Answers that ended by themselves, each prompt once, in the order of the cells.
    fn begun(
        &self,
        cells: &[Cell],
        path: &Path,
        left_out: &mut LeftOut,
    ) -> anyhow::Result<Vec<Begun>> {
        let rows = Rows::of(&self.rows).with_context(|| format!("{}", path.display()))?;
        let (mut begun, mut seen) = (Vec::new(), BTreeSet::new());
        for cell in cells {
            let sent = self.sent(cell)?;
            for row in rows.of_cell(&cell.id) {
                match rows.begun(row, &sent) {
                    Ok((hash, one)) => {
                        if seen.insert(hash) {
                            begun.push(one);
                        } else {
                            left_out.add("answers to a prompt that has one already");
                        }
                    }
                    Err(why) => left_out.add(why),
                }
            }
        }
        Ok(begun)
    }

    /// The cell's requests, made again.
    fn sent(&self, cell: &Cell) -> anyhow::Result<BTreeMap<i64, Request>> {
        let Task::Serve { workload, .. } = &cell.task else { return Ok(BTreeMap::new()) };
        let seed = plan::cell_seed(self.manifest.scenario.seed, cell);
        // When they were due changes no prompt.
        let requests = super::build(workload, &Arrival::Closed { concurrency: 1 }, seed)?;
        let by_id = |request: Request| Ok((i64::try_from(request.id)?, request));
        requests.into_iter().map(by_id).collect()
    }
}

struct Rows<'a> {
    cell: Vec<Option<&'a str>>,
    request: Vec<Option<i64>>,
    turn: Vec<Option<i64>>,
    warmup: Vec<Option<bool>>,
    finish: Vec<Option<&'a str>>,
    err: Vec<Option<&'a str>>,
    text: Vec<Option<&'a str>>,
    hash: Vec<Option<&'a str>>,
}

impl<'a> Rows<'a> {
    fn of(frame: &'a DataFrame) -> anyhow::Result<Self> {
        let text = |name: &str| anyhow::Ok(frame.column(name)?.str()?.iter().collect());
        let whole = |name: &str| anyhow::Ok(frame.column(name)?.i64()?.iter().collect());
        Ok(Self {
            cell: text("cell_id")?,
            request: whole("request_id")?,
            turn: whole("turn")?,
            warmup: frame.column("warmup")?.bool()?.iter().collect(),
            finish: text("finish_reason")?,
            err: text("err")?,
            text: text("output_text")?,
            hash: text("prompt_sha256")?,
        })
    }

    /// The measured rows of a cell by request, so that the order is that of the workload and not that in which answers ended.
    fn of_cell(&self, cell: &str) -> Vec<usize> {
        let is = |row: &usize| self.cell[*row] == Some(cell) && self.warmup[*row] == Some(false);
        let mut rows: Vec<usize> = (0..self.cell.len()).filter(is).collect();
        rows.sort_by_key(|row| self.request[*row]);
        rows
    }

    fn begun(
        &self,
        row: usize,
        sent: &BTreeMap<i64, Request>,
    ) -> Result<(String, Begun), &'static str> {
        if self.err[row].is_some() {
            return Err("failed");
        }
        if self.turn[row] != Some(0) {
            return Err("later turns of conversations");
        }
        if self.finish[row] != Some("stop") {
            return Err("not ended by themselves");
        }
        let known = self.request[row].and_then(|id| sent.get(&id)).zip(self.hash[row]);
        let (request, hash) = known.ok_or("without a prompt that could be made again")?;
        let prompt = request.text_for(Endpoint::Completions);
        if sha256_hex(prompt.as_bytes()) != hash {
            return Err("without a prompt that could be made again");
        }
        let begun = Begun {
            sample_id: request.sample_id.clone(),
            prompt: prompt.to_owned(),
            answer: self.text[row].unwrap_or_default().to_owned(),
        };
        Ok((hash.to_owned(), begun))
    }
}

/// One request a place; places with the same text as a later one are left out, so that the end always stands.
fn places(forced: &Forced, index: usize, begun: &Begun) -> Vec<Request> {
    let n = forced.positions;
    let cuts: Vec<usize> = (1..=n).map(|k| cut(&begun.answer, k, n)).collect();
    let is_new = |k: &usize| cuts.get(k + 1) != Some(&cuts[*k]);
    let request = |k: usize| {
        let prompt = format!("{}{}", begun.prompt, &begun.answer[..cuts[k]]);
        Request {
            id: (index * n + k) as u64,
            // Repeats of a made workload call different prompts by one name, and prompts are told apart by it.
            sample_id: format!("{}#{index}", begun.sample_id),
            turn: 0,
            due: Due::WhenFree,
            prompt_tokens_est: tokens_est(&prompt),
            prompt,
            counted: None,
            answer_tokens_est: None,
            max_tokens: 1,
            forced: Some(Place {
                at: (k + 1) as f64 / n as f64,
                stop: forced.stop.clone(),
                top: forced.top,
            }),
        }
    };
    (0..n).filter(is_new).map(request).collect()
}

/// Bytes of an answer before place `k` of `n`: the last end of a word at or before it, near by.
fn cut(answer: &str, k: usize, n: usize) -> usize {
    if k == n {
        return answer.len();
    }
    let starts: Vec<usize> = answer.char_indices().map(|(at, _)| at).collect();
    let place = starts.len() * k / n;
    let Some(&exact) = starts.get(place) else { return answer.len() };
    // Before a blank that follows a word: there the next token begins with the blank.
    let is_end = |at: &&usize| {
        let (before, after) = answer.split_at(**at);
        after.starts_with(char::is_whitespace)
            && before.ends_with(|last: char| !last.is_whitespace())
    };
    let near = &starts[place.saturating_sub(WORD_MAX)..=place];
    near.iter().rev().find(is_end).copied().unwrap_or(exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forced(positions: usize) -> Forced {
        Forced {
            run: "results/r".into(),
            rows: "results/r/requests.parquet".into(),
            workload: None,
            method: None,
            positions,
            n_prompts: None,
            stop: StopToken { text: None, id: Some(2) },
            top: 20,
        }
    }

    fn begun(answer: &str) -> Begun {
        Begun { sample_id: "s".to_owned(), prompt: "Once".to_owned(), answer: answer.to_owned() }
    }

    #[test]
    fn places_are_even_and_end_at_words_and_at_the_end() {
        let made = places(&forced(4), 3, &begun(" upon a time there was a cat."));
        let texts: Vec<&str> = made.iter().map(|request| request.prompt.as_str()).collect();
        assert_eq!(
            texts,
            [
                "Once upon a",
                "Once upon a time",
                "Once upon a time there",
                "Once upon a time there was a cat."
            ]
        );
        let at: Vec<f64> =
            made.iter().filter_map(|request| Some(request.forced.as_ref()?.at)).collect();
        assert_eq!(at, [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(made.iter().map(|request| request.id).collect::<Vec<_>>(), [12, 13, 14, 15]);
        assert!(made.iter().all(|request| request.max_tokens == 1 && request.sample_id == "s#3"));
    }

    #[test]
    fn prompts_of_one_name_stay_two() {
        let of = |index: usize| places(&forced(2), index, &begun(" upon a time."));
        let names: BTreeSet<String> =
            of(0).into_iter().chain(of(1)).map(|request| request.sample_id).collect();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["s#0", "s#1"]);
    }

    #[test]
    fn the_same_text_is_asked_about_once_and_characters_stay_whole() {
        let ids = |answer: &str| -> Vec<(u64, String)> {
            let made = places(&forced(3), 0, &begun(answer));
            made.into_iter().map(|request| (request.id, request.prompt)).collect()
        };
        assert_eq!(ids(""), [(2, "Once".to_owned())], "an empty answer has its end alone");
        assert_eq!(ids("é"), [(1, "Once".to_owned()), (2, "Onceé".to_owned())]);
        let chinese = ids("我喜歡貓和狗");
        assert_eq!(chinese[0].1, "Once我喜");
        assert_eq!(chinese[2].1, "Once我喜歡貓和狗");
    }
}
