//! Data set and arrival process become requests with due times. All randomness ends here.

use anyhow::bail;

use crate::{
    plan::Arrival,
    scenario::{DatasetFormat, Endpoint, Workload},
};

pub mod arrival;
mod conversation;
mod count;
pub mod dataset;
mod dialogue;
mod draw;
mod exact;
mod forced;
mod intensity;
pub mod longbench;
pub mod make;
pub mod route;
mod schedule;
mod synthetic;
pub mod trace;

use conversation::Shape;
pub use dataset::{DatasetReport, Reference, RowError, Sample, sha256_file};
pub use forced::Place;
pub use schedule::schedule_hash;

/// One request to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Position in the workload, from 0; the same number is the same prompt under every method.
    pub id: u64,
    /// Id of the data set's row.
    pub sample_id: String,
    /// Turn of the conversation, from 0.
    pub turn: u32,
    /// When to send it, from the start of the cell.
    pub due: Due,
    /// The prompt's text; of a later turn of a conversation what is new in it.
    pub prompt: String,
    /// Prompt length, estimated where the workload names no tokenizer (four bytes a token): for kernel replay, never for
    /// results.
    pub prompt_tokens_est: u32,
    /// What the workload's tokenizer and chat template make of the prompt; `None` without a tokenizer, and of later turns,
    /// which are sent with what was said before.
    pub counted: Option<Counted>,
    /// The data set's own answer length, estimated likewise; `None` if it has no answer.
    pub answer_tokens_est: Option<u32>,
    /// `max_tokens` to ask for.
    pub max_tokens: u32,
    /// Where the prompt ends within an answer of another run; `None` elsewhere.
    pub forced: Option<Place>,
}

/// A prompt as the workload's tokenizer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Tokens that a server counts, BOS and the chat template included.
    pub tokens: u32,
    /// The prompt in the workload's chat template, for `/v1/completions`; `None` without a template, and for tasks that
    /// LongBench sends without one.
    pub rendered: Option<String>,
}

impl Request {
    /// The text that is sent to an endpoint: `/v1/chat/completions` applies the template itself.
    pub fn text_for(&self, endpoint: Endpoint) -> &str {
        let rendered = self.counted.as_ref().and_then(|counted| counted.rendered.as_deref());
        match endpoint {
            Endpoint::Completions => rendered.unwrap_or(&self.prompt),
            Endpoint::Chat => &self.prompt,
        }
    }

    /// Tokens that the server should count in it; `None` where nobody knows: no tokenizer, or a chat template of the server's
    /// that the workload does not name.
    pub fn tokens_sent(&self, endpoint: Endpoint) -> Option<u32> {
        let counted = self.counted.as_ref()?;
        (endpoint == Endpoint::Completions || counted.rendered.is_some()).then_some(counted.tokens)
    }
}

/// When a request is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At this time after the start of the cell.
    AtNs(u64),
    /// As soon as one of the cell's slots is free (closed loop).
    WhenFree,
    /// After the answer to the turn before, which stands somewhere before it in the list. In a closed loop a conversation
    /// keeps its slot until it has ended.
    After {
        /// Position of the turn before in the list of requests.
        request: u64,
        /// From the end of the answer.
        think_ns: u64,
    },
}

/// Requests and what the data set's file was like.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// In the order in which they are due.
    pub requests: Vec<Request>,
    /// Rows, bad rows and sha256 of the file; `None` for synthetic workloads.
    pub dataset: Option<DatasetReport>,
    /// What was done to prompts by their token counts, in words; empty where nothing was.
    pub notes: Vec<String>,
}

/// The requests of one cell, always the same for the same arguments. Use [`crate::plan::cell_seed`] as the seed, so that
/// every method gets the same prompts in the same order at the same times.
///
/// # Errors
/// The data set cannot be read or holds fewer usable rows than asked for; the workload is a grid of shapes.
pub fn build(workload: &Workload, arrival: &Arrival, seed: u64) -> anyhow::Result<Vec<Request>> {
    build_reporting(workload, arrival, seed).map(|built| built.requests)
}

