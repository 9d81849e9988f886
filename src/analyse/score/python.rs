//! What Python's strings do where Rust's differ.

use std::sync::LazyLock;

use regex::Regex;

/// `\w+` of `re`: letters, numbers of every kind and the underscore, but no combining marks.
static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{L}\p{N}_]+"));
/// `\d+` of `re`: the decimal digits of every script.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{Nd}+"));

/// A pattern that stands in the source.
pub(super) fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("patterns in the source compile")
}

/// `str.split()`'s white space: Unicode's and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `str.split()`.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `text.lstrip('\n').split('\n')[0]`.
pub(super) fn first_line(text: &str) -> &str {
    text.trim_start_matches('\n').split('\n').next().unwrap_or_default()
}

/// `re.findall(r"\w+", text)`, with where they stand.
pub(super) fn runs_of_letters(text: &str) -> impl Iterator<Item = regex::Match<'_>> {
    WORD.find_iter(text)
}

/// `re.findall(r"\d+", text)`.
pub(super) fn numbers(text: &str) -> impl Iterator<Item = &str> {
    NUMBER.find_iter(text).map(|number| number.as_str())
}

/// The number that the text starts with, if it does.
pub(super) fn leading_number(text: &str) -> Option<&str> {
    NUMBER.find(text).filter(|number| number.start() == 0).map(|number| number.as_str())
}

/// `round(x)`: halves go to the even neighbour.
pub(super) fn round(x: f64) -> f64 {
    x.round_ties_even()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_characters_are_pythons() {
        let runs = |text| runs_of_letters(text).map(|run| run.as_str()).collect::<Vec<_>>();
        // A vowel sign of Devanagari is a mark, a circled letter a symbol, a superscript a number.
        assert_eq!(runs("का Ⓐb x² ٣_"), ["क", "b", "x²", "٣_"]);
        assert_eq!(numbers("x² ٣4 Ⅷ ７").collect::<Vec<_>>(), ["٣4", "７"]);
        assert_eq!(leading_number("12a"), Some("12"));
        assert_eq!(leading_number("a12"), None);
        assert_eq!(words("a\u{1c}b\u{3000}c\u{200b}").collect::<Vec<_>>(), ["a", "b", "c\u{200b}"]);
    }
}
