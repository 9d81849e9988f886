//! Turns what was kept of one exchange into the facts of a row, after the stream has ended. Pure.
//!
//! What counts as what:
//! - output: a chunk with text or reasoning, or one whose token count the server gave and that is not zero. A role, an
//!   empty text and a lone usage are none, so they are neither the first token nor a gap.
//! - the answer's text is the content; reasoning counts for time and tokens only.
//! - tokens: the server's `usage`, else its token ids, else unknown. Chunks are never counted as tokens: vLLM packs
//!   several tokens into a chunk when the client or the engine is busy.
//! - `finish_reason` stays as the server said. `length` with fewer tokens than `max_tokens` means that the context was
//!   full; whoever compares lengths must leave such rows out, and has both numbers in the row to do so.
//! - a stream is complete when `[DONE]` came, or when it ended cleanly after a `finish_reason`.

use super::{
    logprobs::Listed,
    openai::{self, Chunk, Usage},
    sse::{Event, Splitter},
};

/// What one exchange left behind: bytes, and when they came.
#[derive(Debug, Default)]
pub struct Capture {
    /// First hand-over to the HTTP client, on the run's clock; a second attempt does not move it. A connection that has to
    /// be opened is opened after this moment and so is part of the time to the first token, as for any user.
    pub sent_ns: Option<i64>,
    /// How long the connection took to open (name, TCP, TLS); `None` if one was at hand. Of the last attempt that did.
    pub connect_ns: Option<i64>,
    /// End of the stream, or when it was given up.
    pub done_ns: Option<i64>,
    /// Attempts made.
    pub attempt: i64,
    /// Status of the last attempt.
    pub http_status: Option<i64>,
    /// `content-type` of the answer.
    pub content_type: Option<String>,
    /// Body so far.
    pub bytes: Vec<u8>,
    /// Reads, in order.
    pub reads: Vec<Read>,
    /// Why it ended, `None` for a clean end.
    pub failure: Option<String>,
}

/// One read of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Length of the body after it.
    pub end: usize,
    /// When it came, on the run's clock.
    pub t_ns: i64,
}

/// What the stream said.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// Arrival of each chunk with output.
    pub chunk_ns: Vec<i64>,
    /// Tokens of each, if known for all of them, else empty.
    pub chunk_tokens: Vec<i64>,
    /// Prompt tokens.
    pub prompt_tokens: Option<i64>,
    /// Output tokens.
    pub output_tokens: Option<i64>,
    /// `usage` or `token_ids`.
    pub token_source: Option<&'static str>,
    /// Prompt tokens from the prefix cache.
    pub cached_tokens: Option<i64>,
    /// As the server said.
    pub finish_reason: Option<String>,
    /// The answer.
    pub text: String,
    /// The likeliest first tokens, where the server was asked to list them.
    pub listed: Option<Listed>,
    /// What went wrong.
    pub err: Option<String>,
    /// Events in the stream.
    pub n_events: u64,
}

/// Reads a capture.
pub fn read(capture: &Capture) -> Answer {
    match capture.http_status {
        Some(200) => read_stream(capture),
        Some(status) => refused(capture, status),
        None => failed(capture.failure.clone().unwrap_or_else(|| "never sent".to_owned())),
    }
}

fn failed(err: String) -> Answer {
    Answer { err: Some(err), ..Answer::default() }
}

fn refused(capture: &Capture, status: i64) -> Answer {
    let said = openai::refusal(&capture.bytes);
    failed(if said.is_empty() {
        format!("http {status}")
    } else {
        format!("http {status}: {said}")
    })
}

/// Events with the arrival of the read that completed them, and what stopped the splitting.
fn events(capture: &Capture) -> (Vec<(i64, Event)>, Option<String>) {
    let mut splitter = Splitter::default();
    let mut events = Vec::new();
    let mut start = 0;
    for read in &capture.reads {
        let fed =
            splitter.feed(&capture.bytes[start..read.end], |event| events.push((read.t_ns, event)));
        if let Err(error) = fed {
            return (events, Some(error.to_string()));
        }
        start = read.end;
    }
    // What a broken stream left half-way is no event: its JSON would only hide the real cause.
    if capture.failure.is_none()
        && let (Some(read), Some(event)) = (capture.reads.last(), splitter.finish())
    {
        events.push((read.t_ns, event));
    }
    (events, None)
}

fn read_stream(capture: &Capture) -> Answer {
    let (events, too_long) = events(capture);
    let mut stream = Stream::default();
    for (t_ns, event) in &events {
        stream.take(*t_ns, event);
    }
    let err = stream.verdict(capture, too_long);
    let mut answer = stream.answer();
    answer.n_events = events.len() as u64;
    answer.err = err;
    answer
}

#[derive(Default)]
struct Stream {
    chunks: Vec<(i64, Chunk)>,
    done: bool,
    bad: Option<String>,
}

