//! LongBench's similarity of code: `fuzz.ratio` of fuzzywuzzy, which computes another number with another package installed.

use super::{difflib, python};

/// What `fuzz.ratio` computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Fuzz {
    /// Python's own difflib: what LongBench's requirements install.
    #[default]
    Difflib,
    /// python-Levenshtein, which fuzzywuzzy takes where it is installed: insertions and deletions over both lengths.
    Levenshtein,
}

impl Fuzz {
    /// Its name, for whoever keeps scores.
    pub fn name(self) -> &'static str {
        match self {
            Fuzz::Difflib => "difflib",
            Fuzz::Levenshtein => "python-Levenshtein",
        }
    }

    /// `fuzz.ratio`: 0 to 1 in steps of 0.01, halves to the even neighbour.
    fn ratio(self, a: &str, b: &str) -> f64 {
        // fuzzywuzzy's order: equal texts first, so that two empty ones are equal.
        if a == b {
            return 1.0;
        }
        if a.is_empty() || b.is_empty() {
            return 0.0;
        }
        let ratio = match self {
            Fuzz::Difflib => difflib::ratio(a, b),
            Fuzz::Levenshtein => {
                let most = (a.chars().count() + b.chars().count()) as f64;
                // In this order, as the package: at a half the last bit decides.
                1.0 - rapidfuzz::distance::indel::distance(a.chars(), b.chars()) as f64 / most
            }
        };
        python::round(100.0 * ratio) / 100.0
    }
}

/// Similarity of the first line that is neither comment nor mark-up, 0 to 1 in steps of 0.01.
pub(super) fn similarity(fuzz: Fuzz, prediction: &str, reference: &str) -> f64 {
    let is_code = |line: &&str| !line.contains('`') && !line.contains('#') && !line.contains("//");
    let line = prediction.trim_start_matches('\n').split('\n').find(is_code).unwrap_or_default();
    fuzz.ratio(line, reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Fuzz; 2] = [Fuzz::Difflib, Fuzz::Levenshtein];

    #[test]
    fn comments_and_marks_are_skipped() {
        for fuzz in BOTH {
            let close = |prediction, reference, expected: f64| {
                let own = similarity(fuzz, prediction, reference);
                assert!((own - expected).abs() < 1e-12, "{fuzz:?} {prediction}: {own}");
            };
            close("\n# no\n// no\n`no`\nreturn x", "return x", 1.0);
            close("# no", "", 1.0);
            close("# no", "x", 0.0);
            close("x", "", 0.0);
        }
    }

    /// Obtained from Python 3.11 and python-Levenshtein 0.27.
    #[test]
    fn the_two_differ() {
        for (fuzz, expected) in BOTH.into_iter().zip([0.25, 0.5]) {
            assert!((similarity(fuzz, "tide", "diet") - expected).abs() < 1e-12, "{fuzz:?}");
        }
        // 87.5 and 62.5 are halves.
        for (a, b, expected) in [("abcdefgh", "abcdefgx", 0.88), ("abcdefgh", "abcdexyz", 0.62)] {
            let own = similarity(Fuzz::Levenshtein, a, b);
            assert!((own - expected).abs() < 1e-12, "{a} {b}: {own}");
        }
    }
}
