//! Answers that are one number, as GSM8K has them (arXiv 2110.14168): the number behind `####`, which its solutions end with
//! (`extract_answer` of openai/grade-school-math), else the last one of the text, as evaluators commonly read free answers.
//!
//! Numbers are compared digit by digit, so that no rounding makes two of them equal: `1,000.50` is `1000.5`, `-0` is `0`.

/// 1 where the answer's number is the reference's, 0 where it is another or there is none.
///
/// # Errors
/// The reference holds no number.
pub(super) fn accuracy(prediction: &str, reference: &str) -> anyhow::Result<f64> {
    let Some(right) = answer(reference) else {
        anyhow::bail!(
            "expected an answer with a number, got `{reference}`\n  hint: `answers` hold the number, or a solution with `#### 72` at its end"
        );
    };
    Ok(if answer(prediction) == Some(right) { 1.0 } else { 0.0 })
}

/// The number that a text answers with.
fn answer(text: &str) -> Option<Number> {
    let marked = text.split_once("####").and_then(|(_, after)| numbers(after).next());
    marked.or_else(|| numbers(text).last())
}

/// A decimal number without zeros that say nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) negative: bool,
    pub(super) whole: String,
    pub(super) fraction: String,
}

impl Number {
    fn new(negative: bool, whole: &str, fraction: &str) -> Self {
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        let whole = digits(whole.trim_start_matches(['0', ',']));
        let fraction = digits(fraction.trim_end_matches('0'));
        let zero = whole.is_empty() && fraction.is_empty();
        Self { negative: negative && !zero, whole, fraction }
    }

    /// The number that is the whole text.
    pub(super) fn only(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['-', '−']).unwrap_or(text);
        let (len, whole, fraction) = digits(unsigned)?;
        (len == unsigned.len()).then(|| Self::new(unsigned.len() < text.len(), whole, fraction))
    }
}

/// Numbers of a text, in their order.
fn numbers(text: &str) -> impl Iterator<Item = Number> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let c = text[at..].chars().next()?;
            // The digits of `x1` are part of a name.
            let in_word = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            if let Some((len, whole, fraction)) = digits(&text[at..]).filter(|_| !in_word) {
                let number = Number::new(is_negative(&text[..at]), whole, fraction);
                at += len;
                return Some(number);
            }
            at += c.len_utf8();
        }
    })
}

/// Whether a sign stands before a number: a minus that nothing is subtracted from.
fn is_negative(before: &str) -> bool {
    let before = before.strip_suffix('$').unwrap_or(before);
    let left = before.strip_suffix('-').or_else(|| before.strip_suffix('−'));
    left.is_some_and(|left| {
        !left.ends_with(|c: char| c.is_ascii_alphanumeric() || ")]}%$".contains(c))
    })
}

/// The number without sign that a text starts with: bytes, whole part, fraction. Commas join groups of three digits only, so
/// that those of a list do not.
fn digits(text: &str) -> Option<(usize, &str, &str)> {
    let run = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let first = run(text);
    let mut whole = first;
    while (1..=3).contains(&first)
        && text[whole..].strip_prefix(',').is_some_and(|group| run(group) == 3)
    {
        whole += 4;
    }
    let fraction = text[whole..].strip_prefix('.').map_or(0, run);
    if whole == 0 && fraction == 0 {
        return None;
    }
    let end = if fraction == 0 { whole } else { whole + 1 + fraction };
    Some((end, &text[..whole], text[whole..end].trim_start_matches('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marked_number_or_the_last() {
        for (prediction, reference, right) in [
            ("so 5 + 7 = 12", "12", true),
            ("She has $1,234.50.", "#### 1234.5", true),
            ("#### 18\nQuestion: 3 and 4?", "18", true),
            ("####\nno number, but 7", "7", true),
            ("between 3, 4 and 12,34", "34", true),
            ("-$5", "-5", true),
            ("10-7", "7", true),
            ("x = −3", "-3", true),
            ("答案是-72。", "-72", true),
            ("0.10", ".1", true),
            ("-0", "0", true),
            ("007", "7", true),
            ("123456789012345678901", "123456789012345678902", false),
            ("0.30000000000000001", "0.3", false),
            ("1000,000", "1000", false),
            ("none", "0", false),
            ("I like H2O", "2", false),
            ("", "1", false),
        ] {
            let own = accuracy(prediction, reference).unwrap();
            assert_eq!(own > 0.5, right, "{prediction} {reference}");
        }
        assert!(accuracy("1", "one").is_err());
    }

    #[test]
    fn a_text_that_is_a_number() {
        assert_eq!(Number::only("1,000"), Number::only("1000.0"));
        assert!(Number::only("-3").is_some_and(|number| number.negative));
        assert!(Number::only("3x").is_none() && Number::only("").is_none());
    }
}
