//! Workflow commands of GitHub Actions: each becomes an annotation of the run and of the pull request.

use super::{because, headline, sentence};
use crate::analyse::versus::{Finding, Outcome, Versus};

/// One command a line: what fails first, since GitHub shows ten of a kind.
pub fn github(all: &[Versus]) -> String {
    let mut out = String::new();
    for versus in all {
        for mismatch in &versus.mismatches {
            out += &command("error", "cannot judge", &because(mismatch));
        }
        for gate in versus.gates.iter().filter(|gate| gate.trips) {
            let why = if gate.outcome == Outcome::Fail { "worse" } else { "unclear" };
            out += &command("error", &format!("{why}: {}", gate.metric), &sentence(gate));
        }
        let unclear = |gate: &&_| is_unclear(gate);
        for gate in versus.gates.iter().filter(unclear) {
            let title = format!("unclear: {}", gate.metric);
            out += &command("warning", &title, &sentence(gate));
        }
        for note in &versus.notes {
            out += &command("notice", "kvbench compare", note);
        }
        let kind = if versus.finding() == Finding::Pass { "notice" } else { "error" };
        out += &command(kind, "kvbench compare", &headline(versus));
    }
    out
}

fn is_unclear(gate: &crate::analyse::versus::Gated) -> bool {
    gate.outcome == Outcome::Unclear && !gate.trips
}

fn command(kind: &str, title: &str, message: &str) -> String {
    format!("::{kind} title={}::{}\n", property(title), data(message))
}

/// As the runner unescapes messages.
fn data(text: &str) -> String {
    crate::units::harmless(&text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A"))
}

/// As the runner unescapes properties.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_one_command() {
        let said = command("error", "a: b, c", "50 %\n::error::forged");
        assert_eq!(said, "::error title=a%3A b%2C c::50 %25%0A::error::forged\n");
        assert_eq!(said.lines().count(), 1);
    }
}
