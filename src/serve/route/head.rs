//! Heads of requests, held to the letter before any parser reads them.
//!
//! Two programs that read the same bytes as different requests are how requests are smuggled (RFC 9112, section 11.2; Linhart et
//! al. 2005). Whatever could be read in two ways is refused here, whether or not the parser behind would read it as we do: a bare
//! CR or LF, a folded line, white space around a field's name, a second or odd `content-length`, any `transfer-encoding` but
//! `chunked`, both of them together, a missing or second `host`.

use memchr::memmem;

/// How the body of a request is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes follow.
    Length(u64),
    /// Chunks follow.
    Chunked,
}

/// Why a request is refused: its status and one clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// What was expected.
    pub(super) why: &'static str,
}

/// What a head may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadLimits {
    /// Bytes, with the empty line.
    pub(super) bytes: usize,
    /// Fields.
    pub(super) fields: usize,
    /// Bytes of the body that it announces.
    pub(super) body_bytes: u64,
}

/// Longest line with method and target.
const REQUEST_LINE_BYTES_MAX: usize = 4096;

/// What is known of bytes that begin a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The head has not ended; nothing is wrong yet.
    Partial,
    /// It ended: its bytes, and what follows them.
    Whole(usize, Framing),
}

const fn refuse(status: u16, why: &'static str) -> Refusal {
    Refusal { status, why }
}

/// Looks at bytes that begin with a request. The first `looked` of them were found to be a partial head before: a head that comes byte
/// by byte is looked at once, not once a byte.
///
/// # Errors
/// They cannot become a request that is taken.
pub(super) fn inspect(
    bytes: &[u8],
    looked: usize,
    limits: &HeadLimits,
) -> Result<Progress, Refusal> {
    // The last line end may have been cut within.
    let from = looked.saturating_sub(3);
    let end = memmem::find(&bytes[from..], b"\r\n\r\n").map(|at| from + at + 4);
    let head = &bytes[..end.unwrap_or(bytes.len())];
    if head.len() > limits.bytes {
        return Err(refuse(431, "the header fields are too large"));
    }
    line_ends(head, from, end.is_some())?;
    if head.first().is_some_and(|first| !first.is_ascii_uppercase()) {
        return Err(refuse(400, "expected a method in capital letters"));
    }
    match end {
        None => Ok(Progress::Partial),
        Some(end) => Ok(Progress::Whole(end, framing(&head[..end - 4], limits)?)),
    }
}

/// CR and LF come as pairs, and no other control character comes at all, from some byte on.
fn line_ends(head: &[u8], from: usize, whole: bool) -> Result<(), Refusal> {
    for (at, byte) in head.iter().enumerate().skip(from) {
        let fine = match byte {
            b'\n' => at > 0 && head[at - 1] == b'\r',
            b'\r' => head.get(at + 1).map_or(!whole, |next| *next == b'\n'),
            b'\t' => true,
            control => *control >= 0x20 && *control != 0x7f,
        };
        if !fine {
            return Err(refuse(
                400,
                "expected lines that end in CR LF, without control characters",
            ));
        }
    }
    Ok(())
}

/// Checks the lines of a head whose line ends are sound.
fn framing(head: &[u8], limits: &HeadLimits) -> Result<Framing, Refusal> {
    let mut lines =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let is_11 = request_line(lines.next().unwrap_or_default())?;
    let mut seen = Fields::default();
    for line in lines {
        seen.take(line)?;
        if seen.n > limits.fields {
            return Err(refuse(431, "there are too many header fields"));
        }
    }
    seen.framing(is_11, limits)
}

/// `METHOD SP /target SP HTTP/1.x`; whether it is HTTP/1.1.
fn request_line(line: &[u8]) -> Result<bool, Refusal> {
    if line.len() > REQUEST_LINE_BYTES_MAX {
        return Err(refuse(414, "the request line is too long"));
    }
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(refuse(400, "expected a method, a target and a version"));
    };
    if method.is_empty() || !method.iter().all(u8::is_ascii_uppercase) {
        return Err(refuse(400, "expected a method in capital letters"));
    }
    let is_11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        other if other.starts_with(b"HTTP/") => return Err(refuse(505, "expected HTTP/1.1")),
        _ => return Err(refuse(400, "expected a method, a target and a version")),
    };
    if target.first() != Some(&b'/') || !target.iter().all(u8::is_ascii_graphic) {
        return Err(refuse(400, "expected a target that begins with a slash"));
    }
    Ok(is_11)
}

/// What the fields of a head say about its body.
#[derive(Default)]
struct Fields {
    n: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Fields {
    fn take(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.n += 1;
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(refuse(400, "expected no folded header lines"));
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err(refuse(400, "expected a colon in each header line"));
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(refuse(400, "expected a header name without white space"));
        }
        match () {
            () if name.eq_ignore_ascii_case(b"host") => self.hosts += 1,
            () if name.eq_ignore_ascii_case(b"content-length") => self.set_length(value)?,
            () if name.eq_ignore_ascii_case(b"transfer-encoding") => self.set_chunked(value)?,
            () if name.eq_ignore_ascii_case(b"expect") => expect(value)?,
            () => {}
        }
        Ok(())
    }

