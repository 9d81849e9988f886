//! Reads one HTTP/1.1 answer from bytes, however the network cut them. No I/O and no clock.
//!
//! Why not a library: the measured requests need the moment at which each piece was read, and a client library hands a
//! piece over through a second task and a buffer of its own; that was a third of the CPU of an event and 10 to 20 KB of
//! each idle stream. The head, where HTTP is intricate, is still parsed by `httparse`. Framing follows RFC 9112,
//! sections 6 and 7.1.

/// Longest head, and longest chunk-size line or trailer section.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// Most header lines of a head.
const HEADERS_MAX: usize = 128;

/// The first part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Status code, never 1xx.
    pub(super) status: u16,
    /// Value of `content-type`, where it is text.
    pub(super) content_type: Option<String>,
    keeps_open: bool,
}

/// An answer being read.
#[derive(Debug)]
pub(super) struct Reader {
    head: Option<Head>,
    state: State,
    /// Bytes have come.
    begun: bool,
    /// Bytes came after the end of the answer.
    excess: bool,
}

#[derive(Debug)]
enum State {
    /// What came of the head, or of an interim answer before it.
    Head(Vec<u8>),
    Length(u64),
    UntilClose,
    /// What came of a line with a chunk's size.
    Size(Vec<u8>),
    Chunk(u64),
    /// Bytes of the line end after a chunk that are still to come.
    ChunkEnd(u8),
    /// Bytes of trailers so far, and of the current line.
    Trailers(usize, usize),
    Done,
}

impl Default for Reader {
    fn default() -> Self {
        Self { head: None, state: State::Head(Vec::new()), begun: false, excess: false }
    }
}

impl Reader {
    /// The head, once it is complete.
    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Whether anything has come, be it a part of a head.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the answer is complete.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the connection can carry another request.
    pub(super) fn leaves_open(&self) -> bool {
        self.is_done() && !self.excess && self.head.as_ref().is_some_and(|head| head.keeps_open)
    }

    /// Takes the next bytes and appends what they hold of the body to `body`. An error ends the answer.
    pub(super) fn feed(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) -> Result<(), String> {
        self.begun |= !bytes.is_empty();
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head(seen) => {
                    seen.extend_from_slice(bytes);
                    let seen = std::mem::take(seen);
                    return self.feed_head(seen, body);
                }
                State::Length(left) | State::Chunk(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    body.extend_from_slice(&bytes[..n]);
                    bytes = &bytes[n..];
                    *left -= n as u64;
                    if *left == 0 {
                        let chunked = matches!(self.state, State::Chunk(_));
                        self.state = if chunked { State::ChunkEnd(2) } else { State::Done };
                    }
                }
                State::UntilClose => {
                    body.extend_from_slice(bytes);
                    return Ok(());
                }
                State::Size(line) => {
                    let Some(end) = take_line(line, &mut bytes)? else { return Ok(()) };
                    self.state = match size(&end)? {
                        0 => State::Trailers(0, 0),
                        left => State::Chunk(left),
                    };
                }
                State::ChunkEnd(left) => {
                    let expected = if *left == 2 { b'\r' } else { b'\n' };
                    if bytes[0] != expected {
                        return Err("broken body: expected a line end after a chunk".to_owned());
                    }
                    bytes = &bytes[1..];
                    *left -= 1;
                    if *left == 0 {
                        self.state = State::Size(Vec::new());
                    }
                }
                State::Trailers(..) => bytes = self.skip_trailers(bytes)?,
                State::Done => {
                    self.excess = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The connection was closed. `Err` says what was still to come.
    pub(super) fn close(&mut self) -> Result<(), String> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Head(_) => Err("closed before an answer's head was complete".to_owned()),
            _ => Err("closed before the end of the body".to_owned()),
        }
    }

