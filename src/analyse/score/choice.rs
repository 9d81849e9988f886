//! Multiple choice as LongBench v2 reads it (arXiv 2412.15204, `extract_answer` of its `pred.py`): stars are taken out, then
//! the first `The correct answer is (B)`, or else the first one without parentheses, is the choice.

use std::sync::LazyLock;

use regex::Regex;

use super::python;

static CHOICES: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])"].map(python::pattern)
});

/// 1 where the answer's choice is the reference, 0 where it is another or none.
///
/// # Errors
/// The reference is not one of the four letters.
pub(super) fn accuracy(prediction: &str, reference: &str) -> anyhow::Result<f64> {
    anyhow::ensure!(
        matches!(reference, "A" | "B" | "C" | "D"),
        "expected an answer A, B, C or D, got `{reference}`\n  hint: `answers` of longbench-v2 hold the letter of the right choice"
    );
    Ok(if chosen(prediction).as_deref() == Some(reference) { 1.0 } else { 0.0 })
}

fn chosen(prediction: &str) -> Option<String> {
    let text = prediction.replace('*', "");
    let found = CHOICES.iter().find_map(|choice| choice.captures(&text))?;
    Some(found[1].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_come_first() {
        for (text, expected) in [
            ("The correct answer is (B).", Some("B")),
            ("**The correct answer is (*C*)**", Some("C")),
            ("The correct answer is A, no: The correct answer is (D)", Some("D")),
            ("The correct answer is A", Some("A")),
            ("The correct answer is\nA", None),
            ("the correct answer is (A)", None),
            ("The correct answer is (E)", None),
            ("B", None),
        ] {
            assert_eq!(chosen(text).as_deref(), expected, "{text}");
        }
        assert!(accuracy("The correct answer is (B)", "B").unwrap() > 0.9);
        assert!(accuracy("The correct answer is (B)", "(B)").is_err());
    }
}
