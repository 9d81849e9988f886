//! Text of the Prometheus exposition format, or of OpenMetrics, to samples.
//!
//! Histograms and summaries are passed over: what they tell of latencies the client measures itself.

use std::{borrow::Cow, collections::HashMap};

use super::Sample;

/// Longest part of a bad line that is kept.
const SHOWN_CHARS: usize = 120;

/// Lines that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bad {
    /// How many.
    pub n: usize,
    /// The first, as `line 3: ...`.
    pub first: Option<String>,
}

/// Every sample but those of histograms and summaries, in order, and what could not be read.
pub fn parse(text: &str) -> (Vec<Sample<'_>>, Bad) {
    let (mut samples, mut bad) = (Vec::new(), Bad::default());
    let mut spread = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line == "# EOF" {
            break;
        }
        if let Some(comment) = line.strip_prefix('#') {
            note_type(comment, &mut spread);
        } else if !line.is_empty() {
            match sample(line) {
                Some(sample) if is_spread(&sample.name, &spread) => {}
                Some(sample) => samples.push(sample),
                None => bad.add(number + 1, line),
            }
        }
    }
    (samples, bad)
}

impl Bad {
    /// Adds what another answer held.
    pub(super) fn add_all(&mut self, other: Bad) {
        self.n += other.n;
        self.first = self.first.take().or(other.first);
    }

    /// Adds a line.
    pub(super) fn add(&mut self, number: usize, line: &str) {
        self.n += 1;
        if self.first.is_none() {
            let shown: String =
                line.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
            self.first = Some(format!("line {number}: {shown}"));
        }
    }
}

/// Remembers whether a family is a histogram or a summary, from `TYPE name type`.
fn note_type<'a>(comment: &'a str, spread: &mut HashMap<&'a str, bool>) {
    let mut words = comment.split_whitespace();
    if let (Some("TYPE"), Some(family), Some(kind)) = (words.next(), words.next(), words.next()) {
        spread.insert(family, matches!(kind, "histogram" | "summary" | "gaugehistogram"));
    }
}

/// A family of its own type wins over what its name looks like: `vllm:iteration_tokens_total` is a histogram, and a
/// counter may be called `..._count`.
fn is_spread(name: &str, spread: &HashMap<&str, bool>) -> bool {
    const PARTS: [&str; 6] = ["_bucket", "_sum", "_count", "_gsum", "_gcount", "_created"];
    spread.get(name).copied().unwrap_or_else(|| {
        PARTS
            .iter()
            .filter_map(|part| name.strip_suffix(part))
            .any(|family| spread.get(family) == Some(&true))
    })
}

/// `name{label="value",...} value [timestamp] [# exemplar]`.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let before = rest.split_once(" #").map_or(rest, |(before, _exemplar)| before);
    let mut words = before.split_whitespace();
    let value = words.next()?.parse().ok()?;
    let _timestamp: Option<f64> = words.next().map(str::parse).transpose().ok()?;
    words.next().is_none().then_some(Sample { name: Cow::Borrowed(name), labels, value })
}

type Labels<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Labels up to the closing brace, and what follows it. A comma may stand before the brace.
fn labels(text: &str) -> Option<(Labels<'_>, &str)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some((found, after));
        }
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_end();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        found.push((Cow::Borrowed(key), value));
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if after.starts_with('}') => after,
            None => return None,
        };
    }
}