    fn feed_head(&mut self, mut seen: Vec<u8>, body: &mut Vec<u8>) -> Result<(), String> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut parsed = httparse::Response::new(&mut headers);
            let status = parsed.parse(&seen).map_err(|error| format!("broken head: {error}"))?;
            let httparse::Status::Complete(end) = status else {
                if seen.len() > HEAD_LIMIT_BYTES {
                    return Err(format!("expected a head of at most {HEAD_LIMIT_BYTES} bytes"));
                }
                self.state = State::Head(seen);
                return Ok(());
            };
            // An interim answer (100 Continue, 103 Early Hints) is not the answer.
            if matches!(parsed.code, Some(100..200)) {
                seen.drain(..end);
                continue;
            }
            (self.head, self.state) = self::head(&parsed)?;
            return self.feed(&seen[end..], body);
        }
    }

    /// Trailers say nothing about an answer; an empty line ends them.
    fn skip_trailers<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let State::Trailers(total, line) = &mut self.state else { return Ok(bytes) };
        for (i, byte) in bytes.iter().enumerate() {
            *total += 1;
            match byte {
                b'\n' if *line == 0 => {
                    self.state = State::Done;
                    return Ok(&bytes[i + 1..]);
                }
                b'\n' => *line = 0,
                b'\r' => {}
                _ => *line += 1,
            }
            if *total > HEAD_LIMIT_BYTES {
                return Err(format!("expected trailers of at most {HEAD_LIMIT_BYTES} bytes"));
            }
        }
        Ok(&[])
    }
}

/// Moves bytes to `line` up to the end of the line; the line, once it is complete.
fn take_line(line: &mut Vec<u8>, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, String> {
    let end = memchr::memchr(b'\n', bytes);
    let n = end.map_or(bytes.len(), |end| end + 1);
    line.extend_from_slice(&bytes[..n]);
    *bytes = &bytes[n..];
    if line.len() > HEAD_LIMIT_BYTES {
        return Err(format!("expected the size of a chunk within {HEAD_LIMIT_BYTES} bytes"));
    }
    Ok(end.map(|_| std::mem::take(line)))
}

/// The size on a chunk's first line; what follows a semicolon is an extension.
fn size(line: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(line);
    let digits = text.split(';').next().unwrap_or_default().trim();
    let is_size = (1..=16).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let size = is_size.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    size.ok_or_else(|| format!("broken body: expected the size of a chunk, got {digits:?}"))
}

fn head(parsed: &httparse::Response<'_, '_>) -> Result<(Option<Head>, State), String> {
    let values = |name: &'static str| {
        let named = parsed.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name));
        named.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
    };
    let has = |name, token: &str| {
        values(name).any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(token)))
    };
    let status = parsed.code.unwrap_or_default();
    let codings = values("transfer-encoding").collect::<Vec<_>>().join(",");
    let lengths: Vec<String> = values("content-length").collect();
    let state = if matches!(status, 204 | 304) {
        State::Done
    } else if !codings.is_empty() {
        // Only what is chunked last has an end of its own.
        let last = codings.rsplit(',').next().unwrap_or_default().trim();
        if last.eq_ignore_ascii_case("chunked") {
            State::Size(Vec::new())
        } else {
            State::UntilClose
        }
    } else {
        match length(&lengths)? {
            Some(0) => State::Done,
            Some(length) => State::Length(length),
            None => State::UntilClose,
        }
    };
    let asked = if parsed.version == Some(1) { !has("connection", "close") } else { false };
    // Both framings at once is how requests are smuggled past proxies: such a connection is not used again.
    let keeps_open =
        asked && !matches!(state, State::UntilClose) && (codings.is_empty() || lengths.is_empty());
    let content_type = values("content-type").next();
    Ok((Some(Head { status, content_type, keeps_open }), state))
}

