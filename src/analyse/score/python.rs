//! What Python's strings do where Rust's differ.

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

/// `re.findall(r"\d+", text)`, for the digits that models write.
pub(super) fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_digit(c)).filter(|number| !number.is_empty())
}

/// ASCII, full-width, Arabic-Indic and Devanagari digits; Python's `\d` knows those of rarer scripts too.
pub(super) fn is_digit(c: char) -> bool {
    matches!(c, '0'..='9' | '\u{ff10}'..='\u{ff19}' | '\u{660}'..='\u{669}' | '\u{6f0}'..='\u{6f9}' | '\u{966}'..='\u{96f}')
}

/// `round(x)`: halves go to the even neighbour.
pub(super) fn round(x: f64) -> f64 {
    x.round_ties_even()
}
