//! Traces of real services: when requests came, how long prompts and answers were, and which prompts began alike. The
//! texts themselves are not in any of them, so prompts are made of words.

use std::path::Path;

use anyhow::bail;

use super::{
    DatasetReport, Due, Request, count,
    draw::{Stream, stream},
    synthetic,
};
use crate::{
    scenario::{Trace, TraceFormat},
    units::NS_PER_S,
};

mod exact;
mod read;
#[cfg(test)]
mod tests;

pub use read::{BLOCK_TOKENS, TraceRow, read};

/// Most prompt tokens of one cell (about 1.5 GB of text).
const PROMPT_TOKENS_MAX: u64 = 1 << 28;

/// The requests of a trace, in its order, due `WhenFree`; and the times that a `replay` load would send them at, empty
/// where the trace has none.
pub(super) struct Traced {
    pub(super) requests: Vec<Request>,
    /// From the start of the window.
    pub(super) times_ns: Vec<u64>,
    pub(super) report: DatasetReport,
    /// Which prompts missed their length, if any did.
    pub(super) note: Option<String>,
}

/// Reads a trace and makes its prompts.
pub(super) fn build(trace: &Trace, seed: u64) -> anyhow::Result<Traced> {
    let (rows, report) = read(&trace.path, trace.format)?;
    let start_ns = (trace.start_s * NS_PER_S).round() as i64;
    let rows = chosen(rows, trace, start_ns)?;
    let tokens: u64 = rows.iter().map(|row| u64::from(row.prompt_tokens)).sum();
    if tokens > PROMPT_TOKENS_MAX {
        bail!(
            "{}: expected at most {PROMPT_TOKENS_MAX} prompt tokens in all, got {tokens}\n  hint: the prompts are held in memory: set `n_requests` or `duration_s`",
            trace.path.display()
        );
    }
    let times_ns =
        rows.iter().filter_map(|row| row.at_ns).map(|at| at.abs_diff(start_ns)).collect();
    let mut requests = requests(&rows, seed);
    let mut note = None;
    if let Some(rules) = &trace.tokens {
        let meter = count::meter(rules)?;
        exact::fit(&mut requests, &rows, &meter, seed)?;
        let by = |(request, row): (&Request, &TraceRow)| {
            request.prompt_tokens_est.abs_diff(row.prompt_tokens)
        };
        note = count::missed_by("prompts of the trace", requests.iter().zip(&rows).map(by));
    }
    Ok(Traced { requests, times_ns, report, note })
}

/// The rows of the window, the first `n_requests` of them.
fn chosen(rows: Vec<TraceRow>, trace: &Trace, start_ns: i64) -> anyhow::Result<Vec<TraceRow>> {
    let end_ns = trace.duration_s.map_or(i64::MAX, |s| start_ns + (s * NS_PER_S).round() as i64);
    let last_s = rows.iter().filter_map(|row| row.at_ns).max().unwrap_or(0) as f64 / NS_PER_S;
    let inside = |row: &TraceRow| row.at_ns.is_none_or(|at| (start_ns..end_ns).contains(&at));
    let mut rows: Vec<TraceRow> = rows.into_iter().filter(inside).collect();
    let n = trace.n_requests.unwrap_or(rows.len());
    if n > rows.len() || rows.is_empty() {
        bail!(
            "{}: expected at least {} usable rows in its window, got {}\n  hint: the last row comes at {last_s:.0} s; lower `n_requests`, or move `start_s` and `duration_s`",
            trace.path.display(),
            n.max(1),
            rows.len()
        );
    }
    rows.truncate(n);
    Ok(rows)
}

fn requests(rows: &[TraceRow], seed: u64) -> Vec<Request> {
    let words = synthetic::words();
    let mut text = stream(seed, Stream::Text);
    let offset = synthetic::offset(&words, &mut text);
    let mut request = |(id, row): (usize, &TraceRow)| Request {
        id: id as u64,
        sample_id: format!("line-{}", row.line),
        turn: 0,
        due: Due::WhenFree,
        prompt: if row.blocks.is_empty() {
            synthetic::sentence(&words, id + offset, row.prompt_tokens, &mut text)
        } else {
            of_blocks(&words, &row.blocks, row.prompt_tokens, seed)
        },
        prompt_tokens_est: row.prompt_tokens,
        counted: None,
        answer_tokens_est: Some(row.answer_tokens),
        max_tokens: row.answer_tokens,
        forced: None,
    };
    rows.iter().enumerate().map(&mut request).collect()
}

/// Blocks with the same id hold the same words in all prompts of a cell, so prompts share beginnings where those of the
/// trace did. The words depend on the cell's seed: what one cell leaves in a prefix cache is no help to the next, and
/// every method of a cell, on any machine, gets the same.
fn of_blocks(words: &[&str], blocks: &[u64], n_tokens: u32, seed: u64) -> String {
    let mut text = String::with_capacity(n_tokens as usize * 6);
    let mut left = n_tokens;
    for block in blocks {
        let n_words = left.min(BLOCK_TOKENS);
        synthetic::append(words, n_words, &mut stream(seed, Stream::Block(*block)), &mut text);
        left -= n_words;
    }
    text
}

/// The format that a file's first line suggests, of those that are traces.
pub fn format_of(path: &Path) -> Option<TraceFormat> {
    use std::io::{BufRead as _, Read as _};
    let file = std::fs::File::open(path).ok()?;
    let mut line = String::new();
    std::io::BufReader::new(file.take(4096)).read_line(&mut line).ok()?;
    let has = |words: [&str; 2]| words.iter().all(|word| line.contains(word));
    [
        (TraceFormat::Mooncake, ["\"input_length\"", "\"timestamp\""]),
        (TraceFormat::Azure, ["ContextTokens", "GeneratedTokens"]),
        (TraceFormat::Burstgpt, ["Request tokens", "Response tokens"]),
        (TraceFormat::Lengths, ["num_prefill_tokens", "num_decode_tokens"]),
    ]
    .into_iter()
    .find_map(|(format, words)| has(words).then_some(format))
}
