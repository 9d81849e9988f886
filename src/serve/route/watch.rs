//! Follows an answer on its way through, byte by byte and without changing one: when the first token came, how many chunks held
//! text, and what the engine counted.

use memchr::{memchr, memmem};

/// Longest line of a stream, or longest end of another body, that is looked at.
const KEPT_BYTES: usize = 64 * 1024;

/// What an answer has told so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Watch {
    is_stream: bool,
    kept: Vec<u8>,
    /// Whether the present line is longer than what is kept of it.
    cut: bool,
    /// Chunks that held text. A chunk is not always a token.
    pub(super) n_chunks: u64,
    /// Tokens of the prompt, as the engine counted.
    pub(super) prompt_tokens: Option<i64>,
    /// Tokens of the answer, as the engine counted.
    pub(super) output_tokens: Option<i64>,
    /// Whether the stream said that it was complete.
    pub(super) is_done: bool,
}

impl Watch {
    /// Of an answer that comes as an event stream, or whole.
    pub(super) fn new(is_stream: bool) -> Self {
        Self { is_stream, ..Self::default() }
    }

    /// Looks at bytes that pass; how many chunks with text they brought to an end.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> u64 {
        let before = self.n_chunks;
        if !self.is_stream {
            self.keep_end(bytes);
            return 0;
        }
        while let Some(at) = memchr(b'\n', bytes) {
            if self.kept.is_empty() && !self.cut {
                self.line(&bytes[..at]);
            } else {
                self.keep_beginning(&bytes[..at]);
                let line = std::mem::take(&mut self.kept);
                self.line(&line);
                self.kept = line;
                self.kept.clear();
                self.cut = false;
            }
            bytes = &bytes[at + 1..];
        }
        self.keep_beginning(bytes);
        self.n_chunks - before
    }

    /// The body has ended properly.
    pub(super) fn end(&mut self) {
        if !self.is_stream {
            let kept = std::mem::take(&mut self.kept);
            self.count(&kept);
            self.is_done = true;
        }
    }

    fn keep_beginning(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES - self.kept.len();
        self.cut |= bytes.len() > room;
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn keep_end(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT_BYTES)..]);
        // Seldom enough that moving the rest costs little.
        if self.kept.len() > 2 * KEPT_BYTES {
            self.kept.drain(..self.kept.len() - KEPT_BYTES);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.is_done = true;
            return;
        }
        if [&b"\"text\""[..], b"\"content\"", b"\"reasoning_content\""]
            .iter()
            .any(|key| has_text(data, key))
        {
            self.n_chunks += 1;
        }
        self.count(data);
    }

    fn count(&mut self, json: &[u8]) {
        if memmem::find(json, b"_tokens\"").is_none() {
            return;
        }
        self.prompt_tokens = number(json, b"\"prompt_tokens\"").or(self.prompt_tokens);
        self.output_tokens = number(json, b"\"completion_tokens\"").or(self.output_tokens);
    }
}

/// What stands after a key and its colon. Within a text of JSON a quote is escaped, so that a key in quotes followed by a colon can
/// be nothing but a key.
fn values<'a>(json: &'a [u8], key: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    memmem::find_iter(json, key).filter_map(move |at| {
        let rest = json[at + key.len()..].trim_ascii_start();
        Some(rest.strip_prefix(b":")?.trim_ascii_start())
    })
}

/// Whether a key has a text that is not empty.
fn has_text(json: &[u8], key: &[u8]) -> bool {
    values(json, key).any(|value| value.len() > 1 && value[0] == b'"' && value[1] != b'"')
}

/// The last number under a key.
fn number(json: &[u8], key: &[u8]) -> Option<i64> {
    let value = values(json, key).last()?;
    let digits = value.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(value.len());
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\": \"say \\\"completion_tokens\\\": 99\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"index\":0,\"text\":\" b\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\": 5,\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn a_stream_tells_the_same_however_it_is_cut() {
        for size in [1, 2, 7, 64, STREAM.len()] {
            let mut watch = Watch::new(true);
            let n: u64 = STREAM.as_bytes().chunks(size).map(|piece| watch.see(piece)).sum();
            watch.end();
            assert_eq!((n, watch.n_chunks), (2, 2), "{size}");
            assert_eq!((watch.prompt_tokens, watch.output_tokens), (Some(5), Some(2)), "{size}");
            assert!(watch.is_done);
        }
    }

    #[test]
    fn a_body_tells_at_its_end() {
        let body = format!(
            "{{\"choices\":[{{\"text\":\"{} \\\"completion_tokens\\\":7 \"}}],\"usage\":{{\"completion_tokens\":3,\"prompt_tokens\":4}}}}",
            "x".repeat(300_000)
        );
        let mut watch = Watch::new(false);
        for piece in body.as_bytes().chunks(1000) {
            watch.see(piece);
        }
        watch.end();
        assert_eq!((watch.output_tokens, watch.prompt_tokens), (Some(3), Some(4)));
        assert!(watch.kept.is_empty());
    }

    #[test]
    fn lines_without_an_end_use_no_memory_without_end() {
        let mut watch = Watch::new(true);
        for _ in 0..100 {
            watch.see(&[b'x'; 10_000]);
        }
        assert!(watch.kept.capacity() <= 2 * KEPT_BYTES);
        assert_eq!(watch.see(b"\ndata: {\"choices\":[{\"text\":\"a\"}]}\n"), 1);
    }

    #[test]
    fn what_is_not_told_is_unknown() {
        let mut watch = Watch::new(false);
        watch.see(b"<html>");
        watch.end();
        assert_eq!((watch.output_tokens, watch.prompt_tokens, watch.n_chunks), (None, None, 0));
    }
}
