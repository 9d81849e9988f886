//! What the terminal is and how to write to it: data on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};

use crate::{
    report::{Format, Table, render},
    units::harmless,
};

/// How a command talks. Made once, from the global flags and the environment.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// Format of tables.
    pub format: Format,
    /// Colour on stdout; off with `NO_COLOR` or when it is not a terminal.
    pub color: bool,
    /// Progress bars on stderr: only on a terminal and without `-q`.
    pub progress: bool,
    /// `-q`: no notes, only results and errors.
    pub quiet: bool,
}

impl Ui {
    /// Looks at the terminal once. `no_color` is whether `NO_COLOR` is set and not empty.
    pub fn new(format: Format, quiet: bool, no_color: bool) -> Self {
        Self {
            format,
            color: !no_color && std::io::stdout().is_terminal(),
            progress: !quiet && std::io::stderr().is_terminal(),
            quiet,
        }
    }

    /// Writes a result to stdout. A closed pipe (`| head`) is not an error.
    pub fn out(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    /// Tables one after the other for people; of several a CSV holds the first, which is said.
    pub fn tables(&self, tables: &[Table]) -> String {
        let one = |table: &Table| render(table, self.format, self.color);
        match self.format {
            Format::Csv => {
                if tables.len() > 1 {
                    self.note("note: a CSV holds one table, the first; --format json has all");
                }
                tables.first().map(one).unwrap_or_default()
            }
            _ => tables.iter().map(one).collect::<Vec<_>>().join("\n"),
        }
    }

    /// Writes a note to stderr unless `-q` was given. A closed stderr loses notes, never results. Notes quote logs, answers
    /// and files of others, so what a terminal would obey is spelled.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            drop(writeln!(std::io::stderr().lock(), "{}", harmless(text)));
        }
    }
}

/// Writes the one error line of a failed command, its causes joined, and its hints below, to stderr; what a
/// terminal would obey is spelled.
pub fn error(error: &anyhow::Error) {
    drop(writeln!(std::io::stderr().lock(), "error: {}", harmless(&sentence(error))));
}

/// What went wrong with its causes, then the hints: joined as they come, a cause would read as the end of the hint before it.
fn sentence(error: &anyhow::Error) -> String {
    let (mut said, mut hints) = (Vec::new(), String::new());
    for cause in error.chain().map(ToString::to_string) {
        let at = cause.find(HINT).unwrap_or(cause.len());
        said.push(cause[..at].to_owned());
        hints.push_str(&cause[at..]);
    }
    said.join(": ") + &hints
}

/// How the hint of an error begins.
const HINT: &str = "\n  hint: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stand_below_all_causes() {
        let error = anyhow::anyhow!("no such file\n  hint: look for it");
        let error = error.context("t.csv: cannot be opened\n  hint: the path is relative");
        assert_eq!(
            sentence(&error),
            "t.csv: cannot be opened: no such file\n  hint: the path is relative\n  hint: look for it"
        );
        assert_eq!(sentence(&anyhow::anyhow!("plain")), "plain");
    }
}