/// Like [`build`], with the report on the file: bad rows belong into the run's notes, the hash into its manifest.
///
/// # Errors
/// As [`build`].
pub fn build_reporting(workload: &Workload, arrival: &Arrival, seed: u64) -> anyhow::Result<Built> {
    let mut times_ns = Vec::new();
    let mut notes = Vec::new();
    let (mut requests, dataset) = match workload {
        Workload::Shapes { .. } => {
            bail!("a grid of shapes has no requests: it is launched, not sent")
        }
        Workload::Dataset {
            path,
            format,
            n_requests,
            prompt,
            max_tokens,
            turns,
            think,
            tokens,
            mode: _,
        } => {
            let (samples, report) = dataset::read_as(path, *format, *prompt)?;
            let samples = drawn(samples, &report, *n_requests, seed)?;
            if *format == DatasetFormat::Longbench {
                notes.extend(dataset::longbench::notes(&samples));
            }
            let shape = Shape { turns: *turns, think: *think, max_tokens: *max_tokens };
            let mut counter = tokens.as_ref().map(count::Counter::new).transpose()?;
            let requests = conversation::requests(samples, shape, seed, counter.as_mut())?;
            notes.extend(counter.and_then(|counter| counter.note()));
            (requests, Some(report))
        }
        Workload::Synthetic { n_requests, prompt_tokens, output_tokens, tokens } => {
            let meter = tokens.as_ref().map(count::meter).transpose()?;
            let drawn =
                synthetic::draw(*n_requests, prompt_tokens, output_tokens, seed, meter.as_ref())?;
            notes.extend(count::missed(&drawn));
            (drawn.into_iter().enumerate().map(synthetic_request).collect(), None)
        }
        Workload::Dialogues(dialogues) => {
            let (requests, note) = dialogue::requests(dialogues, seed)?;
            notes.extend(note);
            (requests, None)
        }
        Workload::Trace(trace) => {
            let traced = trace::build(trace, seed)?;
            times_ns = traced.times_ns;
            notes.extend(traced.note);
            (traced.requests, Some(traced.report))
        }
        Workload::Forced(forced) => {
            let (requests, note) = forced::requests(forced)?;
            notes.push(note);
            (requests, None)
        }
    };
    let mut first_turns: Vec<&mut Request> =
        requests.iter_mut().filter(|request| request.turn == 0).collect();
    let due = arrival::due_times(arrival, first_turns.len(), &times_ns, seed)?;
    for (request, due) in first_turns.iter_mut().zip(due) {
        request.due = due;
    }
    Ok(Built { requests, dataset, notes })
}

/// What the reader of a workload's file had to leave out; `None` for a workload without a file.
///
/// # Errors
/// As [`build`].
pub fn report_on(workload: &Workload) -> anyhow::Result<Option<DatasetReport>> {
    match workload {
        Workload::Dataset { path, format, .. } => Ok(Some(dataset::read(path, *format)?.1)),
        Workload::Trace(trace) => Ok(Some(trace::read(&trace.path, trace.format)?.1)),
        // What a run's answers lack is told when requests are made of them; that it has none is told before anything is started.
        Workload::Forced(forced) => forced::requests(forced).map(|_| None),
        Workload::Shapes { .. } | Workload::Synthetic { .. } | Workload::Dialogues(_) => Ok(None),
    }
}

/// Four bytes a token: an estimate for kernel replay, never a result.
pub fn tokens_est(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX)
}

fn drawn(
    mut samples: Vec<Sample>,
    report: &DatasetReport,
    n_requests: Option<usize>,
    seed: u64,
) -> anyhow::Result<Vec<Sample>> {
    let n = n_requests.unwrap_or(samples.len());
    if n > samples.len() {
        bail!(
            "{}: expected at least `n_requests` = {n} usable rows, got {} ({} bad)\n  hint: lower `n_requests`, or leave it out to send every row once",
            report.path.display(),
            samples.len(),
            report.n_bad
        );
    }
    let mut rng = draw::stream(seed, draw::Stream::Sample);
    let order = draw::sample(&mut rng, samples.len(), n);
    Ok(order.into_iter().map(|row| std::mem::take(&mut samples[row])).collect())
}

fn synthetic_request((id, drawn): (usize, synthetic::Drawn)) -> Request {
    Request {
        id: id as u64,
        sample_id: format!("synthetic-{id}"),
        turn: 0,
        due: Due::WhenFree,
        prompt: drawn.prompt,
        prompt_tokens_est: drawn.counted.as_ref().map_or(drawn.asked_tokens, |it| it.tokens),
        counted: drawn.counted,
        answer_tokens_est: Some(drawn.output_tokens),
        max_tokens: drawn.output_tokens,
        forced: None,
    }
}

/// The format that a file's name suggests: `.jsonl` is LongBench, `.json` ShareGPT.
pub fn format_of(path: &std::path::Path) -> Option<DatasetFormat> {
    match path.extension()?.to_str()? {
        "jsonl" => Some(DatasetFormat::Longbench),
        "json" => Some(DatasetFormat::Sharegpt),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
