//! Quantities, digests and foreign texts, and how they are written for people. No arithmetic on unlike units happens
//! elsewhere.

/// Nanoseconds in one second.
pub const NS_PER_S: f64 = 1e9;
/// Nanoseconds in one millisecond.
pub const NS_PER_MS: f64 = 1e6;

/// Nanoseconds to milliseconds.
pub fn ns_to_ms(ns: i64) -> f64 {
    ns as f64 / NS_PER_MS
}

/// Nanoseconds to seconds.
pub fn ns_to_s(ns: i64) -> f64 {
    ns as f64 / NS_PER_S
}

/// Seconds to whole nanoseconds, rounded.
pub fn s_to_ns(s: f64) -> i64 {
    (s * NS_PER_S).round() as i64
}

/// Bytes with a binary prefix and three significant digits: `64.0 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A number with about `digits` significant digits and no exponent in the usual range: `0.0123`, `45.1`, `1203`.
pub fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return String::new();
    }
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    if !(-6..=9).contains(&magnitude) {
        return format!("{value:.*e}", digits.saturating_sub(1));
    }
    let decimals = (digits as i32 - 1 - magnitude).max(0) as usize;
    format!("{value:.decimals$}")
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A text of others (a log, an answer, a file) that may be shown: characters that a terminal obeys, or that reorder what
/// stands beside them, are spelled as `\u{1b}`. Line ends and tabs stay.
pub fn harmless(text: &str) -> String {
    let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    let reorders = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) || reorders(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_spelled() {
        assert_eq!(
            harmless("a\u{1b}[2J\u{1b}]0;t\u{7}b\r\u{9b}\u{7f}\u{202e}"),
            r"a\u{1b}[2J\u{1b}]0;t\u{7}b\u{d}\u{9b}\u{7f}\u{202e}"
        );
        assert_eq!(harmless("ä\t世界\n"), "ä\t世界\n");
        assert_eq!(hex(&[0, 171]), "00ab");
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!(human_bytes(512), "512 B");
        assert_eq!(human_bytes(64 * 1024 * 1024), "64.0 MiB");
    }

    #[test]
    fn significant_digits() {
        assert_eq!(significant(0.012_345, 3), "0.0123");
        assert_eq!(significant(1234.5, 3), "1234"); // never fewer digits than the integer part has
        assert_eq!(significant(f64::NAN, 3), "");
    }
}