    fn set_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
        let number =
            std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        match (number, self.length) {
            (Some(number), None) => self.length = Some(number),
            (Some(_), Some(_)) => return Err(refuse(400, "expected one content-length")),
            (None, _) => return Err(refuse(400, "expected digits in content-length")),
        }
        Ok(())
    }

    fn set_chunked(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(refuse(400, "expected one transfer-encoding, chunked"));
        }
        self.chunked = true;
        Ok(())
    }

    fn framing(self, is_11: bool, limits: &HeadLimits) -> Result<Framing, Refusal> {
        match (is_11, self.hosts) {
            (true, 1) | (false, 0 | 1) => {}
            _ => return Err(refuse(400, "expected one host")),
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => {
                Err(refuse(400, "expected content-length or transfer-encoding, not both"))
            }
            (true, None) if !is_11 => Err(refuse(400, "expected no transfer-encoding in HTTP/1.0")),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) if length > limits.body_bytes => {
                Err(refuse(413, "the body is too large"))
            }
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

fn expect(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"100-continue") {
        return Ok(());
    }
    Err(refuse(417, "expected 100-continue or no expectation"))
}

/// A character of a field's name (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 512, fields: 8, body_bytes: 1000 };

    fn status(text: &str) -> u16 {
        match inspect(text.as_bytes(), 0, &LIMITS) {
            Ok(progress) => panic!("expected a refusal of {text:?}, got {progress:?}"),
            Err(refusal) => refusal.status,
        }
    }

    fn post(fields: &str) -> String {
        format!("POST /v1/completions HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
    }

    #[test]
    fn sound_heads_pass_with_their_framing() {
        let whole = |text: &str| inspect(text.as_bytes(), 0, &LIMITS);
        let length = post("Content-Length: 12\r\n");
        let body = format!("{length}anything\nat\rall");
        assert_eq!(whole(&body), Ok(Progress::Whole(length.len(), Framing::Length(12))));
        let chunked = post("Transfer-Encoding: Chunked\r\nExpect: 100-continue\r\n");
        assert_eq!(whole(&chunked), Ok(Progress::Whole(chunked.len(), Framing::Chunked)));
        let old = "GET /health HTTP/1.0\r\n\r\n";
        assert_eq!(whole(old), Ok(Progress::Whole(old.len(), Framing::Length(0))));
    }

    #[test]
    fn every_beginning_of_a_sound_head_is_partial() {
        let head = post("Content-Length: 12\r\nX-Request-Id: a b\tc\r\n");
        for n in 0..head.len() {
            assert_eq!(inspect(&head.as_bytes()[..n], 0, &LIMITS), Ok(Progress::Partial), "{n}");
        }
    }

    /// Inspects a text as it comes, byte by byte.
    fn byte_by_byte(text: &str) -> Result<Progress, Refusal> {
        for n in 1..=text.len() {
            match inspect(&text.as_bytes()[..n], n - 1, &LIMITS) {
                Ok(Progress::Partial) => {}
                decided => return decided,
            }
        }
        Ok(Progress::Partial)
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_taken_or_refused_as_one_that_comes_whole() {
        let long = "X: a\r\n".repeat(200);
        for fields in [
            "Content-Length: 12\r\n",
            "X: a\nContent-Length: 1\r\n",
            "X: a\rContent-Length: 1\r\n",
            "X: a\r\r\n",
            "X: a\r\n b\r\n",
            "X: \u{0}\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            &long,
        ] {
            let text = post(fields);
            let whole = inspect(text.as_bytes(), 0, &LIMITS);
            assert_eq!(byte_by_byte(&text), whole, "{fields:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1 2\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length : 1\r\n",
            " Content-Length: 1\r\n",
            "X: a\r\n b\r\n",
            "X: a\r\n\tContent-Length: 1\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "Transfer\u{0}-Encoding: chunked\r\n",
            "Host: y\r\n",
            "X: a\nContent-Length: 1\r\n",
            "X: a\rContent-Length: 1\r\n",
            "no colon\r\n",
            ": empty\r\n",
        ] {
            assert_eq!(status(&post(fields)), 400, "{fields:?}");
        }
    }

    #[test]
    fn request_lines_have_one_form() {
        for line in [
            "POST  / HTTP/1.1",
            "POST / HTTP/1.1 ",
            "post / HTTP/1.1",
            "POST http://x/ HTTP/1.1",
            "CONNECT x:1 HTTP/1.1",
            "POST / http/1.1",
            "GET /",
            "POST /\u{e9} HTTP/1.1",
        ] {
            assert_eq!(status(&format!("{line}\r\nHost: x\r\n\r\n")), 400, "{line:?}");
        }
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\n"), 505);
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400, "no host");
        assert_eq!(status("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
        assert_eq!(status("\u{16}\u{3}\u{1}"), 400, "a TLS client says hello");
        assert_eq!(status("GET / HTTP/1.1\n"), 400, "a bare line feed needs no whole head");
    }

    #[test]
    fn sizes_have_limits() {
        assert_eq!(status(&post(&format!("X: {}\r\n", "a".repeat(600)))), 431);
        assert_eq!(status(&"X".repeat(600)), 431);
        assert_eq!(status(&post(&"X: a\r\n".repeat(20))), 431);
        assert_eq!(status(&post("Content-Length: 1001\r\n")), 413);
        assert_eq!(status(&post("Expect: miracles\r\n")), 417);
        let long = HeadLimits { bytes: 10_000, ..LIMITS };
        let line = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(5000));
        assert_eq!(inspect(line.as_bytes(), 0, &long).unwrap_err().status, 414);
    }
}
