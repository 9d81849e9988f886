//! ROUGE-L of summaries as the Python package `rouge` 1.0.1 computes it: sentences end at full stops, each word counts once,
//! the longest common subsequences of all pairs of sentences are united.
//!
//! The package recurses once for each step through a pair of sentences and fails beyond Python's limit, which LongBench then
//! scores as 0. Here such a pair is scored as what it is.

use std::collections::HashSet;

use super::python;

/// F-measure, 0 to 1; 0 where either text has no sentence, as upstream scores it.
pub fn rouge_l(prediction: &str, reference: &str) -> f64 {
    let (ours, theirs) = (sentences(prediction), sentences(reference));
    if ours.is_empty() || theirs.is_empty() {
        return 0.0;
    }
    let unique = |sentences: &[Vec<String>]| {
        sentences.iter().flatten().map(String::as_str).collect::<HashSet<_>>().len() as f64
    };
    let mut union: HashSet<&str> = HashSet::new();
    for reference in &theirs {
        for sentence in &ours {
            union.extend(common(reference, sentence));
        }
    }
    let (recall, precision) =
        (union.len() as f64 / unique(&theirs), union.len() as f64 / unique(&ours));
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

/// Sentences as words. A sentence of white space alone is one word without letters.
fn sentences(text: &str) -> Vec<Vec<String>> {
    let pieces = text.split('.').filter(|piece| !piece.is_empty());
    let words = |piece: &str| {
        let words: Vec<String> = python::words(piece).map(str::to_owned).collect();
        if words.is_empty() { vec![String::new()] } else { words }
    };
    pieces.map(words).collect()
}

/// Words of one longest common subsequence: of several the one that upstream's walk back through the table finds.
fn common<'a>(x: &'a [String], y: &[String]) -> Vec<&'a str> {
    let width = y.len() + 1;
    let mut table = vec![0_u32; (x.len() + 1) * width];
    for i in 1..=x.len() {
        for j in 1..=y.len() {
            table[i * width + j] = if x[i - 1] == y[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let (mut i, mut j, mut words) = (x.len(), y.len(), Vec::new());
    while i > 0 && j > 0 {
        if x[i - 1] == y[j - 1] {
            words.push(x[i - 1].as_str());
            (i, j) = (i - 1, j - 1);
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_counts_once() {
        assert!((rouge_l("the cat the cat", "the cat") - 1.0).abs() < 1e-6);
        assert!(rouge_l("", "x").abs() < 1e-12 && rouge_l("...", "x").abs() < 1e-12);
        // Two of three words in one order; precision 2/3, recall 2/3.
        assert!((rouge_l("b a c", "a b c") - 2.0 / 3.0).abs() < 1e-6);
    }
}