impl Stream {
    fn take(&mut self, t_ns: i64, event: &Event) {
        if event.is_done() {
            self.done = true;
            return;
        }
        match openai::parse(&event.data) {
            Ok(chunk) => self.chunks.push((t_ns, chunk)),
            Err(error) => {
                self.bad.get_or_insert(error);
            }
        }
    }

    fn finish_reason(&self) -> Option<String> {
        self.chunks.iter().rev().find_map(|(_, chunk)| chunk.finish_reason.clone())
    }

    /// The first cause that holds, the server's own words first.
    fn verdict(&self, capture: &Capture, too_long: Option<String>) -> Option<String> {
        if let Some(error) = self.chunks.iter().find_map(|(_, chunk)| chunk.error.as_ref()) {
            return Some(format!("error inside the stream: {error}"));
        }
        if let Some(error) = too_long {
            return Some(error);
        }
        if self.chunks.is_empty() && capture.failure.is_none() {
            return Some(self.not_a_stream(capture));
        }
        if let Some(bad) = &self.bad {
            return Some(bad.clone());
        }
        if self.chunks.iter().any(|(_, chunk)| chunk.index_max > 0) {
            return Some("expected one choice (n = 1), got several".to_owned());
        }
        if self.done {
            return self.no_output();
        }
        if let Some(failure) = &capture.failure {
            return Some(failure.clone());
        }
        if self.finish_reason().is_none() {
            return Some("stream ended early: neither [DONE] nor a finish_reason".to_owned());
        }
        self.no_output()
    }

    fn not_a_stream(&self, capture: &Capture) -> String {
        let kind = capture.content_type.as_deref().unwrap_or("no content-type");
        let got = openai::snippet(&capture.bytes);
        if let (true, Some(bad)) = (self.done, &self.bad) {
            return bad.clone();
        }
        if self.done {
            return "no output: the stream held nothing but [DONE]".to_owned();
        }
        if capture.bytes.is_empty() {
            return format!("expected an event stream, got an empty body ({kind})");
        }
        format!("expected an event stream, got {kind}: {got:?}")
    }

    /// An answer that is only a stop token is an answer of one token; nothing at all is a fault.
    fn no_output(&self) -> Option<String> {
        let answered = self.chunks.iter().any(|(_, chunk)| chunk.has_output)
            || self.usage().and_then(|usage| usage.completion_tokens).is_some_and(|n| n > 0)
            || self.chunks.iter().any(|(_, chunk)| chunk.token_ids.is_some_and(|n| n > 0));
        (!answered).then(|| "no output: the stream carried neither text nor tokens".to_owned())
    }

    fn usage(&self) -> Option<Usage> {
        self.chunks.iter().rev().find_map(|(_, chunk)| chunk.usage)
    }

    /// Tokens of each chunk, `None` where the server did not tell.
    fn tokens(&self) -> Vec<Option<i64>> {
        // A usage beside the last choice is a total (llama.cpp); only one beside every text is a running count.
        let mut texts = self.chunks.iter().filter(|(_, chunk)| chunk.has_output).peekable();
        let running = texts.peek().is_some()
            && texts.all(|(_, chunk)| {
                chunk.usage.is_some_and(|usage| usage.completion_tokens.is_some())
            });
        let mut so_far = 0;
        let count = |chunk: &Chunk| {
            if !running {
                return chunk.token_ids;
            }
            let total = chunk.usage.and_then(|usage| usage.completion_tokens)?;
            Some(total - std::mem::replace(&mut so_far, total))
        };
        self.chunks.iter().map(|(_, chunk)| chunk).map(count).collect()
    }

    fn answer(self) -> Answer {
        let tokens = self.tokens();
        let usage = self.usage();
        let counted = usage.and_then(|usage| usage.completion_tokens);
        let ids: Option<i64> =
            self.chunks.iter().filter_map(|(_, chunk)| chunk.token_ids).reduce(|a, b| a + b);
        let output: Vec<(i64, Option<i64>)> = self
            .chunks
            .iter()
            .zip(&tokens)
            .filter(|((_, chunk), n)| chunk.has_output || n.is_some_and(|n| n > 0))
            .map(|((t_ns, _), n)| (*t_ns, *n))
            .collect();
        Answer {
            chunk_ns: output.iter().map(|(t_ns, _)| *t_ns).collect(),
            chunk_tokens: output.iter().map(|(_, n)| *n).collect::<Option<_>>().unwrap_or_default(),
            prompt_tokens: usage.and_then(|usage| usage.prompt_tokens),
            output_tokens: counted.or(ids),
            token_source: counted.map(|_| "usage").or(ids.map(|_| "token_ids")),
            cached_tokens: usage.and_then(|usage| usage.prompt_tokens_details?.cached_tokens),
            finish_reason: self.finish_reason(),
            listed: self.chunks.iter().find_map(|(_, chunk)| chunk.listed.clone()),
            text: self.chunks.into_iter().map(|(_, chunk)| chunk.text).collect(),
            err: None,
            n_events: 0,
        }
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
