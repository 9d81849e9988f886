//! JUnit XML, as CI systems show it: a suite a comparison, a test case a cell and gate. Written here, since the crates for it bring
//! a calendar and UUIDs for what is a page of text.

use super::{headline, sentence};
use crate::analyse::versus::{Gated, Outcome, Versus};

/// All comparisons as one document.
pub fn junit(all: &[Versus]) -> String {
    let mut out =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"kvbench compare\">\n"
            .to_owned();
    all.iter().for_each(|versus| out += &suite(versus));
    out + "</testsuites>\n"
}

fn suite(versus: &Versus) -> String {
    let failures = versus.gates.iter().filter(|gate| gate.trips).count();
    let skipped = versus.gates.iter().filter(|gate| is_skipped(gate)).count();
    let errors = versus.mismatches.len();
    let mut out = format!(
        "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">\n",
        escaped(&format!("{} against {}", versus.new, versus.base)),
        versus.gates.len() + errors,
    );
    for mismatch in &versus.mismatches {
        out += &format!(
            "    <testcase classname=\"comparable\" name=\"{}\">\n      <error message=\"{}\"/>\n    </testcase>\n",
            escaped(mismatch.kind.name()),
            escaped(&mismatch.what)
        );
    }
    versus.gates.iter().for_each(|gate| out += &case(gate));
    let said: Vec<String> =
        std::iter::once(headline(versus)).chain(versus.notes.iter().cloned()).collect();
    out + &format!("    <system-out>{}</system-out>\n  </testsuite>\n", escaped(&said.join("\n")))
}

/// Not decided, and not failed for that.
fn is_skipped(gate: &Gated) -> bool {
    gate.outcome == Outcome::Unclear && !gate.trips
}

fn case(gate: &Gated) -> String {
    let name = format!("{} {}", gate.metric, gate.limit);
    let head =
        format!("    <testcase classname=\"{}\" name=\"{}\"", escaped(&gate.cell), escaped(&name));
    let message = escaped(&sentence(gate));
    if gate.trips {
        let kind = if gate.outcome == Outcome::Fail { "regression" } else { "unclear" };
        format!(
            "{head}>\n      <failure type=\"{kind}\" message=\"{message}\"/>\n    </testcase>\n"
        )
    } else if is_skipped(gate) {
        format!("{head}>\n      <skipped message=\"unclear: {message}\"/>\n    </testcase>\n")
    } else {
        format!("{head}/>\n")
    }
}

/// Text for attributes and elements. XML 1.0 has no way to write most control characters, so they are spelled.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            '\n' => out += "&#10;",
            '\t' => out += "&#9;",
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out += &c.escape_default().to_string(),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_its_place() {
        assert_eq!(
            escaped("a<b>&\"c'\n\u{1}\u{1b}[0m"),
            "a&lt;b&gt;&amp;&quot;c&apos;&#10;\\u{1}\\u{1b}[0m"
        );
        assert_eq!(escaped("é漢\u{ffff}"), "é漢\u{fffd}");
    }
}