/// The one length that all headers agree on.
fn length(values: &[String]) -> Result<Option<u64>, String> {
    let mut known = None;
    for value in values.iter().flat_map(|value| value.split(',')) {
        let digits = value.trim();
        let length = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok());
        let Some(length) = length.flatten() else {
            return Err(format!("broken head: expected a content-length, got {digits:?}"));
        };
        if known.is_some_and(|known| known != length) {
            return Err("broken head: two different content-lengths".to_owned());
        }
        known = Some(length);
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `bytes` in pieces; body, and the reader.
    fn read(bytes: &[u8], piece: usize) -> (Result<(), String>, Vec<u8>, Reader) {
        let (mut reader, mut body) = (Reader::default(), Vec::new());
        let mut result = Ok(());
        for piece in bytes.chunks(piece) {
            result = result.and_then(|()| reader.feed(piece, &mut body));
        }
        (result, body, reader)
    }

    #[test]
    fn framings() {
        let chunked = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let cases = [
            (format!("{chunked}3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nt: 1\r\n\r\n"), "abcdefg", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc".to_owned(), "abc", true),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc".to_owned(),
                "abc",
                false,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc".to_owned(), "abc", false),
            ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), "", true),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"
                    .to_owned(),
                "a",
                true,
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\na".to_owned(), "a", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab".to_owned(), "a", false),
            (
                format!(
                    "{}1\r\na\r\n0\r\n\r\n",
                    chunked.replace("\r\n\r\n", "\r\ncontent-length: 9\r\n\r\n")
                ),
                "a",
                false,
            ),
        ];
        for (bytes, expected, open) in cases {
            for piece in [1, 2, 7, 4096] {
                let (result, body, reader) = read(bytes.as_bytes(), piece);
                assert_eq!(result, Ok(()), "{bytes}");
                assert_eq!(body, expected.as_bytes(), "{bytes}");
                assert!(reader.is_done(), "{bytes}");
                assert_eq!(reader.leaves_open(), open, "{bytes}");
            }
        }
        let (_, _, reader) = read(format!("{chunked}0\r\n\r\n").as_bytes(), 5);
        let head = reader.head().unwrap();
        assert_eq!((head.status, head.content_type.as_deref()), (200, Some("text/event-stream")));
    }

    #[test]
    fn only_a_body_without_an_end_of_its_own_ends_with_the_connection() {
        let mut until = read(b"HTTP/1.1 200 OK\r\n\r\nabc", 4);
        assert_eq!((until.1.as_slice(), until.2.is_done()), (b"abc".as_slice(), false));
        assert_eq!(until.2.close(), Ok(()));
        assert!(until.2.is_done() && !until.2.leaves_open());
        for (cut, said) in [
            ("", "head"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "head"),
            ("HTTP/1.1 200 OK\r\ncontent-le", "head"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc", "body"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "body"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "body"),
        ] {
            let (result, _, mut reader) = read(cut.as_bytes(), 3);
            assert_eq!(result, Ok(()));
            assert!(reader.close().unwrap_err().contains(said), "{cut}");
            assert_eq!(reader.has_begun(), !cut.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let long = "x".repeat(HEAD_LIMIT_BYTES + 1);
        for bytes in [
            "SMTP ready\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
            format!("{chunked}g\r\n"),
            format!("{chunked}11111111111111111\r\n"),
            format!("{chunked}\r\n"),
            format!("{chunked}1\r\nab"),
            format!("{chunked}1;{long}"),
            format!("{chunked}0\r\n{long}"),
            format!("HTTP/1.1 200 OK\r\nx: {long}"),
        ] {
            assert!(read(bytes.as_bytes(), 4096).0.is_err(), "{:?}", &bytes[..bytes.len().min(90)]);
        }
    }

    proptest! {
        #[test]
        fn chunks_come_back_whole(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..20), piece in 1usize..80) {
            let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            let (result, body, reader) = read(&bytes, piece);
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(body, chunks.concat());
            prop_assert!(reader.leaves_open());
        }

        #[test]
        fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..80) {
            let mut chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            chunked.extend_from_slice(&bytes);
            for bytes in [&bytes, &chunked] {
                let (_, _, mut reader) = read(bytes, piece);
                drop(reader.close());
            }
        }
    }
}
