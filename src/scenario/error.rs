//! One sentence with the place and the remedy.

/// Why a scenario was refused: `file:line:column: what\n  hint: remedy`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}:{line}:{column}: {message}\n  hint: {hint}")]
pub struct ScenarioError {
    /// Path of the file, as the user gave it.
    pub origin: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was expected and what was found.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// An error before its place is known by line: byte offset, message, hint.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Fault {
    pub(super) fn new(at: usize, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { at, message: message.into(), hint: hint.into() }
    }

    pub(super) fn locate(self, text: &str, origin: &str) -> ScenarioError {
        let (line, column) = place(text, self.at);
        ScenarioError {
            origin: origin.to_owned(),
            line,
            column,
            message: self.message,
            hint: self.hint,
        }
    }
}

/// Line and column of a byte offset, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The parser's error in our words.
pub(super) fn translate(error: &toml::de::Error) -> Fault {
    let message = reword(error.message());
    let hint = hint_for(&message);
    Fault::new(error.span().map_or(0, |span| span.start), message, hint)
}

fn reword(message: &str) -> String {
    let one_line = message.split('\n').map(str::trim).collect::<Vec<_>>().join("; ");
    for prefix in ["invalid type: ", "invalid value: ", "invalid length "] {
        let Some(rest) = one_line.strip_prefix(prefix) else { continue };
        if let Some((got, expected)) = rest.split_once(", expected ") {
            return format!("expected {expected}, got {got}");
        }
    }
    one_line
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("unknown variant", "unknown name")
}

fn hint_for(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    match names.next() {
        Some(given) if message.starts_with("unknown ") => match nearest(given, names) {
            Some(close) => format!("did you mean `{close}`?"),
            None => SEE_README.to_owned(),
        },
        Some(key) if message.starts_with("missing key") => {
            format!("add `{key}`; scenarios/README.md says what it holds")
        }
        _ if message.contains("exactly 1 element") => {
            "name one kind in the header, as in `[target.cpu.kernel]` or `[method.fp16.fp16]`"
                .to_owned()
        }
        _ => SEE_README.to_owned(),
    }
}

/// The hint where nothing closer is known.
pub(super) const SEE_README: &str =
    "scenarios/README.md lists every key, `kvbench schema` prints them for editors";

/// The candidate closest to `given`, if it is close enough to be a slip of the finger.
pub(super) fn nearest<'a>(
    given: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let given = given.get(..given.len().min(64)).unwrap_or("");
    candidates
        .map(|candidate| (distance(given, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= 1 + candidate.len() / 4)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance over bytes, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitution = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("servic_ms", ["service_ms", "url"].into_iter()), Some("service_ms"));
        assert_eq!(nearest("zzzz", ["service_ms", "url"].into_iter()), None);
    }

    #[test]
    fn places_count_characters() {
        assert_eq!(place("a\nüb = 1", 4), (2, 2));
        assert_eq!(place("", 10), (1, 1));
    }
}
