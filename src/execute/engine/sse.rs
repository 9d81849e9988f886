//! Splits bytes into server-sent events, however the network cut them. No I/O and no clock.
//!
//! Bytes stay bytes until an event is complete, so a character cut in two by a read is never damaged. Two deliberate
//! differences from the WHATWG algorithm: an event that the end of the stream left without its blank line is handed out
//! by [`Splitter::finish`] (llama.cpp builds have ended streams that way), and an event without data is not handed out.

use memchr::memchr2;

/// Longest event that is accepted, in bytes, lines and all.
pub const EVENT_LIMIT_BYTES: usize = 8 * 1024 * 1024;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `data` lines, joined by line feeds.
    pub data: Vec<u8>,
}

impl Event {
    /// Whether it is OpenAI's mark for the end of a stream.
    pub fn is_done(&self) -> bool {
        self.data.trim_ascii() == b"[DONE]"
    }
}

/// An event grew past the limit: this is no event stream, or not one to keep in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an event of at most {limit} bytes, got more")]
pub struct TooLong {
    /// The limit in bytes.
    pub limit: usize,
}

/// Takes bytes in any pieces and gives events.
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
    first_line: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::with_limit(EVENT_LIMIT_BYTES)
    }
}

impl Splitter {
    /// A splitter that refuses events longer than `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            first_line: true,
        }
    }

    /// Takes the next bytes and hands each event to `on_event` that they complete. After an error the splitter is of no
    /// further use.
    pub fn feed(&mut self, bytes: &[u8], mut on_event: impl FnMut(Event)) -> Result<(), TooLong> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // A line feed after a carriage return belongs to the same line end, even when a read lies between them.
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', rest) else {
                return self.keep(rest);
            };
            self.keep(&rest[..end])?;
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if let Some(event) = self.end_line() {
                on_event(event);
            }
        }
        Ok(())
    }

    /// The event that the end of the stream left without its blank line.
    pub fn finish(mut self) -> Option<Event> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.dispatch()
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() + part.len() > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let mut text = line.as_slice();
        if std::mem::take(&mut self.first_line) {
            text = text.strip_prefix(BOM).unwrap_or(text);
        }
        if text.is_empty() {
            return self.dispatch();
        }
        self.field(text);
        // The buffer goes back so that a stream of lines allocates once.
        self.line = line;
        self.line.clear();
        None
    }

    fn field(&mut self, line: &[u8]) {
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        // Comments have an empty name; `event`, `id` and `retry` say nothing about an answer.
        if name == b"data" {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.has_data = true;
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        std::mem::take(&mut self.has_data).then(|| Event { data: std::mem::take(&mut self.data) })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut events = Vec::new();
        for piece in pieces {
            splitter.feed(piece, |event| events.push(event)).unwrap();
        }
        events.extend(splitter.finish());
        events.into_iter().map(|event| String::from_utf8(event.data).unwrap()).collect()
    }

    fn whole(text: &str) -> Vec<String> {
        split(&[text.as_bytes()])
    }

    #[test]
    fn line_ends_comments_and_fields() {
        for end in ["\n", "\r\n", "\r"] {
            let text =
                "event: x: y\n: note\ndata: a\ndata:b\nid: 1\n\ndata:  c\n\n\n: only a comment\n\n";
            assert_eq!(whole(&text.replace('\n', end)), ["a\nb", " c"], "line end {end:?}");
        }
        assert_eq!(whole("data: a\n\ndata: [DONE]"), ["a", "[DONE]"]);
        assert_eq!(whole("\u{feff}data: a\n\n"), ["a"]);
        assert_eq!(whole("data\n\n"), [""]);
        assert!(whole("event: ping\n\n").is_empty());
    }

    #[test]
    fn mixed_line_ends_in_one_stream() {
        assert_eq!(whole("data: a\r\n\ndata: b\r\rdata: c\n\r\n"), ["a", "b", "c"]);
    }

    #[test]
    fn a_character_over_two_reads_survives() {
        let bytes = "data: é漢🙂\n\n".as_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(split(&[&bytes[..cut], &bytes[cut..]]), ["é漢🙂"], "cut at {cut}");
        }
    }

    #[test]
    fn an_event_is_out_with_its_last_byte() {
        let mut splitter = Splitter::default();
        let mut n = 0;
        splitter.feed(b"data: a\r\n\r", |_| n += 1).unwrap();
        assert_eq!(n, 1, "the line feed after the last carriage return is not waited for");
        splitter.feed(b"\ndata: b\r\n\r\n", |_| n += 1).unwrap();
        assert_eq!(n, 2);
    }

    #[test]
    fn a_megabyte_passes_and_the_limit_holds() {
        let line = format!("data: {}\n\n", "x".repeat(1 << 20));
        assert_eq!(whole(&line)[0].len(), 1 << 20);
        let mut small = Splitter::with_limit(16);
        assert_eq!(small.feed(b"data: 0123456789ab", |_| ()), Err(TooLong { limit: 16 }));
        let mut many = Splitter::with_limit(16);
        assert!(
            many.feed(&b"data: 01234\n".repeat(9), |_| ()).is_err(),
            "many short lines count together"
        );
    }

    #[test]
    fn done_is_recognised() {
        assert!(Event { data: b"[DONE]".to_vec() }.is_done());
        assert!(!Event { data: b"{\"a\":\"[DONE]\"}".to_vec() }.is_done());
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the number of fuzz cases is the test runner's to choose"
    )]
    fn cases() -> u32 {
        std::env::var("KVBENCH_FUZZ_CASES")
            .map_or(256, |text| text.parse().expect("KVBENCH_FUZZ_CASES is a number"))
    }

    fn oracle(text: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let stream =
            futures_util::stream::iter([Ok::<_, std::convert::Infallible>(text.to_owned())]);
        runtime.block_on(
            eventsource_stream::EventStream::new(stream).map(|event| event.unwrap().data).collect(),
        )
    }

    fn lines() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            4 => "data: ?[a-z{}\": é漢]{1,12}",
            1 => ": [a-z]{0,5}",
            1 => "(event|id|retry): ?[0-9]{1,4}",
            2 => Just(String::new()),
        ];
        (proptest::collection::vec(line, 0..24), prop_oneof![Just("\n"), Just("\r\n"), Just("\r")])
            .prop_map(|(lines, end)| {
                lines.iter().map(|line| format!("{line}{end}")).collect::<String>() + end
            })
    }

    fn pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

        #[test]
        fn any_split_gives_the_same_events(
            text in lines(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let pieces = pieces(text.as_bytes(), &cuts);
            let refs: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(split(&refs), whole(&text));
        }

        #[test]
        fn agrees_with_eventsource_stream(text in lines()) {
            // The oracle waits for what follows a last carriage return; a comment ends its wait.
            prop_assert_eq!(whole(&text), oracle(&format!("{text}: end\n")));
        }

        #[test]
        fn any_bytes_in_any_split(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..64),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let collect = |pieces: &[Vec<u8>]| {
                let mut splitter = Splitter::default();
                let mut events = Vec::new();
                for piece in pieces {
                    splitter.feed(piece, |event| events.push(event)).unwrap();
                }
                events.extend(splitter.finish());
                events
            };
            prop_assert_eq!(collect(&pieces(&bytes, &cuts)), collect(std::slice::from_ref(&bytes)));
        }
    }
}