/// A value up to its closing quote, with `\\`, `\"` and `\n` resolved, and what follows it.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text[end..].starts_with('"') {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let (mut value, mut chars) = (String::new(), text.chars());
    loop {
        match chars.next()? {
            '"' => return Some((Cow::Owned(value), chars.as_str())),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::execute::engine::metrics::fixtures;

    fn names(text: &str) -> Vec<String> {
        parse(text).0.into_iter().map(|sample| sample.name.into_owned()).collect()
    }

    #[track_caller]
    fn one(line: &str) -> Sample<'_> {
        let (mut samples, bad) = parse(line);
        assert_eq!((samples.len(), bad), (1, Bad::default()), "{line}");
        samples.remove(0)
    }

    #[test]
    fn values_of_every_kind() {
        for (line, value) in [
            ("a 1", 1.0),
            ("a{} 1.5e3 1700000000000", 1500.0),
            ("a -0.25", -0.25),
            ("a +Inf", f64::INFINITY),
            ("a -Inf", f64::NEG_INFINITY),
            ("a_total 3 # {trace_id=\"x\"} 1 1.5", 3.0),
        ] {
            assert_eq!(one(line).value.to_bits(), f64::to_bits(value), "{line}");
        }
        assert!(one("a NaN").value.is_nan());
    }

    #[test]
    fn labels_with_escapes_blanks_and_a_last_comma() {
        let sample = one(r#"a:b { x = "1" , y="say \"hi\" \\ \n{}," , } 2"#);
        assert_eq!(sample.label("x"), Some("1"));
        assert_eq!(sample.label("y"), Some("say \"hi\" \\ \n{},"));
        assert_eq!(sample.label("z"), None);
        assert_eq!(one("a{b=\"Größe\"} 1").label("b"), Some("Größe"));
    }

    #[test]
    fn bad_lines_are_counted_and_the_first_is_kept() {
        let text = "a 1\n{\nb{x=1} 2\nc{x=\"1} 2\nd\ne x\nf 1 2 3\ng{x=\"\\q\"} 1\n9a 1\nh 2\n";
        let (samples, bad) = parse(text);
        assert_eq!(samples.len(), 2);
        assert_eq!(bad, Bad { n: 8, first: Some("line 2: {".to_owned()) });
    }

    #[test]
    fn histograms_and_summaries_are_passed_over() {
        let text = "# TYPE t histogram\nt_bucket{le=\"+Inf\"} 1\nt_sum 1\nt_count 1\n# TYPE s summary\ns{quantile=\"0.5\"} 1\n\
                    s_sum 1\n# HELP t_count a counter of its own\n# TYPE n_count counter\nn_count 2\n# TYPE g gauge\ng 3\n";
        assert_eq!(names(text), ["n_count", "g"]);
    }

    #[test]
    fn nothing_is_read_after_the_end_of_openmetrics() {
        assert_eq!(names("# TYPE a counter\na_total 1\n# EOF\nb 2\n"), ["a_total"]);
        assert_eq!(names("\r\n# comment\r\na 1\r\n"), ["a"]);
        assert!(names("").is_empty());
    }

    /// What real servers said; every line of it must be understood.
    #[test]
    fn recorded_answers() {
        for (file, n, family, value) in [
            ("vllm/metrics.txt", 100, "vllm:generation_tokens_total", 25.0),
            ("vllm/metrics_stories_kvmetrics.txt", 100, "vllm:num_requests_running", 0.0),
            ("llamacpp/metrics_after_bench.txt", 15, "llamacpp:prompt_tokens_cached_total", 1717.0),
        ] {
            let Some(text) = fixtures::recorded(file) else { return };
            let (samples, bad) = parse(&text);
            assert_eq!(bad, Bad::default(), "{file}");
            assert!(samples.len() >= n, "{file}: {}", samples.len());
            let found: Vec<f64> =
                samples.iter().filter(|s| s.name == family).map(|s| s.value).collect();
            assert_eq!(found, [value], "{file}");
        }
    }

    proptest! {
        #![proptest_config(crate::scenario::fuzz::config())]

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let (samples, bad) = parse(&text);
            prop_assert!(samples.len() + bad.n <= text.lines().count());
        }

        #[test]
        fn nor_does_text_made_of_its_own_signs(text in "[a#{}=\"\\\\,1 .nTYPE\n]{0,80}") {
            let (samples, bad) = parse(&text);
            prop_assert!(samples.len() + bad.n <= text.lines().count());
            prop_assert_eq!(bad.n > 0, bad.first.is_some());
        }

        #[test]
        fn what_was_written_is_read(key in "[a-z_]{1,6}", label in ".{0,12}", value in any::<f64>()) {
            let escaped = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let text = format!("m{{{key}=\"{escaped}\"}} {value}\n");
            let (samples, bad) = parse(&text);
            // Line ends of Unicode or a carriage return may cut the line before the parser sees it.
            prop_assume!(text.lines().count() == 1 && !label.contains('\r'));
            prop_assert_eq!(bad, Bad::default());
            prop_assert_eq!(samples[0].label(&key), Some(label.as_str()));
            prop_assert!(samples[0].value.to_bits() == value.to_bits() || value.is_nan());
        }
    }
}
