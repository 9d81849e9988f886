//! Logs of engines. They grow to gigabytes, so only their beginning and their end are ever read.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

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
    format!("last lines of {}:\n    {}", log.display(), lines.join("\n    "))
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
        .map(|line| line.chars().take(300).collect())
        .collect();
    lines[lines.len().saturating_sub(n)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

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
