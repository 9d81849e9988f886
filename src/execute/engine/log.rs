//! Logs of engines. They grow to gigabytes, so only their beginning and their end are ever read.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use crate::units::harmless;

/// Lines of the log that an error shows.
const LOG_LINES: usize = 12;
/// Read of each end of a log in which facts are looked for: an engine tells them while it starts.
pub(super) const END_BYTES: u64 = 4 << 20;

/// What was read of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Whole lines of its beginning and its end.
    pub(super) text: String,
    /// Bytes between them that were not read.
    pub(super) left_out: u64,
}

/// Both ends of a log, at most `end_bytes` each.
///
/// # Errors
/// It cannot be read.
pub(super) fn ends(log: &Path, end_bytes: u64) -> std::io::Result<Ends> {
    let mut file = File::open(log)?;
    let len = file.metadata()?.len();
    let mut head = Vec::new();
    if len <= 2 * end_bytes {
        file.take(2 * end_bytes).read_to_end(&mut head)?;
        return Ok(Ends { text: String::from_utf8_lossy(&head).into_owned(), left_out: 0 });
    }
    file.by_ref().take(end_bytes).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(len - end_bytes))?;
    let mut tail = Vec::new();
    file.take(end_bytes).read_to_end(&mut tail)?;
    // A line that is cut could be taken for a shorter fact.
    let head_end = head.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let tail_start = tail.iter().position(|byte| *byte == b'\n').map_or(tail.len(), |at| at + 1);
    let text = [&head[..head_end], &tail[tail_start..]].concat();
    Ok(Ends {
        text: String::from_utf8_lossy(&text).into_owned(),
        left_out: len.saturating_sub(text.len() as u64),
    })
}

/// The end of a log, for an error.
pub(super) fn tail(log: &Path) -> String {
    let lines = last_lines(log, LOG_LINES);
    if lines.is_empty() {
        return format!("its log {} is empty", log.display());
    }
    let shown = format!("last lines of {}:\n    {}", log.display(), lines.join("\n    "));
    match first_error(log).filter(|error| !lines.contains(error)) {
        Some(error) => format!("first error in its log: {}\n  {shown}", error.trim_start()),
        None => shown,
    }
}

/// A Python engine prints the cause first and ends with pages of what followed from it.
fn first_error(log: &Path) -> Option<String> {
    let text = ends(log, END_BYTES).ok()?.text;
    let told = |line: &&str| {
        let warns = line.contains("WARN") || line.contains("Warning");
        !warns && ["Error: ", "error: "].iter().any(|word| line.contains(word))
    };
    text.lines().find(told).map(short)
}

/// As much of a line as is shown, and nothing in it that a terminal would obey.
fn short(line: &str) -> String {
    harmless(&line.trim_end().chars().take(300).collect::<String>())
}

pub(super) fn last_line(log: &Path) -> String {
    let line = last_lines(log, 1).pop().unwrap_or_default();
    line.chars().take(60).collect()
}

/// Reads at most the last 16 KiB: logs grow to gigabytes.
fn last_lines(log: &Path, n: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(16 << 10)))?;
        let mut bytes = Vec::new();
        file.take(16 << 10).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<String> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.starts_with("$ "))
        .map(short)
        .collect();
    lines[lines.len().saturating_sub(n)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_shown_above_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let more = "    at module.py, line 7\n".repeat(40);
        let text = format!(
            "WARNING: fd limits cause `OSError: 24`\n  \u{1b}[31mNotImplementedError: needs AVX-512\n{more}\
             RuntimeError: see root cause above\n"
        );
        std::fs::write(&log, text).unwrap();
        let shown = tail(&log);
        assert!(
            shown.starts_with("first error in its log: \\u{1b}[31mNotImplementedError"),
            "{shown}"
        );
        assert!(shown.ends_with("RuntimeError: see root cause above"), "{shown}");
        std::fs::write(&log, "error: no such flag\n").unwrap();
        assert!(tail(&log).starts_with("last lines of"), "what is in sight is not said twice");
    }

    #[test]
    fn a_long_log_is_read_at_its_ends_by_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "size = 123\nmiddle one\nmiddle two\nlast = 456\n").unwrap();
        let whole = ends(&log, 1000).unwrap();
        assert_eq!((whole.left_out, whole.text.lines().count()), (0, 4));
        let some = ends(&log, 16).unwrap();
        assert_eq!(some, Ends { text: "size = 123\nlast = 456\n".to_owned(), left_out: 22 });
        // A cut line is left out altogether.
        assert_eq!(ends(&log, 7).unwrap().text, "");
    }
}
