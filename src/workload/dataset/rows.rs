//! Cuts a file into rows without holding the file: elements of a JSON array, or lines.

use std::io::{self, BufRead};

use anyhow::bail;
use serde_json::Value;

/// Longest row; longer ones are skipped and counted as bad.
const ROW_BYTES_MAX: usize = 64 << 20;
/// Byte order mark of UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The bytes of one row.
#[derive(Debug, Default)]
pub(in crate::workload) struct Raw {
    /// Line on which it starts, from 1.
    pub(in crate::workload) line: u64,
    bytes: Vec<u8>,
    too_long: bool,
}

impl Raw {
    fn at(line: u64) -> Self {
        Self { line, ..Self::default() }
    }

    fn push(&mut self, byte: u8) {
        if self.bytes.len() < ROW_BYTES_MAX {
            self.bytes.push(byte);
        } else {
            self.too_long = true;
        }
    }

    fn whole(&self) -> Result<&[u8], String> {
        if self.too_long {
            return Err(format!(
                "expected at most {} MiB in one row, got more",
                ROW_BYTES_MAX >> 20
            ));
        }
        Ok(&self.bytes)
    }

    /// The row as JSON.
    pub(in crate::workload) fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(self.whole()?).map_err(|error| format!("expected JSON: {error}"))
    }

    /// The row as text.
    pub(in crate::workload) fn text(&self) -> Result<&str, String> {
        let text = std::str::from_utf8(self.whole()?);
        text.map(str::trim).map_err(|error| format!("expected UTF-8: {error}"))
    }
}

/// Elements of one top-level array. A malformed element does not end the file as long as its quotes and brackets
/// match; that is why rows are cut here and not by the JSON parser.
pub(in crate::workload) struct ArrayRows<R> {
    reader: R,
    line: u64,
    started: bool,
}

impl<R: BufRead> ArrayRows<R> {
    pub(in crate::workload) fn new(reader: R) -> Self {
        Self { reader, line: 1, started: false }
    }

    /// The next element, `None` after the closing bracket.
    pub(in crate::workload) fn next(&mut self) -> anyhow::Result<Option<Raw>> {
        let first = if self.started { self.next_element()? } else { self.first_element()? };
        match first {
            Some(byte) => self.element(byte).map(Some),
            None => self.only_blanks_follow(),
        }
    }

    /// First byte of the first element, `None` for an empty array.
    fn first_element(&mut self) -> anyhow::Result<Option<u8>> {
        self.started = true;
        if self.reader.fill_buf()?.starts_with(BOM) {
            self.reader.consume(BOM.len());
        }
        match self.solid()? {
            Some(b'[') => {}
            Some(other) => bail!(
                "line {}: expected `[`, got `{}`\n  hint: ShareGPT files hold one array; one object a line is `longbench`",
                self.line,
                other.escape_ascii()
            ),
            None => bail!("expected a JSON array, got an empty file"),
        }
        match self.solid()? {
            Some(b']') => Ok(None),
            Some(byte) => Ok(Some(byte)),
            None => self.cut_off(),
        }
    }

    /// [`Self::element`] stops before the `,` or `]` that ends it.
    fn next_element(&mut self) -> anyhow::Result<Option<u8>> {
        match self.solid()? {
            Some(b']') => Ok(None),
            Some(b',') => match self.solid()? {
                Some(byte) => Ok(Some(byte)),
                None => self.cut_off(),
            },
            Some(other) => {
                bail!("line {}: expected `,` or `]`, got `{}`", self.line, other.escape_ascii())
            }
            None => self.cut_off(),
        }
    }

    fn element(&mut self, first: u8) -> anyhow::Result<Raw> {
        let mut raw = Raw::at(self.line);
        let mut nesting = Nesting::default();
        let mut next = Some(first);
        while let Some(byte) = next {
            nesting.see(byte);
            raw.push(byte);
            match self.peek()? {
                Some(b',' | b']') if nesting.is_outside() => return Ok(raw),
                Some(_) => next = self.byte()?,
                None => next = None,
            }
        }
        self.cut_off()
    }

    fn only_blanks_follow(&mut self) -> anyhow::Result<Option<Raw>> {
        match self.solid()? {
            None => Ok(None),
            Some(other) => bail!(
                "line {}: expected the end of the file after the array, got `{}`",
                self.line,
                other.escape_ascii()
            ),
        }
    }

    fn cut_off<T>(&self) -> anyhow::Result<T> {
        bail!(
            "line {}: expected `]`, got the end of the file\n  hint: the file was cut off; download or generate it again",
            self.line
        )
    }

    /// The next byte that is no white space.
    fn solid(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.byte()? {
                Some(b' ' | b'\t' | b'\r' | b'\n') => {}
                other => return Ok(other),
            }
        }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let Some(byte) = self.peek()? else { return Ok(None) };
        self.reader.consume(1);
        self.line += u64::from(byte == b'\n');
        Ok(Some(byte))
    }
}

/// Whether a position lies inside a text or a bracket.
#[derive(Debug, Default)]
struct Nesting {
    depth: u64,
    in_text: bool,
    escaped: bool,
}

impl Nesting {
    fn see(&mut self, byte: u8) {
        match (self.in_text, byte) {
            (true, _) if self.escaped => self.escaped = false,
            (true, b'\\') => self.escaped = true,
            (_, b'"') => self.in_text = !self.in_text,
            (false, b'{' | b'[') => self.depth += 1,
            (false, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn is_outside(&self) -> bool {
        !self.in_text && self.depth == 0
    }
}

/// Lines that are not blank. `\n` and `\r\n` both end one.
pub(in crate::workload) struct LineRows<R> {
    reader: R,
    line: u64,
}

impl<R: BufRead> LineRows<R> {
    pub(in crate::workload) fn new(reader: R) -> Self {
        Self { reader, line: 0 }
    }

    /// The next line that holds something, `None` at the end.
    pub(in crate::workload) fn next(&mut self) -> anyhow::Result<Option<Raw>> {
        while let Some(mut raw) = self.line()? {
            if raw.line == 1 && raw.bytes.starts_with(BOM) {
                raw.bytes.drain(..BOM.len());
            }
            if !raw.bytes.trim_ascii().is_empty() {
                return Ok(Some(raw));
            }
        }
        Ok(None)
    }

    fn line(&mut self) -> io::Result<Option<Raw>> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        let mut raw = Raw::at(self.line);
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = memchr::memchr(b'\n', buffer);
            let part = &buffer[..end.unwrap_or(buffer.len())];
            let fits = part.len().min(ROW_BYTES_MAX - raw.bytes.len());
            raw.bytes.extend_from_slice(&part[..fits]);
            raw.too_long |= fits < part.len();
            let n = part.len() + usize::from(end.is_some());
            self.reader.consume(n);
            if end.is_some() || n == 0 {
                return Ok(Some(raw));
            }
        }
    }
}
